"""TEETH: the rigs find what is planted; the full run plants all of it, here one for each rig.

`bin/perps-sim --release` hunts every plant.
"""

from dataclasses import replace

import pytest
from teeth.hunt import RIGS
from teeth.plants import PLANTS
from teeth.release import planted
from teeth.rig import found, text_of

PLANTS_MIN = 40
BY_NAME = {plant.name: plant for plant in PLANTS}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_plant_changes_one_place_and_what_comes_of_it_is_a_program(name):
    plant = BY_NAME[name]
    compile(text_of(plant), plant.room, "exec")
    assert plant.old != plant.new


def test_there_are_enough_of_them_and_each_has_a_rig():
    assert len(BY_NAME) == len(PLANTS) >= PLANTS_MIN
    assert {plant.rig for plant in PLANTS} == RIGS.keys()


@pytest.mark.parametrize("name", [
    "a SIGINT records no halt",
    "a limit may lie far beyond the mark",
    "an answer that says yes and no is a yes",
    "a new file's name is not synced",
])
def test_a_rig_finds_its_plant(name):
    assert found(BY_NAME[name])


@pytest.mark.parametrize("rig, with_", [("sim", "SIGINT"), ("intents", ""), ("fuzz", "create")])
def test_where_nothing_is_planted_nothing_is_found(rig, with_):
    sound = replace(PLANTS[0], new=PLANTS[0].old, rig=rig, with_=with_)
    assert found(sound, 3) == ""


def test_a_rig_that_breaks_has_found_nothing():
    with pytest.raises(RuntimeError, match="KeyError: 'no such scene'"):
        found(replace(PLANTS[0], rig="crash", with_="no such scene"), 3)


def test_a_plant_whose_line_is_gone_is_said():
    with pytest.raises(ValueError, match="stands 0 times in execution"):
        text_of(replace(PLANTS[0], old="no such line"))


def test_the_full_run_counts_what_was_found_and_stops_at_its_deadline(monkeypatch):
    monkeypatch.setattr("teeth.release.found", lambda plant, seconds: (
        "" if plant is PLANTS[1] else "seed 1: I-1"))
    reached = planted(deadline=float("inf"), first_seed=0)
    assert reached.is_all and reached.count == len(PLANTS) - 1
    assert reached.violations == [
        f"not found: {PLANTS[1].name} ({PLANTS[1].rig} {PLANTS[1].with_})"]
    assert not planted(deadline=0, first_seed=0).is_all
