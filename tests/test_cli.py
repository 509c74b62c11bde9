"""The specification of `perps_bot/cli.py`: arguments in, one answer and one exit code out."""

import base64
import gzip
import json
import logging
import os
import pty
import re
import resource
import shlex
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from perps_bot.backup import backup
from perps_bot.cli import COMMANDS, main
from perps_bot.errors import VenueUnavailable
from perps_bot.model import TradingState
from perps_bot.paper import PaperBroker
from perps_bot.risk import LiveRiskManager
from perps_bot.settings import FOREIGN_VARIABLES
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
# Where nobody listens: no command of these tests finds a venue.
NOBODY = {"COINBASE_API_URL": "http://127.0.0.1:1", "COINBASE_WS_URL": "ws://127.0.0.1:1",
          "COINBASE_WS_USER_URL": "ws://127.0.0.1:1"}
OURS = ("PERPS_", "COINBASE_", "EVENT_STORE_ROOT", "LOG_LEVEL")


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    """Every command runs in an empty folder, with none of the machine's own settings."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    for name in FOREIGN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM,
                                                                signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for handler in logging.getLogger("perps_bot").handlers:
        handler.close()
    logging.getLogger("perps_bot").handlers = []
    logging.getLogger("perps_bot").setLevel(logging.NOTSET)


@pytest.fixture
def said(capsys):
    """A function that runs a command line here and returns its code and what it printed."""

    def run(line, **config):
        capsys.readouterr()
        if config:
            Path("perps.toml").write_text(
                "".join(f"{name} = {value}\n" for name, value in config.items()))
            line += " --config perps.toml"
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


def started(*argv, stdout=subprocess.PIPE, **environ):
    """Start the program as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "perps_bot", *argv], stdout=stdout, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environ})


def health(profile="dev"):
    return json.loads(Path(f"data/perps_bot/{profile}/health.json").read_text())


def events_of(profile="dev", folder="events"):
    return EventStore(Path(f"data/perps_bot/{profile}/{folder}")).read()


# A private key of nobody's, in one of the forms that Coinbase hands out.
SEED = base64.b64encode(bytes(32)).decode()


def only_line(text):
    (line,) = text.splitlines()
    return line


# Help, version, and what they load


