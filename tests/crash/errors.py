"""Errors: the N-th disk call fails, once or for good: what goes on, and what stops?

The scene is played as `points` does, but a child does not die: its disk refuses this call, or
this and all after it.  Increases stop and reductions go on; health says so; a while later the
machine stops, is mended, and all must converge from what was acknowledged.
"""

import os

from .disk import ERRORS, Error, images
from .points import Explorer, scratch
from .scenes import SCENES
from .stage import Stage

CALLS = ("disk open ", "disk write ", "disk fsync ", "disk truncate ", "disk rename ")
BROKEN_SECONDS = 30  # after the script, with the disk as it is
LASTS = {"once": False, "for good": True}
SCENES_WITH_ERRORS = ("exit by crossover", "halted while an entry rests", "stop ratcheted",
                      "entry with a stop", "midnight", "restart with a position")


class Reference:
    """How the scene ends where the disk does what it is asked."""

    def __init__(self, scene):
        with scratch():
            self.stage = Stage(scene, nothing)
            self.stage.stays = True
            self.stage.stays_until = scene.ends + BROKEN_SECONDS
            self.broken = self.stage.run().broken
            self.truth = self.stage.checks.truth()


def nothing(stage, where, size):
    pass


class Failing(Explorer):
    """Follows one scene through every failing call.

    kinds  of the N-th call: a function of N, names of errors, each with how long it lasts
    calls  no call after so many
    """

    def __init__(self, scene, plan, kinds, calls, until=None):
        super().__init__(scene, plan, until)
        self.kinds, self.calls, self.count = kinds, calls, 0
        self.reference = Reference(scene).truth

    def visit(self, stage, where, size):
        if self.depth:
            self.stop_late(stage, where)
        elif where.startswith(CALLS):
            self.count += 1
            if self.count <= self.calls and self.count % self.plan.parts == self.plan.part and (
                    not self.is_late()):
                for name, lasts in self.kinds(self.count):
                    if where.split()[1] in ERRORS[name][1] and (
                            self._try(stage, where, name, lasts)):
                        return

    def _try(self, stage, where, name, lasts):
        def fails():
            stage.disk.move(str(os.getpid()))
            stage.disk.error, stage.stays = Error(name, LASTS[lasts]), True
        return self.fork(stage, where, f"{name} {lasts}", fails)

    def stop_late(self, stage, where):
        if not stage.stays or stage.second < self.scene.ends + BROKEN_SECONDS:
            return
        if where.startswith("net"):
            stop(stage, self.reference)


def stop(stage, reference):
    """The disk has been as it is for a while: look, stop the machine, mend the disk."""
    stage.checks.while_broken(reference)
    stage.stays = False
    found = images(stage.disk, "net", lambda length: ())
    stage.disk.error = None
    name = "kill" if stage.operations % 2 else "cut"
    stage.crash(name, found[name])


class Again:
    """Goes to one failing call and nowhere else."""

    def __init__(self, scene, count, name, lasts):
        self.count, self.name, self.lasts = count, name, lasts
        self.scene, self.reference = scene, Reference(scene).truth

    def __call__(self, stage, where, size):
        if stage.operations == self.count:
            stage.say(f"operation {self.count}, {where}: {self.name} {self.lasts}")
            stage.disk.error, stage.stays = Error(self.name, LASTS[self.lasts]), True
        elif stage.stays and where.startswith("net") and (
                stage.second >= self.scene.ends + BROKEN_SECONDS):
            stop(stage, self.reference)


def again(spec, traces=True):
    """Play what one line names, `SCENE:OPERATION=ERROR once` or `... for good`; the result."""
    name, at = spec.split(":")
    count, error = at.split("=")
    error, lasts = next((error.removesuffix(f" {lasts}"), lasts) for lasts in LASTS
                        if error.endswith(lasts))
    visit = Again(SCENES[name], int(count), error, lasts)
    with scratch():
        return Stage(SCENES[name], visit, traces).run()


def every_kind(count):
    """All errors, once and for good."""
    return [(name, lasts) for name in ERRORS for lasts in LASTS]


def one_kind(count):
    """One error at each call, another at the next."""
    kinds = every_kind(count)
    return [kinds[count * 5 % len(kinds)], kinds[(count * 5 + 3) % len(kinds)]]

