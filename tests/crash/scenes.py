"""Scenes: which stretches of a bot's life are looked at?

A scene is settings, a path of the price and what happens when.  `window` is the stretch that it
is named for: there every operation is a moment to die at.  `shows` must have happened in the
undisturbed run, else the scene is not what it says.
"""

from decimal import Decimal

from perps_bot.model import OrderType, TimeInForce
from sim.world import BTC, IDS


class Scene:
    """One stretch.

    window   (from, to) in seconds
    ends     the second at which the script is over and all must converge
    path     ((until second, ticks of the price each 2.5 s), ...); afterwards it stands
    acts     ((second, what, arguments...), ...)
    shows    kinds of events that the undisturbed run has
    resumes  how often the owner lifts a halt
    history  ticks of the price a minute, before
    seed     of the latencies; where it ends in 0 the state files are written at every tick
    """

    def __init__(self, window, ends, shows, path=(), acts=(), history=2, seed=2, resumes=0,
                 at_midnight=False, **settings):
        self.name, self.window, self.ends, self.shows = "", window, ends, shows
        self.path, self.acts, self.history, self.seed = path, acts, history, seed
        self.resumes, self.at_midnight, self.settings = resumes, at_midnight, settings


def signals(stage, name):
    stage.signal(name)


def jumps(stage, share):
    stage.world.jump(BTC, Decimal(share))


def is_liquidated(stage):
    stage.world.note_outside(IDS[BTC])
    stage.world.exchange.fault("liquidate")


def owner_sells(stage, contracts):
    stage.world.trade_by_hand(BTC, "SELL", contracts)


LIMIT = {"order_type": OrderType.LIMIT, "time_in_force": TimeInForce.GTD}
TURNS = {"short_ma_period": 2, "long_ma_period": 10, "enable_shorts": False}

SCENES = {
    "first start": Scene(
        (0, 8), 8, ("bot.started",), enter_on_start=False, seed=20),
    "entry with a stop": Scene(
        (0, 12), 15, ("trade.executed", "stop.placed")),
    "limit entry resting": Scene(
        (0, 12), 20, ("order.intended",), path=((60, 6),), **LIMIT),
    "resting entry filled": Scene(
        (6, 25), 25, ("trade.executed", "stop.placed"), path=((8, 2), (14, -8)), **LIMIT),
    "stop ratcheted": Scene(
        (58, 70), 70, ("stop.moved",), path=((60, 4),)),
    "exit by crossover": Scene(
        (58, 75), 75, ("stop.placed",), acts=((30, jumps, "-0.005"),), **TURNS),
    "stop filled": Scene(
        (18, 36), 36, ("stop.placed",), acts=((20, jumps, "-0.015"),)),
    "halted while an entry rests": Scene(
        (9, 34), 34, ("state.changed", "bot.stopped"), path=((60, 6),),
        acts=((10, signals, "SIGINT"),), **LIMIT),
    "halted and resumed": Scene(
        (9, 34), 34, ("state.changed", "bot.stopped"), acts=((10, signals, "SIGINT"),), resumes=1),
    "midnight": Scene(
        (175, 190), 190, ("day.opened", "stop.placed"), at_midnight=True, seed=30),
    "restart with a position": Scene(
        (14, 40), 40, ("bot.stopped", "stop.placed"), acts=((15, signals, "SIGTERM"),)),
    "daily loss limit": Scene(
        (18, 34), 34, ("state.changed",), acts=((20, jumps, "-0.007"),),
        max_daily_loss_pct=Decimal("0.0005")),
    "liquidation": Scene(
        (18, 60), 60, ("stop.placed",), acts=((20, is_liquidated),)),
    "adoption": Scene(
        (18, 50), 50, ("stop.placed",), acts=((20, owner_sells, 1),)),
}
for _name, _scene in SCENES.items():
    _scene.name = _name
