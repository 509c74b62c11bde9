"""The specification of `drill.py` and `scenes.py`: each emergency ends well, or the line says FAIL.

That a line can fail is shown by breaking the product: the scenes fork, and take the break along.
"""

import hashlib
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from helpers import the_settings

from perps_bot import drill, rest, scenes, shutdown
from perps_bot.cli import main
from perps_bot.clock import StopRequest
from perps_bot.execution import ExecutionEngine
from perps_bot.bot import Bot
from perps_bot.model import Account
from perps_bot.paper import PaperBroker
from perps_bot.protection import Protector
from perps_bot.risk import LiveRiskManager
from perps_bot.secret import Secret
from perps_bot.store import EventStore
from perps_bot.terminal import Terminal
from words import replace

ROOT = Path(__file__).resolve().parent.parent
NAMES = [scene.name for scene in drill.SCENES]
INTERRUPT, FEED, HTTP_500, LOSS, LIQUIDATION, DISK, KILL = NAMES


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PERPS_", "COINBASE_", "EVENT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def played(names, folder, monkeypatch, **settings):
    """Play these scenes; {name: (passed, seen)}."""
    monkeypatch.setattr(drill, "SCENES", [s for s in drill.SCENES if s.name in names])
    settings = the_settings(**{"profile": "prod", **settings})
    return {line.name: (line.passed, line.seen) for line in drill.rehearse(settings, folder)}


def fingerprint(folder):
    return {str(path): (path.stat().st_mtime_ns, path.is_file()
                        and hashlib.sha256(path.read_bytes()).hexdigest())
            for path in [folder, *folder.rglob("*")]}


# What passes


@pytest.mark.parametrize("profile", ["dev", "demo", "prod"])
def test_every_emergency_ends_as_it_should_in_each_profile(profile, tmp_path, monkeypatch):
    told = played(NAMES, tmp_path, monkeypatch, profile=profile)
    assert [seen for passed, seen in told.values() if not passed] == []
    assert ("HALTED after a restart" in told[INTERRUPT][1]) is (profile != "dev")
    assert list(tmp_path.iterdir()) == []  # what passed leaves nothing


@pytest.mark.parametrize("settings", [
    {"order_type": "limit", "reduce_only_mode": True, "kill_switch_enabled": True, "bar": 1},
    {"max_order_qty": Decimal(1), "max_entries_per_hour": 1, "max_orders_per_minute": 1,
     "max_messages_per_second": 1, "max_open_orders": 1, "max_losses_in_a_row": 1},
    {"paper_equity": Decimal(50), "max_daily_loss_pct": Decimal("0.2"),
     "max_drawdown_pct": Decimal("0.01"), "long_ma_period": 200, "trailing_stop_pct":
     Decimal("0.005"), "slippage_bps": Decimal(20)},
    {"symbols": ("DOGE-PERP", "BTC-PERP"), "target_leverage": Decimal(1), "enable_shorts": True,
     "max_position_pct_per_symbol": Decimal(1), "max_exposure_pct": Decimal("0.05")},
], ids=["held back", "one at a time", "small and careful", "another symbol"])
def test_it_is_played_with_the_owners_settings_whatever_they_are(settings, tmp_path, monkeypatch):
    told = played(NAMES, tmp_path, monkeypatch, **settings)
    assert [seen for passed, seen in told.values() if not passed] == []


@pytest.mark.parametrize("limit, said", [("0.05", "REDUCING"), ("0.02", "REDUCING")])
def test_the_loss_that_stops_is_the_one_that_is_set(limit, said, tmp_path, monkeypatch):
    told = played([LOSS], tmp_path, monkeypatch, max_daily_loss_pct=Decimal(limit))
    passed, seen = told[LOSS]
    lost = Decimal(re.match(r"([\d.]+) USD lost", seen)[1])
    assert passed and said in seen
    assert Decimal(limit) <= lost / 10_000 < Decimal(limit) * Decimal("1.2")


# What fails


def plant(monkeypatch, room, name, make):
    monkeypatch.setattr(room, name, make(getattr(room, name)))


def nothing(_):
    return lambda *_, **__: None


def lifting(bot):
    """As a replay has it: at midnight what a loss holds is lifted."""
    bot.lifts_risk_holds_at_midnight = True
    return bot


