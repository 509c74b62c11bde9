"""Disk: what may a power cut leave of the files?

The files are real, in memory.  Beside them it is kept what the bot has made sure of: of each
file the bytes at its last fsync, of each folder the names at its last fsync.  Everything else
may be there after a cut, or not, or in part, each file for itself.  Nothing here judges.
"""

import fcntl
import os
from errno import EDQUOT, EFBIG, EIO, ENOSPC, EROFS

from sim.seams import Disk

ROOT = "bot"
EVENTS = f"{ROOT}/profile/events"
# How an error is given: what the call raises, and which calls it hits.
WRITING = ("write",)
MAKING = ("write", "open", "rename")
ALL = ("write", "open", "rename", "fsync", "truncate")
ERRORS = {
    # name          errno    hits
    "EIO":          (EIO,    ALL),
    "EIO of fsync": (EIO,    ("fsync",)),
    "ENOSPC":       (ENOSPC, MAKING),
    "EDQUOT":       (EDQUOT, MAKING),
    "EFBIG":        (EFBIG,  WRITING),
    "EROFS":        (EROFS,  ALL),
    "short write":  (ENOSPC, WRITING),
}
TIME = b'"ts":"'  # what an event's time follows
SHORT_SHARE = 3  # a short write takes one part in so many


class Error:
    """What the disk refuses.  is_lasting: for good, or this once."""

    def __init__(self, name, is_lasting):
        self.name, self.is_lasting = name, is_lasting
        self.errno, self.calls = ERRORS[name]
        self.is_short = name == "short write"


