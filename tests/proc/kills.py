"""Kills: is anything lost, or sent twice, when the process dies?

It dies by `kill -9`: at a random instant; on the wire, where the exchange kills it before an order
is booked, before the answer or in the middle of it; and at the entry of the N-th system call of a
kind, where strace does it.  One account lives through many deaths, for that is the harder test.
"""

import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache

from .account import PATIENCE_SECONDS, POLL_SECONDS, account
from .judge import positions

# How often it dies at a random instant before it has recovered from the death before, and how
# often at a random one of the places below.
IN_RECOVERY, AT_A_PLACE = 0.2, 0.25
RECOVERY_SECONDS, LIFE_SECONDS, LEAP_SECONDS = 2.5, 2.5, 0.6
# A request that never comes, or a call that is made less often, ends in a death all the same: so
# long after the bot has begun its work, for how soon it begins is the machine's affair.
PLACE_SECONDS_MAX = 12
# An account's first lives end only after the bot has acted, however long that takes it.
ACTIVE_LIVES = 1
# What neither the market nor the load of the machine may keep from happening is tried again.
TRIES_MAX = 3
ORDER, CLOSE, CANCEL = "POST /orders$", "POST /orders/close_position$", "POST /orders/batch_cancel$"
LISTING = "GET /orders/historical/batch$"
UNASKED, UNANSWERED, HALF_ANSWERED, ANSWERED = (
    {"accept": False, "bytes": 0}, {"bytes": 0}, {"bytes": 150}, {})
ON_THE_WIRE = [
    # in the request        what became of it
    (ORDER,                 UNASKED),
    (ORDER,                 UNANSWERED),
    (ORDER,                 HALF_ANSWERED),
    (ORDER,                 ANSWERED),
    (CANCEL,                UNASKED),
    (CANCEL,                UNANSWERED),
    (CANCEL,                ANSWERED),
    (CLOSE,                 UNASKED),
    (CLOSE,                 UNANSWERED),
    (CLOSE,                 ANSWERED),
    (LISTING,               UNANSWERED),
]
AT_CALLS = [
    # system call   of what    up to how often in a life
    ("write",       "events",  25),
    ("fsync",       "",        20),
    ("sendto",      "",        50),
    ("recvfrom",    "",        50),
    ("rename",      "",        8),
    ("ftruncate",   "",        1),
]


@dataclass
class Lives:
    """What one account lived through.

    struck  how many of the deaths came where they were set
    took    seconds until each life's books were the exchange's
    events  how many there are, by type
    """

    kills: int = 0
    struck: int = 0
    took: list = field(default_factory=list)
    events: dict = field(default_factory=dict)


def kill_again_and_again(kills, seed, order_type="market", deadline=float("inf"),
                         at_a_place=AT_A_PLACE):
    """Kill one account's bot so often, or until the deadline."""
    dice, lives = random.Random(seed), Lives()
    with account(order_type=order_type) as one:
        while lives.kills < kills and time.monotonic() < deadline:
            one.remember(turned(one, dice))
            if dice.random() < at_a_place:
                lives.struck += die_at(one, dice.choice(places(dice)))
            elif dice.random() < IN_RECOVERY:
                one.begin()
                time.sleep(dice.uniform(0, RECOVERY_SECONDS))
                one.kill()
            else:
                lives.took.append(one.begin().converge())
                if lives.kills < ACTIVE_LIVES:
                    one.acts()
                live_for(one, dice.uniform(0, LIFE_SECONDS), dice)
                one.kill()
            lives.kills += 1
        one.begin().finish()
        lives.events = one.judge.journal.kinds
    return lives


def die_everywhere(wanted, seed, order_type="market"):
    """Die at each place, with something held that is to be turned, and recover before the next."""
    dice, lives = random.Random(seed), Lives()
    with account(order_type=order_type) as one:
        for place in wanted:
            one.remember(turned(one, dice))
            lives.took.append(one.begin().converge())
            one.holds_something().converge()
            one.kill()
            lives.kills += 1
            for _ in range(TRIES_MAX):
                one.remember(turned(one, dice))
                lives.kills += 1
                if struck := die_at(one, place):
                    break
            lives.struck += struck
        lives.took.append(one.begin().converge())
        one.finish()
        lives.events = one.judge.journal.kinds
    return lives


@cache
def has_strace():
    """Whether strace is there, and may do what is asked of it."""
    if shutil.which("strace") is None:
        return False
    killed = subprocess.run([*traced("close", 1), "true"], capture_output=True, check=False)
    return killed.returncode == -signal.SIGKILL


def traced(call, number, paths=()):
    """The command that runs another and kills it at the entry of that call."""
    # -D: the other is the child, and strace the grandchild, so that signals go where they should.
    return ["strace", "-D", "-f", "-qq", "-o", "/dev/null", *paths, "-e", f"trace={call}",
            "-e", f"inject={call}:signal=KILL:when={number}"]


def places(dice):
    """One place of each kind that this machine has."""
    found = [("wire", *dice.choice(ON_THE_WIRE), dice.randrange(2))]
    if has_strace():
        call, what, most = dice.choice(AT_CALLS)
        found.append(("call", call, what, dice.randint(1, most)))
    return found


def die_at(one, place):
    """Start it, and have it die there; whether it did, before its time was over."""
    how, *details = place
    TRAPS[how](one, *details)
    until = time.monotonic() + PATIENCE_SECONDS
    while one.process.poll() is None and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
        one.judge.look()
        if one.judge.journal.kinds.get("bot.started", 0) > one.starts:
            until = min(until, time.monotonic() + PLACE_SECONDS_MAX)
    struck = one.process.poll() == -signal.SIGKILL
    one.kill()
    one.sim.network("clear")
    return struck


def _on_the_wire(one, match, how, after):
    one.begin()
    one.sim.network("kill", match=match, after=after, pid=one.process.pid,
                    name_of_it="perps_bot", **how)


def _at_a_call(one, call, what, number):
    paths = ["-P", str(one.event_file())] if what == "events" else []
    one.begin(*traced(call, number, paths))


TRAPS = {"wire": _on_the_wire, "call": _at_a_call}


def turned(one, dice):
    """By symbol, the side of the averages that makes the bot turn what it holds."""
    held = positions(one.truth())
    return {symbol: dice.choice((-1, 1)) if symbol not in held else -1 if held[symbol] > 0 else 1
            for symbol in one.symbols}


def live_for(one, seconds, dice):
    """Let time pass in a market that leaps."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        one.leap(dice)
        time.sleep(min(left, dice.uniform(0, LEAP_SECONDS)))
