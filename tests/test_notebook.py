"""docs/notebooks/perps_bot.ipynb: it runs from top to bottom, and every cell says what it does."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs/notebooks/perps_bot.ipynb"
BOOK = json.loads(NOTEBOOK.read_text("utf-8"))
CELLS = BOOK["cells"]
# Runs the cells of a notebook in order, each in the names of those before it, as Jupyter does.
RUNNER = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        print(f"[{cell['id']}]", flush=True)
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each cell printed, by its id, run in a place like the notebook's in a checkout."""
    place = tmp_path_factory.mktemp("checkout")
    (place / "perps_bot").symlink_to(ROOT / "perps_bot")
    (place / "docs/notebooks").mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [sys.executable, "-P", "-c", RUNNER, str(NOTEBOOK)], cwd=place / "docs/notebooks",
        env={**kept, "COINBASE_SANDBOX": "1", "TMPDIR": str(place)}, text=True,
        capture_output=True, timeout=120, check=False)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout + run.stderr
    assert sorted(path.name for path in place.rglob("*") if not path.is_symlink()) == [
        "docs", "notebooks"]  # its folder is gone, and it wrote nowhere else
    parts = re.split(r"^\[([\w-]+)\]\n", run.stdout, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def test_all_cells_run_in_order_in_a_fresh_process(told):
    assert list(told) == [cell["id"] for cell in CELLS if cell["cell_type"] == "code"]


@pytest.mark.parametrize("cell, shows", [
    ("replay", r"trades +[1-9]\d*  closed round trips"),
    ("compare", r"long average of 40 bars: \d+ round trips, -?\d"),
    ("trades", r"(?m)^01 May \d\d:\d\d buy 0\.\d+ at 8\d{4}: upward cross 0 bars ago$"),
    ("report", r"(?s)return .*P&L by symbol.*P&L by day"),
    ("curve", r"^\d+ points; the lowest is \d+\.?\d* USD at"),
    ("why", r"reason +upward cross"),
    ("again", r"(?s)every decision was reproduced.*every decision was reproduced"),
    ("run-dev", r"state=TRADING"),
    ("live-events", r"1 \d\d:\d\d:\d\d day\.opened"),
    ("health", r"^True \{'BTC-PERP': '\w+'\} "),
    ("orders", r"^filled 0\.1\d* \d"),
    ("positions", r"Unrealized P&L: 100\.0"),
    ("risk", r"Trading is HALTED because of kill_switch \(Manual intervention required\)"),
    ("strategy", r"buy: upward cross 0 bars ago"),
])
def test_a_cell_shows_what_its_text_promises(cell, shows, told):
    assert re.search(shows, told[cell]), told[cell]


def test_it_is_a_notebook_of_format_4_without_outputs():
    assert (BOOK["nbformat"], BOOK["nbformat_minor"]) == (4, 5)
    assert BOOK["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in CELLS]
    assert len(set(ids)) == len(ids)
    for cell in CELLS:
        fields = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            fields |= {"outputs", "execution_count"}
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert set(cell) == fields and cell["metadata"] == {}
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_every_cell_of_code_has_a_sentence_before_it():
    assert CELLS[0]["cell_type"] == "markdown"
    for before, cell in zip(CELLS, CELLS[1:]):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown"
            assert re.search(r"\w.*[.;:]$", "".join(before["source"]), re.S), cell["id"]


@pytest.mark.parametrize("cell", [c for c in CELLS if c["cell_type"] == "code"],
                         ids=lambda cell: cell["id"])
def test_a_cell_is_plain_python(cell):
    text = "".join(cell["source"])
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= 100
