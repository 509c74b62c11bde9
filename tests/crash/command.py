"""Command: run many points, and one again.

    perps-sim crash                            every point of every scene, on two processors
    perps-sim crash --scene "stop filled"      those of one scene
    perps-sim crash --share 0.1                a tenth of them
    perps-sim crash --errors                   every failing disk call instead
    perps-sim crash --at "SCENE:120=kill"      one point, and its trace
    perps-sim crash --list                     the scenes
"""

import argparse
import time

from sim.fleet import workers

from . import errors, points
from .scenes import SCENES

AGAIN = 0.75  # how much of what follows a crash is followed by a second
PARTS = 4  # jobs a scene
CALLS_MAX = 100_000
SECONDS_MAX = 6 * 3600
FAILURES_SHOWN = 20
LINE_LENGTH = 400
EXIT_BROKEN = 1


def main(arguments=None):
    given = _arguments(arguments)
    if given.list:
        print(*SCENES, sep="\n")
        return 0
    if given.at:
        return show(given.at)
    until = time.monotonic() + given.seconds
    if given.errors:
        names = [given.scene] if given.scene else errors.SCENES_WITH_ERRORS
        tally = all_errors(names, until)
    else:
        tally = all_points([given.scene] if given.scene else SCENES, until, given.share, given.seed)
    print(text(tally))
    return EXIT_BROKEN if tally.failures else 0


def show(spec):
    """Play one point and print its trace; the exit code."""
    is_error = spec.endswith(tuple(errors.LASTS))
    result = (errors if is_error else points).again(spec)
    print(*(line[:LINE_LENGTH] for line in result.trace), sep="\n")
    print(f"BROKEN {result.broken}" if result.broken else "all holds")
    return EXIT_BROKEN if result.broken else 0


def text(tally):
    tried = f"{tally.points} failing calls; " if not tally.operations else (
        f"{tally.points} points at {tally.operations} operations, {tally.deep} of them in a "
        f"recovery; {tally.same} images were the same as one tried; {tally.recoveries} torn "
        f"lines recovered from; ")
    lines = [f"{tried}{len(tally.failures)} violations"]
    lines += [f"{spec}: {broken}\n    again: bin/perps-sim crash --at '{spec}'"
              for spec, broken in tally.failures[:FAILURES_SHOWN]]
    return "\n".join(lines)


def all_points(names, until=None, share=1.0, seed=0, again=AGAIN, parts=PARTS, only="",
               stops=False):
    """Every crash point of these scenes; the tally."""
    return _run([(_points, name, part, parts, until, share, seed, again, only, stops)
                 for part in range(parts) for name in names])


def all_errors(names, until=None, kinds=errors.every_kind, calls=CALLS_MAX, parts=PARTS):
    """Every failing call of these scenes; the tally."""
    return _run([(_errors, name, part, parts, until, kinds, calls)
                 for part in range(parts) for name in names])


def _run(jobs):
    tally = points.Tally()
    with workers() as pool:
        for row in pool.map(_job, jobs):
            tally.take(row)
    return tally


def _job(job):
    do, *about = job
    return do(*about).row()


def _is_late(until):
    return until is not None and time.monotonic() > until


def _points(name, part, parts, until, share, seed, again, only, stops):
    if _is_late(until):
        return points.Tally()
    plan = points.Plan(share, again, every_byte=part == 0 and share == 1 and not only, part=part,
                       parts=parts, seed=seed, only=only, stops=stops)
    tally = points.Explorer(SCENES[name], plan, until).run()
    if part:  # each part sees all operations, and tries its own images
        tally.operations = tally.same = 0
    return tally


def _errors(name, part, parts, until, kinds, calls):
    if _is_late(until):
        return points.Tally()
    plan = points.Plan(part=part, parts=parts)
    return errors.Failing(SCENES[name], plan, kinds, calls, until).run()


def _arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="perps-sim crash", description="Every moment to die at, and every disk to wake up to.",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__)
    parser.add_argument("--scene", choices=SCENES, metavar="NAME", help="this scene alone")
    parser.add_argument("--errors", action="store_true", help="disk calls that fail instead")
    parser.add_argument("--share", type=float, default=1.0, help="of the points (default 1: all)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--seconds", type=float, default=SECONDS_MAX,
                        help="begin no point after so many seconds")
    parser.add_argument("--at", metavar="POINT", help="one point, as a failure names it")
    parser.add_argument("--list", action="store_true", help="list the scenes")
    return parser.parse_args(arguments)
