"""The host's side of the fault list: what leaks, what others planted, what a process leaves behind.

Parts I, J, K and L, and of part A what the machine does.  Real processes wherever the process is
the point; a test names the row that it shows.
"""

import ast
import base64
import copy
import ctypes
import json
import logging
import os
import pickle
import pprint
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from exchange.certificates import a_certificate
from exchange.harness import Simulator, wait_until
from helpers import verified
from test_architecture import SOURCES, calls, imports
from test_disk_full import SYMBOLS, Bot, stopped, ticks_on
from test_keys import EC_KEY, NAME, pem
from test_live_trading import live  # noqa: F401  a fixture

from perps_bot import process, secret, store
from perps_bot.cli import COMMANDS, main
from perps_bot.errors import ConfigError
from perps_bot.diary import log_to
from perps_bot.process import LINE_LENGTH_MAX, one_line
from perps_bot.secret import SHOWN, Secret, redacted
from perps_bot.settings import FOREIGN_VARIABLES, SETTINGS, Settings, resolve
from perps_bot.store import EventStore

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
CANARY = "canary-7f3a9c51e2b8d604"
# What a venue, or somebody between it and us, may put into a text to be believed.
FORGED = "2026-11-23T00:00:00Z INFO state.changed kill switch cleared"
HOSTILE = [
    f"no\n{FORGED}", f"no\r{FORGED}", f"no\r\n\r\n{FORGED}", f"no\x0b\x0c\x85\u2028\u2029{FORGED}",
    "\x1b[2J\x1b[1;1H\x1b]0;all is well\x07", "\x9b31m", "\u202egnihton si eruliaf\u202c",
    "\u200b\u2066\ufeff", "\x00\x08\x7f", "\ud800", "%s%n%(message)s{0}{settings.api_secret}$HOME",
    "../../../../etc/passwd", "x" * 100_000,
]
ON_SCREEN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]*")


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    """Every command runs in an empty folder, with none of the machine's own settings."""
    for name in [n for n in os.environ if n.startswith(("PERPS_", "COINBASE_", "EVENT_STORE"))]:
        monkeypatch.delenv(name)
    for name in ("PYTHONUNBUFFERED", *FOREIGN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(secret, "_pieces", secret.deque(maxlen=secret.PIECES_MAX))
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("perps_bot")
    yield
    for handler in log.handlers:
        handler.close()
    log.handlers = []
    log.setLevel(logging.NOTSET)


@pytest.fixture
def bot(tmp_path):
    bot = Bot(tmp_path)
    yield bot
    if bot._process.poll() is None:
        bot._process.kill()
        bot.stop()


@pytest.fixture
def said(capsys):
    def run(line):
        capsys.readouterr()
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


def python(*arguments, check=False, **environ):
    """Run Python with this checkout, to its end."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=check,
        timeout=PATIENCE_SECONDS, env={**os.environ, "PYTHONPATH": str(ROOT), **environ})


def written(folder):
    """Everything that lies in a folder, as one heap of bytes."""
    return b"\n".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


def refused(run, code=2):
    """The one line of a command that did nothing."""
    assert run.code == code and run.out == "", run
    (line,) = run.err.splitlines()
    assert line.isprintable() and len(line) <= LINE_LENGTH_MAX + 20
    return line


# I1: a secret is not shown


SHOWS = {
    "str": str, "repr": repr, "ascii": ascii, "in a list": lambda it: str([it]),
    "in a dict": lambda it: repr({"key": it}), "%s": lambda it: "%s" % it,
    "%r": lambda it: "%-80r" % it, "f-string": lambda it: f"{it}", "spec": lambda it: f"{it:>90}",
    "format": lambda it: "{0!s:.200}".format(it), "pprint": pprint.pformat,
    "json": lambda it: json.dumps({"key": it}, default=str),
    "traceback": lambda it: the_traceback(it),
}


def the_traceback(it):
    try:
        raise RuntimeError(it)
    except RuntimeError as error:
        caught = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(caught.format())


@pytest.mark.parametrize("show", SHOWS.values(), ids=SHOWS)
def test_i1_a_secret_shows_three_dots_however_it_is_printed(show):
    assert CANARY not in show(Secret(CANARY))
    assert SHOWN in show(Secret(CANARY))


@pytest.mark.parametrize("take", [
    pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, vars, iter, len, bytes,
    lambda it: it == CANARY, lambda it: CANARY == it, lambda it: it != it.reveal(),
    lambda it: it < CANARY, lambda it: CANARY in it, lambda it: it + "", lambda it: it[0],
    lambda it: it in [CANARY], lambda it: {it}, lambda it: "".join([it]),
])
def test_i1_a_secret_is_not_copied_compared_or_taken_apart(take):
    with pytest.raises((TypeError, AttributeError)) as refusal:
        take(Secret(CANARY))
    assert CANARY not in "".join(traceback.format_exception(refusal.value))


def test_i1_only_by_name_does_it_leave():
    assert Secret(CANARY).reveal() == CANARY


def test_i1_the_settings_hold_secrets_that_no_whole_of_them_gives_away():
    environ = {"COINBASE_API_KEY": CANARY, "COINBASE_API_SECRET": CANARY,
               "COINBASE_PASSPHRASE": CANARY}
    settings = resolve({}, environ)
    assert [getattr(settings, name).reveal() for name in (
        "api_key", "api_secret", "passphrase")] == [CANARY] * 3
    assert CANARY not in f"{settings!r} {settings} {the_traceback(settings)}"
    for write_down in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied"):
            write_down(settings)
    assert settings == Settings(resolve({}, environ).said, settings.sources)
    bare = settings.replace(api_key=None, api_secret=None, passphrase=None)
    assert pickle.loads(pickle.dumps(bare)) == bare


TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize("text", [
    CANARY, f"Authorization: Bearer {TOKEN}", f"Bearer {TOKEN[:20]}", pem(EC_KEY),
    pem(EC_KEY).replace("\n", "\\n"), pem(EC_KEY).splitlines()[1], NAME,
], ids=["canary", "header", "part of a token", "PEM", "PEM in one line", "its first line", "name"])
def test_i1_what_slipped_into_a_text_is_taken_out_of_it(text):
    Secret(CANARY), Secret(pem(EC_KEY).replace("\n", "\\n")), Secret(NAME)
    left = redacted(f"it failed: {text}: try again")
    assert left.startswith("it failed: ") and left.endswith(": try again")
    pieces = [piece for piece in re.split(r"\s|\\n", text)
              if len(piece) > 11 and "---" not in piece and "Authorization" not in piece]
    assert pieces and not [piece for piece in pieces if piece in left]


def test_i1_words_that_are_no_secret_stay():
    Secret("short"), Secret("-----BEGIN PRIVATE KEY-----")
    for text in ("short", "a PRIVATE KEY", "EYJ", "order pb-19d3f eyJ"):
        assert redacted(text) == text


@pytest.mark.parametrize("way", ["message", "argument", "exception", "cause"])
def test_i1_no_secret_gets_through_to_the_diary(way, capsys):
    log_to(resolve({}, {"LOG_LEVEL": "DEBUG"}))
    Secret(pem(EC_KEY))
    line, log = pem(EC_KEY).splitlines()[1], logging.getLogger("perps_bot")
    try:
        try:
            raise ValueError(f"{line if way == 'cause' else ''} {TOKEN}")
        except ValueError as cause:
            raise RuntimeError(line if way == "exception" else "") from cause
    except RuntimeError:
        shown = {"message": (line,), "argument": ("%s", [line])}.get(way, ("a bug",))
        log.error(*shown, exc_info=True)
    seen = capsys.readouterr().err + Path("logs/perps_bot.log").read_text()
    assert SHOWN in seen and "RuntimeError" in seen
    assert line not in seen and TOKEN[:30] not in seen


def forms(text):
    """A secret as it is, as base64, hex and URL, and every piece of it of 12 characters."""
    raw = text.encode()
    encoded = {text, base64.b64encode(raw).decode(), raw.hex(), quote(text, safe="")}
    pieces = (text[n:n + 12] for n in range(0, len(text) - 11))
    return encoded | {piece for piece in pieces if not re.search("BEGIN|END|KEY|---", piece)}


@pytest.mark.parametrize("where", ["loop._decide", "ops.health", "bot.ExecutionEngine.settle"])
def test_i1_a_bug_that_has_the_key_in_its_hands_does_not_show_it(where):
    """DEBUG is on, the bug ends the process, and both its tracebacks are there to be read."""
    program = (
        "import os, sys, urllib.parse\n"
        "from perps_bot import bot, cli, loop, ops\n"
        "def broken(*a, **k):\n"
        "    raise RuntimeError('no answer to ' + os.environ['COINBASE_API_SECRET'])\n"
        f"{where} = broken\n"
        "sys.argv[1:] = ['--profile', 'dev', '--dev-fast']\n"
        "sys.exit(cli.program())\n")
    done = python("-c", program, COINBASE_API_KEY=NAME, COINBASE_API_SECRET=pem(EC_KEY),
                  LOG_LEVEL="DEBUG")
    assert done.returncode == 1
    seen = done.stdout + done.stderr + written(".").decode("utf-8", "replace")
    assert "RuntimeError: no answer to" in done.stderr
    canaries = [form for line in pem(EC_KEY).splitlines() if "---" not in line
                for form in forms(line)] + [pem(EC_KEY)]
    assert [form for form in canaries if form in seen] == []


def test_i1_a_key_that_was_read_from_a_file_is_known_to_every_net(said, monkeypatch):
    path = Path("key.json")
    path.write_text(json.dumps({"name": NAME, "privateKey": pem(EC_KEY)}))
    path.chmod(0o600)
    monkeypatch.setenv("COINBASE_API_KEY_FILE", str(path))
    assert said("--profile prod").code == 2  # derivatives are not enabled
    for piece in (NAME, *pem(EC_KEY).splitlines()[1:-1]):
        assert redacted(f"<{piece}>") == f"<{SHOWN}>"


def banned(room, source):
    """What prints headers, frames, locals or the environment past every net."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "arg", getattr(node, "id", None)))
        if name in ("debuglevel", "set_debuglevel", "enableTrace", "capture_locals",
                    "print_exc", "basicConfig", "settrace"):
            yield f"{room}:{node.lineno} {name}"


def children(room, source):
    """What would hand our environment to another program; a drill forks, a sweep's workers are
    this one again, and neither needs a secret."""
    forbidden = {"subprocess", "pty"}
    if room not in ("scenes", "sweep"):
        forbidden.add("multiprocessing")
    for node, module, _ in imports(ast.parse(source)):
        if module.partition(".")[0] in forbidden:
            yield f"{room}:{node.lineno} imports {module}"
    for node, name in calls(ast.parse(source)):
        if re.match(r"os\.(system|popen|fork|exec|spawn|posix_spawn)", name):
            yield f"{room}:{node.lineno} calls {name}"


def asserts(room, source):
    """`python -O` would take it away: a check of ours is an `if` that raises."""
    yield from (f"{room}:{node.lineno}" for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Assert))


