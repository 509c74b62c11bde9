"""Scenes: which twelve stretches of a bot's life are looked at?

A scene is settings, a path of the price and what happens when.  `window` is when crashes are
tried: the seconds of the stretch that the scene is named for.  `shows` must have happened in the
undisturbed run, else the scene is not what it says.
"""

from decimal import Decimal

from perps_bot.model import OrderType, TimeInForce
from sim.world import BTC, IDS

FLAT = ()


class Scene:
    """One of the twelve.

    window   (from, to) seconds in which every operation is a moment to die at
    ends     the second at which the script is over and all must converge
    path     ((until second, price ticks each 2.5 s), ...); afterwards the price stands
    acts     ((second, what, arguments...), ...)
    shows    kinds of events that the undisturbed run has
    resumes  how often the owner lifts a halt
    """

    def __init__(self, window, ends, shows, path=(), acts=(), history=2, seed=2, resumes=0,
                 at_midnight=False, processes_max=4, verify=None, **settings):
        self.name, self.window, self.ends, self.shows = "", window, ends, shows
        self.path, self.acts, self.history, self.seed = path, acts, history, seed
        self.resumes, self.at_midnight, self.processes_max = resumes, at_midnight, processes_max
        self.verify = verify or (lambda stage, judge: None)
        self.settings = settings


def signal(stage, name):
    stage.signal(name)


def jump(stage, share):
    stage.world.jump(BTC, Decimal(share))


def liquidate(stage):
    stage.world.note_outside(IDS[BTC])
    stage.world.exchange.fault("liquidate")


LIMIT = {"order_type": OrderType.LIMIT, "time_in_force": TimeInForce.GTD}
QUICK = {"bar": 5, "short_ma_period": 2, "long_ma_period": 10}

SCENES = {
    "first start": Scene((0, 4), 8, ("bot.started",), enter_on_start=False),
    "entry with a stop": Scene((0, 7), 15, ("order.intended", "trade.executed", "stop.placed")),
    "limit entry resting": Scene((0, 12), 20, ("order.intended", "order.updated"), **LIMIT,
                                 path=((40, 6),)),
}
for _name, _scene in SCENES.items():
    _scene.name = _name
