"""What a quiet tick may leave out: nothing that would have done anything."""

import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from helpers import BTC, ETH, NOON, RISING, Rig, WildMarket, a_product, the_settings

from perps_bot import calm, loop
from perps_bot import replay as replay_room
from perps_bot.errors import VenueUnavailable
from perps_bot.flow import _Curve
from perps_bot.market import RecordedMarket
from perps_bot.model import (
    Candle, FundingRate, Mark, Order, OrderIntent, OrderStatus, OrderType, Side, TradingState,
)
from perps_bot.paper import INFINITY, ZERO, PaperBroker
from perps_bot.replay import replay
from perps_bot.risk import MARGIN_RATIO_MIN

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=n) for n in (1, 60, 3600, 86400))


class Street:
    """A market of one symbol whose prices, rates and rules the test sets."""

    def __init__(self):
        self.price, self.rate, self.is_down = Decimal(100), None, False
        self.listing = (a_product(BTC),)

    def connect(self, traded=()):
        return ""

    def products(self):
        return self.listing

    def marks(self, symbols, now):
        if self.is_down:
            raise VenueUnavailable("the line is dead")
        return {BTC: Mark(BTC, *[self.price] * 3, now)} if self.price else {}

    def candles(self, symbol, seconds, count, now):
        end = now.replace(second=0, microsecond=0)
        return [Candle(end - (len(RISING) - n) * MINUTE, *[Decimal(close)] * 4)
                for n, close in enumerate(RISING) if seconds == 60]

    def funding(self, symbol, now):
        return self.rate


class Watched(PaperBroker):
    """Counts the whole looks: each of them reads the margin.

    room  USD of margin left above where entries end; None: as much as there is
    """

    looks, room = 0, None

    def margin(self):
        self.looks += 1
        found = super().margin()
        return found if self.room is None else found._replace(
            available=found.threshold * MARGIN_RATIO_MIN + self.room)


class Quiet:
    """A bot that holds a position, or none, and has nothing to do."""

    def __init__(self, held, **settings):
        self.street = Street()
        self.venue = Watched(self.street, Decimal(1000))
        self.rig = Rig(self.venue, enter_on_start=held, bar=60, **settings)
        self.bot = self.rig.bot
        self.rig.now += SECOND
        for _ in range(4):
            self.tick()
        assert bool(self.rig.held()) == held
        assert not self.tick(), "it is not calm to begin with"

    def tick(self):
        """Whether it was a whole look."""
        before = self.venue.looks
        assert self.rig.tick() or self.street.is_down, self.bot.trouble
        return self.venue.looks > before

    def price(self, price):
        self.street.price = price and Decimal(price)

    def wait(self, time):
        """Let time pass without the end of a bar."""
        self.bot._next_bar[BTC] += 2 * time
        self.look_again()
        self.rig.now += time

    def look_again(self):
        """As at the end of a whole look."""
        self.bot.calm = calm.found(self.bot, self.bot.engine.books(), self.venue.revision)


@pytest.mark.parametrize("held", [True, False], ids=["held", "flat"])
def test_a_tick_in_which_nothing_happens_values_what_is_held_and_looks_at_nothing_else(held):
    quiet = Quiet(held)
    quiet.price("99.5")
    assert not quiet.tick()
    assert quiet.bot.tracker.get_position(BTC).mark_price == (Decimal("99.5") if held else 0)
    assert quiet.bot.tracker.last_equity == quiet.venue.equity()
    assert quiet.bot.risk.flow._marks[BTC].newest.price == Decimal("99.5")


def test_a_quiet_tick_writes_down_the_rate_of_the_hour():
    quiet = Quiet(held=False)
    quiet.street.rate = FundingRate(BTC, Decimal("0.0001"), quiet.rig.now)
    assert not quiet.tick()
    assert len(quiet.rig.of("funding.rate")) == 1


def change_the_contract(quiet):
    quiet.street.listing = (a_product(BTC, tick="0.5"),)
    quiet.wait(MINUTE)  # they are read once in that time


def fail_to_answer(quiet):
    quiet.street.is_down = True
    quiet.tick()
    quiet.street.is_down = False


