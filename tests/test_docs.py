"""The documents are true: each command in them runs, each name, field and message exists."""

import ast
import functools
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.cli import COMMANDS, GROUPS, main
from perps_bot.loop import tick
from perps_bot.model import Position
from perps_bot.risk import RISK_KINDS
from perps_bot.settings import FOREIGN_VARIABLES, PROFILES, SETTINGS, described, resolve
from perps_bot.store import SYNCED, EventStore, read_events
from perps_bot.tracker import PositionTracker

ROOT = Path(__file__).resolve().parent.parent
DOCS = {name: (ROOT / name).read_text("utf-8") for name in (
    "README.md", "docs/RUNBOOK_PERPS.md", "docs/ONE_TICK.md", "docs/EVENTS.md", "docs/FAQ.md",
    "docs/CONTROLS.md", "systemd/README.md")}
README, RUNBOOK, ONE_TICK, EVENTS, _, CONTROLS, _ = DOCS.values()
SOURCE = {path.name: path.read_text("utf-8") for path in (ROOT / "perps_bot").glob("*.py")}
STRINGS = " ".join(
    node.value for text in SOURCE.values() for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Constant) and isinstance(node.value, str))
REASONS = {call.args[0].value for text in SOURCE.values() for call in ast.walk(ast.parse(text))
           if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "hold"
           and call.args and isinstance(call.args[0], ast.Constant)} | set(RISK_KINDS)
PATIENCE_SECONDS = 180
MAP = ROOT.parent / "shared" / "reference" / "faults.md"
MAY = datetime(2025, 5, 1, tzinfo=UTC)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(text):
    """Yield the commands of the sh blocks; one with quotes over several lines is one."""
    for block in blocks(text, "sh"):
        waiting = ""
        for line in block.splitlines():
            waiting += line
            if waiting.count('"') % 2 or waiting.count("'") % 2:
                waiting += "\n"
                continue
            yield waiting
            waiting = ""
        assert not waiting, block


def table(text, *columns):
    """Return the rows of the table with exactly these columns, as lists of cells."""
    head = f"| {' | '.join(columns)} |\n"
    assert text.count(head) == 1, head
    rows = text.partition(head)[2].split("\n")[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")]
            for row in rows[:next(n for n, row in enumerate(rows) if not row)]]


