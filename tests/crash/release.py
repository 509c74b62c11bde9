"""Release: the parts of the full run that this rig is; see `sim.release` for what a part is."""

import time

from .command import all_errors, all_points
from .errors import SCENES_WITH_ERRORS
from .scenes import SCENES


def points(deadline, first_seed):
    """Every crash point of every scene; the second crashes are drawn by the first seed."""
    from sim.release import Reached

    tally = all_points(SCENES, deadline, 1.0, first_seed)
    return Reached(tally.points, lines(tally), time.monotonic() < deadline)


def io_errors(deadline, first_seed):
    """Every disk call of the scenes, failing in every way."""
    from sim.release import Reached

    tally = all_errors(SCENES_WITH_ERRORS, deadline)
    return Reached(tally.points, lines(tally), time.monotonic() < deadline)


def lines(tally):
    return [f"{spec}: {broken} (bin/perps-sim crash --at '{spec}')"
            for spec, broken in tally.failures]