def loose_formats(room, source):
    """The log is told in our words: what others said is an argument, never the form."""
    for node, name in calls(ast.parse(source)):
        _, _, verb = name.rpartition(".")
        is_log = name.startswith(("perps_bot.", "log.", "logging.")) and verb in (
            "debug", "info", "warning", "error", "critical", "exception", "log")
        form = node.args[verb == "log"] if is_log and node.args else None
        if form is not None and not isinstance(form, ast.Constant):
            yield f"{room}:{node.lineno} {name}"


@pytest.mark.parametrize("rule", [banned, children, asserts, loose_formats])
def test_i1_i3_k3_j5_the_package_keeps(rule):
    assert [found for room, source in SOURCES.items() for found in rule(room, source)] == []


@pytest.mark.parametrize("rule, source", [
    (banned, "connection.set_debuglevel(1)"), (banned, "websocket.enableTrace(True)"),
    (banned, "f(capture_locals=True)"), (banned, "http.client.HTTPConnection.debuglevel = 1"),
    (children, "import subprocess"), (children, "from os import system\nsystem('x')"),
    (children, "import os\nos.execv(a, b)"), (asserts, "def f():\n    assert x"),
    (loose_formats, "log.info(text)"), (loose_formats, "log.log(level, f'{text}')"),
    (loose_formats, "import logging\nlogging.getLogger(x)\nlogging.error(a + b)"),
])
def test_a_rule_finds(rule, source):
    assert list(rule("room", source))


