"""Points: die there, wake up, converge: does everything hold that must?

One process plays the scene.  At every operation it forks, once for each image: the child dies
there, finds the image, starts again, and must converge; the parent goes on as if nothing were.
So each point costs what comes after it, and each is the same run whether it is reached by forks
or, by `again`, alone.  Within a child that starts again, some operations are points as well.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter

from .disk import EVENTS, images
from .scenes import SCENES
from .stage import Stage

CHILD_SECONDS_MAX = 60
CHILD_BYTES_MAX = 1 << 20
DEPTH_MAX = 2
# Operations of a new process within which a second crash is tried: its recovery and first tick.
RECOVERY_OPERATIONS = 60
FAILURES_MAX = 20
REPORT_FAILURES_MAX = 50


class Plan:
    """How much of everything there is to try is tried.

    share     of the points, by their hash; 1 for all
    again     how many of the first 60 operations after a crash are a second one: times ten
    part      of so many parts, which one
    stops     at the first failure
    only      words in the name of the images that are tried
    bytes_of  how many bytes of a torn record survive: a function of its length
    """

    def __init__(self, share=1.0, again=0.25, every_byte=True, part=0, parts=1, seed=0, only="",
                 stops=False):
        self.share, self.again, self.part, self.parts = share, again, part, parts
        self.only, self.stops = only, stops
        self.seed, self.every_byte = seed, every_byte

    def bytes_of(self, length):
        """Boundaries, and some between."""
        few = {0, 1, length // 2, length - 2, length - 1, length}
        return sorted(count for count in few if 0 <= count <= length)

    def wants(self, share, *about):
        digest = hashlib.sha256(repr((self.seed, *about)).encode()).digest()
        return int.from_bytes(digest[:4]) < share * 2 ** 32


class Tally:
    """What came of many points.  `failures`: how to see each again, and what did not hold."""

    def __init__(self):
        self.points, self.failures, self.kinds = 0, [], Counter()
        self.operations = self.same = self.deep = self.recoveries = 0
        self.wire = ""

    def take(self, row):
        self.points += row["points"]
        self.deep += row["deep"]
        self.same += row["same"]
        self.operations += row["operations"]
        self.recoveries += row["recoveries"]
        self.kinds.update(row["kinds"])
        self.failures += [tuple(each) for each in row["failures"]]
        del self.failures[REPORT_FAILURES_MAX:]

    def row(self):
        return {"points": self.points, "deep": self.deep, "same": self.same,
                "operations": self.operations, "kinds": self.kinds, "failures": self.failures,
                "recoveries": self.recoveries, "wire": self.wire}


class Explorer:
    """Follows one scene through all its crashes."""

    def __init__(self, scene, plan, until=None):
        self.scene, self.plan, self.until, self.tally = scene, plan, until, Tally()
        self.depth, self.path, self.out = 0, [], None
        self._seen, self._kinds, self._begun, self._wire = set(), set(), 0, ""

    def run(self):
        """Play the scene and all that may become of it; the tally."""
        home = os.getcwd()
        with scratch() as folder:
            try:
                stage = Stage(self.scene, self.visit)
                result = stage.run()
                self._judge(stage, result.broken)
                self.tally.wire = result.wire
            except BaseException as error:
                if not self.depth:
                    raise
                self._fail(f"untyped: {''.join(traceback.format_exception(error)[-3:])}")
            finally:
                if self.depth:
                    self._report()
                os.chdir(home)
        return self.tally

    def _judge(self, stage, broken):
        if broken:
            self._fail(broken)
        elif not self.depth:
            missing = [kind for kind in self.scene.shows if kind not in stage.checks.journal.kinds]
            if missing:
                self._fail(f"the scene shows no {missing}")

    def _fail(self, broken):
        self.tally.failures.append((self.spec(), broken))

    def spec(self):
        return ":".join((self.scene.name, *(f"{number}={name}" for number, name in self.path)))

    def visit(self, stage, where, size):
        """An operation: a moment to die at."""
        if self.is_late():
            return
        if self.depth == 0:
            begin, end = self.scene.window
            if begin <= stage.second <= end:
                self._first(stage, where)
        elif self.depth < DEPTH_MAX and stage.crashes == self.depth:
            if stage.operations - self._begun <= RECOVERY_OPERATIONS:
                self._second(stage, where)

    def is_late(self):
        is_done = self.plan.stops and self.tally.failures
        return is_done or self.until is not None and time.monotonic() > self.until

    def _first(self, stage, where):
        self.tally.operations += 1
        if where.startswith("disk inside") and where.endswith(".jsonl"):
            self._every_byte(stage)
        wires = {}
        for name, image in images(stage.disk, where, self.plan.bytes_of).items():
            key = self._key(stage, image)
            if self.plan.only not in name or self.is_late():
                continue
            if key in self._seen:
                self.tally.same += 1
                continue
            self._seen.add(key)
            about = stage.operations, name
            if self.plan.wants(self.plan.share, self.scene.name, *about) and (
                    len(self._seen) % self.plan.parts == self.plan.part):
                self._crash(stage, where, name, image)
                self._compare(wires, name, image)

    def _compare(self, wires, name, image):
        """I-22: what the state files hold changes nothing that is sent."""
        events = self._digest({p: d for p, d in image.items() if p.startswith(EVENTS)})
        other, wire = wires.setdefault(events, (name, self._wire))
        if wire != self._wire and wire and self._wire:
            self._fail(f"I-22: after {other!r} and after {name!r} other requests were sent")

    def _every_byte(self, stage):
        """Once for each kind of event: every part of its line is recovered from."""
        kind = json.loads(stage.disk.inflight[1])["type"]
        if self.plan.every_byte and kind not in self._kinds:
            self._kinds.add(kind)
            self.tally.recoveries += stage.recover_every_byte()

    def _second(self, stage, where):
        about = self.scene.name, *self.path, stage.operations
        if not self.plan.wants(self.plan.again / 10, *about):
            return
        found = images(stage.disk, where, self.plan.bytes_of)
        name = random.Random(repr(about)).choice(sorted(found))
        self._crash(stage, where, name, found[name])

    def _crash(self, stage, where, name, image):
        def stops():
            stage.disk.moves_to = str(os.getpid())
            stage.crash(name, image)  # raises Killed: the stage goes on as the next process
        self.fork(stage, where, name, stops)

    def _key(self, stage, image):
        """What the rest of the run depends on."""
        return stage.time.mono, stage.wire.delivered, self._digest(image)

    @staticmethod
    def _digest(image):
        digest = hashlib.sha256()
        for path in sorted(image):
            digest.update(path.encode() + b"\0" + (image[path] or b"") + b"\1")
        return digest.digest()

    def fork(self, stage, where, name, happens):
        """Have something happen in a child, and hear what came of it; True within the child."""
        into, out = os.pipe()
        child = os.fork()
        if not child:
            os.close(into)
            signal.alarm(CHILD_SECONDS_MAX)
            self.out, self.tally, self.depth = out, Tally(), self.depth + 1
            self.path, self._begun = [*self.path, (stage.operations, name)], stage.operations
            happens()
            return True
        os.close(out)
        self.tally.points += 1
        self.tally.deep += self.depth > 0
        self.tally.kinds[" ".join(where.split()[:2])] += 1
        self._hear(child, into, [*self.path, (stage.operations, name)])
        return False

    def _hear(self, child, into, path):
        with open(into, "rb") as file:
            said = file.read()
        _, status = os.waitpid(child, 0)
        shutil.rmtree(str(child), ignore_errors=True)
        self._wire = ""
        if said and not status:
            row = json.loads(said)
            self.tally.take(row)
            self._wire = row["wire"]
        else:
            kept, self.path = self.path, path
            self._fail(f"the process ended with {status} and said nothing")
            self.path = kept

    def _report(self):
        """The end of a child."""
        try:
            with open(self.out, "wb") as file:
                file.write(json.dumps(self.tally.row()).encode())
        finally:
            os._exit(0)


class Again:
    """Goes to one point, and to the one after it, and nowhere else."""

    def __init__(self, path, bytes_of):
        self.left, self.bytes_of = list(path), bytes_of

    def __call__(self, stage, where, size):
        if not self.left or stage.operations != self.left[0][0]:
            return
        number, name = self.left.pop(0)
        found = images(stage.disk, where, self.bytes_of)
        if name not in found:
            raise LookupError(f"{where} leaves no {name!r}, but {', '.join(map(repr, found))}")
        stage.say(f"operation {number}, {where}: the machine stops; it finds: {name}")
        stage.crash(name, found[name])


def again(spec, traces=True):
    """Play what one line names, `SCENE:OPERATION=IMAGE[:OPERATION=IMAGE]`; the result."""
    name, *path = spec.split(":")
    path = [(int(number), image) for number, image in (each.split("=") for each in path)]
    with scratch():
        return Stage(SCENES[name], Again(path, Plan().bytes_of), traces).run()


class scratch:  # noqa: N801  used as a word
    """A folder in memory to be in, removed afterwards."""

    def __enter__(self):
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.home, self.pid = os.getcwd(), os.getpid()
        self.folder = tempfile.mkdtemp(prefix="perps-crash-", dir=base)
        os.chdir(self.folder)
        return self.folder

    def __exit__(self, *about):
        if os.getpid() == self.pid:
            os.chdir(self.home)
            shutil.rmtree(self.folder, ignore_errors=True)
