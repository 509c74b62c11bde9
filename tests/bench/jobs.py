"""Jobs: what is measured in a process of its own, which says as JSON what it took.

The references are the least that plain Python can do; they share no code with the bot.  Run as
`python -P -m bench.jobs NAME ARGUMENT...`; every job returns the counts that prove its work.
"""

import csv
import json
import re
import sys
import zlib
from collections import deque
from contextlib import redirect_stdout
from decimal import Decimal
from importlib import import_module
from io import StringIO
from pathlib import Path
from time import perf_counter, process_time

# As in the replay that stands beside it: the whole job, without import.
SHORT, LONG = 5, 20
TRAIL, FEE = Decimal("0.99"), Decimal("0.0006")
EQUITY = "100000000"
SYMBOLS = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP")


def stream_limit(path):
    """The crossover in Decimals, streamed from the file: no objects, no events, no limits."""
    closes_short, closes_long = deque(maxlen=SHORT), deque(maxlen=LONG)
    sum_short = sum_long = paid = Decimal(0)
    side, order, held, best, trips, bars = 0, 0, False, None, 0, 0
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        for row in rows:
            bars += 1
            opened, close = Decimal(row[1]), Decimal(row[4])
            if order:
                paid += order * opened + opened * FEE
                held, best = order > 0, opened
                trips += order < 0
                order = 0
            if len(closes_short) == SHORT:
                sum_short -= closes_short[0]
            if len(closes_long) == LONG:
                sum_long -= closes_long[0]
            closes_short.append(close)
            closes_long.append(close)
            sum_short += close
            sum_long += close
            if len(closes_long) < LONG:
                continue
            difference = sum_short * LONG - sum_long * SHORT
            lean = (difference > 0) - (difference < 0) or side
            if held:
                if close > best:
                    best = close
                if lean < 0 or close <= best * TRAIL:
                    order = -1
            elif lean > 0 and side < 0:
                order = 1
            side = lean
    return {"bars": bars, "trades": trips}


def replay(*paths, events=None):
    """The bot's replay of the same bars with the same strategy; several files are several
    symbols on one clock."""
    from perps_bot.market import RecordedMarket
    from perps_bot.replay import replay as run
    from perps_bot.settings import resolve

    symbols = SYMBOLS[:len(paths)]
    settings = resolve({"symbols": list(symbols), "paper_equity": EQUITY, "fee_rate": str(FEE),
                        "fee_per_contract": "0"}, {})
    result = run(RecordedMarket(paths, symbols), settings, events)
    return {"bars": result.bars, "trades": result.trades, "equity": f"{result.end_equity:f}"}


def sweep(path, workers, grid="short_ma_period=3,5,8,12 long_ma_period=20,30,40,50"):
    """Sixteen combinations over the same bars, by so many processes."""
    from perps_bot.settings import resolve
    from perps_bot.sweep import job_of, sweep as run
    from perps_bot.tried import combinations

    settings = resolve({"paper_equity": EQUITY, "fee_rate": str(FEE), "fee_per_contract": "0"}, {})
    done = run(job_of(path, settings), combinations(grid.split()), jobs=int(workers))
    figures = done.rows[0]["out_of_sample"]
    return {"runs": len(done.rows), "best": done.rows[0]["set"], "equity": figures["end_equity"]}


def write_events(path, folder):
    """The events of a replay, into a folder that is there."""
    made = Path(folder) / "made"
    counts = replay(path, events=made)
    for each in made.iterdir():
        each.rename(Path(folder) / each.name)
    made.rmdir()
    return counts


def recover(folder):
    """A start's own reading: the newest day's events into a bot's parts."""
    from perps_bot.bot import assemble, recover as read
    from perps_bot.market import SyntheticMarket
    from perps_bot.paper import PaperBroker
    from perps_bot.settings import resolve
    from perps_bot.store import EventStore

    store = EventStore(folder, sync=False)
    bot = assemble(resolve({}, {}), PaperBroker(SyntheticMarket()), store, "paper-synthetic")
    return {"events": read(bot).events}


def recover_limit(folder):
    """The same day's lines, each parsed and its checksum followed."""
    crc = events = 0
    with open(max(Path(folder).glob("*.jsonl")), "rb") as lines:
        for line in lines:
            json.loads(line)
            crc, events = zlib.crc32(line, crc), events + 1
    return {"events": events}


def read_all(folder):
    """Every line of a history verified, as a report has them."""
    from perps_bot.lines import brief
    from perps_bot.store import read_events

    return {"events": sum(1 for _ in read_events(folder, read=brief))}


def report(folder):
    """The owner's own command, over all of it."""
    from perps_bot.cli import main as command

    with redirect_stdout(StringIO()) as said:
        code = command(["report", str(folder)])
    found = re.search(r"([\d,]+) events$", said.getvalue(), re.MULTILINE)
    return {"code": code, "events": int(found[1].replace(",", ""))}


def read_all_limit(folder):
    """Every line of a history, parsed."""
    events = 0
    for path in sorted(Path(folder).glob("*.jsonl")):
        with open(path, "rb") as lines:
            for line in lines:
                json.loads(line)
                events += 1
    return {"events": events}


def long_run(folder, count, seconds_max):
    """See `growth`."""
    from bench.growth import long_run as run

    return run(folder, count, seconds_max)


# Imported before the clock starts.
NEEDED = ("perps_bot.loop", "perps_bot.market", "perps_bot.replay", "perps_bot.settings",
          "perps_bot.cli", "perps_bot.report")
JOBS = {job.__name__: job for job in (
    stream_limit, replay, sweep, write_events, recover, recover_limit, read_all, report,
    read_all_limit, long_run)}


def memory_mib(name="VmHWM", pid="self"):
    """The peak of a process's memory, or with VmRSS what it has now, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        kib = next(line.split()[1] for line in lines if line.startswith(name))
    return int(kib) / 1024


def main(name, *arguments):
    job = JOBS[name]
    for room in () if name.endswith("_limit") else NEEDED:
        import_module(room)
    wall, cpu = perf_counter(), process_time()
    counts = job(*arguments)
    took = {"wall": perf_counter() - wall, "cpu": process_time() - cpu}
    print(json.dumps({**counts, **took, "peak_mib": memory_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
