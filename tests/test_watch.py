"""The specification of `sight.py` and `watch.py`, and of `status`, `health`, `why` and `tail`."""

import hashlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_ops import BTC, NOON, ADesk, QuietMarket

from perps_bot.cli import main
from perps_bot.errors import ConfigError
from perps_bot.model import Candle
from perps_bot.sight import ago, look, peek
from perps_bot.store import InstanceLock
from perps_bot.terminal import Terminal
from perps_bot.watch import status_code, status_lines
from perps_bot.words import plain

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
OURS = ("PERPS_", "COINBASE_", "EVENT_STORE_ROOT", "LOG_LEVEL", "COLUMNS", "NO_COLOR")
READING = ["status", "status --json", "health", "health --json", "health --max-age 9",
           "why BTC-PERP", "why BTC-PERP --json", "tail", "tail --json", "tail --type order -n 1"]


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys):
    """A function that runs a command line here and returns its code and what it printed."""

    def run(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return SimpleNamespace(code=code, out=out, err=err)

    return run


class StillMarket(QuietMarket):
    """One price, with more on offer than a test buys, at whatever second the tests run."""

    def marks(self, symbols, now):
        return {symbol: mark._replace(at=now, bid_size=mark.price, ask_size=mark.price)
                for symbol, mark in super().marks(symbols, NOON).items()}

    def candles(self, symbol, seconds, count, now):
        price = self.marks([symbol], now)[symbol].price
        return [Candle(candle.opened_at, price, price, price, price)
                for candle in super().candles(symbol, seconds, count, now)]


class Place(ADesk):
    """A bot's files, in the folder where the commands look; its lock is held as long as it runs."""

    market_of = StillMarket

    def __init__(self, **flags):
        super().__init__(Path("data/perps_bot/dev"), **flags)
        self.now = datetime.now(UTC)
        self.lock = InstanceLock(self.folder / "lock")

    def runs(self):
        self.lock.acquire()
        return self

    def dies(self):
        self.lock.release()
        return self

    def changed(self, name, **fields):
        path = self.folder / name
        value = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))
        return self

    def sight(self, after=0):
        return look(self.folder, self.now + timedelta(seconds=after))


@pytest.fixture
def place():
    place = Place(symbols=[BTC]).runs().tick()
    yield place
    place.dies()


def tree(folder):
    """Everything in a folder that a command could change, links and times included."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        stat = path.lstat()
        body = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size,
                            stat.st_ino, hashlib.sha256(body).hexdigest())
    return found


# Whether it is still true


def stale(seconds):
    """As if the file had been written so long ago."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"timestamp": at.isoformat(), "valid_until": (at + timedelta(seconds=15)).isoformat()}


@pytest.mark.parametrize("spoil, code, why", [
    (lambda p: p, 0, "ok, 1 s ago"),
    (lambda p: p.changed("health.json", ok=False, error="VenueUnavailable: down"), 1,
     "NOT ok: VenueUnavailable: down"),
    (lambda p: p.changed("health.json", ok=False, trading_state="HALTED", message="m",
                         alerts=[{"code": "NO_STOP", "about": BTC, "message": "bare"}]), 1,
     "NOT ok: HALTED; m; NO_STOP (BTC-PERP): bare"),
    (lambda p: p.changed("health.json", ok=False), 1, "NOT ok: it does not say why"),
    (lambda p: p.changed("health.json", ok="yes"), 1, "NOT ok"),
    (lambda p: p.changed("health.json", ok=1), 1, "NOT ok"),
    (lambda p: p.dies(), 1, "the bot is NOT running; its last word is 1 s old"),
    (lambda p: p.dies().changed("health.json", message="stopped by SIGTERM"), 1,
     "the bot is NOT running; its last word is 1 s old: stopped by SIGTERM"),
    (lambda p: p.changed("health.json", **stale(200)), 1,
     "pid PID runs but says nothing: it hangs, or cannot write; its last word is 3 min"),
    (lambda p: p.changed("health.json", pid=4711), 1,
     "pid PID works there and has said nothing yet"),
    (lambda p: p.changed("health.json", **stale(-60)), 1, "from the future: check the clock"),
    (lambda p: p.changed("health.json", **stale(-5)), 0, "ok, 0 s ago"),
    (lambda p: p.changed("health.json", timestamp=...), 3, "has no time in it"),
    (lambda p: p.changed("health.json", valid_until="soon"), 3, "has no time in it"),
    (lambda p: (p.folder / "health.json").unlink(), 3, "health.json is missing"),
])
def test_a_verdict_is_judged_by_the_lock_the_pid_and_the_time(place, spoil, code, why):
    spoil(place)
    sight = place.sight(1)
    assert sight.verdict()[0] == status_code(sight) == code
    assert why.replace("PID", str(os.getpid())) in sight.verdict()[1]
    assert sight.is_current() == (code == 0 or code == 1 and "NOT ok" in why)