# The commands


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A folder in which the bot has run, with recorded prices, a config file and our programs."""
    place = tmp_path_factory.mktemp("used")
    launcher = f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -B -P'
    for name, rest in (("perps-bot", " -m perps_bot"), ("python", "")):
        path = place / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'{launcher}{rest} "$@"\n')
        path.chmod(0o755)
    (place / "tests").symlink_to(ROOT / "tests")
    (place / "systemd").mkdir()
    (place / "systemd" / "install.sh").write_text(
        f'#!/bin/sh\nexec "{ROOT}/systemd/install.sh" "$@"\n')
    (place / "systemd" / "install.sh").chmod(0o755)
    (place / "perps.toml").write_text(blocks(RUNBOOK, "toml")[0])
    text = candles(80000 + abs(n % 100 - 50) * 20 for n in range(600))
    (place / "btc-1m.csv.gz").write_bytes(gzip.compress(text.encode()))
    (place / "eth-1m.csv").write_text(text)
    rates = [f"{MAY + timedelta(hours=n):%Y-%m-%dT%H:%M:%SZ},0.0001\n" for n in range(1, 10)]
    (place / "btc-funding.csv").write_text("time,funding_rate\n" + "".join(rates))
    for line in ("--profile dev", "--profile demo", "--profile prod"):
        run = subprocess.run(["bin/perps-bot", *line.split(), "--dev-fast"], cwd=place, text=True,
                             env=environment(place, PERPS_FORCE_MOCK="1"), capture_output=True,
                             check=False)
        assert run.returncode == 0, run.stderr
    return place


def candles(prices):
    rows = [f"{MAY + timedelta(minutes=n):%Y-%m-%dT%H:%M:%SZ},{p},{p + 9},{p - 9},{p}\n"
            for n, p in enumerate(prices)]
    return "time,open,high,low,close\n" + "".join(rows)


def environment(place, **changes):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("PERPS_", "COINBASE_", "EVENT_STORE", "LOG_LEVEL", "PYTHON"))}
    return {**kept, "PATH": f"{place / 'bin'}{os.pathsep}{kept['PATH']}", **changes}


def beside(place, line):
    """The environment of a printed line: nothing that a test runs may reach Coinbase."""
    is_real = re.search("--profile (?:demo|prod)", line)
    return environment(place, **{"PERPS_FORCE_MOCK": "1"} if is_real else {})


@pytest.fixture
def place(used, tmp_path):
    return shutil.copytree(used, tmp_path / "place", symlinks=True)


def begun(place, line):
    """Start a command line that ends only when it is told to, and wait until it says so."""
    bot = subprocess.Popen(["sh", "-c", f"exec env {line}"], cwd=place, env=beside(place, line),
                           text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert "profile=" in bot.stdout.readline(), bot.communicate()[1]
    return bot


def runs_on(line):
    words = re.sub(r"\b[A-Z_]+=\S+ ", "", line).split()
    is_bot = words[0] == "bin/perps-bot" or words[:3] == ["python", "-m", "perps_bot"]
    ends = {"backup", "check", "close-all", "drill", "export", "halt", "health", "init", "products",
            "replay", "report", "restore", "resume", "status", "sweep", "symbol", "tail",
            "validate", "why", "--dev-fast"}
    return is_bot and not set(words) & ends


THE_FIRST = RUNBOOK.index("\n## Quick start")
IN_AN_EMERGENCY = list(commands(RUNBOOK[:THE_FIRST]))
PRINTED = [line for text in (README, RUNBOOK[THE_FIRST:]) for line in commands(text)]


@pytest.mark.parametrize("is_alive, state", [
    (True, ": HALTED\n"), (False, "since then: HALTED because of operator: why")])
def test_the_lines_for_an_emergency_end_it_whether_the_bot_lives_or_not(place, is_alive, state):
    bot, said = begun(place, "bin/perps-bot --profile prod") if is_alive else None, []
    try:
        for line in IN_AN_EMERGENCY:
            said.append(subprocess.run(["sh", "-c", line], cwd=place, env=beside(place, line),
                                       text=True, capture_output=True, check=False))
    finally:
        if bot:
            bot.send_signal(signal.SIGTERM)
            bot.communicate(timeout=PATIENCE_SECONDS)
    halted, closed, seen = said
    assert (halted.returncode, closed.returncode, seen.returncode) == (0, 0, 1), said
    assert "every entry confirmed gone" in halted.stdout
    assert "flat: the venue shows no position and no order" in closed.stdout
    assert state in seen.stdout


@pytest.mark.parametrize("line", [line for line in PRINTED if runs_on(line)])
def test_a_printed_start_runs_until_it_is_stopped(line, place):
    bot = begun(place, line)
    bot.send_signal(signal.SIGTERM)
    out, err = bot.communicate(timeout=PATIENCE_SECONDS)
    assert bot.returncode == 0, err
    assert "stopped: every entry confirmed gone" in out and "Traceback" not in err


@pytest.mark.parametrize("line", [
    line for line in PRINTED if not runs_on(line) and " PID" not in line and "pgrep" not in line
    and line != "bin/test"])
def test_a_printed_command_ends_as_it_should(line, place):
    run = subprocess.run(["sh", "-c", line], cwd=place, env=beside(place, line), text=True,
                         capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    expected = re.search(r"# exit (\d)", line)
    assert run.returncode == int(expected[1] if expected else 0), run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("line", [line for line in PRINTED if " PID" in line])
def test_a_printed_signal_does_what_the_runbook_says(line, place):
    bot = begun(place, "bin/perps-bot --profile dev --interval 1")
    try:
        subprocess.run(["sh", "-c", line.replace("PID", str(bot.pid))], check=True)
        if "-USR1" in line:
            state = place / "data/perps_bot/dev/health.json"
            while json.loads(state.read_text())["trading_state"] != "REDUCING":
                assert bot.poll() is None
            bot.send_signal(signal.SIGTERM)
        bot.communicate(timeout=PATIENCE_SECONDS)
        assert bot.returncode == 0
    finally:
        bot.kill()


@pytest.mark.skipif(not shutil.which("pgrep"), reason="pgrep is not installed")
@pytest.mark.parametrize("line", [line for line in PRINTED if "pgrep" in line])
def test_pgrep_finds_the_running_bot(line, place):
    bot = begun(place, "bin/perps-bot --profile dev")
    try:
        found = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        assert str(bot.pid) in [row.split()[0] for row in found.stdout.splitlines()]
    finally:
        bot.kill()
        bot.communicate()


def test_every_kind_of_printed_command_is_one_of_these():
    """So that a new line of the documents cannot slip through between the tests above."""
    assert {re.sub(r"\b[A-Z_]+=\S+ ", "", line).split()[0] for line in PRINTED} == {
        "bin/perps-bot", "bin/test", "python", "kill", "pgrep", "cat", "tail", "grep", "mkdir",
        "systemd/install.sh"}
    assert len(PRINTED) > 40


@pytest.mark.parametrize("sample", [
    *blocks(RUNBOOK, "python"), *blocks(EVENTS, "python")])
def test_a_python_sample_runs_as_printed(sample, place):
    run = subprocess.run(["bin/python", "-c", sample], cwd=place, env=environment(place),
                         text=True, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_printed_check_of_the_chain_finds_a_changed_byte(place):
    (sample,) = [block for block in blocks(EVENTS, "python") if "def verify" in block]
    names = {}
    exec(sample, names)
    (path,) = place.glob("data/perps_bot/dev/events/*.jsonl")
    names["verify"](path)
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"symbol":"BTC-PERP"', b'"symbol":"ETC-PERP"', 1))
    assert path.read_bytes() != text
    with pytest.raises(SystemExit, match="line 3: the crc does not fit"):
        names["verify"](path)


def test_the_printed_output_of_the_first_cycle_is_what_it_prints(place):
    shown, = blocks(README, "text")[:1]
    shutil.rmtree(place / "data")
    run = subprocess.run(["sh", "-c", "exec bin/perps-bot --profile dev --dev-fast 2>&1"],
                         cwd=place, env=environment(place, EVENT_STORE_ROOT="data"), text=True,
                         capture_output=True, check=True)
    said = [line for line in run.stdout.splitlines(True) if "funding.rate" not in line]
    assert without_numbers("".join(said)) == without_numbers(shown)


def without_numbers(text):
    return sorted(re.sub(r"\d[\d.:TZ-]*|flat|hold", "#", line) for line in text.splitlines())


# The names


@pytest.mark.parametrize("name", DOCS)
def test_every_file_that_is_named_exists(name):
    named = set(re.findall(r"\b(?:bin|docs|perps_bot|tests)/[\w./-]*[\w]", DOCS[name]))
    named = {path for path in named if path.split("/")[1] not in PROFILES}
    assert named and [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCS)
def test_a_document_promises_nothing(name):
    assert re.findall(r"(?i)\b(?:later version|not yet|to come|will be|phase|TODO)\b",
                      DOCS[name]) == []


def test_the_readme_lists_the_commands_as_the_help_does():
    rows = table(README, "when", "command", "what it does")
    shown = [(re.search("`(.+)`", command)[1], group.strip("*")) for group, command, _ in rows]
    listed = [(name, group if not n else "") for group, rows in GROUPS.items()
              for n, name in enumerate(rows) if name != "perps"]
    assert shown == listed and {*COMMANDS} - {"perps"} == {name for name, _ in shown}


def test_every_setting_is_listed_once_with_its_place_default_and_range():
    """Those with a variable stand with the variables, the others in the reference."""
    variables = [[name, place, *more] for place, name, *more in table(
        RUNBOOK, "variable", "setting", "default", "allowed", "what")]
    others = table(RUNBOOK, "setting", "flag", "default", "allowed", "what")
    assert [row[0] for row in variables] == [f"`{row.name}`" for row in SETTINGS if row.env]
    assert [row[0] for row in others] == [f"`{row.name}`" for row in SETTINGS if not row.env]
    defaults = {name: value for name, value, _, _ in described(resolve({}, {}))}
    rows = {row[0].strip("`"): row[1:] for row in (*variables, *others)}
    for row in SETTINGS:
        given, default, allowed, what = rows[row.name]
        assert given.strip("`") == (row.flag or row.env or "config file"), row.name
        assert default == ("by profile" if row.name in PROFILES["dev"] else
                           defaults[row.name].replace("data", "./data", row.env ==
                                                      "EVENT_STORE_ROOT")), row.name
        assert allowed == "switch" or allowed.startswith(row.kind.allowed), row.name
        assert not row.unit or allowed.endswith(row.unit), row.name
        assert what.startswith(row.help), row.name


def test_every_variable_that_the_program_reads_is_in_the_runbook():
    read = {node.args[0].value for text in SOURCE.values() for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get" and "environ" in ast.unparse(node.func.value)
            and isinstance(node.args[0], ast.Constant)}
    assert {"NO_COLOR", "NOTIFY_SOCKET"} <= read
    told = RUNBOOK.partition("## Environment variables")[2].partition("\n## ")[0]
    assert [name for name in sorted({*read, *FOREIGN_VARIABLES}) if name not in told] == []


def test_the_profiles_are_listed_with_their_limits():
    rows = {row[0]: row[1:5] for row in table(RUNBOOK, "profile", "max position", "max leverage",
                                              "shorts", "bar", "where it trades")}
    assert rows == {
        name: [f"${limits['max_position']:,}", f"{limits['max_leverage']}x",
               "yes" if limits["enable_shorts"] else "no", f"{limits['bar']} s"]
        for name, limits in PROFILES.items()}


def test_the_printed_health_has_the_fields_of_the_real_one(place):
    real = json.loads((place / "data/perps_bot/dev/health.json").read_text())
    (shown,) = blocks(RUNBOOK, "json")
    assert list(json.loads(shown)) == list(real)
    told = re.findall("`(.+?)`", " ".join(f for f, _ in table(RUNBOOK, "field", "what")))
    assert sorted(told) == sorted(real)


def test_the_files_of_a_profile_are_those_that_are_listed(place):
    listed = re.findall("`(.+?)`", " ".join(row[0] for row in table(RUNBOOK, "file", "what")))
    assert sorted(name.rstrip("/") for name in listed) == sorted(
        [*os.listdir(place / "data/perps_bot/dev"), "control"])  # which a command makes


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


LINKS = [(name, *link) for name, text in DOCS.items()
         for link in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text)]


@pytest.mark.parametrize("name, path, heading", LINKS)
def test_a_link_leads_somewhere(name, path, heading):
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.exists()
    assert not heading or heading in map(slug, re.findall("^#+ (.+)$", target.read_text(), re.M))


def test_the_contents_name_every_section():
    contents = RUNBOOK.partition("\n## ")[0]
    assert [heading for heading in re.findall("^## (.+)$", RUNBOOK, re.M)
            if f"(#{slug(heading)})" not in contents] == []


@pytest.mark.parametrize("name", [*(f"perps_bot/{name}" for name in SOURCE), *DOCS])
def test_a_section_that_is_named_is_there(name):
    text = re.sub(r'"\s+f?"', "", (ROOT / name).read_text("utf-8"))
    named = re.findall(r"""'([A-Z][^'\n]+)' in (?:docs/RUNBOOK|the runbook)""", text)
    named += re.findall(r"""(?:RUNBOOK_PERPS.md`|runbook)(?: under)?,? "([^"]+)\"""", text)
    assert [heading for heading in named if not re.search(f"^#+ {heading}$", RUNBOOK, re.M)] == []


