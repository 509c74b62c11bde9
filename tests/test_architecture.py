"""The rules of the house, held by reading the source.

Each rule is a function of source text that yields what breaks it.  One test applies it to the
package; another shows it small offenders, so that it can be seen to fail.
"""

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "perps_bot"

FLOORS = {
    room: int(floor)
    for floor, *rooms in map(str.split, """
        8  __main__
        7  cli
        6  commands
        5  replay    ops    report    validate    checklist    wiring    drill    scenes    init
        5  recorded  backup page history drift emergency sweep
        5  watch     ledger   sight
        4  loop     bot       figures   tried
        3  execution protection reconcile clock shutdown alerts terminal journal control service
        3  confirmed calm     diary   courier
        2  settings  store  client  rest  transport  keys  feed  market  paper    process mailbox
        2  score     outputs  reading  wall     rooms
        1  catalog   strategy  risk  flow  limits  tracker  stats  stops  wire words metrics
        1  refusals
        1  lines     exact
        0  model     errors    broker  secret     event
    """.strip().splitlines())
    for room in rooms
}
SOURCES = {path.stem: path.read_text("utf-8") for path in sorted(PACKAGE.glob("*.py"))}
ROOMS = [room for room in SOURCES if not room.startswith("__")]
# What cannot move money.
BESIDE = {"market", "paper", "process", "alerts", "service", "mailbox", "confirmed", "terminal",
          "words", "journal", "refusals", "metrics", "figures", "score", "outputs",
          "reading", "wall", "rooms", "diary", "event", "tried", "courier"}
CORE = [room for room in ROOMS if FLOORS.get(room, 0) <= 4 and room not in BESIDE]

# What speaks with Coinbase: measured apart, so that neither half can grow behind the other.
EDGE = ("wire", "keys", "secret", "transport", "rest", "client", "feed")

SAME_FLOOR = {
    ("broker", "model"),  # the protocols are written in the nouns
    ("model", "event"),  # the one noun that is read where nothing trades
    ("alerts", "courier"),  # what is told, and how it gets out
    ("store", "reading"),  # who holds the lock
    ("watch", "sight"),  # what is there, and how it is shown
    ("protection", "execution"),  # stops and exits, and the orders they are made of
    # what is rehearsed, and the files that show it
    ("drill", "scenes"), ("drill", "ops"), ("scenes", "ops"),
    # What happened, the paper bot's beside it, and how both are shown.
    ("sweep", "replay"),  # a run, and many
    ("report", "history"), ("report", "drift"), ("report", "page"), ("drift", "history"),
    ("validate", "checklist"),  # both are lines of what was looked at
    ("loop", "bot"),  # what happens, and the parts to which it happens
    ("rest", "transport"),  # a request, and how its bytes travel
    ("emergency", "wiring"),  # a dead bot is put together as a run is
    ("ops", "emergency"),  # the name that the runbook's samples use
    ("control", "reconcile"),  # how long the venue's reads may lag
    ("control", "confirmed"), ("shutdown", "confirmed"),  # what is done, and what is told of it
    ("mailbox", "store"),  # state files and the lock
    ("risk", "flow"), ("risk", "limits"), ("flow", "limits"),  # the gate, and what it measures
}
READ_THE_CLOCK = {"clock", "rest", "transport", "feed", "wall"}
MAY_PRINT = {"commands"}

CLOCKS = {
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")), "datetime.date.today",
    *(f"time.{name}{unit}" for unit in ("", "_ns")
      for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time",
                   "clock_gettime")),
}
PURE_MODULES = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "heapq", "itertools", "json", "math", "operator", "perps_bot", "re",
    "statistics", "string", "types", "typing",
}
EFFECTS = {"open", "print", "input", "breakpoint"}
NEVER_CALLED = {"float", "eval", "exec", "__import__"}
BROAD = {"Exception", "BaseException"}

# Import names that are not the name of their package.
PACKAGES = {"jwt": "pyjwt[crypto]", "cryptography": "pyjwt[crypto]",
            "websocket": "websocket-client"}

# Places of one developer's machine, and addresses of package registries.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|Users/\w+)/|\bpy(?:pi|thonhosted)\.org")


# Reading


