"""Rig: plants one bug in a copy of the package and lets a rig look for it."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .hunt import SECONDS_MAX
from .plants import PLANTS

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "perps_bot"
GRACE_SECONDS = 60


def text_of(plant):
    """The room with the bug in it.  Raises ValueError where the line is not there once."""
    source = (PACKAGE / f"{plant.room}.py").read_text("utf-8")
    if source.count(plant.old) != 1:
        raise ValueError(f"{plant.name}: its line stands {source.count(plant.old)} times in "
                         f"{plant.room}")
    return source.replace(plant.old, plant.new)


@contextmanager
def planted(plant):
    """A folder with a copy of the package that has the bug."""
    folder = Path(tempfile.mkdtemp(prefix="perps-teeth-"))
    try:
        shutil.copytree(PACKAGE, folder / "perps_bot", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "perps_bot" / f"{plant.room}.py").write_text(text_of(plant), "utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def found(plant, seconds=SECONDS_MAX):
    """What its rig says of the plant, in a line; "" where it does not find it.

    Raises RuntimeError where the rig itself broke.
    """
    with planted(plant) as folder:
        asked = subprocess.run(
            [sys.executable, "-P", "-m", "teeth.hunt", plant.rig, plant.with_,
             str(seconds), str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)]),
                 "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            timeout=seconds + GRACE_SECONDS)
    if asked.returncode:  # the rig broke, and has found nothing
        raise RuntimeError(f"{plant.name}: the hunt ended with {asked.returncode}: "
                           f"{asked.stderr.strip()[-500:]}")
    return asked.stdout.strip()
