"""Backup: can everything be had back?

A backup is a folder of its own: a copy of every whole line that a profile's events had at one
moment, and a manifest.  It is believed only after it was read back from the disk and compared,
and so is what is restored.  State files are caches and stay behind.

Nothing here changes a byte of what is copied, writes into a folder that holds anything, or deletes
what it did not make.  What was restored is older than the world: it starts HALTED.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perps_bot import __version__, store
from perps_bot.errors import ConfigError, InUse, StoreDamaged
from perps_bot.model import TradingState
from perps_bot.risk import LiveRiskManager
from perps_bot.store import (
    DAY_FILES, EventStore, InstanceLock, distrust, prepare_folder, refuse_denied, verified_days,
    write_state,
)

FORMAT = 1
CHAINS = ("events", "paper-events")  # of a profile's folder; each is a chain of its own
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 24  # some 100,000 days
FOREVER_DAYS = 36_500
NAME = "perps-bot-{}-{:%Y%m%dT%H%M%SZ}"
PARTIAL = ".{}.partial"  # while it is being made, or taken away


@dataclass(frozen=True)
class Backup:
    """One backup, as it was verified.

    path      its folder; after a restore, the profile's
    made_at   when, by this machine's clock
    files     by name, as `events/2026-11-23.jsonl`: bytes, events, last_seq and sha256
    removed   older backups that were pruned
    notes     what the owner should know besides
    """

    path: Path
    profile: str
    made_at: datetime
    files: Mapping[str, Mapping]
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, object]:
        """Its figures, over all days."""
        return {
            "path": str(self.path), "profile": self.profile, "made_at": self.made_at,
            "days": len(self.files), "events": sum(f["events"] for f in self.files.values()),
            "bytes": sum(f["bytes"] for f in self.files.values()),
            # In the order of the days, so that the last one wins.
            "last_seq": {n.partition("/")[0]: f["last_seq"] for n, f in self.files.items()},
            "removed": list(self.removed), "notes": list(self.notes),
        }


def backup(data: Path, target: Path, profile: str, now: datetime,
           keep_days: int | None = None) -> Backup:
    """Copy the events in `data` into a new folder in `target`, verify, then prune by age.

    The bot may be running.  Raises ConfigError in one line; then nothing new is there.
    """
    data, made = Path(data), Path(target) / NAME.format(profile, now)
    with _in_one_line(target, "make room there, or name another folder"):
        _refuse_target(made.parent, data)
        with _alone_in(made.parent / f".perps-bot-{profile}.lock"):
            notes = [*_remove_unfinished(made.parent, profile)]
            if os.path.lexists(made):
                raise ConfigError(f"{made}: is there already; is the clock right?  Try again")
            building = made.with_name(PARTIAL.format(made.name))
            building.mkdir(0o700)
            with _or_else(_remove, building):
                files = _copied(data, building, profile, _backups(made.parent, profile)[-1:])
                done = Backup(building, profile, now, files)
                write_state(building / MANIFEST, {
                    "format": FORMAT, "version": __version__, "profile": profile, "made_at": now,
                    "files": files})
                if _manifest(building) != done:
                    raise ConfigError(f"{building / MANIFEST}: does not read back: use another "
                                      f"disk")
                _put_in_place(building, made)
            removed = [*_prune(made, profile, now - timedelta(days=keep_days or FOREVER_DAYS))]
    if os.stat(made).st_dev == os.stat(data).st_dev:
        notes.append(f"{target} is on the same disk as the data: what takes one takes both")
    return replace(done, path=made, removed=(*(path for path, why in removed if not why),),
                   notes=(*notes, *(f"{path}: {why}" for path, why in removed if why)))


def restore(source: Path, data: Path, profile: str, now: datetime) -> Backup:
    """Make the profile's folder `data`, which is empty or missing, what the backup `source` holds.

    All or nothing: it is built beside, verified, halted, and then renamed into place.
    """
    source = Path(source)
    with _in_one_line(source, "name a folder that `perps-bot backup` made"):
        found = _verified_backup(source, profile)
    with _in_one_line(data, "make room there, or set EVENT_STORE_ROOT"):
        _refuse_what_is_there(data)
        building = prepare_folder(data.with_name(f".restoring-{data.name}"))
        # The lock goes along: nobody starts before we end.
        with _alone_in(building / "lock"), _or_else(_remove_days, building):
            _remove_days(building)
            for name in found.files:
                _copy_lines(source / name, prepare_folder((building / name).parent)
                           / Path(name).name)
            _refuse_difference(building, _read_back(building, profile), found.files)
            for chain in found.row()["last_seq"]:
                _halt(building / chain, found, now)
            _refuse_what_is_there(data)
            _put_in_place(building, data)
    return replace(found, path=data, notes=(
        f"HALTED: start it, compare with the venue what it holds, then: perps-bot resume "
        f"--profile {profile} --reason '...'",))


def summary(found: Backup, did: str) -> str:
    """What was done, in one line, then what else is to be known."""
    row = found.row()
    seqs = ", ".join(f"{chain} {seq}" for chain, seq in row["last_seq"].items())
    days = "1 day" if row["days"] == 1 else f"{row['days']} days"
    lines = [f"{did} {row['path']}: {days}, {row['events']} events, {row['bytes']} bytes of "
             f"profile {found.profile}; last seq: {seqs}; read back and compared"]
    return "\n".join([*lines, *(f"removed {path}" for path in found.removed), *found.notes])


# Copying and verifying


def _copied(data: Path, building: Path, profile: str, earlier: list[Backup]) -> dict[str, dict]:
    """Copy every chain, oldest day first, and return what was read back of it."""
    digests = {}
    for chain in CHAINS:
        refuse_denied(data / chain)
        for source in sorted((data / chain).glob(DAY_FILES)):
            copy, name = prepare_folder(building / chain) / source.name, f"{chain}/{source.name}"
            digests[name] = _linked(source, copy, name, earlier) or _copy_lines(source, copy)
    if not digests:
        raise ConfigError(f"{data}: there are no events to back up: name the profile that ran, "
                          f"and set EVENT_STORE_ROOT to where it keeps them")
    for name, digest in digests.items():
        if _digest_of(building / name) != digest:
            raise ConfigError(f"{building / name}: does not read back as it was written: use "
                              f"another disk")
    try:
        return _read_back(building, profile)
    except StoreDamaged as damage:  # the copy is what was read, so it is there, too
        said = str(damage).replace(str(building), str(data))
        raise ConfigError(f"{said}: see 'Damaged events' in docs/RUNBOOK_PERPS.md") from None


def _linked(source: Path, copy: Path, name: str, earlier: list[Backup]) -> str | None:
    """Let a day that is over share its bytes with the earlier backup; return its sha256.

    So a backup a day costs the disk one day each, not the whole history.
    """
    for each in earlier:
        row = each.files.get(name)
        with suppress(OSError):  # not all disks have links, and the earlier file may be damaged
            if row and source.stat().st_size == row["bytes"] and (
                    _digest_of(source) == row["sha256"] == _digest_of(each.path / name)):
                os.link(each.path / name, copy, follow_symlinks=False)
                return row["sha256"]
    return None


def _read_back(folder: Path, profile: str) -> dict[str, dict]:
    """Verify every chain in `folder` and return what each file holds."""
    files = {}
    for chain in CHAINS:
        for day in verified_days(folder / chain, profile):
            if day.torn:
                raise ConfigError(f"{day.path} line {day.events + 1}: has no end: the file is not "
                                  f"whole, use another backup")
            seq, _ = day.last or (0, 0)  # a day of which nothing was left holds none
            files[f"{chain}/{day.path.name}"] = {
                "bytes": day.offset, "events": day.events, "last_seq": seq,
                "sha256": _digest_of(day.path)}
    return files


def _manifest(folder: Path) -> Backup | None:
    """What a folder says that it holds; None where it says nothing that we would have said."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MANIFEST_BYTES_MAX:
            return None
        row = json.loads(path.read_bytes())
        if row["format"] != FORMAT:
            raise ConfigError(f"{path}: format {ascii(row['format'])[:20]} is of another version: "
                              f"use the version that made it")
        found = Backup(folder, row["profile"], datetime.fromisoformat(row["made_at"]),
                       {str(name): dict(file) for name, file in row["files"].items()})
        found.row()
        return found if found.made_at.tzinfo and found.files else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _verified_backup(folder: Path, profile: str) -> Backup:
    """Read a backup whole and return what it is.  Raises ConfigError or OSError."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder: name one that `perps-bot backup` made")
    for path in (folder, *folder.glob("*"), *folder.glob("*/*")):
        if why := distrust(path):
            raise ConfigError(f"{path}: {why}")
    found = _manifest(folder)
    if found is None:
        inside = [str(each.path) for each in _backups(folder, profile)]
        way_out = f"one in it, such as {inside[-1]}" if inside else "one that `backup` made"
        raise ConfigError(f"{folder}: is no backup, it has no {MANIFEST} of ours: name {way_out}")
    if found.profile != profile:
        raise ConfigError(f"{folder}: is of profile {ascii(found.profile)[:20]}, not of {profile}: "
                          f"say which with --profile")
    _refuse_difference(folder, _read_back(folder, profile), found.files)
    return found


def _refuse_difference(folder: Path, found: Mapping, said: Mapping) -> None:
    for name in [*said, *found]:
        if found.get(name) != said.get(name):
            raise ConfigError(f"{folder / name}: is not what {MANIFEST} says of it: the backup is "
                              f"not whole, use another one")


def _halt(folder: Path, found: Backup, now: datetime) -> None:
    """Let nothing but protection go on: what happened since is not in these events."""
    events = EventStore(folder, profile=found.profile)
    risk = LiveRiskManager(event_store=events)
    events.recover()
    events.now = now
    made_at = f"{found.made_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    risk.hold("restored", TradingState.HALTED, f"restored from a backup of {made_at}: compare "
              f"positions and the day's loss with the venue, then resume")
    events.close()
    if not events.writable:
        raise ConfigError(events.trouble)


# The disk: through the store's own calls, which the fault rigs replace


def _copy_lines(source: Path, target: Path) -> str:
    """Copy the whole lines that a file has now to a new one, synced; return their sha256.

    A writer may be at work: what has no end yet is left out.  Raises OSError.
    """
    digest, opener = hashlib.sha256(), store._open
    with open(source, "rb", opener=opener) as file, open(target, "xb", 0, opener=opener) as copy:
        left = store._stat(file.fileno()).st_size
        while left > 0 and (part := b"".join(file.readlines(min(left, store.COPY_BYTES)))):
            left -= len(part)
            part = part[:part.rfind(b"\n") + 1]
            store._write_all(copy.fileno(), part)
            digest.update(part)
        store._fsync(copy.fileno())
        # So that who reads it back reads the disk, where the system lets go of its memory.
        os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest()


def _digest_of(path: Path) -> str:
    with open(path, "rb", opener=store._open) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(made: Path, place: Path) -> None:
    """Give a folder that is complete its name, durably; nothing may be there.  Raises OSError."""
    for each in (*made.iterdir(), made):
        store._fsync_folder(each)
    store._replace(made, place)
    store._fsync_folder(place.parent)


# Where to, and what is there


def _refuse_target(target: Path, data: Path) -> None:
    if not target.is_dir():
        raise ConfigError(f"{target}: is no folder: is its disk mounted?  Make it: "
                          f"mkdir -m 700 {target}")
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(data.parent)):
        raise ConfigError(f"{target}: is inside the data folder, and would be lost with it: name "
                          f"another, best on another disk")


def _refuse_what_is_there(data: Path) -> None:
    """A restore goes where nothing is: not over a running bot, and over nobody's history."""
    if not os.path.lexists(data):
        return
    if why := distrust(data):
        raise ConfigError(f"{data}: {why}")
    holder = InstanceLock(data / "lock").holder()
    if holder is not None:
        raise InUse(f"{data} is in use by pid {holder}; stop it first: kill -TERM {holder}")
    if any(data.iterdir()):
        raise ConfigError(f"{data}: is not empty, and nothing is restored over it: move it away: "
                          f"mv {data} {data}.before")


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    lock = InstanceLock(path)
    holder = lock.acquire()
    if holder is not None:
        raise InUse(f"{path.parent}: pid {holder} is at this already; let it end")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _or_else(clean: Callable[[Path], None], folder: Path) -> Iterator[None]:
    """Leave no half of anything behind: on a full disk its room is needed."""
    try:
        yield
    except (ConfigError, StoreDamaged, OSError):
        with suppress(OSError):
            clean(folder)
        raise