def imports(tree):
    """Yield (node, dotted name of the module, names taken from it); '.' means the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = "perps_bot." * bool(node.level)
            yield node, (within + (node.module or "")).rstrip("."), [a.name for a in node.names]
        elif isinstance(node, ast.Attribute) and dotted_name(node.value) == "rooms":
            yield node, f"perps_bot.{node.attr}", ()  # imported where it is asked for


def qualified(tree):
    """Yield (node, dotted name) of every name and attribute, imports and aliases resolved."""
    known = {}
    for node, module, names in imports(tree):
        for alias in getattr(node, "names", ()):
            source = f"{module}.{alias.name}" if names else alias.name
            known[alias.asname or alias.name] = source
    for node in ast.walk(tree):
        if dotted := dotted_name(node):
            head, _, tail = dotted.partition(".")
            yield node, f"{known.get(head, head)}.{tail}".rstrip(".")


def dotted_name(node):
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted_name(node.value)):
        return f"{head}.{node.attr}"
    return None


def calls(tree):
    names = {id(node): name for node, name in qualified(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, names.get(id(node.func), "")


def functions(source):
    return [node for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    return function.end_lineno - function.lineno + 1


def complexity(function):
    """As `branches`, with every condition, comprehension and assertion counted as well."""
    count, inside = 1, list(ast.iter_child_nodes(function))
    while inside:
        node = inside.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
        else:
            count += isinstance(node, ast.If | ast.IfExp | ast.For | ast.While
                                | ast.ExceptHandler | ast.Assert | ast.match_case)
        inside.extend(ast.iter_child_nodes(node))
    return count


def branches(function):
    """McCabe's number: one, and one more for every statement at which the flow divides."""
    dividing = ast.If | ast.For | ast.While | ast.ExceptHandler | ast.match_case
    inside = {id(node) for inner in ast.walk(function) if inner is not function
              and isinstance(inner, ast.FunctionDef) for node in ast.walk(inner)}
    return 1 + sum(isinstance(node, dividing) for node in ast.walk(function)
                   if id(node) not in inside)


# Rules: each yields what it finds wrong with one room


def climbs(room, source):
    """A room imports only from floors strictly below its own, the named pairs excepted."""
    for node, module, names in imports(ast.parse(source)):
        package, _, other = module.partition(".")
        targets = [other.partition(".")[0]] if other else [n for n in names if n in FLOORS]
        for target in targets if package == "perps_bot" else ():
            if target not in FLOORS:
                yield f"{room}:{node.lineno} imports {target}, which has no floor"
            elif FLOORS[target] >= FLOORS.get(room, 0) and (room, target) not in SAME_FLOOR:
                yield f"{room}:{node.lineno} imports {target} from floor {FLOORS[target]}"


def strangers(room, source):
    if room not in FLOORS and room != "__init__":
        yield f"{room} has no floor"


def impurities(room, source):
    """Floors 0 and 1 import only what cannot touch the world, and call nothing that does."""
    if FLOORS.get(room, 0) > 1:
        return
    tree = ast.parse(source)
    for node, module, _ in imports(tree):
        if module.partition(".")[0] not in PURE_MODULES:
            yield f"{room}:{node.lineno} imports {module}"
    for node, name in calls(tree):
        if name in EFFECTS:
            yield f"{room}:{node.lineno} calls {name}"


def clock_reads(room, source):
    if room in READ_THE_CLOCK:
        return
    tree = ast.parse(source)
    for node, module, names in imports(tree):
        yield from (f"{room}:{node.lineno} imports {module}.{name}"
                    for name in names if f"{module}.{name}" in CLOCKS)
    yield from (f"{room}:{node.lineno} reads {name}"
                for node, name in qualified(tree) if name in CLOCKS)


