"""Drill: do the emergencies end as they should, here and with these settings?

Plays every scene in a process and a folder of its own, where it can hang, die or fill a disk and
hold up no other; tells each as a line, and all of them as a dated page.  The profile's data is
never touched, no key is read and nothing leaves this machine.  What is played stands in `scenes`.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from perps_bot import __version__
from perps_bot.clock import SystemClock, uninterrupted
from perps_bot.errors import ConfigError, PerpsBotError
from perps_bot.ops import settings_hash
from perps_bot.process import one_line
from perps_bot.scenes import ON_STAGE, SCENES, Scene, Unseen, processes
from perps_bot.settings import Settings
from perps_bot.store import prepare_folder, write_new
from perps_bot.terminal import Terminal

NAME_WIDTH = max(len(scene.name) for scene in SCENES)


@dataclass(frozen=True)
class Line:
    """How one scene ended; `seen` is what was seen, or why it failed."""

    name: str
    passed: bool
    seen: str
    seconds: Decimal


@dataclass(frozen=True)
class Drill:
    """A whole drill; `page` was written, `left` is what the scenes that failed left, if any."""

    settings: Settings
    at: datetime
    lines: tuple[Line, ...]
    page: Path
    left: Path | None

    @property
    def passed(self) -> bool:
        return all(line.passed for line in self.lines)

    def verdict(self) -> str:
        return f"{sum(line.passed for line in self.lines)} of {len(self.lines)} passed"

    def values(self) -> dict[str, object]:
        return {"at": self.at, "version": __version__, "profile": self.settings.profile,
                "settings_hash": settings_hash(self.settings), "symbol": self.settings.symbols[0],
                "ok": self.passed, "verdict": self.verdict(),
                "lines": [vars(line) for line in self.lines], "page": str(self.page),
                "left": self.left and str(self.left)}


def hold(settings: Settings, out: str | None, tell: Callable[[Line], object]) -> Drill:
    """Play every scene, tell each line as it comes, and write the page."""
    now = SystemClock().now()
    folder, path = places(settings, out, now)
    lines = []
    for line in rehearse(settings, folder):
        lines.append(line)
        tell(line)
    left = folder if any(folder.iterdir()) else folder.rmdir()
    drill = Drill(settings, now, tuple(lines), path, left)
    try:
        write_new(path, page(drill))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name another place with --out") from error
    return drill


def shown(line: Line, terminal: Terminal) -> str:
    """One line for people, over as many as the terminal needs."""
    label = f"{_word(line)}  {line.name:<{NAME_WIDTH}}"
    text = f"{line.seen} ({line.seconds} s)"
    return "\n".join(terminal.rows([(label, text, "plain" if line.passed else "bad")]))


def rehearse(settings: Settings, folder: Path) -> Iterator[Line]:
    """Play every scene in a folder below `folder`; that of a scene that failed stays."""
    clock = SystemClock()
    for scene in SCENES:
        place = prepare_folder(folder / scene.name.replace(" ", "-").replace(",", ""))
        clock.now()
        passed, seen = _watched(scene, settings, place)
        yield Line(scene.name, passed, seen, clock.elapsed().quantize(Decimal("0.01")))
        if passed:
            shutil.rmtree(place)


def places(settings: Settings, out: str | None, now: datetime) -> tuple[Path, Path]:
    """Return the folder to play in, which is new, and the page to write, which is not there."""
    name = f"drill-{settings.profile}-{now:%Y-%m-%dT%H%M%SZ}"
    target = Path(out or tempfile.mkdtemp(prefix="perps-bot-drill-")).resolve()
    if target.is_relative_to((settings.event_store_root / "perps_bot").resolve()):
        raise ConfigError(f"--out {out}: lies in the bot's own data: name a folder beside it")
    path, is_file = target / f"{name}.md", target.suffix == ".md"
    if is_file:
        path, target = target, Path(tempfile.mkdtemp(prefix="perps-bot-drill-"))
    if os.path.lexists(path) or is_file and not path.parent.is_dir():
        raise ConfigError(f"{path}: is there already, or its folder is not: name a new file")
    return prepare_folder(target / name), path


def page(drill: Drill) -> str:
    """The dated page for the safety checklist, in Markdown."""
    settings = drill.settings
    rows = "\n".join(f"| {line.name} | {_word(line)} | {line.seen.replace('|', '/')} | "
                     f"{line.seconds} |" for line in drill.lines)
    changed = ", ".join(f"`{name}`" for name, value in ON_STAGE.items()
                        if getattr(settings, name) != value)
    return (
        f"# Drill of perps-bot\n\n"
        f"| | |\n|---|---|\n| date | {drill.at:%Y-%m-%d %H:%M:%S} UTC |\n"
        f"| version | {__version__} |\n| profile | {settings.profile} |\n"
        f"| settings | {settings_hash(settings)} |\n| symbol | {settings.symbols[0]} |\n\n"
        f"On paper, without a key and without a network, on a market of the drill's own.  "
        f"`settings` is the `settings_hash`\nin the `health.json` of a bot that runs with the "
        f"same; set otherwise for the drill alone: {changed or 'none'}.\n\n"
        f"| emergency | result | what was seen | seconds |\n|---|---|---|---|\n{rows}\n\n"
        f"{drill.verdict()}\n")


def _word(line: Line) -> str:
    return "pass" if line.passed else "FAIL"


def _watched(scene: Scene, settings: Settings, place: Path) -> tuple[bool, str]:
    """Play a scene where it can hang, die or fill a disk and hold up no other."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_play, args=(scene, settings, place, theirs))
    try:
        with uninterrupted():  # or one that was just begun would be nobody's to end
            process.start()
        theirs.close()
        if not ours.poll(scene.seconds_max):
            return False, f"not over after {scene.seconds_max} s"
        return ours.recv()
    except EOFError:
        return False, "the scene broke off: a bug, told above"
    finally:
        if process.pid:
            process.kill()
            process.join()


def _play(scene: Scene, settings: Settings, place: Path, answer) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the drill, which then ends this
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        said = True, scene.play(settings, place)
    except (Unseen, PerpsBotError, OSError) as failure:
        said = False, one_line(f"{type(failure).__name__}: {failure}".removeprefix("Unseen: "))
    answer.send(said)
