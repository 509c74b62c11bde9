"""Release: the parts of the full run that are real processes, sockets and seconds.

Each function is a part as `sim.release` describes it.  Cases run beside each other, for a bot
mostly waits; what one account breaks is one line with its seed.
"""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from subprocess import SubprocessError
from threading import Lock

from sim.release import Reached, asked

from .account import CONVERGED_SECONDS
from .calls import cases, late
from .interrupts import AS_USUAL, IN_TROUBLE, NEEDS_ROOT, SURROUNDINGS, interrupt, may_mount
from .judge import Broken
from .kills import kill_again_and_again
from .signals import signal_again_and_again
from .silence import NOTICED_SECONDS_MAX, an_exchange, seconds_until_noticed

WORKERS = 12
# Where milliseconds are judged, the machine must not be busy with our own other cases.
TIMED_WORKERS = 3
# So often one account is killed; then another begins, for logs and listings grow.
KILLS_OF_ONE, SIGNALS_OF_ONE = 40, 12
# Once begun, a case of this kind may take so long; none is begun later.
LIFE_SECONDS, INTERRUPT_SECONDS, ROUND_SECONDS = 30, 20, 10
ORDER_TYPES = ("market", "limit")
# Of the interrupts, so many come at a random instant instead of at a hundred resting orders.
AT_RANDOM = 0.5
PERCENTILE = 0.99


def kills(deadline, first_seed):
    """`kill -9` at random instants, on the wire and at system calls, and every recovery."""
    def account_of(seed, left):
        lives = kill_again_and_again(min(KILLS_OF_ONE, left), seed, ORDER_TYPES[seed % 2],
                                     deadline - LIFE_SECONDS)
        if lives.took and max(lives.took) > CONVERGED_SECONDS:
            raise Broken(f"I-30: {lives.kills} kills, converged after {max(lives.took):.2f} s")
        return lives.kills

    return _reached(account_of, asked("PROC kills"), KILLS_OF_ONE, deadline - LIFE_SECONDS,
                    first_seed)


def interrupts(deadline, first_seed):
    """SIGINT with a hundred orders at rest, alone and in trouble; signals at random instants."""
    half = time.monotonic() + (deadline - time.monotonic()) * AT_RANDOM
    count, times = asked("PROC interrupts"), {name: [] for name in _surroundings()}

    def resting(seed, _):
        name = list(times)[seed % len(times)]
        times[name].append(interrupt(name, seed))
        return 1

    reached = _reached(resting, int(count * AT_RANDOM), 1, half - INTERRUPT_SECONDS, first_seed,
                       TIMED_WORKERS)
    reached.violations += [line for name, found in times.items() for line in _late(name, found)]

    def at_random(seed, left):
        return signal_again_and_again(min(SIGNALS_OF_ONE, left), seed, ORDER_TYPES[seed % 2],
                                      deadline - LIFE_SECONDS).signals

    more = _reached(at_random, count - reached.count, SIGNALS_OF_ONE, deadline - LIFE_SECONDS,
                    first_seed)
    return Reached(reached.count + more.count, reached.violations + more.violations)


def silence(deadline, first_seed):
    """A WebSocket that says nothing any more."""
    reached = Reached()
    with an_exchange() as exchange:
        while reached.count < asked("PROC silence") and time.monotonic() < deadline - ROUND_SECONDS:
            took = seconds_until_noticed(exchange)
            reached.count += len(took)
            reached.violations += [f"noticed after {seconds:.2f} s" for seconds in took
                                   if seconds > NOTICED_SECONDS_MAX]
    return reached


def calls(deadline, first_seed):
    """The time that an HTTP call may take, with the deadlines in force."""
    with ThreadPoolExecutor(len(cases())) as pool:
        lines = list(pool.map(late, cases()))
    return Reached(len(lines), [line for line in lines if line], is_all=True)


def _surroundings():
    can_mount = may_mount()
    return [name for name in SURROUNDINGS if can_mount or name not in NEEDS_ROOT]


def _late(name, found):
    """What was later than it may be: of those as usual one in a hundred, of the others none."""
    bounds = IN_TROUBLE if name else AS_USUAL
    for what, bound in zip(("first", "all"), bounds):
        seconds = sorted(getattr(each, what) for each in found)
        if seconds and (slow := seconds[int(len(seconds) * PERCENTILE)] if not name
                        else seconds[-1]) > bound:
            yield f"{name or 'as usual'}: {what} after {slow:.2f} s, more than {bound}"


def _reached(account_of, count, of_one, deadline, first_seed, workers=WORKERS):
    """Have one account after the other live, beside each other, until so many cases are done."""
    reached, lock, seeds = Reached(), Lock(), itertools.count(first_seed)
    begun = [0]

    def live():
        while time.monotonic() < deadline:
            with lock:
                left = count - begun[0]
                begun[0] += min(of_one, left)
                seed = next(seeds)
            if left <= 0:
                return
            try:
                done, broken = account_of(seed, left), None
            except (Broken, AssertionError, OSError, SubprocessError) as error:
                done, broken = 1, f"seed {seed}: {type(error).__name__}: {error}"
            with lock:
                reached.count += done
                reached.violations += [broken] if broken else []

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(live) for _ in range(workers)]:
            future.result()
    return reached