@pytest.mark.parametrize("line, said_too", [
    ("--version", "perps-bot 0."),
    ("--help", "commands (without one it runs):"),
    *((f"{name} --help", f"perps-bot {row.example}") for name, row in COMMANDS.items()),
])
def test_help_answers_at_once_without_what_a_bot_would_load(line, said_too):
    heavy = ("requests websocket jwt plotly perps_bot.bot perps_bot.loop perps_bot.market "
             "perps_bot.ops").split()
    program = ("import sys; from perps_bot.cli import main; code = main(sys.argv[1:]); "
               f"print([name for name in {heavy} if name in sys.modules]); sys.exit(code)")
    run = subprocess.run([sys.executable, "-c", program, *line.split()], text=True, check=True,
                         capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert said_too in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_overview_names_every_command_once_in_its_group_within_80_columns(said):
    answer = said("--help")
    assert answer.code == 0
    for name, command in COMMANDS.items():
        assert len(re.findall(rf"^  {name} +{re.escape(command.help)}$", answer.out, re.M)) == 1
    assert [line for line in answer.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_works(name, said, monkeypatch):
    monkeypatch.setenv("RUN_SANDBOX_VALIDATIONS", "1")
    said("--profile dev --dev-fast")
    with gzip.open("btc-1m.csv.gz", "wt") as file:
        file.write("time,open,high,low,close\n2025-05-01T00:00:00Z,1,1,1,1\n"
                   "2025-05-01T00:01:00Z,1,1,1,1\n")
    Path("backups").mkdir()
    backup(Path("data/perps_bot/dev"), "backups", "dev", datetime(2026, 11, 23, 3, tzinfo=UTC))
    if name == "restore":  # which goes where nothing is
        Path("data").rename("data.before")
    argv = shlex.split(COMMANDS[name].example)
    # Of a bot that has ended, these two say so.
    assert main(argv) == {"status": 1, "health": 1}.get(name, 0)


# Refusals


@pytest.mark.parametrize("line, environ, words", [
    ("bogus",                       {}, "'bogus' is no command; there are init check products"),
    ("--bogus",                     {}, "--bogus; see perps-bot run --help"),
    ("run extra",                   {}, "unrecognized arguments: extra"),
    ("--prof dev",                  {}, "unrecognized arguments: --prof"),
    ("--profile",                   {}, "--profile"),
    ("--profile test",              {}, "profile (flag --profile)"),
    ("--bar 0",                     {}, "bar (flag --bar): must be a whole number from 1"),
    ("--symbols btc",               {}, "symbols (flag --symbols)"),
    ("--symbols DOGE-PERP",         {}, "DOGE-PERP: no such product; there are BTC-PERP"),
    ("--config nowhere.toml",       {}, "config nowhere.toml: cannot be read"),
    ("--profile demo",              {}, "profile demo needs an API key"),
    *(("--profile prod",            {name: "/x"}, f"{name}: has no effect on the bot's connections")
      for name in FOREIGN_VARIABLES),
    ("--profile prod",              {"COINBASE_API_KEY": "n", "COINBASE_API_SECRET": SEED},
     "COINBASE_ENABLE_DERIVATIVES=1"),
    ("--profile prod",              {"COINBASE_API_KEY": "n", "COINBASE_API_SECRET": "swordfish"},
     "COINBASE_API_SECRET: not a secret that Coinbase takes"),
    ("products --profile prod",     {"COINBASE_SANDBOX": "1"}, "sandbox"),
    ("products DOGE-PERP",          {}, "unrecognized arguments: DOGE-PERP"),
    ("symbol",                      {}, "arguments are required: SYMBOL"),
    ("validate",                    {}, "arguments are required: what"),
    ("validate all",                {}, "invalid choice: 'all'"),
    ("validate e2e",                {}, "set RUN_SANDBOX_VALIDATIONS=1"),
    ("validate ws",                 {"USE_REAL_ADAPTER": "1"}, "set RUN_SANDBOX_VALIDATIONS=1"),
    ("--profile prod",              {"COINBASE_SANDBOX": "1"}, "sandbox"),
    ("check --profile prod",        {"COINBASE_SANDBOX": "1"}, "sandbox"),
    ("",                            {"PERPS_FORCE_MOK": "1"}, "PERPS_FORCE_MOK is not known"),
    ("check",                       {"LOG_LEVEL": "LOUD"}, "log_level (environment LOG_LEVEL)"),
    ("replay",                      {}, "name a FILE of prices, or --recorded DAY"),
    ("replay nowhere.csv",          {}, "nowhere.csv cannot be read"),
    ("sweep",                       {}, "arguments are required: FILE"),
    ("sweep nowhere.csv --set short_ma_period=5", {}, "nowhere.csv cannot be read"),
    ("resume",                      {}, "arguments are required: --reason"),
    ("resume --reason ' '",         {}, "the reason is empty"),
    ("resume --reason checked",     {}, "data/perps_bot/dev does not exist"),
    ("resume --reason x --profile demo", {}, "data/perps_bot/demo does not exist"),
    ("--symbols 'A\nB'",            {}, "symbols"),
    ("'a\x1b[31m\nb'",              {}, "is no command"),
    ("--x 'a\x1b[31m\nb'",          {}, r"a\x1b[31m\nb"),
])
def test_a_refusal_is_one_line_and_nothing_is_written(line, environ, words, said, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    answer = said(line)
    assert (answer.code, answer.out) == (2, "")
    assert words in only_line(answer.err)
    assert answer.err.startswith("perps-bot: ") and answer.err[:-1].isprintable()
    assert os.listdir() == []


@pytest.mark.parametrize("spoil, words", [
    (lambda: Path("data").write_text(""),                       "data"),
    (lambda: Path("logs").write_text(""),                       "logs"),
    (lambda: Path("logs/perps_bot.log").mkdir(parents=True),    "perps_bot.log: Is a directory"),
    (lambda: Path("data/perps_bot/dev/lock").mkdir(parents=True), "lock: Is a directory"),
    (lambda: Path("data").symlink_to("/nowhere/at/all"),        "data"),
])
def test_a_folder_that_cannot_be_used_is_named_and_nothing_is_recorded(spoil, words, said):
    spoil()
    answer = said("--profile dev --dev-fast")
    assert (answer.code, answer.out) == (2, "")
    assert words in only_line(answer.err)
    assert list(Path().glob("data/perps_bot/dev/events/*")) == []


def test_python_without_its_checks_is_refused():
    run = subprocess.run([sys.executable, "-O", "-m", "perps_bot", "--dev-fast"], text=True,
                         capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         check=False)
    assert (run.returncode, run.stdout, os.listdir()) == (2, "", [])
    assert "python -O" in only_line(run.stderr)


# Output that nobody takes


@pytest.mark.parametrize("line, code", [
    ("check", 3), ("--help", 3), ("--version", 3), ("--profile dev --dev-fast", 0),
])
def test_an_answer_that_nobody_could_read_is_not_verified_but_a_bot_goes_on(line, code):
    with open("/dev/full", "w") as full:
        bot = started(*shlex.split(line), stdout=full)
        _, err = bot.communicate(timeout=PATIENCE_SECONDS)
    assert bot.returncode == code
    assert "Traceback" not in err and "Exception ignored" not in err


def test_a_reader_who_goes_away_is_no_bug():
    readable, writable = os.pipe()
    os.close(readable)
    with open(writable, "w") as pipe:
        check = started("check", stdout=pipe)
        assert check.communicate(timeout=PATIENCE_SECONDS)[1] == ""
    assert check.returncode == 3


# Running


def test_one_cycle_says_what_it_saw_and_decided(said):
    answer = said("--profile dev --dev-fast --symbols BTC-PERP ETH-PERP")
    assert answer.code == 0
    first, limits, btc, eth, last = answer.out.splitlines()
    assert re.match(r"perps-bot \S+ profile=dev broker=paper-synthetic symbols=BTC-PERP,ETH-PERP "
                    r"state=TRADING files=data/perps_bot/dev events_read=0 pid=\d+$", first)
    assert limits == ("limits: leverage 2x (target 2, profile 3, global 5), "
                      "10000 USD a symbol (profile dev)")
    assert re.match(r"BTC-PERP: mark [\d.]+, 20 of 20 bars, decision hold, flat$", btc)
    assert eth.startswith("ETH-PERP: mark ")
    assert last == "one cycle done; equity 10000 USD, state TRADING"
    assert health()["ok"]


def test_what_one_cycle_bought_is_shown_with_the_equity_that_is_left(said, monkeypatch):
    def first_cycle(seed):  # each in a folder of its own: only a first start enters at once
        monkeypatch.setenv("EVENT_STORE_ROOT", str(seed))
        return said(f"--dev-fast --seed {seed}", enter_on_start="true")

    seed, answer = next((seed, answer) for seed in range(40)
                        if "flat" not in (answer := first_cycle(seed)).out)
    events = EventStore(Path(f"{seed}/perps_bot/dev/events")).read()
    fees = sum(Decimal(event.data["fee"]) for event in events if event.type == "trade.executed")
    *_, held, last = answer.out.splitlines()
    said_so = re.search(r"mark ([\d.]+), .* decision buy, (0\.\d+) @ ([\d.]+)$", held)
    mark, quantity, entry = map(Decimal, said_so.groups())
    left = Decimal(re.search(r"equity ([\d.]+) USD", last)[1])
    assert abs(left - (10000 + quantity * (mark - entry) - fees)) < Decimal("0.01")


@pytest.mark.parametrize("flags, limits", [
    ("--leverage 1",                    "leverage 1x (target 1, profile 3, global 5)"),
    ("--leverage 5",                    "leverage 3x (target 5, profile 3, global 5)"),
    ("--max-position 700",              "700 USD a symbol (flag --max-position)"),
])
def test_the_strictest_leverage_and_the_position_in_force_are_printed(flags, limits, said):
    assert limits in said(f"--dev-fast {flags}").out


def test_a_cycle_that_failed_says_why_and_exits_1(said, monkeypatch):
    def down(*_):
        raise VenueUnavailable("nobody answers")

    monkeypatch.setattr(PaperBroker, "marks", down)
    answer = said("--profile dev --dev-fast")
    assert answer.code == 1
    assert "one cycle FAILED: VenueUnavailable: nobody answers" in answer.out
    assert not health()["ok"] and "nobody answers" in health()["error"]


@pytest.mark.parametrize("line, profile", [
    ("perps --profile dev --dev-fast", "dev"),
    ("run --profile dev --dev-fast", "dev"),
    ("--dev-fast", "dev"),
])
def test_run_has_an_alias_and_is_what_runs_without_a_command(line, profile, said):
    assert said(line).code == 0
    assert health(profile)["profile"] == profile


@pytest.mark.parametrize("line, folder", [
    ("--profile demo --dev-fast", "demo"), ("--profile prod --dev-fast", "prod"),
    ("--profile prod --dry-run --dev-fast", "prod"),
])
def test_paper_runs_of_demo_and_prod_keep_their_events_apart(line, folder, said, monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    assert said(line).code == 0
    assert health(folder)["broker"] == "paper-synthetic"
    assert [e.type for e in events_of(folder, "paper-events")][-1] == "bot.stopped"
    assert not Path(f"data/perps_bot/{folder}/events").exists()


def test_the_files_of_a_run_are_for_the_owner_alone(said):
    said("--dev-fast")
    for path in (p for top in ("data", "logs") for p in [Path(top), *Path(top).rglob("*")]):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_log_tells_utc_wherever_the_machine_stands():
    before = datetime.now(UTC) - timedelta(seconds=1)
    bot = started("--dev-fast", TZ="Asia/Tokyo")
    _, err = bot.communicate(timeout=PATIENCE_SECONDS)
    log_text = Path("logs/perps_bot.log").read_text()
    assert log_text == err
    at, level, name = log_text.split()[:3]
    assert before <= datetime.fromisoformat(at) <= datetime.now(UTC)
    assert (level, name) == ("INFO", "bot.started")


def test_a_rotated_log_stays_private(said, monkeypatch):
    monkeypatch.setattr("perps_bot.diary.LOG_BYTES_MAX", 200)
    for _ in range(3):
        said("--dev-fast")
    logs = list(Path("logs").iterdir())
    assert len(logs) > 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in logs} == {0o600}


@pytest.mark.parametrize("level, seen", [("INFO", True), ("ERROR", False)])
def test_the_log_level_is_obeyed(level, seen, said, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", level)
    assert ("bot.started" in said("--dev-fast").err) is seen


@pytest.mark.parametrize("flags, environ, words", [
    ("--order-type limit --tif GTC", {}, "time_in_force GTC"),
    ("", {"COINBASE_PASSPHRASE": "swordfish"}, "COINBASE_PASSPHRASE belongs to keys"),
])
def test_what_the_owner_may_not_have_meant_is_said_once(flags, environ, words, said, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    answer = said(f"--dev-fast {flags}")
    assert answer.code == 0
    assert answer.err.count(words) == Path("logs/perps_bot.log").read_text().count(words) == 1
    assert "swordfish" not in answer.err + answer.out


def test_a_resting_entry_that_dies_with_the_bot_needs_no_warning(said):
    assert "time_in_force" not in said("--dev-fast --order-type limit --tif GTD").err


# One writer


@pytest.fixture
def living():
    """A bot that runs until the test is over."""
    bot = started("--profile", "dev", "--interval", "1")
    assert bot.stdout.readline().startswith("perps-bot")
    yield bot
    bot.kill()
    bot.communicate()


def test_the_second_writer_is_told_who_the_first_one_is(living, said):
    answer = said("--profile dev --dev-fast")
    assert (answer.code, answer.out) == (75, "")
    assert f"in use by pid {living.pid}" in only_line(answer.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_running_bot_in_good_order(number, living):
    living.send_signal(number)
    out, err = living.communicate(timeout=PATIENCE_SECONDS)
    assert living.returncode == 0
    assert "stopped: every entry confirmed gone" in out
    assert "Traceback" not in err
    last = list(events_of())[-1]
    assert (last.type, last.data["reason"]) == ("bot.stopped", number.name)
    assert health()["message"] == f"stopped by {number.name}"


# Resuming


def held(kind, state, reason="by the test", folder="events", profile="dev"):
    """A dead bot's events, at the end of which one hold is in force."""
    store = EventStore(Path(f"data/perps_bot/{profile}/{folder}"), datetime.now(UTC))
    LiveRiskManager(event_store=store).hold(kind, state, reason)
    store.close()


def test_a_halt_lasts_until_it_is_resumed_with_a_reason(said):
    held("kill_switch", TradingState.HALTED, "Manual intervention required")
    answer = said("--dev-fast")
    assert "state=HALTED" in answer.out
    assert ("HALTED because of kill_switch: Manual intervention required; lifted by: perps-bot "
            "resume --profile dev --reason '...'") in answer.out
    assert not health()["ok"]
    answer = said("resume --profile dev --reason 'all positions checked'")
    assert (answer.code, answer.out) == (0, "resumed: kill_switch; state TRADING\n")
    assert [event.data["reason"] for event in events_of() if event.type == "state.changed"][-1] \
        == "resumed: all positions checked"
    assert "state=TRADING" in said("--dev-fast").out


def test_kill_int_halts_a_paper_run_of_prod_until_it_is_resumed(said, monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    bot = started("--profile", "prod", "--interval", "1")
    bot.stdout.readline()
    bot.send_signal(signal.SIGINT)
    out, _ = bot.communicate(timeout=PATIENCE_SECONDS)
    assert bot.returncode == 0
    assert "HALTED until: perps-bot resume --profile prod --reason" in out
    assert "state=HALTED" in said("--profile prod --dev-fast").out
    assert said("resume --profile prod --reason checked").out == "resumed: signal; state TRADING\n"


def test_nothing_held_is_nothing_lifted(said):
    said("--dev-fast")
    before = len(list(events_of()))
    assert said("resume --reason checked").out == "resumed: nothing was held; state TRADING\n"
    assert [event.type for event in events_of()][before:] == ["control.requested",
                                                              "control.answered"]


def test_a_daily_loss_is_resumed_on_the_same_day_only_when_that_is_said(said):
    held("daily_loss", TradingState.REDUCING, "5.2 % are gone")
    answer = said("resume --reason checked")
    assert answer.code == 2
    assert "5.2 % are gone" in answer.err and "--clear-daily-loss" in only_line(answer.err)
    assert said("resume --reason checked --clear-daily-loss").code == 0
    assert said("resume --reason checked").out.startswith("resumed: nothing was held")


def test_a_resume_that_the_disk_did_not_take_is_no_resume(said):
    held("kill_switch", TradingState.HALTED)
    bot = subprocess.Popen(
        [sys.executable, "-m", "perps_bot", "resume", "--reason", "checked"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    out, err = bot.communicate(timeout=PATIENCE_SECONDS)
    assert (bot.returncode, out) == (3, "")
    assert "not resumed: " in only_line(err)
    assert "state=HALTED" in said("--dev-fast").out


# Emergencies, on paper; with real processes at the exchange: test_emergency.py


class Terminal:
    def __init__(self, *lines):
        self._lines = [*lines]

    def isatty(self):
        return True

    def readline(self):
        return self._lines.pop(0)


def tree():
    return {path: path.read_bytes() for path in Path(".").rglob("*") if path.is_file()}


FLAT = "flat: the venue shows no position and no order in BTC-PERP"


@pytest.mark.parametrize("profile, folder", [("dev", "events"), ("prod", "paper-events")])
def test_a_dead_bot_is_closed_on_paper_and_opens_nothing_until_it_is_resumed(
    said, monkeypatch, profile, folder
):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    now = datetime.now(UTC)
    store = EventStore(Path(f"data/perps_bot/{profile}/{folder}"), now)
    books = PositionTracker(store)
    store.open_day(now.date(), {}, equity=Decimal(10_000))
    books.update_position("BTC-PERP", Decimal("0.04"), Decimal(80_000))
    store.close()
    answer = said(f"close-all --profile {profile} --yes")
    assert (answer.code, answer.out.splitlines()[-2]) == (0, FLAT)
    assert "BTC-PERP exit pb-" in answer.out and " sell 0.04: filled, 0.04 filled at " in answer.out
    assert "state HALTED" in said(f"--profile {profile} --dev-fast").out
    assert said(f"close-all --profile {profile} --yes").out.splitlines()[-2] == FLAT
    trades = [e.data for e in events_of(profile, folder) if e.type == "trade.executed"]
    assert sum(Decimal(trade["quantity"]) for trade in trades) == Decimal("0.04")
    assert not Decimal(trades[-1]["position_quantity"])
    assert said(f"resume --profile {profile} --reason x").out.startswith("resumed: operator")


def test_a_living_bot_is_halted_and_resumed_through_its_files(living, said):
    answer = said("halt 'the news' --profile dev --json")
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["exit_code"] == 0 and told["lines"][0] == "HALTED: the news"
    assert health()["trading_state"] == "HALTED" and not health()["ok"]
    assert said("halt again --reduce-only --profile dev").out.startswith("HALTED: again")
    assert said("resume --reason x").out == "resumed: operator; state TRADING\n"


@pytest.mark.parametrize("line, words", [
    ("close-all",                              "there is no terminal: add --yes"),
    ("close-all --yes --reason ''",            "the reason is empty"),
    ("halt ' '",                               "the reason is empty"),
    (f"halt {'x' * 501}",                      "above 500 characters"),
    ("halt",                                   "arguments are required: reason"),
    ("halt two words",                         "unrecognized arguments: words"),
    ("halt x --profile prod",                  "data/perps_bot/prod does not exist"),
    ("close-all --yes --profile demo --dry-run", "data/perps_bot/demo does not exist"),
])
def test_a_wrong_emergency_is_one_line_and_changes_nothing(said, line, words):
    said("--dev-fast")
    before = tree()
    answer = said(line)
    assert (answer.code, answer.out) == (2, "")
    assert words in only_line(answer.err)
    assert tree() == before


@pytest.mark.parametrize("typed, code", [("yes\n", 0), ("y\n", 1), ("", 1)])
def test_at_a_terminal_a_person_is_asked_before_all_is_closed(said, monkeypatch, typed, code):
    said("--dev-fast")
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    answer = said("close-all --profile dev")
    assert answer.code == code
    assert "profile dev (paper-synthetic): cancels every order and closes" in answer.out
    assert (FLAT in answer.out) == (code == 0)
    assert ("control.requested" in {event.type for event in events_of()}) == (code == 0)


def test_a_command_of_another_user_is_refused_with_the_way_out(said, monkeypatch):
    said("--dev-fast")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    answer = said("halt x --profile dev")
    assert answer.code == 2 and "is another user's: run as its owner" in only_line(answer.err)


# Checking


@pytest.mark.parametrize("flags, code", [
    ("--profile dev",                        0),
    ("--profile dev --symbols BTC-PERP ETH-PERP SOL-PERP XRP-PERP", 0),
    ("--profile demo",                       1),
    ("--profile demo --max-position 2000",   0),
    ("--profile prod",                       0),
    ("--profile prod --equity 50",           1),
])
def test_check_says_by_its_exit_code_whether_an_order_is_possible(flags, code, said, monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    answer = said(f"check {flags}")
    assert answer.code == code
    assert ("NO  " in answer.out) == bool(code)
    assert json.loads(said(f"check {flags} --json").out)["ok"] is (code == 0)
    assert os.listdir() == []


SMALL = [
    # flags                                                                    config
    ("--profile demo",                                                         {}),
    ("--profile demo --symbols BTC-PERP ETH-PERP SOL-PERP XRP-PERP",           {}),
    ("--profile demo --equity 1",                                              {}),
    ("--profile demo --equity 3000 --max-position 700",                        {}),
    ("--profile prod --equity 999",                                            {}),
    ("--profile prod --leverage 5 --equity 20 --symbols SOL-PERP",             {}),
    ("--profile dev --equity 300",     {"max_position_pct_per_symbol": "1.0",
                                        "max_exposure_pct": "0.03"}),
    ("--profile dev --equity 300",     {"leverage_max_global": "1.0"}),
    ("--profile dev --equity 300",     {"max_leverage": "1.5",
                                        "max_position_pct_per_symbol": "0.01"}),
]


@pytest.mark.parametrize("flags, config", SMALL)
def test_following_the_advice_of_check_makes_it_pass(flags, config, said, monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    answer = said(f"check {flags}", **config)
    assert answer.code == 1
    advice = {}
    for flag, value in re.findall(r"(--[a-z-]+) (\d+)", answer.out.partition("smallest")[2]):
        advice[flag] = max(advice.get(flag, 0), int(value))
    assert advice
    for flag, value in advice.items():
        flags = re.sub(rf"{flag} \S+", "", flags) + f" {flag} {value}"
    answer = said(f"check {flags}", **config)
    assert answer.code == 0, answer.out


def test_check_shows_every_value_and_where_it_came_from(said, monkeypatch):
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("COINBASE_API_SECRET", "swordfish")
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    answer = said("check --profile demo --bar 300", max_exposure_pct="0.5")
    rows = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in answer.out.splitlines()}
    assert rows["bar"] == ["300 seconds", "flag --bar"]
    assert rows["log_level"] == ["DEBUG", "environment LOG_LEVEL"]
    assert rows["max_exposure_pct"] == ["0.5 fraction of equity", "config perps.toml"]
    assert rows["max_position"] == ["100 USD", "profile demo"]
    assert rows["interval"] == ["5 seconds", "default"]
    assert rows["api_secret"] == ["set", "environment COINBASE_API_SECRET"]
    assert "swordfish" not in answer.out
    listed = json.loads(said("check --profile demo --json").out)["settings"]
    assert {row["name"] for row in listed} == {n for n in rows if re.fullmatch("[a-z_]+", n)}


@pytest.mark.parametrize("profile, environ, broker, words", [
    ("dev",  {},                          "paper-synthetic", "no venue was asked"),
    ("prod", {"PERPS_FORCE_MOCK": "1"},   "paper-synthetic", "no venue was asked"),
    ("demo", {"COINBASE_SANDBOX": "1"},   "paper-live",      "not asked"),
])
def test_check_does_not_claim_a_venue_that_it_did_not_ask(
    profile, environ, broker, words, said, monkeypatch
):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert json.loads(said(f"check --profile {profile} --json").out)["broker"] == broker
    assert words in said(f"check --profile {profile}").out


# What can be traded


def test_products_lists_what_the_synthetic_market_has(said):
    head, btc, *others = said("products").out.splitlines()
    assert head.split()[:2] == ["symbol", "venue"] and len(others) == 3
    assert btc.split()[:6] == ["BTC-PERP", "BIP-20DEC30-CDE", "0.01", "5", "0.21025/0.256625",
                               "4.75/3.89"]
    assert btc.endswith("  open")
    rows = json.loads(said("products --json").out)["products"]
    assert [row["symbol"] for row in rows] == sorted(row["symbol"] for row in rows)
    assert 500 < Decimal(rows[0]["smallest_order_usd"]) < 1500


@pytest.mark.parametrize("name", ["BTC-PERP", "BIP-20DEC30-CDE"])
def test_symbol_tells_one_product_in_full_by_either_name(name, said):
    report = json.loads(said(f"symbol {name} --json").out)
    assert (report["symbol"], report["product_id"]) == ("BTC-PERP", "BIP-20DEC30-CDE")
    assert Decimal(report["bid"]) < Decimal(report["ask"])
    assert 0 <= report["last_candle_age_seconds"] < 60
    order = report["orders"]["BTC-PERP long"]  # in some seconds too little is offered there
    assert order["possible"] or "max_top_of_book_pct" in order["why"]
    assert "BTC-PERP long" in said(f"symbol {name}").out


def test_symbol_names_the_obstacle(said):
    answer = said("symbol BTC-PERP --equity 100")
    assert answer.code == 0
    assert "NOT possible: Quantization failed: Below minimum" in answer.out


def test_an_unknown_symbol_is_a_no_that_lists_what_there_is(said):
    answer = said("symbol DOGE-PERP")
    assert (answer.code, answer.out) == (1, "")
    assert "the venue lists BTC-PERP ETH-PERP SOL-PERP XRP-PERP" in only_line(answer.err)


@pytest.mark.parametrize("line", ["products --profile prod", "symbol BTC-PERP --profile demo"])
def test_a_venue_that_does_not_answer_was_not_asked(line, said):
    answer = said(line)
    assert (answer.code, answer.out) == (3, "")
    assert "the venue could not be asked" in only_line(answer.err)


# The next command


@pytest.mark.parametrize("prepare, line, environ, command", [
    ("",                 "bogus",                          {}, "perps-bot --help"),
    ("",                 "drill --bogus",                  {}, "perps-bot drill --help"),
    ("",                 "halt",                           {}, "perps-bot halt --help"),
    ("",                 "export",                         {}, "perps-bot export --help"),
    ("",                 "--config nowhere.toml",          {}, "perps-bot init"),
    ("",                 "--symbols DOGE-PERP",            {}, "perps-bot products"),
    ("",                 "--profile prod",                 {}, "perps-bot check --profile prod"),
    ("",                 "--profile prod",
     {"COINBASE_API_KEY": "n", "COINBASE_API_SECRET": SEED}, "perps-bot check --profile prod"),
    ("",                 "validate ws",                    {}, "RUN_SANDBOX_VALIDATIONS=1"),
    ("",                 "products --profile demo",        {}, "perps-bot check"),
    ("",                 "symbol BTC-PERP --profile prod", {}, "perps-bot check"),
    *(("",               f"{line} --profile demo",         {}, "perps-bot ") for line in (
        "status", "health", "tail", "why BTC-PERP", "halt x", "close-all --yes --dry-run",
        "resume --reason x", "report", "replay --recorded 2026-01-01")),
    *(("init --profile demo", f"{line} --profile demo",    {}, "perps-bot ") for line in (
        "health", "tail", "why BTC-PERP", "report", "replay --recorded 2026-01-01")),
    ("",                 "backup nowhere",                 {}, "mkdir -m 700 nowhere"),
    ("",                 "restore nowhere",                {}, "perps-bot backup"),
    ("",                 "close-all",                      {}, "add --yes"),
    ("--dev-fast",       "drill --out data/perps_bot",     {}, "name a folder beside it"),
    ("--dev-fast",       "resume --reason ' '",            {}, "say what was checked"),
    ("--dev-fast",       "why DOGE-PERP",                  {}, "BTC-PERP"),
])
def test_a_refusal_names_what_to_run_or_to_set_next(
    prepare, line, environ, command, said, monkeypatch
):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if prepare:
        said(prepare)
    answer = said(line)
    assert answer.code in (2, 3)
    assert command in only_line(answer.err)


@pytest.mark.parametrize("flags, config, environ, named", [
    ("--profile prod",           {}, {"PERPS_FORCE_MOCK": "1"}, "--profile prod"),
    ("--profile demo --dry-run", {}, {"PERPS_FORCE_MOCK": "1"}, "--profile demo --dry-run"),
    ("--profile prod", {"force_mock": "true", "event_store_root": "'else where'"}, {},
     "--profile prod --config perps.toml"),
])
def test_the_resume_that_a_halted_bot_names_lifts_its_halt(
    flags, config, environ, named, said, monkeypatch
):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    root = config.get("event_store_root", "data").strip("'")
    profile = flags.split()[1]
    held("kill_switch", TradingState.HALTED, folder="paper-events", profile=profile)
    Path("data").rename("moved")
    Path("moved").rename(root)
    (line,) = [line for line in said(f"{flags} --dev-fast", **config).out.splitlines()
               if line.startswith("HALTED")]
    command = line.partition("lifted by: perps-bot ")[2]
    assert command == f"resume {named} --reason '...'"
    assert said(command).out == "resumed: kill_switch; state TRADING\n"


def test_a_dry_run_is_told_by_its_end_how_to_go_on(monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    bot = started("--profile", "demo", "--dry-run", "--interval", "1")
    bot.stdout.readline()
    bot.send_signal(signal.SIGINT)
    out, _ = bot.communicate(timeout=PATIENCE_SECONDS)
    assert "HALTED until: perps-bot resume --profile demo --dry-run --reason '...'" in out


@pytest.mark.parametrize("environ, coloured", [
    ({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ({"TERM": "dumb"}, False),
])
def test_only_a_terminal_gets_colours_and_only_where_nobody_said_no(environ, coloured, said):
    ours, theirs = pty.openpty()
    check = started("check", "--profile", "demo", stdout=theirs, PERPS_FORCE_MOCK="1", **environ)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # how a terminal says that nobody writes any more
        while part := os.read(ours, 65536):
            seen += part
    os.close(ours)
    check.communicate(timeout=PATIENCE_SECONDS)
    assert check.returncode == 1
    assert (b"\x1b[31mNO  BTC-PERP long" in seen) is coloured
    assert (b"\x1b" in seen) is coloured
    assert "\x1b" not in said("check --profile demo").out
