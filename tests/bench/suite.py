"""Suite: how fast is it, beside the least that plain Python can do in the same run?

Every figure is a median of several rounds in which the bot and its reference take turns, and is
judged as a ratio: a slow or busy machine moves both.  One function a bench, all in BENCHES; a
bench that cannot run says why and holds up no other, and what was not measured is not printed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from time import perf_counter, sleep

from bench import inputs, peers, ticks
from burst import BUSIEST, QUOTES, Burst, recorded_quotes

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "bench"
PROGRAM = ROOT / "bin" / "perps-bot"
BARE = "import json, decimal, argparse"
START_COMMANDS = (("--version",), ("status",), ("status", "--json"), ("health",))
RUN_SECONDS_MAX = 900
# No further round begins after so long, and a long run ends itself.
ROUNDS_SECONDS_MAX, GROWTH_SECONDS_MAX = 600, 2400
# How a size is made: bars of the replay, events of the history, ticks of the long run.
SIZES = {"smoke": (2_000, 20_000, 400), "quick": (50_000, 100_000, 20_000),
         "full": (1_000_000, 1_000_000, 1_000_000)}
REASON_LENGTH_MAX = 300
LINEAR_FACTOR = 10
SWEEP_BARS_MAX = 250_000  # what a worker keeps in memory
TOLD_TICKS, TOLD_SECONDS_MAX = 3, 60
IDLE_MINUTES = 5  # of a bot at the exchange
BURST_SPEED, BURST_QUOTES = 10, {"smoke": 7_000, "quick": 20_000, "full": None}
BURST_GRACE = 0.1
START_ROUNDS_EACH = 5  # a start is short, so there are more of them
FORM = "{:<24} {:>13} {:>13} {:>10}  {:<12} {:<4} {}"


class NotRun(Exception):
    """This bench cannot run here; the message says why."""


@dataclass(frozen=True)
class Figure:
    """One measurement.

    value, reference  in `unit`; a reference of None is a bound that needs none
    ratio             of the two, as `goal` means it; None where the bound is on the value itself
    goal              "<= 1.6" or ">= 0.17": of the ratio, else of the value; "" for none yet
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None
    goal: str = ""
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        if not self.goal:
            return None
        relation, bound = self.goal.split()
        judged = self.value if self.ratio is None else self.ratio
        return judged <= float(bound) if relation == "<=" else judged >= float(bound)