# I2 to I5: where secrets stand


def test_i2_no_secret_can_be_given_on_the_command_line():
    assert [row.name for row in SETTINGS if row.secret and row.flag] == []
    assert [name for name, command in COMMANDS.items() if re.search("key|secret|pass", str(
        command.example))] == []


def test_i3_a_key_in_the_environment_is_accepted_and_in_prod_warned_of(said, monkeypatch):
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    assert "stands in the environment" not in said("--profile prod --dev-fast").err
    monkeypatch.setenv("COINBASE_API_KEY", NAME)
    monkeypatch.setenv("COINBASE_API_SECRET", pem(EC_KEY))
    for profile, is_warned in (("dev", False), ("prod", True)):
        answer = said(f"--profile {profile} --dev-fast")
        assert answer.code == 0
        assert ("WARNING the key stands in the environment" in answer.err) is is_warned


def test_i3_the_environment_of_a_running_bot_is_not_for_others(bot, monkeypatch):
    bot.start().wait_for(lambda: bot.file("health.json"))
    environ = Path(f"/proc/{bot._process.pid}/environ")
    if os.geteuid():
        with pytest.raises(PermissionError):
            environ.read_bytes()
    assert environ.stat().st_uid == 0  # as the kernel gives what may not be dumped to root


def abandoned(body, **environ):
    """How a process ends that may leave a core as large as it likes, and aborts after `body`."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    child = subprocess.Popen(
        [sys.executable, "-c", f"import os\n{body}\nos.abort()"], stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ})
    _, status = os.waitpid(child.pid, 0)
    child.returncode = status
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_i4_a_process_that_dies_leaves_no_core():
    assert not abandoned("from perps_bot import process\nprocess.begin()")
    if not abandoned(""):
        pytest.skip("this machine writes no core of any process, so none can be missed")


def test_i4_a_running_bot_may_not_be_dumped_and_its_limit_is_zero(bot):
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    bot.start().wait_for(lambda: bot.file("health.json"))
    limits = Path(f"/proc/{bot._process.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M), hard
    done = python("-c", "import ctypes; from perps_bot import process; process.begin(); "
                        "process.begin_work(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))",
                  check=True)
    assert done.stdout == "0\n"
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1, "it could have been seen to be allowed"


def test_i4_without_ctypes_and_without_permission_it_starts_all_the_same(monkeypatch):
    def forbidden(*_):
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    process.leave_no_core()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_i5_a_key_file_that_others_can_read_refuses_the_start(mode, said, monkeypatch):
    path = Path("key.json")
    path.write_text(json.dumps({"name": NAME, "privateKey": pem(EC_KEY)}))
    path.chmod(mode)
    monkeypatch.setenv("COINBASE_API_KEY_FILE", str(path))
    line = refused(said("--profile prod"))
    assert "key.json: the key file can be read by others; chmod 600" in line
    assert os.listdir() == ["key.json"]


def test_i5_whatever_the_umask_all_that_a_run_leaves_is_for_its_owner_alone(bot):
    before = os.umask(0)
    try:
        bot.start()
    finally:
        os.umask(before)
    bot.wait_for(bot.positions)
    stopped(bot)
    for path in [p for top in ("data", "logs") for p in (Path(top), *Path(top).rglob("*"))]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


# J: hostile or mistaken input


@pytest.mark.parametrize("word", [
    "../../x", "a/b", ".", "..", "/etc/passwd", "BTC-PERP/../../x", "btc-perp", "BTC_PERP",
    "\u0412\u0422\u0421-PERP", "BTC\u2010PERP", "BTC-PERP\u202e", "BTC-PERP\n", "%s", "{0}", "-",
    "BTC-" + "P" * 10_000, "\uff22\uff34\uff23-PERP", "",
])
@pytest.mark.parametrize("line", [
    ["--profile", ...], ["--symbols", ...], ["--adopt", ...], ["resume", "--reason", "x",
    "--profile", ...], ["check", "--symbols", "BTC-PERP", ...], ["products", "--profile", ...],
    ["symbol", ..., "--profile", "dev"], ["replay", "nowhere.csv", "--symbol", ...],
])
def test_j4_a_name_that_is_none_is_refused_in_one_line_and_becomes_no_path(line, word, capsys):
    code = main([word if part is ... else part for part in line])
    out, err = capsys.readouterr()
    assert code in ((1, 2) if line[0] == "symbol" else (2,)) and out == ""
    assert err.count("\n") == 1 and err[:-1].isprintable() and len(err) < LINE_LENGTH_MAX + 20
    assert os.listdir() == []


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("way", ["message", "argument", "object", "exception"])
def test_j5_whatever_stands_in_a_text_a_line_of_the_diary_is_one_line(text, way, capsys):
    log_to(resolve({}, {}))
    error = ValueError(text)
    arguments = {"message": (text,), "argument": ("said: %s", text), "object": ("said: %s", error)}
    logging.getLogger("perps_bot").warning(
        *arguments.get(way, ("a bug ended the process",)),
        exc_info=error if way == "exception" else None)
    for seen in (capsys.readouterr().err, Path("logs/perps_bot.log").read_text("utf-8")):
        first, *rest = seen.split("\n")
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ WARNING ", first)
        assert rest[-1] == "" and all(line.startswith("  | ") for line in rest[:-1])
        assert bool(rest[:-1]) is (way == "exception")
        for line in (first, *rest):
            assert line.isprintable() and len(line) <= LINE_LENGTH_MAX + 40


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_j5_what_is_printed_or_complained_of_is_one_line_too(text, capsys):
    process.complain(f"the venue said {text}")
    process.say(f"kept: {text}")
    process.answer(f"a table\n{text}")
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err[:-1].isprintable()
    assert out.split("\n")[1] == "a table"
    # Lines of ours may be many, and none of them moves the cursor or turns the text around.
    assert all(line.isprintable() for line in out.split("\n"))


def test_j5_plain_words_in_any_language_stay_as_they_are():
    for text in ("Zoë: 5 % of 10 USD — «ok»", "\u6307\u5024", "Ордер отклонён"):
        assert one_line(text) == text


def test_j5_terminals_of_another_alphabet_take_every_text():
    done = python("-c", "from perps_bot import process; process.begin(); "
                        "process.say('Zo\\u00eb \\u6307'); process.complain('\\u6307')",
                  PYTHONIOENCODING="ascii:strict", check=True)
    assert (done.stdout, done.stderr) == ("Zo\\xeb \\u6307\n", "perps-bot: \\u6307\n")


@pytest.mark.parametrize("text", [HOSTILE[n] for n in (0, 2, 4, 6, 10)], ids=ascii)
def test_j5_a_venue_that_talks_to_the_terminal_is_quoted_on_one_line(live, text):  # noqa: F811
    """Refusals, notes and names of a real exchange, through a real bot, into all that it shows."""
    one = live().market(2)
    one.sim.fault("reject", reason=text, times=2)
    for path in ("products.display_name", "products.description", "order_configuration"):
        one.sim.fault("fields_missing", path=path, value=text)
    one.start()
    one.until(lambda: one.events("order.updated"), "the refusal")
    assert one.end() == 0
    lines = one.said().split("\n") + (one.folder / "logs/perps_bot.log").read_text().split("\n")
    assert all(line.isprintable() and len(line) < LINE_LENGTH_MAX + 40 for line in lines)
    assert not [line for line in lines if line.startswith(FORGED[:30])]
    quoted = "".join(c if c.isprintable() else "?" for c in text)[:40]
    assert [line for line in lines if f"code={quoted}" in line], "it was quoted"
    for path in one.data.rglob("*.json*"):
        assert path.read_bytes().isascii(), path
        assert all(ON_SCREEN.fullmatch(line) for line in path.read_text().split("\n"))
    names = {path.name for path in one.folder.rglob("*")} - {"exchange"}
    assert not [name for name in names if "etc" in name or "passwd" in name or "%" in name]


def test_j7_who_reads_while_it_is_written_never_sees_half_a_file(tmp_path):
    path = tmp_path / "health.json"
    store.write_state(path, {"n": 0, "pad": "x"})
    writer = subprocess.Popen(
        [sys.executable, "-c",
         "import sys, itertools; from perps_bot.store import write_state\n"
         "for n in itertools.count(): write_state(sys.argv[1], {'n': n, 'pad': 'x' * (n % 9000)})",
         str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        seen = set()
        while len(seen) < 300:
            value = json.loads(path.read_text())
            assert value["pad"] in ("x" * (value["n"] % 9000), "x")
            seen.add(value["n"])
    finally:
        writer.kill()
        writer.wait()


def test_j8_what_is_changed_while_it_runs_changes_nothing_until_the_next_start(bot):
    bot.start().wait_for(lambda: bot.file("health.json").get("ok"))
    (bot.folder / "fast.toml").write_text("max_daily_loss_pct = nonsense\n")
    ticks_on(bot, 2)
    assert bot.file("health.json")["ok"]
    assert bot.stop(signal.SIGHUP) == 0  # it stops; it does not read anything anew
    assert bot.start()._process.wait(PATIENCE_SECONDS) == 2


# K: supply chain and host


@pytest.mark.parametrize("argument, environ", [
    (["-O"], {}), (["-OO"], {}), ([], {"PYTHONOPTIMIZE": "1"}), ([], {"PYTHONOPTIMIZE": "2"}),
])
@pytest.mark.parametrize("command", COMMANDS)
def test_k3_python_without_its_checks_runs_no_command(argument, environ, command):
    done = python(*argument, "-m", "perps_bot", command, **environ)
    assert (done.returncode, done.stdout, os.listdir()) == (2, "", [])
    (line,) = done.stderr.splitlines()
    assert "python -O removes checks: start without -O and PYTHONOPTIMIZE" in line


def test_k5_the_first_event_of_a_run_says_which_version_with_which_settings(said):
    said("--dev-fast --max-position 700")
    begun = next(e for e in EventStore("data/perps_bot/dev/events").read()
                 if e.type == "bot.started")
    assert re.fullmatch(r"\d+\.\d+\.\d+", begun.data["version"])
    assert begun.data["settings"]["max_position"] == "700"
    assert set(begun.data["settings"]) == {row.name for row in SETTINGS}


# A12 to A16: folders and files


def a_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def a_link(path):
    Path("elsewhere").mkdir(mode=0o700)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(Path("elsewhere").absolute())


def open_to_all(path):
    path.mkdir(parents=True)
    path.chmod(0o777)


def anothers(path):
    path.mkdir(parents=True)
    os.chown(path, 12345, 12345)


def read_only(path):
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o500)


FOLDERS = [
    # root,          what stands there, what the line says
    ("data",         a_file,       "data/perps_bot/dev: "),
    ("data",         a_link,       "data/perps_bot/dev: is a symlink: name its target"),
    ("data",         open_to_all,  "data/perps_bot/dev: others may write it: chmod 700 data/perps"),
    pytest.param("data", anothers, "data/perps_bot/dev: is another user's: run as its owner",
                 marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give it away")),
    pytest.param("data", read_only, "data/perps_bot/dev: ",
                 marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")),
    ("a/../data",    None,         "(environment EVENT_STORE_ROOT): must be a path without .."),
    ("..",           None,         "(environment EVENT_STORE_ROOT): must be a path without .."),
    ("a\nb",         None,         "(environment EVENT_STORE_ROOT): must be a path without .."),
    ("/proc/1/data", None,         "/proc/1/data"),
    ("/dev/null/x",  None,         "/dev/null/x"),
]


@pytest.mark.parametrize("root, put, words", FOLDERS)
def test_a12_a_folder_that_cannot_be_trusted_refuses_the_start(root, put, words, said, monkeypatch):
    monkeypatch.setenv("EVENT_STORE_ROOT", root)
    if put:
        put(Path(root) / "perps_bot" / "dev")
    line = refused(said("--profile dev --dev-fast"))
    assert words in line
    assert not list(Path().rglob("*.jsonl")) and not Path("logs").exists()


def test_a13_a_folder_that_disappears_under_a_bot_ends_its_entries_and_not_its_stop(bot):
    bot.start().wait_for(bot.positions)
    shutil.rmtree(bot.data)
    before = len(bot.diary())
    bot.wait_for(lambda: "was not written" in bot.diary()[before:])
    # The next entry that is wanted is refused, because it could not be written down.
    bot.wait_for(lambda: "holds events not recovered, or was changed by others" in bot.diary())
    assert bot.stop() == 0
    assert "stopped: every entry confirmed gone" in bot.said()
    assert not bot.data.exists()


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_text(""), lambda path: path.write_text('{"BTC-PERP": {"clos'),
    lambda path: path.write_text("[]"), lambda path: path.write_text("\ud800"),
    lambda path: path.write_text('{"BTC-PERP": 7, "schema": 99}'),
    lambda path: path.write_text("[" * 100_000), lambda path: path.write_bytes(b"\xff\0\xff"),
    lambda path: path.write_text('{"BTC-PERP": {"bar_at": "soon", "bar_seconds": "x", '
                                 '"closes": ["1e400000", "NaN", {}]}}'),
    lambda path: os.truncate(path, 1 << 30), lambda path: (path.unlink(), path.mkdir()),
    lambda path: (path.unlink(), os.mkfifo(path)),
    lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
], ids=["empty", "half", "list", "surrogate", "other", "deep", "bytes", "numbers", "1 GB", "folder",
        "pipe", "endless"])
def test_a14_a_state_file_that_is_spoilt_is_rebuilt_and_changes_no_decision(spoil, said):
    said("--dev-fast")
    folder = Path("data/perps_bot/dev")
    for name in ("marks.json", "health.json", "last_state.json", "risk_events.json"):
        try:
            spoil(folder / name)
        except UnicodeEncodeError:
            (folder / name).write_bytes(b"\xed\xa0\x80")
    answer = said("--dev-fast")
    assert answer.code == 0 and "decision hold" in answer.out and "Traceback" not in answer.err
    for name in ("marks.json", "health.json", "last_state.json", "risk_events.json"):
        if (folder / name).is_dir():  # which is not ours to remove, and said
            assert f"{folder / name} was not written: Is a directory" in answer.err
        else:
            json.loads((folder / name).read_text())


def relabelled(path, old, new):
    """The first line of a day's file with one word exchanged, and the chain made right again."""
    import zlib

    lines, crc, out = path.read_bytes().splitlines(keepends=True), 0, []
    for number, line in enumerate(lines):
        body = line[:line.rindex(b',"crc"')]
        body = body.replace(old, new) if number == 0 else body
        crc = zlib.crc32(body, crc)
        out.append(body + b',"crc":"%08x"}\n' % crc)
    path.write_bytes(b"".join(out))