def test_every_room_is_on_the_map_of_files():
    places = " ".join(row[0] for row in table(RUNBOOK, "place", "what"))
    assert sorted(re.findall(r"`perps_bot/(\w+\.py)`", places)) == sorted(
        name for name in SOURCE if not name.startswith("__"))


def test_a_limit_breach_is_answered_for_every_code():
    told = re.findall("`([A-Z_]+)`", " ".join(
        row[0] for row in table(RUNBOOK, "codes", "what to do")))
    listed = re.findall("`([A-Z_]+)`", " ".join(row[0] for row in table(
        CONTROLS, "code", "what it says", "way out", "test")))
    assert sorted(told) == sorted(listed)


def test_every_alert_is_in_the_runbook():
    told = re.findall("`([A-Z_]+)`", " ".join(
        row[0] for row in table(RUNBOOK, "code", "what it tells", "what to do")))
    raised = set(re.findall(r'"([A-Z]{2,}(?:_[A-Z]+)*)"', SOURCE["alerts.py"])) - {"GET", "POST"}
    assert raised >= {"NO_STOP", "TIE_OUT"}
    assert sorted(told) == sorted(raised | {name.upper() for name in REASONS - {"settings"}})


QUOTED = [*re.findall(r'^### "(.+)"$', RUNBOOK, re.M),
          *(row[0].strip("`") for row in table(RUNBOOK, "message", "what to do"))]


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_to_search_for_is_one_that_the_program_says(message):
    said = message.removeprefix("Risk check failed: ")
    assert said in STRINGS
    assert said == message or "Risk check failed: " in STRINGS