def doubt_an_order(quiet):
    for ticket in quiet.bot.engine.orders.tickets.values():
        ticket.order = ticket.order._replace(status=OrderStatus.UNKNOWN)
    quiet.look_again()


def leave_a_stop_behind(quiet):
    quiet.bot.tracker._set(quiet.bot.tracker.get_position(BTC)._replace(quantity=ZERO))
    quiet.look_again()


def near_the_contract_s_end(quiet):
    ending = replace(a_product(BTC), expires_at=quiet.rig.now + DAY + 3 * SECOND)
    quiet.bot.catalog.load([ending])
    quiet.look_again()


def near_the_loss_limit(quiet):
    quiet.bot.risk.config = replace(quiet.bot.risk.config, max_daily_loss_pct=Decimal("0.0021"))
    quiet.look_again()
    quiet.price("99.4")


def near_liquidation(quiet):
    quiet.venue.room = Decimal("0.1")
    quiet.bot.engine.picture()
    quiet.look_again()
    quiet.price("99.4")


def hold_less(quiet):
    held = quiet.bot.tracker.get_position(BTC)
    quiet.bot.tracker._set(held._replace(quantity=held.quantity / 2))


def lose_the_stop(quiet):
    for order in quiet.bot.engine.outstanding():
        quiet.bot.engine.cancel([order])


def halt(quiet):
    quiet.bot.risk.hold("x", TradingState.REDUCING, "look")


def begin_an_exit(quiet):
    quiet.bot.protector.exit(BTC, "the owner wants it")


WAKES = {
    # what happens: (held or flat, what is done before the tick)
    "a price beyond the stop": ("held", lambda quiet: quiet.price(98)),
    "a price that is better than all since the entry": ("held", lambda quiet: quiet.price("100.1")),
    "a price that the stop follows": ("held", lambda quiet: quiet.price(101)),
    "a stop that has not followed yet": ("held", lambda quiet: quiet.price(101) or quiet.tick()),
    "no price": ("held flat", lambda quiet: quiet.price(None)),
    "the end of a bar": ("held flat", lambda quiet: setattr(
        quiet.rig, "now", quiet.rig.now + MINUTE)),
    "a new day": ("held flat", lambda quiet: quiet.wait(DAY / 2)),
    "a halt": ("held flat", halt),
    "an exit": ("held", begin_an_exit),
    "an order in doubt": ("held", doubt_an_order),
    "a stop of nothing": ("held", leave_a_stop_behind),
    "a contract that has changed": ("held flat", change_the_contract),
    "a contract that ends within a day": ("held", near_the_contract_s_end),
    "a read that failed": ("held flat", fail_to_answer),
    "a loss near its limit": ("held", near_the_loss_limit),
    "a margin near liquidation": ("held", near_liquidation),
    "a payment of funding": ("held", lambda quiet: setattr(
        quiet.street, "rate", FundingRate(BTC, Decimal("0.0001"), quiet.rig.now))),
    "a stop that is gone": ("held", lambda quiet: quiet.venue.cancel(
        quiet.bot.engine.outstanding(), quiet.rig.now)),
}


@pytest.mark.parametrize("state, act", [
    pytest.param(state, act, id=f"{what}, {state}")
    for what, (states, act) in WAKES.items() for state in states.split()])
def test_what_may_ask_for_something_ends_the_calm(state, act):
    quiet = Quiet(state == "held")
    act(quiet)
    assert quiet.tick()


@pytest.mark.parametrize("act", [hold_less, lose_the_stop, begin_an_exit])
def test_what_a_watch_was_made_for_has_to_be_there_still(act):
    quiet = Quiet(held=True)
    assert calm.stands(quiet.bot, BTC)
    act(quiet)
    assert not calm.stands(quiet.bot, BTC)