@pytest.mark.parametrize("old, new, words", [
    (b'"schema":1', b'"schema":2', "holds schema 2 of"),
    (b'"profile":"dev"', b'"profile":"prod"', "holds events of profile prod, not of dev: put"),
    (b'"profile":"dev"', b'"profile":"\\u001b[2J"', r"holds events of profile \x1b[2J, not of dev"),
])
def test_a15_events_of_a_newer_version_or_another_profile_refuse_the_start(old, new, words, said):
    said("--dev-fast")
    (path,) = Path("data/perps_bot/dev/events").iterdir()
    relabelled(path, old, new)
    kept = path.read_bytes()
    line = refused(said("--dev-fast"))
    assert str(path) in line and words in line
    assert path.read_bytes() == kept


def test_a15_events_that_were_moved_to_another_profile_are_refused_there(said, monkeypatch):
    said("--dev-fast")
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    Path("data/perps_bot/demo").mkdir(mode=0o700)
    os.rename("data/perps_bot/dev/events", "data/perps_bot/demo/paper-events")
    assert "holds events of profile dev, not of demo" in refused(said("--profile demo --dev-fast"))
    assert "resume" not in said("resume --profile demo --dry-run --reason x").out


def test_a15_events_from_before_profiles_were_written_are_read(tmp_path):
    old = EventStore(tmp_path / "events", datetime.now(UTC))
    old.append("alert")
    old.close()
    assert EventStore(tmp_path / "events", profile="dev").recover().events == 2
    with pytest.raises(ConfigError, match="of profile demo, not of prod"):
        mixed = EventStore(tmp_path / "mixed", datetime.now(UTC), profile="demo")
        mixed.append("alert")
        EventStore(tmp_path / "mixed", profile="prod").recover()