def broad_excepts(room, source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = {name.id for name in ast.walk(node.type or ast.Name("BaseException"))
                      if isinstance(name, ast.Name)}
            if caught & BROAD:
                yield f"{room}:{node.lineno} catches everything"
    for node, name in calls(tree):
        if name == "contextlib.suppress" and {a.id for a in node.args if hasattr(a, "id")} & BROAD:
            yield f"{room}:{node.lineno} suppresses everything"


def forbidden_calls(room, source):
    forbidden = NEVER_CALLED | ({"print"} if room not in MAY_PRINT else set())
    for node, name in calls(ast.parse(source)):
        if name in forbidden:
            yield f"{room}:{node.lineno} calls {name}("


def no_question(room, source):
    text = ast.get_docstring(ast.parse(source)) or ""
    if "?" not in text.partition("\n")[0] or len(text.splitlines()) < 3:
        yield f"{room} does not open with its question and what may not be done in it"


def export_lists(room, source):
    yield from (f"{room}:{node.lineno} has __all__"
                for node, name in qualified(ast.parse(source)) if name == "__all__")


def too_long(room, source):
    if len(source.splitlines()) > 600:
        yield f"{room} has {len(source.splitlines())} lines"
    yield from (f"{room}:{f.lineno} {f.name} has {length(f)} lines"
                for f in functions(source) if length(f) > 50)


def too_wide(room, source):
    yield from (f"{room}:{number} is {len(line)} columns wide"
                for number, line in enumerate(source.splitlines(), 1) if len(line) > 100)


def too_complex(room, source):
    yield from (f"{room}:{f.lineno} {f.name} turns {complexity(f)} times"
                for f in functions(source) if complexity(f) > 12)


def undeclared(room, source, declared, optional):
    """Third-party imports are in setup.cfg; extras only where they are needed, in a function."""
    tree = ast.parse(source)
    at_head = {id(node) for node in tree.body}
    for node, module, _ in imports(tree):
        name = module.partition(".")[0]
        if name in sys.stdlib_module_names or name == "perps_bot":
            continue
        allowed = declared if id(node) in at_head else declared | optional
        if PACKAGES.get(name, name).lower() not in allowed:
            yield f"{room}:{node.lineno} imports {name}"


def machine_paths(name, text):
    yield from (f"{name}: {found.group()}" for found in MACHINE_PATH.finditer(text))


# The package keeps them


RULES = (strangers, climbs, impurities, clock_reads, broad_excepts, forbidden_calls, export_lists,
         too_long, too_wide, too_complex)


def found_by(rule, sources):
    return "\n".join(finding for name, source in sources.items() for finding in rule(name, source))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule):
    assert found_by(rule, SOURCES) == ""


def test_there_are_no_rooms_within_rooms():
    assert [str(path) for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []


def test_every_room_opens_with_its_question():
    assert found_by(no_question, {room: SOURCES[room] for room in ROOMS}) == ""


def test_most_functions_are_short():
    lengths = [length(f) for source in SOURCES.values() for f in functions(source)]
    assert share_within(lengths, 15) >= 0.8


def test_the_mean_complexity_is_low():
    found = [branches(f) for source in SOURCES.values() for f in functions(source)]
    assert sum(found) / len(found) <= 2.5


def test_the_core_and_the_package_stay_small():
    lines = {room: len(source.splitlines()) for room, source in SOURCES.items()}
    assert sum(lines[room] for room in CORE if room not in EDGE) <= 6800
    assert sum(lines[room] for room in EDGE) <= 2510
    assert sum(lines.values()) <= 19_430


def test_third_party_packages_are_declared():
    assert found_by(lambda *room: undeclared(*room, *declarations()), SOURCES) == ""


def test_tests_are_no_wider_than_the_package():
    tests = {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in ROOT.glob("tests/**/*.py")}
    assert found_by(too_wide, tests) == ""


def test_no_file_names_a_place_of_one_machine():
    assert found_by(machine_paths, committed_texts()) == ""


def share_within(lengths, limit):
    return sum(lines <= limit for lines in lengths) / len(lengths)


def declarations():
    """Return the packages in install_requires and those in the extras, as lower-case names."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = "\n".join(config["options.extras_require"].values())
    return [{re.split(r"[ <>=~!;]", line)[0].lower() for line in text.split("\n") if line}
            for text in (config["options"]["install_requires"], extras)]


def committed_texts():
    """Return what git keeps, or would; without git, what lies in the folders of the project."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=False,
    ) if (ROOT / ".git").exists() else None
    if listing and listing.returncode == 0:
        names = [name for name in listing.stdout.split("\0") if name]
    else:
        names = [p.relative_to(ROOT) for folder in ("perps_bot", "tests", "docs", "bin", "systemd")
                 for p in ROOT.joinpath(folder).rglob("*")]
    files = [ROOT / name for name in names if (ROOT / name).is_file()]
    return {str(path.relative_to(ROOT)): path.read_bytes().decode("utf-8", "replace")
            for path in files}


# Each rule can fail


def lines_of(count):
    return "def f():\n" + "    pass\n" * (count - 1)


