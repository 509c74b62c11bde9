"""Starved: what does a bot do that may write nothing, or open nothing, while it trades?

It opens nothing that it cannot write down first, keeps its stops, says that it is not well, and
goes on from where it was once there is room again.  The kernel takes and gives back.
"""

import random
import resource
import signal

from pace import Stopwatch

from .account import account
from .interrupts import SURROUNDINGS
from .judge import Broken
from .kills import live_for, turned

STARVED_SECONDS = 4
# What was written down before the disk was full may still have been on its way.
ON_ITS_WAY_SECONDS = 1


def room_again(one):
    (one.data / "ballast").unlink()


def all_again(limit):
    def mend(one):
        most = resource.prlimit(one.process.pid, limit)[1]
        resource.prlimit(one.process.pid, limit, (most, most))

    return mend


STARVED = {
    # surroundings      what gives it back                   may it open meanwhile, is it well
    "full disk":       (all_again(resource.RLIMIT_FSIZE),   False),
    "no room":         (room_again,                         False),
    "no descriptors":  (all_again(resource.RLIMIT_NOFILE),  True),
}  # fmt: skip


def starve(surroundings, seed=0):
    """Let it trade, starve it for a while, and see it recover; its books must be the exchange's."""
    dice, (start, strike) = random.Random(seed), SURROUNDINGS[surroundings]
    mend, is_well = STARVED[surroundings]
    with account() as one, start(one):
        one.begin().holds_something().converge()
        strike(one)
        with Stopwatch() as took:
            live_for(one, STARVED_SECONDS, dice)
        on_its_way = ON_ITS_WAY_SECONDS + took.lost
        if not is_well and (sent := one.judge.entries_since(took.begun + on_its_way)):
            raise Broken(f"A10: opened on a full disk: {sent}")
        if one.process.poll() is not None:
            raise Broken(f"it ended with {one.process.returncode}: {one.said()[-3000:]}")
        mend(one)
        one.until(one.healthy, "health, once there is room again")
        one.finish()
        one.remember(turned(one, dice))
        one.begin().converge()  # and a restart finds all of it
        one.process.send_signal(signal.SIGKILL)