@pytest.mark.parametrize("act", [
    hold_less, lose_the_stop, begin_an_exit, halt, doubt_an_order, leave_a_stop_behind,
    lambda quiet: quiet.bot._refused.update({BTC: "no"}),
    lambda quiet: quiet.bot.last_decisions.update({BTC: "close"}),
])
def test_no_watch_is_kept_where_something_is_under_way(act):
    quiet = Quiet(held=True)
    quiet.bot.settings = quiet.bot.settings.replace(symbols=(BTC, ETH))
    quiet.look_again()
    assert [*quiet.bot.calm.watches] == [BTC]
    act(quiet)
    quiet.look_again()
    assert quiet.bot.calm is None or not quiet.bot.calm.watches


class Thorough(PaperBroker):
    """The same venue, which cannot say whether it has changed and tests every price."""

    revision = None

    def _bounds_of(self, symbol, room):
        return INFINITY, ZERO


def test_a_venue_liquidates_what_it_would_if_it_tested_every_price():
    """Two positions that carry each other: what one loses, the other may have gained before."""
    liquidations = 0
    for seed in range(150):
        told = []
        for kind in (PaperBroker, Thorough):
            dice, street, now = random.Random(seed), Street(), NOON
            street.listing, street.prices = (a_product(BTC), a_product(ETH)), {}
            raised = tuple(replace(p, long_margin_rate=Decimal("0.3")) for p in street.listing)
            street.marks = lambda _, at: {s: Mark(s, p, p, p, at) for s, p in street.prices.items()}
            venue = kind(street, Decimal(120))
            for number in range(60):
                now += SECOND
                street.prices = {s: street.prices.get(s, 100) + Decimal(dice.randint(-5, 5))
                                 for s in (BTC, ETH)}
                if number == 30 and seed % 3 == 0:
                    street.listing = raised
                venue.products()
                venue.marks((BTC, ETH), now)
                if number < 2:
                    intent = OrderIntent((BTC, ETH)[number], dice.choice([*Side]), Decimal(2))
                    venue.place(Order(f"{number}", intent, now), now)
            told.append((venue.fills(NOON), venue.equity(), venue.margin()))
        assert told[0] == told[1]
        liquidations += any(fill.is_liquidation for fill in told[0][0])
    assert 20 < liquidations < 140


FOUR = (BTC, ETH, "SOL-PERP", "XRP-PERP")


@pytest.mark.parametrize("seed, symbols", [*((seed, FOUR[:2]) for seed in range(4)),
                                           *((seed, FOUR) for seed in range(3))])