DEFECTS = [
    # scene       the defect                                                  what the line says
    (INTERRUPT,   (PaperBroker, "cancel", nothing),                           "entries still rest"),
    (INTERRUPT,   (shutdown, "_halts", lambda _: lambda *_: False),           "it is TRADING"),
    (INTERRUPT,   (ExecutionEngine, "cancel_all", lambda _: lambda self, symbol=None:
                   self.cancel([*self.outstanding(symbol)]) or []),           "stops for 0"),
    (INTERRUPT,   (shutdown, "record_end", nothing),                          "clean end"),
    (INTERRUPT,   (shutdown, "_wind_down", lambda old: lambda bot: (old(bot)[0], ["BTC-PERP"])),
                                                                              "exit code 3"),
    (INTERRUPT,   (StopRequest, "_take", nothing),                            "not ended 3 s"),
    (FEED,        (LiveRiskManager, "pre_trade", lambda old: lambda *given:
                   replace(old(*given), breaches=())),                        "not refused"),
    (FEED,        (Bot, "has_price", lambda _: lambda *_: True),              "says ok True"),
    (HTTP_500,    (rest, "DEFINITE", lambda old: (*old, 500)),                "count as unknown"),
    (HTTP_500,    ("perps_bot.risk", "_order_rows", lambda _: lambda *_: ()), "not refused"),
    (HTTP_500,    (ExecutionEngine, "_book_fills", nothing),                  "not found"),
    (LOSS,        (LiveRiskManager, "_losses", lambda _: lambda *_: {}),      "did not act"),
    (LOSS,        (Account, "reduces", lambda old: lambda self, intent: old(self, intent) and (
                   intent.purpose != "exit")),                                "exit did not go"),
    (LOSS,        (LiveRiskManager, "resume", lambda old: lambda self, reason, today, clear=False:
                   old(self, reason, today, True)),                           "on the same day"),
    (LOSS,        (scenes, "assemble", lambda old: lambda *given: lifting(old(*given))),
                                                                              "by itself"),
    (LIQUIDATION, ("perps_bot.loop", "reduction", nothing),                   "is still held"),
    (LIQUIDATION, ("perps_bot.loop", "reduction", lambda _: lambda *_: Decimal(0)), "too early"),
    (DISK,        (EventStore, "append", lambda old: lambda self, kind, required=False, **data:
                   old(self, kind, **data)),                                  "was sent without"),
    (DISK,        (Protector, "exit", nothing),                               "exit did not go"),
    (KILL,        (ExecutionEngine, "recover", nothing),                      "counts as intended"),
    (KILL,        (EventStore, "append", lambda old: lambda self, kind, required=False, **data:
                   None if kind == "order.lost" else old(self, kind, required, **data)),
                                                                              "stayed in doubt"),
]


@pytest.mark.parametrize("name, defect, words", DEFECTS)
def test_a_defect_of_the_product_is_a_line_that_fails(name, defect, words, tmp_path, monkeypatch):
    monkeypatch.setattr(shutdown, "STOP_FOR", timedelta(seconds=1))
    monkeypatch.setattr(scenes, "TICKS_MAX", 25)
    if words.startswith("not ended"):  # it never does: there is nothing to wait for
        monkeypatch.setattr(scenes, "STOP_SECONDS_MAX", 3)
    room, attribute, make = defect
    room = sys.modules[room] if isinstance(room, str) else room
    plant(monkeypatch, room, attribute, make)
    passed, seen = played([name], tmp_path, monkeypatch)[name]
    assert not passed
    assert words in seen
    assert len(list(tmp_path.iterdir())) == 1  # what it left can be looked at


def test_a_scene_that_hangs_is_ended_and_one_with_a_bug_holds_up_no_other(tmp_path, monkeypatch):
    def breaks(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(drill, "SCENES", (
        drill.Scene("hangs", lambda *_: time.sleep(60), 1), drill.Scene("breaks", breaks, 5),
        drill.Scene("goes on", lambda *_: "well", 5)))
    begun = time.monotonic()
    told = list(drill.rehearse(the_settings(), tmp_path))
    assert [(line.passed, line.seen) for line in told] == [
        (False, "not over after 1 s"), (False, "the scene broke off: a bug, told above"),
        (True, "well")]
    assert time.monotonic() - begun < 30
    assert told[0].seconds >= 1


def test_whatever_happens_it_is_over_within_a_minute():
    assert sum(scene.seconds_max for scene in drill.SCENES) <= 60


def test_a_drill_that_is_interrupted_ends_at_once_with_all_its_processes(tmp_path):
    drill = subprocess.Popen(
        [sys.executable, "-P", "-c", "import time; from perps_bot import cli, drill; "
         "drill.SCENES = (drill.Scene('x', lambda *_: print('on', flush=True) or time.sleep(60), "
         "60),); raise SystemExit(cli.main(['drill']))"], start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)})
    assert drill.stdout.readline() == "on\n"
    os.killpg(drill.pid, signal.SIGINT)
    out, err = drill.communicate(timeout=30)  # which waits for whoever still has the pipe
    assert (drill.returncode, out) == (3, "")
    assert err == "perps-bot: interrupted; nothing was sent\n"


def test_a_drill_that_is_interrupted_as_a_scene_begins_leaves_no_process(tmp_path):
    program = ("import os, signal, time\n"
               "from multiprocessing.popen_fork import Popen\n"
               "from perps_bot import cli, drill\n"
               "launch = Popen._launch\n"
               "def interrupted(*given):\n"
               "    launch(*given)\n"
               "    os.kill(os.getpid(), signal.SIGINT)\n"
               "Popen._launch = interrupted\n"
               "drill.SCENES = (drill.Scene('x', lambda *_: time.sleep(60), 60),)\n"
               "raise SystemExit(cli.main(['drill']))\n")
    run = subprocess.run(  # which waits for whoever still has the pipe
        [sys.executable, "-P", "-c", program], text=True, capture_output=True, timeout=30,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)})
    assert (run.returncode, run.stderr) == (3, "perps-bot: interrupted; nothing was sent\n")


