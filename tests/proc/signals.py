"""Signals: is a signal obeyed at whatever instant it comes?

SIGINT, SIGTERM and SIGUSR1 strike a bot that starts, recovers, trades or waits.  From then on it
opens nothing; its exit code and its last words are what the exchange's books say; a halt lasts
until it is resumed.
"""

import random
import signal
import time
from dataclasses import dataclass, field

from pace import Stopwatch

from .account import PATIENCE_SECONDS, account
from .judge import Broken
from .kills import live_for, turned

ENDING = (signal.SIGINT, signal.SIGTERM)
SIGNALS = (*ENDING, signal.SIGUSR1)
# How often it comes before the bot has recovered.
IN_RECOVERY = 0.3
LIFE_SECONDS, AFTERWARDS_SECONDS = 2.5, 1.5
# What was on its way to the wire when the signal came, and what a loaded machine adds to it.
ON_ITS_WAY_SECONDS = 0.5
# Before its handlers are installed nothing can have been sent: Python or the signal ends it, or it
# says itself that it sent nothing.
EARLY = (1, 3, *(-number for number in SIGNALS))
DONE, NOT_VERIFIED = 0, 3


@dataclass
class Signalled:
    """What one account lived through: signals, how many struck a bot that was already at work."""

    signals: int = 0
    at_work: int = 0
    seconds: list = field(default_factory=list)
    codes: list = field(default_factory=list)


def signal_again_and_again(times, seed, order_type="market", deadline=float("inf")):
    dice, found = random.Random(seed), Signalled()
    with account(order_type=order_type) as one:
        while found.signals < times and time.monotonic() < deadline:
            number = SIGNALS[(seed + found.signals) % len(SIGNALS)]
            one.remember(turned(one, dice))
            one.begin()
            if dice.random() > IN_RECOVERY:
                one.converge()
            live_for(one, dice.uniform(0, LIFE_SECONDS), dice)
            found.signals += 1
            found.at_work += strike(one, number, dice, found)
            if one.judge.journal.holds:
                stays_held(one, dice)
                resume(one)
        one.begin().finish()
    return found


def strike(one, number, dice, found):
    """Send it and judge what follows; whether the bot was at work already."""
    with Stopwatch() as took:
        at = took.begun
        one.process.send_signal(number)
        if number == signal.SIGUSR1 and holds_soon(one):
            live_for(one, AFTERWARDS_SECONDS, dice)
            at, number = time.monotonic() - AFTERWARDS_SECONDS, signal.SIGTERM
            one.process.send_signal(number)
        code = one.process.wait(PATIENCE_SECONDS)
    found.codes.append(code)
    found.seconds.append(time.monotonic() - at)
    one.judge.look()
    truth = one.truth()
    one.judge.books(truth)
    if sent := one.judge.entries_since(at + ON_ITS_WAY_SECONDS + took.lost):
        raise Broken(f"I-10: sent after {number.name}: {sent}")
    at_work = one.judge.journal.kinds.get("bot.started", 0) > one.starts
    if not at_work:
        one.put_the_output_aside()
    differs = one.judge.differs(truth)
    if code == DONE and (differs or one.judge.unknown(truth)):
        raise Broken(f"I-49: exit code 0 after {number.name}, and {differs}")
    if code != DONE and not (code == NOT_VERIFIED or not at_work and code in EARLY):
        raise Broken(f"exit code {code} after {number.name}: {one.said()[-3000:]}")
    if number == signal.SIGINT and at_work and "signal" not in one.judge.journal.holds:
        raise Broken("H2: no halt is on disk after SIGINT")
    return at_work


def holds_soon(one):
    """Wait until SIGUSR1 is on disk; False where it came before there was a handler for it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while one.process.poll() is None and time.monotonic() < until:
        one.judge.look()
        if "operator" in one.judge.journal.holds:
            return True
        time.sleep(0.02)
    return False


def stays_held(one, dice):
    """H3, I-12: the next process opens nothing either, though the averages ask it to."""
    one.remember(turned(one, dice))
    one.begin().converge()
    live_for(one, AFTERWARDS_SECONDS, dice)
    one.kill()
    if sent := one.judge.entries_since(one.began):
        raise Broken(f"I-12: sent by a bot that is held: {sent}")


def resume(one):
    done = one.run("resume", "--reason", "looked at it")
    one.judge.look()
    if done.returncode or one.judge.journal.holds:
        raise Broken(f"not resumed: {one.judge.journal.holds} {done.stderr}")