def test_quotes_end_in_the_same_events_as_if_everything_was_looked_at(
        seed, symbols):
    told = []
    for venue in (PaperBroker, Thorough):
        rig = Rig(venue(WildMarket(seed, *symbols)), symbols=symbols, bar=20, enable_shorts=True,
                  trailing_stop_pct=Decimal("0.05"), max_mark_move_pct=Decimal(10),
                  max_daily_loss_pct=Decimal(1), max_drawdown_pct=Decimal(1),
                  max_losses_in_a_row=None, max_entries_per_hour=1000)
        equities = []
        for _ in range(400):
            rig.tick()
            equities.append((rig.bot.tracker.last_equity, rig.bot.tracker.equity()))
        told.append((equities, rig.events))
        assert len(rig.of("trade.executed")) > 10
    assert told[0] == told[1]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Nine days of five minutes in four symbols, mostly quiet and sometimes not; and rates."""
    folder, dice = tmp_path_factory.mktemp("recordings"), random.Random(7)
    for name, price in zip(FOUR, map(Decimal, (100, 60, 80, 120))):
        rows = ["time,open,high,low,close"]
        for number in range(2500):
            wild = dice.choice([1, 1, 1, 2, 3, 12])
            close = max(price + Decimal(dice.randint(-10, 10) * wild) / 100, Decimal(40))
            high, low = (Decimal(dice.randint(0, 8) * wild) / 100 for _ in "hl")
            at = NOON + number * 5 * MINUTE
            rows.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{price},{max(price, close) + high},"
                        f"{min(price, close) - low},{close}")
            price = close
        (folder / f"{name}.csv").write_text("\n".join(rows))
        rates = [f"{NOON + hour * HOUR:%Y-%m-%dT%H:%M:%SZ},{dice.randint(-9, 9) / 10000:f}"
                 for hour in range(0, 208, 8)]
        (folder / f"{name}-funding.csv").write_text("\n".join(["time,funding_rate", *rates]))
    return folder


WAYS = {
    "as it comes": {},
    "short and long": {"enable_shorts": True},
    "limit orders": {"order_type": OrderType.LIMIT},
    "a little money": {
        "paper_equity": Decimal(300), "max_position": Decimal(5000), "target_leverage": Decimal(3),
        "trailing_stop_pct": Decimal("0.05"), "fee_rate": ZERO, "fee_per_contract": ZERO},
    "strict limits": {"max_daily_loss_pct": Decimal("0.002"), "max_drawdown_pct": Decimal("0.01"),
                      "enable_shorts": True},
    "hardly any limit": {"max_daily_loss_pct": Decimal(1), "max_drawdown_pct": Decimal(1),
                         "max_losses_in_a_row": None, "max_entries_per_hour": 1000},
}


@pytest.mark.parametrize("way, writes, symbols", [
    *((way, False, FOUR[:2]) for way in WAYS), ("as it comes", True, FOUR[:2]),
    ("short and long", False, FOUR), ("hardly any limit", False, FOUR)])
def test_candles_end_in_the_same_books_as_if_everything_was_looked_at(
        recordings, tmp_path, monkeypatch, way, writes, symbols):
    settings, told = the_settings(symbols=symbols, **WAYS[way]), []
    files, rates = ([recordings / f"{s}{end}.csv" for s in symbols] for end in ("", "-funding"))
    for venue in (PaperBroker, Thorough):
        monkeypatch.setattr(replay_room, "PaperBroker", venue)
        place = tmp_path / venue.__name__
        place.mkdir()
        market = RecordedMarket(files, symbols, rates, products=[
            a_product(s, tick="0.01") for s in symbols])
        result = replay(market, settings, place / "events" if writes else None,
                        place / "trades.csv", place / "equity.csv")
        said = {path.name: path.read_bytes() for path in place.rglob("*.*")}
        told.append((result, said))
        assert result.trades > 5
    assert told[0] == told[1]


def test_a_symbol_that_has_nothing_to_decide_is_left_out_where_another_one_has(
        recordings, monkeypatch):
    decided, looks = [], []
    for room, name, calls in ((loop, "_decide", decided), (calm, "found", looks)):
        monkeypatch.setattr(room, name, lambda *args, do=getattr(room, name), calls=calls: (
            calls.append(args), do(*args))[1])
    market = RecordedMarket([recordings / f"{s}.csv" for s in FOUR], FOUR, products=[
        a_product(s, tick="0.01") for s in FOUR])
    settings = the_settings(symbols=FOUR, **WAYS["hardly any limit"])
    assert replay(market, settings).trades > 100
    assert len(looks) < len(decided) < 2 * len(looks)


def test_an_order_in_doubt_is_looked_up_at_the_next_tick():
    quiet = Quiet(held=True)
    assert calm.is_still(quiet.bot)
    doubt_an_order(quiet)
    assert not calm.is_still(quiet.bot)


class Eager(_Curve):
    """Works the level out at every loss, and looks at once whether it is a high."""

    def see(self, loss):
        super().see(loss)
        self._rise()


@pytest.mark.parametrize("seed", range(40))
def test_a_drawdown_is_what_it_would_be_if_each_loss_was_worked_out(seed):
    dice, told = random.Random(seed), ([], [])
    most = dice.choice([5, 150])  # of 100: more than all may be lost
    curves = _Curve(), Eager()
    for curve in curves:
        curve.begin(Decimal(100))
    for number in range(300):
        loss, what = Decimal(dice.randint(-5, most)), dice.random()
        for curve, said in zip(curves, told):
            curve.see(loss)
            if what < 0.02:
                curve.count_anew()
            elif what < 0.04:
                curve.begin_anew()
            elif what < 0.06:
                curve.open_day((NOON + number * DAY).date(), Decimal(100))
            said.append((curve.drawdown, curve.level, curve.loss_at(Decimal(1))))
    assert told[0] == told[1]