def test_nobody_is_alarmed_by_a_drill(tmp_path, monkeypatch):
    called = tmp_path / "called"
    monkeypatch.setattr("perps_bot.courier.post", lambda *_: called.write_text("!"))
    settings = {"alert_webhook_url": Secret("https://x.invalid/"),
                "heartbeat_url": Secret("https://x.invalid/")}
    told = played([LOSS, FEED], tmp_path / "drill", monkeypatch, **settings)
    assert all(passed for passed, _ in told.values()) and not called.exists()


# The command


def test_the_command_writes_the_page_and_touches_nothing_else(capsys):
    main(shlex.split("--profile dev --dev-fast"))
    before, log = fingerprint(Path("data")), fingerprint(Path("logs"))
    capsys.readouterr()
    assert main(shlex.split("drill --profile dev --out drills")) == 0
    out, err = capsys.readouterr()
    assert (fingerprint(Path("data")), fingerprint(Path("logs")), err) == (before, log, "")
    *lines, last = out.splitlines()
    assert [line[:6] for line in lines if line[:3] != "   "] == ["  pass"] * len(NAMES)
    page = Path(re.fullmatch(r"7 of 7 passed; page: (\S+)", last)[1])
    assert [path.name for path in Path("drills").iterdir()] == [page.name]
    assert re.fullmatch(r"drill-dev-\d{4}-\d\d-\d\dT\d{6}Z\.md", page.name)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    text = page.read_text()
    assert text.endswith("\n7 of 7 passed\n")
    assert [name for name in NAMES if f"| {name} | pass | " not in text] == []
    hashed = json.loads(Path("data/perps_bot/dev/health.json").read_text())["settings_hash"]
    assert f"| date | {datetime.now(UTC):%Y-%m-%d} " in text
    assert f"| version | {__import__('perps_bot').__version__} |" in text
    # One cycle is not the same settings as the run without `--dev-fast`.
    assert main(shlex.split("drill --profile dev --dev-fast --out again.md")) == 0
    assert f"| settings | {hashed} |" in Path("again.md").read_text()
    assert f"| settings | {hashed} |" not in text


def test_a_failed_line_is_exit_1_and_the_page_says_so(capsys, monkeypatch):
    monkeypatch.setattr(drill, "SCENES", tuple(s for s in drill.SCENES if s.name in (FEED, LOSS)))
    monkeypatch.setattr(LiveRiskManager, "_losses", lambda *_: {})
    monkeypatch.setattr(scenes, "TICKS_MAX", 9)
    assert main(shlex.split("drill --json --out drills")) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["verdict"]) == (False, "1 of 2 passed")
    assert [(line["name"], line["passed"]) for line in told["lines"]] == [
        (FEED, True), (LOSS, False)]
    assert "| daily loss limit | FAIL | the limit did not act" in Path(told["page"]).read_text()
    assert (Path(told["left"]) / "daily-loss-limit/events").is_dir()


@pytest.mark.parametrize("passed, code", [(True, ""), (False, "\x1b[31m")])
@pytest.mark.parametrize("width", [36, 80])
def test_a_line_fits_the_terminal_and_a_failure_is_seen_at_once(passed, code, width):
    line = drill.Line(LIQUIDATION, passed, "what was seen " * 9, Decimal("0.12"))
    plain, coloured = (drill.shown(line, Terminal(width, colour)) for colour in (False, True))
    assert max(map(len, plain.splitlines())) <= width and "\x1b" not in plain
    assert plain.startswith("  pass  liq" if passed else "  FAIL  liq") and code in coloured


@pytest.mark.parametrize("line, words", [
    ("drill --out data/perps_bot",           "lies in the bot's own data"),
    ("drill --out data/perps_bot/prod/here", "lies in the bot's own data"),
    ("drill --out there.md",                 "is there already"),
    ("drill --out nowhere/page.md",          "its folder is not"),
    ("drill --out plain",                    "choose another folder"),
    ("drill --profile test",                 "profile (flag --profile)"),
    ("drill now",                            "unrecognized arguments: now"),
])
def test_a_place_that_is_not_its_own_is_refused_in_one_line(line, words, capsys):
    Path("there.md").write_text("mine")
    Path("plain").write_text("mine")
    before = fingerprint(Path())
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.splitlines()) == 1
    assert fingerprint(Path()) == before


def test_it_runs_from_the_installed_package_without_network_or_keys(tmp_path):
    run = subprocess.run(
        [sys.executable, "-P", "-m", "perps_bot", "drill", "--profile", "prod"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)})
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("pass  ") == len(NAMES)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("perps-bot-drill-")
