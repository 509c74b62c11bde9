"""Same: is one seed one trace, wherever it runs?"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ENVIRONMENTS = (
    # what is set, and the name of the folder that it runs and writes in
    ({"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C"}, "a"),
    ({"PYTHONHASHSEED": "1", "TZ": "Pacific/Chatham", "LC_ALL": "C.UTF-8"}, "b c"),
    ({"PYTHONHASHSEED": "4711", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8"}, "ordner-ä"),
    ({"PYTHONHASHSEED": "99", "TZ": "Asia/Kathmandu", "LANG": "de_DE.UTF-8"}, "d/e/f"),
)
SECONDS_MAX = 600
SAYS_DIGESTS = """
import locale, sys
try:
    locale.setlocale(locale.LC_ALL, "")
except locale.Error:
    pass  # not on this machine
from sim.run import run_seed
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    print(run_seed(seed, base=sys.argv[3]).digest)
"""


def differing(seeds):
    """Return a line for each of the consecutive seeds whose trace depends on the environment."""
    with tempfile.TemporaryDirectory(prefix="perps-sim-same-") as top:
        asked = [_begun(seeds, environment, Path(top, name)) for environment, name in ENVIRONMENTS]
        told = [_told(child) for child in asked]
    lines = [f"environment {number} ended early: {len(digests)} of {len(seeds)} traces"
             for number, digests in enumerate(told) if len(digests) != len(seeds)]
    return lines + [f"seed {seed}: {len(set(digests))} traces in {len(told)} environments"
                    for seed, digests in zip(seeds, zip(*told)) if len(set(digests)) > 1]


def _begun(seeds, environment, folder):
    folder.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items()
            if name not in ("LC_ALL", "LANG", "TZ", "PYTHONHASHSEED")}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SAYS_DIGESTS, str(seeds[0]), str(seeds[-1] + 1), str(folder)],
        text=True, cwd=folder, stdout=subprocess.PIPE,
        env={**kept, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})


def _told(child):
    try:
        return child.communicate(timeout=SECONDS_MAX)[0].split()
    except subprocess.TimeoutExpired:
        child.kill()
        return child.communicate()[0].split()