def test_the_runbook_has_the_four_messages():
    assert QUOTED[:4] == [
        "No mark price for symbol", "Risk check failed: Leverage exceeds limit",
        "Quantization failed: Below minimum", "Strategy generates no signals"]


# The tick


def test_the_tick_is_told_in_the_order_in_which_the_code_does_it():
    told = ONE_TICK.partition("## The tick")[2].partition("## After the tick")[0]
    steps = re.findall(r"^\d+\. \*\*.+?`(\w+)`", told, re.M | re.S)
    code = SOURCE["loop.py"].partition("def tick(")[2].partition("\ndef _open_day(")[0]
    places = [code.index(f"{step}(") for step in steps]
    assert len(steps) == 12 and places == sorted(places)
    called = set(re.findall(r"\b_?[a-z_]+(?=\(bot)|(?<=engine\.)[a-z]+(?=\()", code))
    assert {name for name in called if f"`{name}`" not in told} <= {"tick", "exit"}
    assert tick.__name__ == "tick"


# The events


def documented():
    """Return {type: (is it synced, its fields)} as docs/EVENTS.md has them."""
    found = {}
    for section in EVENTS.split("\n### ")[1:]:
        name, _, body = section.partition("\n")
        fields = [field for row in re.findall(r"^\| (`.+?) \|", body, re.M)
                  for field in re.findall(r"`(\w+)`", row)]
        found[name.strip("`")] = ("Not synced" not in body and "Synced" in body, fields)
    return found