@contextmanager
def _in_one_line(where: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except StoreDamaged as damage:
        raise ConfigError(f"{damage}: use another backup") from None
    except OSError as error:
        place = f"{where}: {error.filename}" if error.filename else where
        raise ConfigError(f"{place}: {error.strerror or error}: {way_out}") from error


def _backups(target: Path, profile: str) -> list[Backup]:
    """The complete backups of ours in a folder, oldest first."""
    found = []
    for path in target.glob(NAME.partition("{}")[0] + f"{profile}-*"):
        with suppress(ConfigError, OSError):  # of another version, or another user's
            if not distrust(path) and (each := _manifest(path)) and each.profile == profile:
                found.append(each)
    return sorted(found, key=lambda each: each.made_at)


def _prune(made: Path, profile: str, since: datetime) -> Iterator[tuple[str, str]]:
    """Remove the backups from before `since`; yield each, and why where it was not removed."""
    found, now = _backups(made.parent, profile), _manifest(made).made_at
    if found[-1].made_at > now:
        yield str(found[-1].path), "is of a later time: is the clock right?  Nothing was removed"
        return
    for each in (each for each in found if each.made_at < since):
        inside = {str(path.relative_to(each.path)) for path in each.path.rglob("*")
                  if not path.is_dir()}
        if inside - {*each.files, MANIFEST}:
            yield str(each.path), "holds what no backup made: it was left as it is"
            continue
        why, gone = "", each.path.with_name(PARTIAL.format(each.path.name))
        try:
            each.path.rename(gone)  # first, so that half of it is never taken for a backup
            _remove(gone)
        except OSError as error:
            why = f"is old, and could not be removed: {error.strerror}"
        yield str(each.path), why


def _remove_unfinished(target: Path, profile: str) -> Iterator[str]:
    """Take away what a killed backup, or a killed removal, left half done."""
    for path in target.glob(PARTIAL.format(f"perps-bot-{profile}-*")):
        try:
            if not (why := distrust(path)):  # a link leads to what we did not make
                _remove(path)
        except OSError as error:
            why = error.strerror
        if why:
            yield f"{path}: is left of a backup that was killed: {why}"


def _remove(folder: Path) -> None:
    _remove_days(folder)
    for path in (folder / MANIFEST, folder / f".{MANIFEST}.tmp"):
        path.unlink(missing_ok=True)
    folder.rmdir()  # refuses what is not ours


def _remove_days(folder: Path) -> None:
    chains = [folder / chain for chain in CHAINS]
    for chain in (path for path in chains if path.is_dir() and not path.is_symlink()):
        for path in chain.glob(DAY_FILES):
            path.unlink()
        chain.rmdir()