@pytest.mark.parametrize("rule, room, source", [
    (strangers,       "helpers",    ""),
    (climbs,          "risk",       "import perps_bot.store"),
    (climbs,          "risk",       "from perps_bot import stats"),
    (climbs,          "risk",       "def f():\n    from .tracker import PositionTracker"),
    (climbs,          "risk",       "from . import loop"),
    (climbs,          "loop",       "from perps_bot.helpers import x"),
    (climbs,          "wiring",     "def f():\n    rooms.commands.run(1)"),
    (climbs,          "model",      "from perps_bot.broker import Broker"),
    (climbs,          "__init__",   "from perps_bot import model"),
    *((impurities,    "risk",       f"import {module}") for module in (
        "time", "os", "os.path", "io", "pathlib", "logging", "random", "socket", "requests")),
    (impurities,      "risk",       "from pathlib import Path"),
    (impurities,      "model",      "open('x')"),
    (impurities,      "stats",      "print('x')"),
    (clock_reads,     "store",      "from datetime import datetime\ndatetime.now()"),
    (clock_reads,     "store",      "import datetime as d\nd.datetime.utcnow()"),
    (clock_reads,     "store",      "import datetime\ndatetime.date.today()"),
    (clock_reads,     "store",      "import time\ndef f(clock=time.monotonic): ..."),
    (clock_reads,     "store",      "from time import perf_counter as tick"),
    *((broad_excepts, "client",     f"try: f()\nexcept{what}: pass") for what in (
        "", " Exception", " BaseException as error", " (KeyError, Exception)")),
    (broad_excepts,   "client",     "import contextlib\nwith contextlib.suppress(Exception): f()"),
    *((forbidden_calls, "ops",      f"{name}('1')") for name in sorted(NEVER_CALLED)),
    (forbidden_calls, "loop",       "print('1')"),
    (no_question,     "risk",       ""),
    (no_question,     "risk",       '"""Risk: may it be sent?"""'),
    (no_question,     "risk",       '"""Risk.\n\nMay it be sent?  No clock, no I/O.\n"""'),
    (export_lists,    "risk",       "__all__ = ['assess']"),
    (too_long,        "risk",       lines_of(51)),
    (too_long,        "risk",       "x = 1\n" * 601),
    (too_wide,        "risk",       "#" * 101),
    (too_complex,     "risk",       "def f(x):\n" + "    if x: pass\n" * 12),
])
def test_a_rule_finds(rule, room, source):
    assert list(rule(room, source))


@pytest.mark.parametrize("rule, room, source", [
    (strangers,       "__init__",   ""),
    (climbs,          "risk",       "from perps_bot.model import Order\nfrom . import errors"),
    (climbs,          "cli",        "from perps_bot import __version__, loop"),
    (impurities,      "risk",       "from datetime import datetime\nf(journal.append(x))"),
    (impurities,      "store",      "import os\nopen('x')"),
    (clock_reads,     "clock",      "import time\ntime.monotonic()"),
    (clock_reads,     "ops",        "import time\ntime.sleep(1)\nself.clock.now()"),
    (broad_excepts,   "client",     "try: f()\nexcept (KeyError, OSError): raise"),
    (forbidden_calls, "commands",   "print(report.print(1))"),
    (no_question,     "risk",       '"""Risk: may it be sent?\n\nPure.\n"""'),
    (too_long,        "risk",       lines_of(50)),
    (too_wide,        "risk",       "#" * 100),
    (too_complex,     "risk",       "def f(x):\n" + "    if x: pass\n" * 11),
])
def test_a_rule_lets_pass(rule, room, source):
    assert list(rule(room, source)) == []


@pytest.mark.parametrize("body, turns", [
    ("pass",                                        1),
    ("if a: pass\n    elif b: pass\n    else: pass",  3),
    ("return a and b or c",                         3),
    ("for a in b:\n        while c: pass",           3),
    ("return [a for a in b if a if c]",             4),
    ("try: a\n    except KeyError: b\n    except OSError: c", 3),
    ("match a:\n        case 1: b\n        case 2: c", 3),
    ("return a if b else c",                        2),
    ("def g():\n        if a: pass",                 1),
])
def test_complexity_counts_the_ways_to_turn(body, turns):
    assert complexity(functions(f"def f():\n    {body}")[0]) == turns


def test_branches_count_statements_and_not_conditions():
    body = "if a and b: return [c for c in d if e]\n    def g():\n        if h: pass"
    assert branches(functions(f"def f():\n    {body}")[0]) == 2


def test_third_party_imports_must_be_declared_where_they_stand():
    known = {"requests", "pyjwt[crypto]"}, {"plotly"}
    assert not list(undeclared("client", "import requests.adapters, json\nimport jwt", *known))
    assert not list(undeclared("report", "def f():\n    import plotly.io", *known))
    assert list(undeclared("report", "import plotly", *known))
    assert list(undeclared("client", "from urllib3 import Retry", *known))


def test_the_share_of_short_functions_is_measured():
    assert share_within([length(f) for f in functions(lines_of(15) + lines_of(16))], 15) == 0.5


@pytest.mark.parametrize("text", ["see /{}/main".format("work"), "=/{}/.ssh".format("root"),
                                  "https://{}.org/simple".format("pypi")])
def test_a_place_of_one_machine_is_found(text):
    assert list(machine_paths("x", text))
    assert not list(machine_paths("x", "https://github.com/o/work/x and ./work/x"))