def test_a16_a_second_bot_in_the_folder_exits_75_and_names_the_first(bot, said):
    bot.start().wait_for(lambda: bot.file("health.json"))
    line = refused(said("--profile dev --dev-fast"), code=75)
    assert f"in use by pid {bot._process.pid}; stop it first: kill -TERM" in line
    bot._process.kill()
    bot.stop()
    # kill -9 leaves no lock behind
    assert said(f"--profile dev --dev-fast --symbols {' '.join(SYMBOLS)}").code == 0


# A20, A22: descriptors, and the growth of the log


def handles(bot):
    """Those that stay: a state file that is being written is open for a moment."""
    found = []
    for _ in range(10):
        found.append(len(os.listdir(f"/proc/{bot._process.pid}/fd")))
        time.sleep(0.05)
    return min(found)


def test_a20_a_bot_that_can_open_nothing_more_goes_on_writing_its_events_and_stops_well(bot):
    bot.start().wait_for(bot.positions)
    resource.prlimit(bot._process.pid, resource.RLIMIT_NOFILE, (3, 4096))
    bot.wait_for(lambda: "was not written: Too many open files" in bot.diary())
    seq = bot.seq()
    bot.wait_for(lambda: bot.seq() > seq)
    resource.prlimit(bot._process.pid, resource.RLIMIT_NOFILE, (64, 4096))
    ticks_on(bot, 2)
    assert bot.file("health.json")["ok"]
    resource.prlimit(bot._process.pid, resource.RLIMIT_NOFILE, (3, 4096))
    assert bot.stop() == 0
    assert bot.events()[-1]["type"] == "bot.stopped"


