"""A real process whose events file cannot grow: nothing is opened, what is held stays guarded.

RLIMIT_FSIZE is the full disk.  It is set on the running process and so strikes at any moment; the
state files are small enough to be written all the same, so that health can say what is wrong.
What is printed goes to a pipe, unless it is the terminal that is full.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest
from helpers import verified
from test_crash import check, whole

REPO = Path(__file__).resolve().parents[1]
SYMBOLS = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP")
WAIT_SECONDS_MAX = 60
UNLIMITED = resource.RLIM_INFINITY


class Bot:
    """`python -m perps_bot` in one folder, restarted as often as asked."""

    def __init__(self, folder):
        self.folder = folder
        self.data = folder / "data" / "perps_bot" / "dev"
        (folder / "fast.toml").write_text("enter_on_start = true\ntrailing_stop_pct = 0.005\n")

    def start(self, limit=None, stdout=subprocess.PIPE, stderr=subprocess.STDOUT):
        arguments = ["--profile", "dev", "--interval", "1", "--bar", "1", "--config", "fast.toml",
                     "--short-ma-period", "2", "--long-ma-period", "10", "--symbols", *SYMBOLS]
        bound = limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, UNLIMITED)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perps_bot", *arguments], cwd=self.folder, preexec_fn=bound,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO)}, stdout=stdout,
            stderr=stderr)
        self._said, self._readers = bytearray(), []
        for pipe in filter(None, (self._process.stdout, self._process.stderr)):
            self._readers.append(threading.Thread(target=self._read, args=(pipe,), daemon=True))
            self._readers[-1].start()
        return self

    def _read(self, pipe):
        with pipe:
            for line in pipe:
                self._said += line

    def fill_the_disk(self):
        """Let no file grow beyond what the events have now."""
        (path,) = (self.data / "events").glob("*.jsonl")
        limit = path.stat().st_size
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (limit, UNLIMITED))

    def free_the_disk(self):
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))

    def stop(self, number=signal.SIGTERM):
        self._process.send_signal(number)
        code = self._process.wait(timeout=WAIT_SECONDS_MAX)
        for reader in self._readers:
            reader.join(WAIT_SECONDS_MAX)
        return code

    def wait_for(self, condition):
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not condition():
            assert self._process.poll() is None, self.said()[-2000:]
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.02)

    def said(self):
        return bytes(self._said).decode()

    def file(self, name):
        path = self.data / name
        return json.loads(path.read_text()) if path.exists() else {}

    def positions(self):
        return {row["symbol"]: Decimal(row["quantity"])
                for row in self.file("last_state.json").get("positions", ())}

    def events(self):
        return whole(self.data / "events") if (self.data / "events").exists() else []

    def seq(self):
        return len(self.events())

    def diary(self):
        return (self.folder / "logs" / "perps_bot.log").read_text()


@pytest.fixture
def bot(tmp_path):
    bot = Bot(tmp_path)
    yield bot
    if bot._process.poll() is None:
        bot._process.kill()
        bot.stop()


def ticks_on(bot, count):
    """Wait for so many more ticks, counted by what health says."""
    seen = {bot.file("health.json").get("timestamp")}
    bot.wait_for(lambda: seen.add(bot.file("health.json").get("timestamp")) or len(seen) > count)


def stopped(bot, code=0):
    """End it in good order; its last word is the truth about what the events before it say."""
    assert bot.stop() == code
    events = verified(bot.data / "events")
    held = check(events)
    assert events[-1]["type"] == "bot.stopped"
    assert {s: Decimal(q) for s, q in events[-1]["positions"].items()} == held
    assert all(events[-1]["stops"][symbol] for symbol in held)
    return events


def test_on_a_full_disk_nothing_is_opened_and_a_restart_goes_on_from_the_last_line(bot):
    bot.start().wait_for(bot.positions)
    bot.fill_the_disk()
    before = len(bot.diary())
    bot.wait_for(lambda: not bot.file("health.json")["ok"])
    held = bot.positions()
    ticks_on(bot, 5)
    health = bot.file("health.json")
    assert health["ok"] is False
    assert "jsonl" in health["error"]
    assert set(bot.positions()) <= set(held)  # stopped out or kept, and nothing opened
    entries = [line for line in bot.diary()[before:].splitlines() if "purpose=entry" in line]
    assert [line for line in entries if "risk.rejected" not in line] == []
    assert bot.stop() == 0
    assert "stopped: every entry confirmed gone" in bot.said()
    kept, count = check(bot.events()), bot.seq()
    bot.start().wait_for(lambda: bot.seq() > count and bot.file("health.json").get("ok"))
    first = next(e["seq"] for e in bot.events()[count:] if e["type"] == "bot.started")
    assert set(check(bot.events()[:first])) <= set(kept)
    stopped(bot)


def test_what_waited_in_memory_is_written_when_there_is_room_again(bot):
    bot.start().wait_for(bot.positions)
    bot.fill_the_disk()
    bot.wait_for(lambda: not bot.file("health.json")["ok"])
    count = bot.seq()
    ticks_on(bot, 2)
    assert bot.seq() == count
    bot.free_the_disk()
    bot.wait_for(lambda: bot.file("health.json")["ok"])
    assert len(stopped(bot)) > count


def test_a_start_on_a_full_disk_opens_nothing_and_never_says_ok(bot):
    bot.start(limit=1500)  # no room for the first line and what follows it
    bot.wait_for(lambda: bot.file("health.json"))
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert bot._process.poll() is None, bot.said()[-2000:]
        assert bot.file("health.json")["ok"] is False
        time.sleep(0.1)
    assert not [e for e in bot.events() if e["type"] == "order.intended"]
    assert bot.positions() == {}
    assert bot.stop() == 0


# The terminal is full too


@pytest.mark.parametrize("full, is_told", [
    (("stdout",),           True),
    (("stderr",),           True),
    (("stdout", "stderr"),  False),
])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a10_where_nothing_can_be_printed_the_exit_code_still_says_what_was_verified(
    bot, number, full, is_told
):
    with open("/dev/full", "w") as nowhere:
        streams = {name: nowhere if name in full else subprocess.PIPE
                   for name in ("stdout", "stderr")}
        bot.start(**streams).wait_for(bot.positions)
    assert bot.stop(number) == 0
    assert bot.events()[-1]["exit_code"] == 0
    assert ("stopped: every entry confirmed gone" in bot.said()) is is_told
    assert "Traceback" not in bot.said()


def test_a10_a_terminal_that_fills_up_in_the_middle_of_a_line_changes_no_exit_code(bot):
    with open(bot.folder / "output", "ab") as output:
        bot.start(stdout=output, stderr=output).wait_for(bot.positions)
        limit = output.tell() + 5_000 + bot.seq() * 1_000  # beyond what the events need
        output.truncate(limit - 7)
        resource.prlimit(bot._process.pid, resource.RLIMIT_FSIZE, (limit, UNLIMITED))
    assert bot.stop() == 0
    assert (bot.folder / "output").stat().st_size == limit
    assert bot.events()[-1]["exit_code"] == 0


def test_h7_a_terminal_that_takes_nothing_holds_up_neither_ticks_nor_the_end(bot):
    """Ctrl-S, or a pager that nobody scrolls: the pipe is full and stays so."""
    asleep, output = os.pipe()
    os.set_blocking(output, False)
    with open(output, "ab", 0) as pipe:
        while pipe.write(b"x" * 4096) is not None:
            pass
        os.set_blocking(output, True)
        bot.start(stdout=pipe, stderr=pipe).wait_for(bot.positions)
        ticks_on(bot, 3)
        assert bot.stop(signal.SIGINT) == 0
    os.close(asleep)
    assert bot.events()[-1]["type"] == "bot.stopped"
    assert "bot.stopped" in bot.diary()