class CrashDisk(Disk):
    """The disk of the bot's folder; `step` is told of each call before and after it."""

    def __init__(self, step, note):
        super().__init__(step, note)
        self.error, self.inflight, self.failed_sync, self.lines = None, None, False, 0
        self._synced, self._names = {}, {}  # by inode: bytes; by folder: name -> inode or None
        self.next_image, self.moves_to = None, None
        self.is_kill = False
        self.struck_since, self.now_is = float("inf"), lambda: 0.0
        os.makedirs(ROOT, exist_ok=True)
        self._look(ROOT)

    # What the store calls

    def open(self, path, flags):
        self._alive()
        path = os.path.normpath(path)
        changes = flags & (os.O_CREAT | os.O_TRUNC)
        is_new = not os.path.lexists(path)
        if changes:
            self.step(f"disk open {path}")
            self._fail("open")
        fd = self._open(path, flags)
        self._paths[fd] = path
        inode = os.fstat(fd).st_ino
        if is_new:
            self._synced[inode] = b""
        if changes:
            self.step(f"disk opened {path}")
        return fd

    def write(self, fd, data):
        self._alive()
        path, self.inflight = self._paths.get(fd, ""), None
        self.lines += 1
        self.step(f"disk write {path}")
        if self.error and "write" in self.error.calls:
            if self.error.is_short and len(data) > SHORT_SHARE:
                self._strike()
                self._mend()
                return os.write(fd, data[:len(data) // SHORT_SHARE])
            self._fail("write")
        self.inflight = path, bytes(data)
        self.step(f"disk inside {path}", len(data))
        self.inflight = None
        written = os.write(fd, data)
        if path.endswith(".jsonl"):
            self._durable.setdefault(path, 0)
            self.note(b"line", data)
        self.step(f"disk written {path}")
        return written

    def fsync(self, fd):
        self._alive()
        path = self._paths.get(fd, "")
        self.step(f"disk fsync {path}")
        if self.error and "fsync" in self.error.calls:
            self.failed_sync |= path.endswith(".jsonl") or path == EVENTS
        self._fail("fsync")
        if os.path.isdir(path):
            self._look(path)
        elif path:
            if os.path.dirname(path) == EVENTS:
                self._durable[path] = os.fstat(fd).st_size
            with open(path, "rb") as file:
                self._synced[os.fstat(fd).st_ino] = file.read()
        self.step(f"disk synced {path}")

    def truncate(self, fd, size):
        self._alive()
        path = self._paths.get(fd, "")
        self.step(f"disk truncate {path}")
        self._fail("truncate")
        os.ftruncate(fd, size)
        self.cuts += 1
        self.step(f"disk truncated {path}")

    def replace(self, source, target):
        self._alive()
        self.step(f"disk rename {target}")
        self._fail("rename")
        os.replace(source, target)
        self.note(os.path.basename(target).encode(), target)
        self.step(f"disk renamed {target}")

    def _fail(self, call):
        if self.error and call in self.error.calls:
            error, _ = self.error, self._mend()
            self._strike()
            raise OSError(error.errno, os.strerror(error.errno))

    def _strike(self):
        self.struck += 1
        self.struck_since = min(self.struck_since, self.now_is())

    def _mend(self):
        if not self.error.is_lasting:
            self.error = None

    def _look(self, folder):
        """The names in this folder are on the disk now."""
        self._names[folder] = {
            entry.name: None if entry.is_dir() else entry.inode() for entry in os.scandir(folder)}
        for entry in os.scandir(folder):
            if entry.is_dir():
                self._names.setdefault(entry.path, {})

    # Images: path -> bytes; None for a folder

    def now(self):
        """All that is there, the bytes that are being written left out."""
        found = {}
        for folder, names, files in os.walk(ROOT):
            found.update({os.path.join(folder, name): None for name in names})
            for name in files:
                with open(os.path.join(folder, name), "rb") as file:
                    found[os.path.join(folder, name)] = file.read()
        return found

    def sure(self, folder=ROOT):
        """All that must be there after a cut, and nothing else."""
        found = {}
        for name, inode in self._names.get(folder, {}).items():
            path = f"{folder}/{name}"
            if inode is None:
                found[path] = None
                found.update(self.sure(path))
            else:
                found[path] = self._synced.get(inode, b"")
        return found

    def become(self, image):
        """The machine is on again, and this is what it finds."""
        self.inflight = None
        os.makedirs(ROOT, exist_ok=True)
        for folder, names, files in os.walk(ROOT, topdown=False):
            for name in files:
                os.remove(os.path.join(folder, name))
            for name in names:
                os.rmdir(os.path.join(folder, name))
        for path in sorted(image):
            _put(path, image[path])
        self._synced, self._names, self.cuts = {}, {}, self.cuts + 1
        for folder, names, files in os.walk(ROOT):
            self._look(folder)
            for name in files:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    self._synced[os.stat(path).st_ino] = file.read()

    def move(self, folder):
        """Go on in a copy of everything, open files included: others go on in this one."""
        image, inodes = self.now(), {}
        old = {path: os.stat(path).st_ino for path, data in image.items() if data is not None}
        os.makedirs(f"{folder}/{ROOT}")
        os.chdir(folder)
        for path in sorted(image):
            _put(path, image[path])
        for path, inode in old.items():
            inodes[inode] = os.stat(path).st_ino
        self._synced = {inodes.get(inode, inode): data for inode, data in self._synced.items()}
        self._names = {folder: {name: inodes.get(inode, inode) for name, inode in names.items()}
                       for folder, names in self._names.items()}
        for fd, path in self._paths.items():
            if path in old and _inode(fd) == old[path]:
                flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~(os.O_CREAT | os.O_TRUNC)
                at, new = os.lseek(fd, 0, os.SEEK_CUR), os.open(path, flags)
                os.dup2(new, fd)
                os.close(new)
                os.lseek(fd, at, os.SEEK_SET)

    def lose_power(self, dice):
        if self.moves_to is not None:  # a folder of its own, for others go on in this one
            self.move(self.moves_to)
            self.moves_to = None
        if self.is_kill:  # the machine goes on, and what was not sure is as unsure as before
            for path, data in self.next_image.items():
                if data is not None:
                    _put(path, data)
            self.inflight = None
        else:
            self.become(self.next_image)

    def revive(self):
        super().revive()
        self.failed_sync = False


def images(disk, where, bytes_of):
    """Every kind of image that a crash here may leave: name -> image.

    bytes_of  how many bytes of a torn record are there: a function of its length
    """
    there, sure = disk.now(), disk.sure()
    if disk.inflight is not None:
        return _within(disk, there, sure, bytes_of)
    found = {"kill": there, "cut": sure}
    ours = {path: data for path, data in there.items() if path.startswith(EVENTS)}
    state = {path: data for path, data in there.items() if not path.startswith(EVENTS)}
    if EVENTS in sure:
        found["events alone"] = {**{p: d for p, d in sure.items() if not p.startswith(EVENTS)},
                                 **ours}
        found["state alone"] = {**{p: d for p, d in sure.items() if p.startswith(EVENTS)}, **state}
    if where.startswith("net"):
        return found
    found["state empty"] = {**there, **{path: b"" for path in state if there[path] is not None}}
    found["state half"] = {**there, **{path: data[:len(data) // 2]
                                       for path, data in state.items() if data is not None}}
    for path in [p for p, data in ours.items() if data is not None]:
        if path not in sure and os.path.dirname(path) in sure:
            found[f"{_name(path)} has no name"] = {p: d for p, d in there.items() if p != path}
            found[f"{_name(path)} is empty"] = {**there, path: b""}
        elif path in sure:
            found.update(_torn(there, path, sure[path], there[path], bytes_of))
    return found


def _within(disk, there, sure, bytes_of):
    """A write is under way: so many bytes of it, with and without what else is not sure."""
    path, data = disk.inflight
    found = {}
    for count in bytes_of(len(data)):
        found[f"kill {count}"] = {**there, path: there[path] + data[:count]}
    if path in sure:
        found.update(_torn(there, path, sure[path], there[path] + data, bytes_of))
    return found


def _torn(there, path, safe, whole, bytes_of):
    """One file that is longer, or shorter, than what is sure of it."""
    found, name = {}, _name(path)
    if whole[:len(safe)] != safe:
        if safe != whole:
            found[f"{name} uncut"] = {**there, path: safe}
        return found
    tail = whole[len(safe):]
    for count in bytes_of(len(tail)) if tail else ():
        found[f"{name} torn {count}"] = {**there, path: safe + tail[:count]}
    if tail:
        found[f"{name} zeros"] = {**there, path: safe + bytes(len(tail))}
        first = tail.find(b"\n") + 1
        if 0 < first < len(tail):
            found[f"{name} hole"] = {**there, path: safe + bytes(first) + tail[first:]}
        if tail.endswith(b"\n") and TIME in tail:  # what was not synced may be anything, JSON too
            found[f"{name} altered"] = {**there, path: safe + _altered(tail)}
    return found


def _altered(tail):
    """One digit of the last line, of the time it was written at, is another."""
    at = tail.rindex(TIME) + len(TIME + b"2026-11-23T12:0")
    return tail[:at] + (b"8" if tail[at:at + 1] != b"8" else b"9") + tail[at + 1:]


def _put(path, data):
    if data is None:
        os.mkdir(path, 0o700)
        return
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _inode(fd):
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return None  # closed long ago


def _name(path):
    return os.path.basename(path)