def test_every_event_type_in_the_code_is_documented_and_no_other():
    words = {node.value for name, text in SOURCE.items() if name != "ops.py"
             for node in ast.walk(ast.parse(text))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)
             and re.fullmatch("(?:bot|day|order|stop|funding|state|position|reconcile|trade|risk|"
                              "strategy|feed|account|control|alert)\\.[a-z_]+|alert", node.value)}
    assert words == set(documented())


def test_what_is_synced_is_what_is_said_to_be():
    assert {name for name, (synced, _) in documented().items() if synced} == SYNCED


@pytest.fixture(scope="module")
def written(used, tmp_path_factory):
    """{type: all field names} of the events of several runs."""
    place, seen = tmp_path_factory.mktemp("written"), defaultdict(set)
    before = os.getcwd()
    os.chdir(place)
    (place / "limits.toml").write_text("max_daily_loss_pct = 0.005\n")
    saw = (80000 + n % 100 * 25 for n in range(600))  # it rises, and then falls through every stop
    (place / "saw.csv").write_text(candles(saw))
    assert main(["replay", "saw.csv", "--funding", str(used / "btc-funding.csv"),
                 "--events", "replayed", "--config", "limits.toml"]) == 0
    assert main(["replay", str(used / "btc-1m.csv.gz"), "--max-position", "90", "--events",
                 "refused"]) == 0
    os.chdir(before)
    odd = EventStore(place / "odd", MAY)
    books = PositionTracker(odd)
    for kind in ("position.adopted", "reconcile.mismatch"):
        books.adopt(kind, Position("BTC-PERP", Decimal(1), Decimal(9), Decimal(9)))
    folders = [place / "replayed", place / "refused", place / "odd",
               used / "data/perps_bot/dev/events"]
    for event in (event for folder in folders for event in read_events(folder)):
        seen[event.type] |= event.data.keys()
    return seen