def test_a20_sixteen_descriptors_are_enough_on_paper():
    done = python("-c", "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))"
                        "\nfrom perps_bot import cli; sys.exit(cli.program())",
                  "--dev-fast", "--symbols", *SYMBOLS)
    assert done.returncode == 0, done.stderr
    assert "was not written" not in done.stderr


def closed(command):
    """Run with standard input, output and error closed."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" {command} <&- >&- 2>&-', sys.executable], check=False,
        timeout=PATIENCE_SECONDS, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode


def test_a20_h7_the_first_file_is_never_taken_for_a_closed_stream():
    """Else it would get the number of one, and what Python says at its own end would go there."""
    assert closed("-c 'from perps_bot import process; process.begin(); "
                  "file = open(\"number\", \"w\"); file.write(str(file.fileno()))'") == 0
    assert int(Path("number").read_text()) > 2


def test_a20_h7_a_bot_without_any_stream_runs_and_an_answer_without_one_is_none():
    assert closed("-m perps_bot --dev-fast") == 0
    assert verified("data/perps_bot/dev/events")[-1]["type"] == "bot.stopped"
    assert [closed(f"-m perps_bot {line}") for line in ("check", "--help", "check --bogus")] == [
        3, 3, 2]


def test_a11_what_could_not_be_written_is_gone_and_does_not_come_later():
    with open("/dev/full", "w") as full:
        subprocess.run(
            [sys.executable, "-c", "import os; from perps_bot import process as p; p.begin()\n"
             "lost = p.answer('lost')\n"
             "os.dup2(os.open('later', os.O_WRONLY | os.O_CREAT), 1)\n"
             "p.answer(f'kept {lost}')"], stdout=full, stderr=full, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert Path("later").read_text() == "kept False\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="a bot's descriptors are not for others to see")
def test_a20_descriptors_do_not_grow_with_time(bot):
    bot.start().wait_for(bot.positions)
    before = handles(bot)
    ticks_on(bot, 5)
    assert handles(bot) == before


def test_a22_the_log_has_a_size_that_it_never_exceeds(monkeypatch):
    for name, value in (("LOG_BYTES_MAX", 10_000), ("LOG_FILES", 3)):
        monkeypatch.setattr(f"perps_bot.diary.{name}", value)
    log_to(resolve({}, {}))
    logging.getLogger("perps_bot").handlers = logging.getLogger("perps_bot").handlers[1:]
    for n in range(2_000):
        logging.getLogger("perps_bot").warning("tick failed: %s %s", n, "x" * (n % 5_000))
    sizes = [path.stat().st_size for path in Path("logs").iterdir()]
    assert len(sizes) == 4 and sum(sizes) <= 4 * 10_000
    assert "tick failed: 1999" in Path("logs/perps_bot.log").read_text()


# B5, L6: times that can be judged


def test_b5_every_time_that_is_written_has_its_offset(said):
    said("--dev-fast")
    found = re.findall(r"\d{4}-\d\d-\d\dT[^\"\s]+", written("data").decode()
                       + Path("logs/perps_bot.log").read_text())
    assert len(found) > 10
    assert [at for at in found if datetime.fromisoformat(at).utcoffset() != timedelta()] == []


def test_l6_what_a_killed_bot_leaves_says_until_when_it_was_true(bot):
    bot.start().wait_for(lambda: bot.file("health.json").get("ok"))
    bot._process.kill()
    bot._process.wait()
    health = bot.file("health.json")
    assert health["pid"] == bot._process.pid and health["ok"]
    until = datetime.fromisoformat(health["valid_until"])
    assert until - datetime.fromisoformat(health["timestamp"]) <= timedelta(seconds=10)


# C11, C12: whoever sets the environment has no say in whom we believe


@pytest.fixture
def stranger(tmp_path):
    """An exchange whose authority nobody vouches for but the environment."""
    made = a_certificate(tmp_path)
    (tmp_path / "stranger").mkdir()
    with Simulator(folder=tmp_path / "stranger", tls=made.pair) as sim:
        yield sim, made.authority


ENVIRONS = [{"SSL_CERT_FILE": ...}, {"SSL_CERT_DIR": ...}, {"REQUESTS_CA_BUNDLE": ...},
            {"CURL_CA_BUNDLE": ...}, {"WEBSOCKET_CLIENT_CA_BUNDLE": ...},
            {"PYTHONHTTPSVERIFY": "0"}]


def believing(environ, authority):
    return {name: str(authority) if value is ... else value for name, value in environ.items()}


@pytest.mark.parametrize("environ", ENVIRONS, ids=str)
def test_c11_c12_rest_believes_no_authority_that_the_environment_names(environ, stranger):
    sim, authority = stranger
    done = python("-m", "perps_bot", "--profile", "demo", "--dry-run", "--dev-fast",
                  COINBASE_API_URL=sim.url, COINBASE_WS_URL=sim.ws_url,
                  COINBASE_WS_USER_URL=sim.ws_url, **believing(environ, authority))
    assert done.returncode == 1
    assert "certificate verify failed" in done.stdout + done.stderr
    assert sim.requests() == []


def test_c11_c12_the_feed_believes_no_authority_that_the_environment_names(stranger, tmp_path):
    sim, authority = stranger
    environ = {name: text for each in ENVIRONS for name, text in believing(each, authority).items()}
    (tmp_path / "known").mkdir()
    with Simulator(folder=tmp_path / "known") as known, open("said", "w") as said:
        known.price("BIP-20DEC30-CDE", 60000, 60005)
        bot = subprocess.Popen(
            [sys.executable, "-m", "perps_bot", "--profile", "demo", "--dry-run"], stdout=said,
            stderr=said, env={**os.environ, "PYTHONPATH": str(ROOT), **environ,
                              "COINBASE_API_URL": known.url, "COINBASE_WS_URL": sim.ws_url,
                              "COINBASE_WS_USER_URL": sim.ws_url})
        try:
            wait_until(lambda: "SSLCertVerificationError" in Path("said").read_text(),
                       "the refusal of the feed", PATIENCE_SECONDS)
        finally:
            bot.terminate()
            assert bot.wait(PATIENCE_SECONDS) == 0
    assert sim.requests() == [] and sim.sockets() == [], "not even a subscription was sent"


# K4: the unit


UNIT = ROOT / "systemd" / "perps-bot@.service"


def test_i4_k4_the_unit_says_what_the_process_says():
    lines = UNIT.read_text().splitlines()
    for line in ("LimitCORE=0", "UMask=0077", "RestartPreventExitStatus=2 75", "RestartSec=30",
                 "StartLimitIntervalSec=0", "StateDirectoryMode=0700", "User=perps-bot"):
        assert line in lines
    assert not [line for line in lines if re.search("COINBASE_API_(KEY|SECRET)=", line)]


@pytest.mark.parametrize("verb", [("security", "--offline=true", "--threshold=12"), ("verify",)])
@pytest.mark.parametrize("name", sorted(path.name for path in UNIT.parent.glob("*@.*")))
def test_k4_the_unit_shuts_in_what_runs_in_it(verb, name, tmp_path):
    """Exposure of at most 1.2, and nothing that systemd does not understand."""
    if verb[0] == "security" and not name.endswith(".service"):
        return  # it runs nothing
    try:
        subprocess.run(["systemd-analyze", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no systemd-analyze here")
    for path in UNIT.parent.glob("*@.*"):
        text = path.read_text().replace("/opt/perps-bot/bin/perps-bot", sys.executable)
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(["systemd-analyze", *verb, tmp_path / name], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    assert verb[0] == "security" or done.stderr == ""


def test_k4_the_key_is_signed_with_where_no_memory_may_be_written_and_run():
    """MemoryDenyWriteExecute= of the unit, as the kernel does it."""
    lock = "import ctypes\nis_locked = not ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)\n"
    if python("-c", f"{lock}raise SystemExit(not is_locked)").returncode:
        pytest.skip("this kernel cannot deny it")
    program = (lock + "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', '''\n"
               "from perps_bot import process; process.begin()\n"
               "import datetime, os, types; from perps_bot.keys import load_credentials\n"
               "settings = types.SimpleNamespace(api_key=os.environ['K'], "
               "api_secret=os.environ['S'], api_key_file=None)\n"
               "print(load_credentials(settings, {}).websocket_token("
               "datetime.datetime(2026, 1, 1))[:3])'''])")
    assert python("-c", program, K=NAME, S=pem(EC_KEY), check=True).stdout == "eyJ\n"