class Bench:
    """What every bench is handed: sizes, rounds, a folder, and how to run a job."""

    def __init__(self, size="quick", rounds=3, cache=CACHE, peer_names=()):
        self.bars, self.events, self.ticks = SIZES[size]
        self.size, self.rounds, self.cache, self.peers = size, rounds, Path(cache), peer_names
        self.cache.mkdir(parents=True, exist_ok=True)

    def job(self, name, *arguments, seconds_max=RUN_SECONDS_MAX):
        """Run one job in a process of its own and return what it said."""
        command = (sys.executable, "-P", "-m", "bench.jobs", name, *arguments)
        try:
            done = subprocess.run(
                [str(each) for each in command],
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"},
                capture_output=True, text=True, timeout=seconds_max, check=False)
        except subprocess.TimeoutExpired:
            raise NotRun(f"{name} took more than {seconds_max} s") from None
        if done.returncode:
            raise NotRun(f"{name} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        return json.loads(done.stdout)

    def in_turn(self, *runs):
        """Run each in turn, round by round, while there is time; one list of answers for each."""
        rounds, begun = [], perf_counter()
        while len(rounds) < self.rounds and (
                not rounds or perf_counter() - begun < ROUNDS_SECONDS_MAX):
            rounds.append([run() for run in runs])
        return [list(column) for column in zip(*rounds)]

    def scratch(self):
        return tempfile.TemporaryDirectory(dir=self.cache)


def of(rows, name):
    """The median of one value of many answers."""
    return median(row[name] for row in rows)


def run_benches(bench, names=(), out=print):
    """Run the named benches, or all; return the figures, told one by one as they come."""
    figures = []
    out(run_line(bench))
    out(FORM.format("figure", "measured", "reference", "ratio", "goal", "met", "note"))
    for name in names or BENCHES:
        try:
            for found in BENCHES[name](bench):
                figures += [found] if isinstance(found, Figure) else []
                out(line(found) if isinstance(found, Figure) else found)
        except (NotRun, inputs.Missing) as reason:
            out(not_run(name, reason))
        except Exception as failure:  # whatever it is, the others are still worth measuring
            out(not_run(name, f"{type(failure).__name__}: {failure}"))
    return figures


def not_run(name, reason):
    """The row of what was not measured, in one line."""
    return f"{name:<24} not run: {' '.join(str(reason).split())[:REASON_LENGTH_MAX]}"


def line(figure):
    """One row of the table."""
    number = "{:,.0f}".format if figure.value >= 1000 else "{:.3g}".format
    return FORM.format(
        figure.name, f"{number(figure.value)} {figure.unit}",
        "" if figure.reference is None else f"{number(figure.reference)} {figure.unit}",
        "" if figure.ratio is None else f"{figure.ratio:.3f}", figure.goal,
        {None: "", True: "yes", False: "NO"}[figure.is_met], figure.note).rstrip()


def run_line(bench):
    """What was run, and where: the table stands for nothing else."""
    said = machine()
    return (f"size {bench.size}, {bench.rounds} rounds; {said['cpus']} {said['architecture']} cpus"
            f", {said['memory_mib'] / 1024:.0f} GiB, {said['system']}, Python {said['python']}; "
            f"load {said['load']:.1f}")


def as_json(bench, figures):
    """All of it, for machines."""
    return json.dumps({
        "size": bench.size, "rounds": bench.rounds, "machine": machine(),
        "figures": [{**asdict(figure), "is_met": figure.is_met} for figure in figures],
    }, indent=2) + "\n"


def machine():
    uname = os.uname()
    return {"cpus": os.cpu_count(), "system": f"{uname.sysname} {uname.release}",
            "architecture": uname.machine, "python": sys.version.split()[0],
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "load": os.getloadavg()[0]}


# Replay


def replay(bench):
    """Bars a second of processor time, as a share of the plain streaming Decimal loop's."""
    path = inputs.bars(bench.cache, bench.bars)
    ours, limit = bench.in_turn(lambda: bench.job("replay", path),
                                lambda: bench.job("stream_limit", path))
    speed, most = (bench.bars / of(rows, "cpu") for rows in (ours, limit))
    said = f"{bench.bars:,} bars, {ours[0]['trades']:,} round trips (plain {limit[0]['trades']:,})"
    yield Figure("replay", speed, "bars/s", most, speed / most, ">= 0.12", f"{said}; goal 0.17")
    yield Figure("replay_memory", of(ours, "peak_mib"), "MiB", of(limit, "peak_mib"),
                 goal="<= 45", note="peak, and the plain loop's")
    for name in bench.peers:
        yield peer(bench, name, path, speed)


def peer(bench, name, path, ours):
    """The same job by another engine; ratio: how many times faster we are."""
    try:
        rows = [peers.run(name, bench.cache, path) for _ in range(bench.rounds)]
    except peers.Unavailable as reason:
        return not_run(f"replay_{name}", reason)
    theirs = bench.bars / of(rows, "cpu")
    return Figure(f"replay_{name}", ours, "bars/s", theirs, ours / theirs, ">= 1",
                  f"{rows[0]['trades']:,} round trips there, {of(rows, 'peak_mib'):.0f} MiB")


def linear(bench):
    """The time of ten times the bars over the time of one time."""
    few, many = (inputs.bars(bench.cache, count)
                 for count in (bench.bars // LINEAR_FACTOR, bench.bars))
    short, long = bench.in_turn(lambda: bench.job("replay", few),
                                lambda: bench.job("replay", many))
    yield Figure("replay_linear", of(long, "cpu"), "s", of(short, "cpu"),
                 of(long, "cpu") / of(short, "cpu"), "<= 10.5", f"{LINEAR_FACTOR} times the bars")


def symbols(bench):
    """The time of four symbols on one clock over the time of one."""
    paths = inputs.four_symbols(bench.cache, bench.bars // 4)
    four, one = bench.in_turn(lambda: bench.job("replay", *paths),
                              lambda: bench.job("replay", paths[0]))
    yield Figure("replay_symbols", of(four, "cpu"), "s", of(one, "cpu"),
                 of(four, "cpu") / of(one, "cpu"), "<= 4.4", "four symbols and one")


def sweep(bench):
    """Sixteen combinations by two processes, as a share of one process's time."""
    if len(os.sched_getaffinity(0)) < 2:
        raise NotRun("there is one processor")
    path = inputs.bars(bench.cache, min(bench.bars, SWEEP_BARS_MAX))
    one, two = bench.in_turn(lambda: bench.job("sweep", path, 1),
                             lambda: bench.job("sweep", path, 2))
    if one[0]["equity"] != two[0]["equity"]:
        raise NotRun("two processes did not find what one found")
    ours, most = of(two, "wall"), of(one, "wall")
    yield Figure("sweep", ours, "s", most, most / ours, ">= 1.8",
                 f"{one[0]['runs']} combinations, two processes beside one, reading included")


# Events


def recovery(bench):
    """What a start needs to read its newest day, however long the history."""
    with bench.scratch() as folder:
        days = inputs.history(bench, Path(folder), bench.events)
        with bench.scratch() as alone:
            shutil.copy(max(Path(folder).glob("*.jsonl")), alone)
            ours, short, limit = bench.in_turn(lambda: bench.job("recover", folder),
                                               lambda: bench.job("recover", alone),
                                               lambda: bench.job("recover_limit", folder))
        said = f"{bench.events:,} events in {days} days; reads {ours[0]['events']:,}"
        yield Figure("recovery", of(ours, "wall"), "s", of(limit, "wall"), goal="<= 1", note=said)
        yield Figure("recovery_growth", of(ours, "cpu"), "s", of(short, "cpu"),
                     of(ours, "cpu") / of(short, "cpu"), "<= 1.1",
                     "beside a history of one day")


def report(bench):
    """`report` over a long history, its reading alone, and json.loads of each line, a second."""
    with bench.scratch() as folder:
        days = inputs.history(bench, Path(folder), bench.events)
        ours, read, plain = bench.in_turn(lambda: bench.job("report", folder),
                                          lambda: bench.job("read_all", folder),
                                          lambda: bench.job("read_all_limit", folder))
        if any(row["code"] for row in ours):
            raise NotRun(f"report ended with exit code {ours[0]['code']}")
        speeds = [rows[0]["events"] / of(rows, "cpu") for rows in (ours, read, plain)]
        yield Figure("report", speeds[0], "events/s", speeds[2], goal=">= 200000",
                     note=f"{ours[0]['events']:,} events in {days} days; beside json.loads of each")
        yield Figure("report_reading", speeds[1], "events/s", speeds[2],
                     note="every line verified, fields not asked for")
        yield Figure("report_memory", of(ours, "peak_mib"), "MiB", note="peak")


# Start


def start(bench):
    """From the shell to the answer, beside a bare Python that imports three modules.

    Judged by processor time, the shell's included: others may use the machine.  The first tick,
    after which the two commands have something to read, is seconds of the clock; the quickest
    counts, for the same reason.
    """
    with bench.scratch() as folder:
        bare, rounds = [sys.executable, "-P", "-c", BARE], START_ROUNDS_EACH * bench.rounds
        tick = [PROGRAM, "--profile", "dev", "--dev-fast"]
        if wrong := _refused(folder, tick):
            raise NotRun(wrong)
        yield Figure("start_first_tick", min(_took(tick, folder)[1] for _ in range(rounds)), "s",
                     goal="<= 0.5", note=f"wall, the quickest of {rounds}")
        for arguments in START_COMMANDS:
            name = "_".join(("start", *(each.strip("-") for each in arguments)))
            if wrong := _refused(folder, [PROGRAM, *arguments]):
                yield not_run(name, wrong)
                continue
            ours, plain = map(median, zip(*(
                (_took([PROGRAM, *arguments], folder)[0], _took(bare, folder)[0])
                for _ in range(rounds))))
            yield Figure(name, ours * 1000, "ms", plain * 1000, ours / plain, "<= 1.6",
                         f"processor time; beside python -c '{BARE}'")


def _refused(folder, argv):
    """Why a command cannot be measured, or nothing; the first run also warms the page cache."""
    done = _ran(argv, folder)
    if done.returncode not in (0, 1):
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return ""


def _took(argv, folder):
    """Seconds of processor time, of the process and all that it started, and of the clock."""
    begun, before = perf_counter(), getrusage(RUSAGE_CHILDREN)
    _ran(argv, folder)
    after = getrusage(RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            perf_counter() - begun)


def _ran(argv, folder):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("PERPS_", "COINBASE_", "EVENT_STORE", "LOG_LEVEL", "PYTHON"))}
    return subprocess.run([str(each) for each in argv], cwd=folder, env=kept, capture_output=True,
                          text=True, timeout=RUN_SECONDS_MAX, check=False)


def idle_memory(bench):
    """What a dev bot has needed after some ticks."""
    from bench.jobs import memory_mib

    with bench.scratch() as folder:
        bot = subprocess.Popen([str(PROGRAM), "--profile", "dev", "--interval", "1"], cwd=folder,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            told = _ticks_told(bot, Path(folder) / "data" / "perps_bot" / "dev" / "health.json")
            peak = memory_mib(pid=bot.pid)
        finally:
            bot.send_signal(signal.SIGTERM)
            bot.communicate(timeout=60)
    yield Figure("idle_memory", peak, "MiB", goal="<= 40", note=f"peak of a dev bot after {told} "
                 "ticks")


def _ticks_told(bot, path):
    """Wait until its health was written a few times."""
    told, end = set(), perf_counter() + TOLD_SECONDS_MAX
    while len(told) < TOLD_TICKS:
        if bot.poll() is not None or perf_counter() > end:
            raise NotRun(f"the bot ended, or wrote its health {len(told)} times only")
        sleep(0.1)
        told |= {path.stat().st_mtime_ns} if path.exists() else set()
    return len(told)


def size(bench):
    """What the runtime packages take on the disk, beside pip itself."""
    site = next((ROOT / ".venv").glob("lib/python3*/site-packages"), None)
    if site is None:
        raise NotRun("there is no .venv: start bin/perps-bot once")
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
    found = sum(path.stat().st_size for top in site.iterdir() if not top.name.startswith(tools)
                for path in (top.rglob("*") if top.is_dir() else [top])
                if path.is_file() and path.suffix != ".pyc")
    yield Figure("installed_size", found / 1e6, "MB", goal="<= 30", note="beyond pip")


# Ticks, in this process


def idle_ticks(bench):
    """Processor time of a tick with nothing to do."""
    for count, goal in ((4, "<= 1"), (50, "<= 5")):
        desk = ticks.idle_desk(count)
        took = ticks.milliseconds_each(desk.tick, bench.rounds)
        yield Figure(f"idle_tick_{count}", took, "ms", goal=goal,
                     note=f"{count} symbols, an instant venue")
    with bench.scratch() as folder:
        desk = ticks.LiveIdle(Path(folder))
        with desk.rig:
            took = [desk.minute() for _ in range(IDLE_MINUTES)]
    tick, files = min(took, key=sum)
    yield Figure("idle_tick_live", (tick + files) * 1e3, "ms", goal="<= 1",
                 note=f"4 symbols at the exchange: reads {tick * 1e3:.2f}, by all threads, its "
                      f"files {files * 1e3:.2f}; the mean of a minute, the least of five")


def hold(bench):
    """From a frame's bytes to the decision "hold", beside the same chain in straight lines."""
    desk, plain = ticks.HoldDesk(), ticks.PlainHold()
    ours, most = bench.in_turn(lambda: ticks.milliseconds_each(desk.step, 1),
                               lambda: ticks.milliseconds_each(plain.step, 1))
    yield Figure("frame_to_hold", median(ours) * 1000, "us", median(most) * 1000,
                 median(ours) / median(most), "<= 1.5", "by a socket; an instant venue")


def order(bench):
    """From a frame's arrival to the order's first byte, beside the parts that nobody can avoid.

    In-process means: wall time of the feed's thread until the quote stands in its slot, and of the
    tick until the order has left, less the tick's reads of the account, which every increase makes
    anew and which depend on how far away the venue is; they are told by themselves.  The parts are
    timed in the same run, each once after each entry, as warm as the entry left the machine.  Of
    both the least counts, as others may hold up the machine.
    """
    with bench.scratch() as folder:
        found = ticks.order_path(Path(folder))
    if not found.ticks:
        raise NotRun("no entry was sent in the hours that were played")
    ours = min(found.frames) + min(found.ticks)
    parts = {name: min(took) * 1e6 for name, took in found.parts.items()}
    said = ", ".join(f"{name} {took:.0f}" for name, took in parts.items())
    least = sum(parts.values())
    yield Figure("frame_to_order", ours * 1e6, "us", least, ours * 1e6 / least, "<= 1.5",
                 f"{len(found.ticks)} entries; wall without the reads; parts: {said}")
    yield Figure("order_sync", min(found.syncs) * 1e6, "us", parts["append"],
                 note="of the line above, the disk's turn; beside the part, which finds it awake")
    yield Figure("order_reads", min(found.reads) * 1e3, "ms",
                 note="the reads of that tick, which the line above leaves out; loopback")


def burst(bench):
    """Recorded quotes at ten times their speed through the real feed, while the bot ticks.

    The venue's end is a thread of this process, so the figures are on the high side.
    """
    if not QUOTES.exists():
        raise NotRun(f"{QUOTES.name} is not in ../shared/data")
    rows = list(recorded_quotes(BURST_QUOTES[bench.size], BUSIEST if bench.size == "smoke" else 0))
    with Burst() as found:
        found.play(rows, BURST_SPEED)
        sleep(BURST_GRACE)
        late = found.peer.sequence - found._taken()
        lags = sorted(found.lags)
        behind = [look.taken - 1 - look.acted_on for look in found.looks]
    fifth = len(found.lags) // 5
    first, last = (median(list(found.lags)[begin:begin + fifth]) for begin in (0, 4 * fifth))
    said = f"{len(rows):,} quotes in {rows[-1][0] / BURST_SPEED:.0f} s, {len(found.looks)} ticks"
    yield Figure("burst_unread", late, "quotes", goal="<= 0",
                 note=f"{BURST_GRACE} s after the last was sent; {said}")
    yield Figure("burst_lag", lags[len(lags) * 99 // 100] * 1e3, "ms", goal="<= 100",
                 note=f"99 %, from sending to slot; half: {lags[len(lags) // 2] * 1e3:.2f} ms, "
                      f"first fifth {first * 1e3:.2f}, last {last * 1e3:.2f}")
    yield Figure("burst_behind", max(behind), "quotes", goal="<= 1",
                 note="between the newest quote taken and the one that the tick acted on")


def growth(bench):
    """Whether the last ticks of a long run cost more than the first, and what stays behind."""
    with bench.scratch() as folder:
        found = bench.job("long_run", folder, bench.ticks, GROWTH_SECONDS_MAX,
                          seconds_max=2 * GROWTH_SECONDS_MAX)
    late, early = found["late_seconds"], found["early_seconds"]
    said = f"{found['ticks']:,} ticks of dev, {found['days']} days; last and second fifth"
    yield Figure("growth_cost", late * 1e6, "us", early * 1e6, late / early, "<= 1.1", said)
    grown = max(found["late_mib"] - found["early_mib"], 0)
    yield Figure("growth_memory", grown, "MiB", found["early_mib"], goal="<= 2",
                 note="more after the last fifth than after the first")
    yield Figure("growth_files", max(found["opened"], 0), "files", goal="<= 0",
                 note="more open")


BENCHES = {
    # name          what is asked                                  issue's own bound
    "replay":      replay,       # bars a second, peak memory      0.12 counts, 0.17 is the goal
    "linear":      linear,       # ten times the bars              10.5 times the time
    "symbols":     symbols,      # four symbols                    4.4 times one
    "sweep":       sweep,        # two processors                  1.8 times one
    "start":       start,        # --version, status, first tick   1.6 times bare Python; 0.5 s
    "recovery":    recovery,     # a start after a long history    1 s, as after a short one
    "report":      report,       # a long history                  200,000 events a second
    "hold":        hold,         # a frame that changes nothing    1.5 times straight lines
    "order":       order,        # a frame that sends an order     1.5 times its parts
    "burst":       burst,        # quotes at ten times their speed no queue, the newest
    "idle_ticks":  idle_ticks,   # nothing to do                   1 ms, 5 ms
    "growth":      growth,       # nothing grows                   the same cost at the end
    "idle_memory": idle_memory,  # a running bot                   40 MiB
    "size":        size,         # installed packages              30 MB
}  # fmt: skip
