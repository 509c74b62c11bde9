"""Kills: is anything lost, or sent twice, when the process dies?

It dies by `kill -9`: at random instants, on the wire as the exchange sees it, and at the system
calls of an order's path.
"""

import random
import time
from dataclasses import dataclass

from .account import account

# How often it dies before it has recovered from the death before.
IN_RECOVERY = 0.2
RECOVERY_SECONDS, LIFE_SECONDS, LEAP_SECONDS = 2.5, 2.5, 0.6


def kill_again_and_again(kills, seed, order_type="market", deadline=float("inf")):
    """Kill one account's bot so often; return how many kills there were, and what came of them."""
    dice, done, took = random.Random(seed), 0, []
    with account(order_type=order_type) as one:
        while done < kills and time.monotonic() < deadline:
            one.remember({symbol: dice.choice((-1, 1)) for symbol in one.symbols})
            one.begin()
            if dice.random() < IN_RECOVERY:
                time.sleep(dice.uniform(0, RECOVERY_SECONDS))
            else:
                took.append(one.converge())
                live_for(one, dice.uniform(0, LIFE_SECONDS), dice)
            one.kill()
            done += 1
        one.begin().finish()
        return Lives(done, took, one.judge.journal.kinds)


@dataclass
class Lives:
    """What one account lived through.

    took    seconds until each life's books were the exchange's
    events  how many there are, by type
    """

    kills: int
    took: list
    events: dict


def live_for(one, seconds, dice):
    """Let time pass in a market that leaps."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        one.leap(dice)
        time.sleep(min(left, dice.uniform(0, LEAP_SECONDS)))