# Types whose fields are read from the call that writes them, and where that stands.
SELDOM = {"order.unknown": "execution", "order.lost": "execution", "alert": "reconcile",
          "account.tied_out": "reconcile", "alert.cleared": "alerts", "alert.sent": "alerts",
          "alert.failed": "alerts", "control.requested": "control",
          "control.answered": "control"}
FROM_THE_FEED = {"feed.stale", "feed.recovered"}


@pytest.mark.parametrize("kind", sorted(set(documented()) - SELDOM.keys() - FROM_THE_FEED))
def test_the_fields_of_an_event_are_those_that_are_documented(kind, written):
    fields = documented()[kind][1]
    if kind == "state.changed":
        fields = [field for field in fields if field not in ("clears_loss", "pnl")]
    if kind == "risk.rejected":
        fields = [field for field in fields if field not in ("code", "limit")]
    assert set(fields) == written[kind]


@pytest.mark.parametrize("kind", SELDOM)
def test_the_fields_of_a_seldom_event_are_those_that_are_documented(kind):
    calls = [node for node in ast.walk(ast.parse(SOURCE[f"{SELDOM[kind]}.py"]))
             if isinstance(node, ast.Call) and node.args
             and isinstance(node.args[0], ast.Constant) and node.args[0].value == kind]
    (fields,) = [[word.arg for word in call.keywords if word.arg != "required"] for call in calls]
    assert sorted(fields) == sorted(documented()[kind][1])


def test_every_reason_for_a_state_is_documented():
    (told,) = re.findall(r"^\| `kind` \| which reason: (.*) \|$", EVENTS, re.M)
    assert set(re.sub(r" \(.*?\)", "", told).split(", ")) == REASONS


def test_the_day_opens_with_the_settings_of_its_process(used):
    """So that a day whose process began on an earlier one can be asked again."""
    opened, begun, *_ = read_events(used / "data/perps_bot/dev/events")
    assert (opened.type, begun.type) == ("day.opened", "bot.started")
    assert opened.data["settings"] == begun.data["settings"]
    assert opened.data["settings"].keys() == {row.name for row in SETTINGS}


# The fault map

ROW_COUNTS = {"A": 25, "B": 5, "C": 14, "D": 14, "E": 13, "F": 8, "G": 6, "H": 9, "I": 7, "J": 8,
              "K": 5, "L": 6}
FAULTS = (ROOT / "docs/FAULTS.md").read_text("utf-8")
FAULT_ROWS = dict(re.findall(r"^\| ([A-L]\d+) \| (.*) \|$", FAULTS, re.M))


def named_in(text):
    """Yield (file, function or "") of each test that a row names."""
    file = ""
    for name, function in re.findall(r"\b(test_\w+\.py)|::(test_\w+)", text):
        file = name or file
        yield file, function


@functools.cache
def functions_of(file):
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_fault_map_is_there_once_and_in_order():
    expected = [f"{part}{n}" for part, count in ROW_COUNTS.items() for n in range(1, count + 1)]
    assert re.findall(r"^\| ([A-L]\d+) \|", FAULTS, re.M) == expected == list(FAULT_ROWS)


@pytest.mark.skipif(not MAP.exists(), reason="the fault map is not in ../shared")
def test_the_rows_are_those_of_the_fault_map():
    listed = set(re.findall(r"^\| ([A-L]\d+) \|", MAP.read_text("utf-8"), re.M))
    assert listed == set(FAULT_ROWS)


@pytest.mark.parametrize("row", FAULT_ROWS)
def test_the_tests_that_are_named_for_a_row_exist(row):
    named = list(named_in(FAULT_ROWS[row]))
    assert [(file, function) for file, function in named
            if not (ROOT / "tests" / file).is_file()
            or function and function not in functions_of(file)] == []
    assert named or len(FAULT_ROWS[row].split()) > 4  # one line why not
    assert "test_" not in re.sub(r"\btest_\w+\.py|::test_\w+(?:\[\w+\])?", "", FAULT_ROWS[row])