@pytest.mark.parametrize("age, age_max, code", [
    (5, None, 0), (20, None, 1), (5, "4.5", 1), (5, "5.5", 0), (20, "30", 0), (20, "10", 1)])
def test_max_age_takes_the_place_of_what_the_file_says(place, age, age_max, code):
    assert place.sight(age).verdict(age_max and Decimal(age_max))[0] == code


def test_figures_that_were_not_renewed_are_not_current_whatever_health_says(place):
    place.changed("last_state.json", **stale(100))
    sight = place.sight(1)
    assert sight.verdict()[0] == 0
    assert not sight.is_current() and status_code(sight) == 3
    assert "NOTHING BELOW IS CURRENT" in "\n".join(status_lines(sight, Terminal(80)))


@pytest.mark.parametrize("seconds, said", [
    (0, "0 s"), (-3, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"),
    (200_000, "2 days")])
def test_an_age_is_told_in_one_unit(seconds, said):
    assert ago(timedelta(seconds=seconds)) == said


# What is shown


def shown(place, width=80):
    return "\n".join(status_lines(place.sight(1), Terminal(width)))


def test_status_shows_every_part(place):
    place.bot.strategy._memory(BTC).side = None
    place.buy("0.01")
    place.bot.risk.hold("operator", place.bot.risk.state.REDUCING, "dinner")
    text = shown(place.tick())
    state = place.state()
    (position,) = state["positions"]
    for said in ("perps-bot dev (paper-synthetic): REDUCING", "NOT ok: REDUCING",
                 "REDUCING because of operator: dinner", "OPERATOR  REDUCING: dinner",
                 f"as of {place.now:%Y-%m-%d %H:%M:%S} UTC, 1 s ago", "BTC-PERP       long 0.01 at",
                 f"{plain(position['stop_price'])} for 0.01 at the venue, order",
                 position["stop_orders"][0], "liquidation", "100 % away or more",
                 "entries an hour      [##..................]  1 of 12", "daily loss",
                 "2 of 2 accepted, 100.00 %", "session open; decision hold",
                 "REDUCING because of operator: dinner (was TRADING)"):
        assert said in text, said
    assert f"{Decimal(state['account']['equity']):,.2f} USD" in text


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_status_fits_and_cuts_nothing_that_it_shows_when_it_is_wide(place, width):
    place.bot.strategy._memory(BTC).side = None
    place.buy("0.01")
    place.tick()
    lines = shown(place, width).splitlines()
    assert max(map(len, lines)) <= width
    bars = re.compile(r"\[[#.?\s]*\]|\s")
    words = [bars.sub("", each) for each in (shown(place, 120), "".join(lines))]
    assert words[0] == words[1]


def test_a_position_without_its_stop_says_so(place):
    place.bot.strategy._memory(BTC).side = None
    place.buy("0.01")
    row = place.tick().state()["positions"][0]
    place.changed("last_state.json", positions=[{**row, "is_protected": False}])
    assert "NONE that covers it at the venue" in shown(place)


def test_holds_and_bookings_are_left_out_of_the_last_events(place):
    for number in range(30):
        place.bot.store.append("strategy.signal", symbol=BTC, action="hold", reason="x",
                               equity="1", mark_price="1", daily_loss="0",
                               memory=place.bot.strategy.memory(BTC))
        place.bot.store.append("feed.stale", connection="market", reason=f"n{number}")
    lines = shown(place).partition("Last events, UTC")[2].splitlines()[1:]
    assert [re.search(r"n(\d+)", line)[1] for line in lines] == [str(n) for n in range(20, 30)]


@pytest.mark.parametrize("action, reason, is_shown", [
    ("hold", "the averages say", False),
    ("buy", 'strategy.signal "action":"hold"', True),  # what a text says is not what was decided
    ("sell", "hold", True),
])
def test_what_was_decided_is_judged_by_its_own_field(place, action, reason, is_shown):
    place.bot.store.append("strategy.signal", symbol=BTC, action=action, reason=reason,
                           equity="1", mark_price="1", daily_loss="0",
                           memory={"action": "hold", "old": {"action": "hold"}})
    (newest,) = place.sight().events[0][-1:]
    assert (newest.type == "strategy.signal") is is_shown


def test_where_only_holds_were_looked_at_it_does_not_say_that_there_is_nothing(place, monkeypatch):
    monkeypatch.setattr("perps_bot.sight.EVENTS_SCANNED_MAX", 3)
    monkeypatch.setattr("perps_bot.watch.EVENTS_SCANNED_MAX", 3)
    for _ in range(3):
        place.bot.store.append("alert.sent", code="X")
    assert shown(place).endswith("Last events, UTC\n  none among the newest 3")


def test_status_as_json_is_both_files_and_what_they_are_worth(place, said):
    answer = said("status --json")
    both = json.loads(answer.out)
    assert answer.code == both["exit_code"] == 0
    assert both["is_running"] and both["is_current"] and both["troubles"] == []
    assert both["health"] == place.health()
    assert {name: both[name] for name in place.state()} == place.state()
    assert both["last_events"][-1]["type"] == "bot.started"


def test_the_events_are_those_of_the_broker_that_the_files_name(place):
    place.changed("health.json", profile="demo", broker="paper-live")
    (place.folder / "events").rename(place.folder / "paper-events")
    assert "started: version" in shown(place)


# Any content


WRONG = [None, True, [], {}, "", "x\x1b[2J\nfake", 7, "1e999999999", 10**4000, [None, 1, "x", {}],
         {"x": None}, [[{}]], [{"symbol": {"a": 1}, "stop_orders": [{}], "quantity": "NaN"}]]


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_whatever_the_fields_are_the_text_is_lines_of_printable_words(place, said, value):
    state, health = place.state(), place.health()
    for name in state:
        place.changed("last_state.json", **{**state, name: value})
        assert shown(place).replace("\n", "").isprintable()
    place.changed("last_state.json", **dict.fromkeys(state, value))
    assert shown(place).replace("\n", "").isprintable()
    for name in health:
        place.changed("health.json", **{**health, name: value})
        assert shown(place).replace("\n", "").isprintable()
        assert "\x1b" not in said("status").out + said("health").out + said("status --json").out


BODIES = (
    b"", b"{", b"[]", b"null", b'{"a": 1e999999999}' + b"x", b"[" * 100_000, b"\xff\xfe",
    b"9" * 5000, b"{}" + b" " * (1 << 20))


@pytest.mark.parametrize("name", ["health.json", "last_state.json"])
def test_a_file_that_is_not_ours_is_said_in_one_line_and_left_alone(place, said, name):
    for body in BODIES:
        (place.folder / name).write_bytes(body)
        _refuses(place, said, name)


def _refuses(place, said, name):
    before = tree("data")
    answer = said("status")
    assert answer.code == 3 and f"{name}: not a file of this bot" in " ".join(answer.out.split())
    answer = said("health")
    if name == "health.json":
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert f"{name}: not a file of this bot" in answer.err
    else:
        assert answer.code == 0
    assert tree("data") == before


@pytest.mark.parametrize("make", [
    lambda path: path.mkdir(), lambda path: os.mkfifo(path),
    lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")])
def test_what_is_no_plain_file_is_not_waited_for_or_followed(place, make):
    path = place.folder / "health.json"
    path.unlink()
    make(path)
    with pytest.raises(ConfigError, match="health.json"):
        peek(path)


def test_a_newer_version_may_say_more_than_is_known_here(place):
    place.changed("health.json", version="99.0", more={"a": [1]})
    place.changed("last_state.json", more=1, limits=[
        *place.state()["limits"], {"limit": "max_moons", "used": "1", "allowed": "3",
                                   "unit": "moons", "symbol": "", "is_per_order": False}])
    assert "moons" in shown(place) and place.sight(1).verdict()[0] == 0


# The commands


@pytest.mark.parametrize("spoil", [
    lambda p: None,
    lambda p: (p / "health.json").unlink(),
    lambda p: (p / "health.json").write_text("{"),
    lambda p: (p / "last_state.json").write_text("[]"),
    lambda p: (p / "lock").unlink(),
    lambda p: next(p.glob("events/*.jsonl")).open("ab").write(b'{"seq":9,"ts":"20'),
    lambda p: os.truncate(next(p.glob("events/*.jsonl")), 30),
    lambda p: next(p.glob("events/*.jsonl")).write_bytes(b"\x00" * 999 + b"\n"),
    lambda p: next(p.glob("events/*.jsonl")).unlink(),
], ids=["well", "no health", "half health", "other state", "no lock", "torn", "half a line",
        "damaged", "no events"])
def test_no_reading_command_changes_a_byte(place, said, spoil):
    spoil(place.folder)
    for end in (lambda: None, place.dies):
        end()
        before = tree(".")
        for line in READING:
            answer = said(f"{line} --profile dev")
            assert answer.code in (0, 1, 2, 3)
            assert answer.code != 2 or (answer.out, answer.err.count("\n")) == ("", 1)
        assert tree(".") == before


def test_where_nothing_ran_one_line_says_so_and_nothing_is_made(said):
    for line in READING:
        answer = said(f"{line} --profile demo")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert "does not exist: nothing" in answer.err
    assert list(Path(".").iterdir()) == []


def test_a_folder_of_another_user_is_refused_with_the_way_out(place, said, monkeypatch):
    """As root, who may read everything, nothing refuses by itself."""
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    for owner, name in ((os, "stat"), (os, "listdir"), (os, "open")):
        with monkeypatch.context() as another:
            another.setattr(owner, name, refused)
            for line in READING:
                answer = said(line)
                text = " ".join((answer.out + answer.err).split())
                is_unhurt = name == "listdir" and line.startswith("health")
                assert is_unhurt or "Permission denied" in text and "run as its owner" in text
                assert answer.code == (0 if is_unhurt else
                                       3 if name == "listdir" and "status" in line else 2)


@pytest.mark.parametrize("line, words", [
    ("health --max-age 0", "--max-age 0: must be seconds, above 0 and up to 31536000"),
    ("health --max-age x\x1b", "--max-age x\\x1b: must be"),
    ("health --max-age 1e99", "must be seconds"),
    ("why", "the following arguments are required: SYMBOL"),
    ("why BTC-PERP --ticks 0", "--ticks 0: must be a whole number from 1"),
    ("why btc", "no decision on btc in"),
    ("tail -n -1", "-n -1: must be a whole number"),
    ("tail -n 10001", "-n 10001: must be a whole number from 1 to 10000"),
    ("tail -n many", "-n many: must be a whole number"),
    ("tail --type trades", "--type trades: no such events; there are"),
    ("status --watch", "--watch needs a terminal"),
    ("status --watch --json", "--watch needs a terminal"),
    ("status extra", "unrecognized arguments: extra"),
])
def test_a_wrong_argument_is_one_line(place, said, line, words):
    answer = said(line)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert words in answer.err


def test_health_is_one_line_with_its_reason(place, said):
    answer = said("health")
    assert (answer.code, answer.out.count("\n")) == (0, 1)
    assert answer.out.startswith("perps-bot dev: ok, ")
    place.dies()
    answer = said("health --json")
    value = json.loads(answer.out)
    assert (answer.code, value["ok"]) == (1, False)
    assert "NOT running" in value["why"] and value["health"] == place.health()


def test_tail_and_why_read_what_such_a_run_would_go_on_with(place, said):
    assert "started: version" in said("tail").out
    (place.folder).rename(place.folder.with_name("demo"))
    answer = said("tail --profile demo")
    assert answer.code == 0
    answer = said("tail --profile demo --dry-run")
    assert answer.code == 2 and "paper-events does not exist" in answer.err


def test_the_ledger_says_what_stands_in_the_way_now(place, said):
    assert "now: ok, " in said("why BTC-PERP").out
    place.changed("health.json", message="BTC-PERP: the market is closed: maintenance")
    answer = said("why BTC-PERP")
    assert answer.code == 0 and "now: BTC-PERP: the market is closed: maintenance" in answer.out
    place.dies()
    assert "the bot is NOT running" in json.loads(said("why BTC-PERP --json").out)["now"]
    place.changed("health.json", profile="demo", broker="paper-live")  # another run's
    assert json.loads(said("why BTC-PERP --json").out)["now"] == ""


def test_feeds_and_failing_posts_are_shown(place):
    place.changed("health.json", feed={
        "market": {"stale": False, "age_seconds": 1}, "user": {"stale": True, "age_seconds": None},
    }, delivery={"webhook": {"ok": False, "error": "HTTP 500"}, "heartbeat": None})
    text = shown(place)
    assert "feed market  fresh, last message 1 s before the tick" in text
    assert "feed user    STALE, last message ? s before the tick" in text
    assert "webhook fails  HTTP 500" in text


# What a monitor asks every minute beside a bot that trades: each room it loads stands here, and
# what is dear in the standard library stays out.
ALWAYS = "__init__ cli commands errors process rooms secret"
LOOKS = f"{ALWAYS} event reading settings sight wall words"
DEAR = ("requests urllib3 ssl socket websocket jwt inspect dataclasses typing pathlib logging "
        "threading queue signal ctypes traceback hashlib tomllib shutil fnmatch ipaddress").split()


@pytest.mark.parametrize("line, rooms", [
    ("--version", ALWAYS),
    ("health", LOOKS),
    ("health --json --max-age 60", LOOKS),
    ("status", f"{LOOKS} journal terminal watch"),
    ("status --json", f"{LOOKS} journal terminal watch"),
])
def test_who_only_looks_loads_these_rooms_and_nothing_dear(place, line, rooms):
    program = (
        "import sys; before = set(sys.modules); from perps_bot.cli import main; "
        f"main({line.split()!r}); new = set(sys.modules) - before; "
        f"print(*sorted(name.partition('.')[2] or '__init__' for name in new if name.startswith("
        f"'perps_bot')), '|', *sorted(new & {set(DEAR)!r}))")
    # -S: what a tester's own site loads is not there before us.
    run = subprocess.run([sys.executable, "-S", "-c", program], text=True, capture_output=True,
                         check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    loaded, dear = run.stdout.splitlines()[-1].split("|")
    assert loaded.split() == sorted(rooms.split())
    assert dear.split() == []


@pytest.mark.parametrize("line", ["tail", "why BTC-PERP"])
def test_who_tells_the_events_loads_nothing_that_trades(place, line):
    heavy = {"requests", "websocket", "jwt", "perps_bot.model", "perps_bot.store", "perps_bot.bot"}
    program = (f"import sys; from perps_bot.cli import main; main({line.split()!r}); "
               f"print(*({heavy!r} & set(sys.modules)))")
    run = subprocess.run([sys.executable, "-c", program], text=True, check=True,
                         capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.stdout.splitlines()[-1] == ""


# A real bot


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    """A bot that trades on paper, its folder, and commands run beside it."""
    folder = tmp_path_factory.mktemp("living")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}

    def start(*argv, **more):
        return subprocess.Popen(
            [sys.executable, "-m", "perps_bot", *argv], cwd=folder, text=True, **more,
            env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"})

    def run(*argv):
        process = start(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in err
        return SimpleNamespace(code=process.returncode, out=out, err=err)

    bot = start("--interval", "1", "--bar", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: run("health").code == 0, bot)
    yield SimpleNamespace(folder=folder, start=start, run=run, bot=bot)
    bot.kill()
    bot.communicate()


def until(is_so, bot):
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not (answer := is_so()):
        assert bot.poll() is None, bot.communicate()
        assert time.monotonic() < ends_at
        time.sleep(0.2)
    return answer


def seen(owner, words):
    """What a terminal shows, until these words are among it."""
    text, ends_at = b"", time.monotonic() + PATIENCE_SECONDS
    while words not in text:
        assert time.monotonic() < ends_at, text
        if select.select([owner], [], [], 0.2)[0]:
            text += os.read(owner, 65536)
    return text


@pytest.mark.parametrize("ending", ["q", signal.SIGINT, signal.SIGTERM])
def test_a_living_bot_is_watched_and_the_terminal_given_back(living, ending):
    owner, program = pty.openpty()
    termios.tcsetwinsize(program, (80, 100))
    before = termios.tcgetattr(program)
    watcher = living.start("status", "--watch", stdin=program, stdout=program, stderr=program)
    try:
        first = seen(owner, b"Last events, UTC")
        assert b"\x1b[?1049h" in first and b"\x1b[32mok, " in first
        os.write(owner, b"h")
        seen(owner, b"this help, and back")
        os.write(owner, b"h")
        seen(owner, b"Last events, UTC")
        termios.tcsetwinsize(program, (24, 100))
        os.write(owner, b" ")
        seen(owner, b"page 2 of ")
        if ending == "q":
            os.write(owner, b"q")
        else:
            watcher.send_signal(ending)
        seen(owner, b"\x1b[?25h\x1b[?1049l")
        assert watcher.wait(PATIENCE_SECONDS) == 0
        assert termios.tcgetattr(program) == before
    finally:
        watcher.kill()
        watcher.wait()
        os.close(owner)
        os.close(program)


def test_a_watch_whose_terminal_goes_away_ends_without_a_word(living):
    owner, program = pty.openpty()
    watcher = living.start("status", "--watch", stdin=program, stdout=program,
                           stderr=subprocess.PIPE)
    os.close(program)
    seen(owner, b"page 1 of")
    os.close(owner)
    _, err = watcher.communicate(timeout=PATIENCE_SECONDS)
    assert (watcher.returncode, err) == (0, "")


def test_tail_follows_a_living_bot_until_it_is_interrupted(living):
    follower = living.start("tail", "-f", "-n", "1", "--type", "strategy",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        lines = [follower.stdout.readline() for _ in range(3)]
        assert all("BTC-PERP: " in line for line in lines) and len(set(lines)) == 3
        follower.send_signal(signal.SIGINT)
        _, err = follower.communicate(timeout=PATIENCE_SECONDS)
        assert (follower.returncode, err) == (0, "")
    finally:
        follower.kill()
        follower.wait()


def test_a_living_bot_needs_no_more_memory_than_it_may(living):
    until(lambda: living.run("health").code == 0, living.bot)
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path(
        f"/proc/{living.bot.pid}/status").read_text(), re.M)
    assert int(peak) <= 40 * 1024


def test_a_bot_that_was_killed_is_not_running_at_once_and_nothing_is_current(living):
    assert until(lambda: living.run("status").code == 0, living.bot)
    assert living.run("why", "BTC-PERP").code == 0
    living.bot.kill()
    living.bot.wait()
    before = tree(living.folder)
    answer = living.run("status")
    assert answer.code == 1
    assert "the bot is NOT running" in answer.out and "NOTHING BELOW IS CURRENT" in answer.out
    answer = living.run("health", "--max-age", "3600")
    assert answer.code == 1 and "the bot is NOT running" in answer.out
    assert not json.loads(living.run("status", "--json").out)["is_current"]
    assert tree(living.folder) == before
