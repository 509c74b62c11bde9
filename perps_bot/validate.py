"""Validate: does each part do what it must, shown step by step?

The validation scripts: on paper over the synthetic market, or against Coinbase with reads alone.
Each step is one line, the first that fails is the last.  Nothing here sends an order to a real
account; what the static sandbox cannot prove is not claimed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from types import SimpleNamespace
from typing import Any

from perps_bot import wire
from perps_bot.checklist import CLOCK_OFF_SECONDS_MAX, Check, crossings
from perps_bot.client import OPEN
from perps_bot.clock import SystemClock
from perps_bot.errors import ConfigError, OrderRejected, PerpsBotError, VenueUnavailable
from perps_bot.feed import MarkFeed
from perps_bot.limits import largest_order
from perps_bot.bot import Bot, assemble, configured, recover
from perps_bot.loop import attempt
from perps_bot.market import SYNTHETIC_PRODUCTS, bar_closes
from perps_bot.model import Mark, Order, OrderIntent, Position, Product, Side
from perps_bot.paper import PaperBroker
from perps_bot.rest import Rest, VenueClock
from perps_bot.settings import Settings
from perps_bot.store import EventStore, read_events
from perps_bot.strategy import BaselinePerpsStrategy, StrategyConfig

LOOKS_MAX, LOOK_SECONDS = 100, 0.1
REPLAYED_BARS = 300
CROSSINGS_SHOWN_MAX = 5
PAST = timedelta(days=1)
SANDBOX = "https://api-sandbox.coinbase.com"
NO_WEBSOCKET = "the synthetic market has no WebSocket; USE_REAL_ADAPTER=1 asks Coinbase's"


@dataclass
class Desk:
    """What the steps of one validation share."""

    settings: Settings
    venue: Any
    clock: SystemClock
    products: dict[str, Product] = field(default_factory=dict)
    closes: list[tuple[datetime, Decimal]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = self.clock.now
        self.symbol, self.rest = self.settings.symbols[0], getattr(self.venue, "rest", None)
        self.strategy = BaselinePerpsStrategy(configured(StrategyConfig, self.settings))

    def marks(self) -> dict[str, Mark]:
        """Every symbol's quote.  Raises VenueUnavailable where one is missing."""
        found = dict(self.venue.marks(self.settings.symbols, self.now()))
        if missing := [symbol for symbol in self.settings.symbols if symbol not in found]:
            raise VenueUnavailable(f"no quote of {' '.join(missing)}: is the market closed?")
        return found


def validate(what: str, settings: Settings, venue: Any, clock: SystemClock) -> Iterator[Check]:
    """Yield the steps of "client", "ws", "strategy" or "e2e" until one fails."""
    desk = Desk(settings, venue, clock)
    for name, take in (("connect", _connect), ("products", _products), *STEPS[what]):
        try:
            yield Check(name, *take(desk))
        except PerpsBotError as failure:
            yield Check(name, False, str(failure))
            return


# client


def _connect(desk: Desk) -> tuple:
    if desk.rest is None:
        return True, "paper, over the synthetic market"
    ahead = desk.rest.measure_clock()
    return abs(ahead) <= CLOCK_OFF_SECONDS_MAX, f"the venue's clock is {ahead:+.2f} s ahead of ours"


def _products(desk: Desk) -> tuple:
    desk.products = {product.symbol: product for product in desk.venue.products()}
    if missing := [symbol for symbol in desk.settings.symbols if symbol not in desk.products]:
        raise ConfigError(f"{' '.join(missing)}: not listed; there are "
                          f"{' '.join(sorted(desk.products))}")
    return True, " ".join(f"{symbol}={desk.products[symbol].product_id}"
                          for symbol in desk.settings.symbols)


def _permissions(desk: Desk) -> tuple:
    if desk.rest is None:
        return None, "paper needs no key"
    before = desk.rest.read_only
    return True, "view and trade" if desk.venue.connect() == before else "view only"


def _quotes(desk: Desk) -> tuple:
    return True, ", ".join(f"{m.symbol} {m.bid:f}/{m.ask:f}" for m in desk.marks().values())


def _candles(desk: Desk) -> tuple:
    """Fill the averages from candles; every step of the strategy goes on from there."""
    symbol, bar, needed = desk.symbol, desk.settings.bar, desk.settings.long_ma_period
    desk.closes = bar_closes(
        desk.venue, symbol, timedelta(seconds=bar), REPLAYED_BARS + needed, desk.now())
    desk.strategy.warm(symbol, desk.closes)
    found = desk.strategy.bars(symbol)
    return found == needed, f"{len(desk.closes)} bars of {bar} s, {found} of {needed} in the window"


def _balance(desk: Desk) -> tuple:
    equity, margin = desk.venue.equity(), desk.venue.margin()
    return equity > 0, f"equity {equity:.2f} USD, guard {'armed' if margin else 'UNARMED'}"


def _listing(read: str) -> Callable[[Desk], tuple]:
    """A step that counts what one of the account's lists has of the last day."""
    def take(desk: Desk) -> tuple:
        arguments = () if read == "positions" else (desk.now() - PAST,)
        return True, f"{len(getattr(desk.venue, read)(*arguments))} listed"
    return take


# ws


def _heard(desk: Desk) -> tuple:
    if desk.rest is None:
        return None, NO_WEBSOCKET
    desk.venue.feed.follow(desk.products[symbol] for symbol in desk.settings.symbols)
    _until(lambda: not any(each["stale"] for each in desk.venue.feed.figures().values()),
           "no message")
    return True, f"{', '.join(desk.venue.feed.figures())} alive"


def _ticker(desk: Desk) -> tuple:
    if desk.rest is None:
        return _quotes(desk)
    feed, symbols = desk.venue.feed, desk.settings.symbols
    if closed := [s for s in symbols if not desk.products[s].is_session_open]:
        return None, f"{' '.join(closed)}: the market is closed"
    _until(lambda: len(feed.marks(symbols)) == len(symbols), "no ticker")
    return True, f"{len(symbols)} of {len(symbols)} symbols quoted"


def _sequence(desk: Desk) -> tuple:
    if desk.rest is None:
        return None, NO_WEBSOCKET
    figures = desk.venue.feed.figures()
    lost = sum(each["gaps"] + each["unusable"] for each in figures.values())
    return not lost, f"{lost} messages lost or unusable"


def _reconnect(desk: Desk) -> tuple:
    """Close both sockets from our side, and come back on new ones."""
    if desk.rest is None:
        return None, NO_WEBSOCKET
    desk.venue.feed.stop()
    signer, clock, settings = desk.rest.signer, desk.rest.clock, desk.settings
    token = signer and (lambda: signer.websocket_token(clock.now()))
    desk.venue.feed = MarkFeed(settings.ws_url, settings.ws_user_url, token, clock.now, int)
    _heard(desk)
    desk.venue.feed.stop()
    return True, "closed, and messages arrive on new connections"


def _until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(LOOKS_MAX):
        if holds():
            return
        sleep(LOOK_SECONDS)
    raise VenueUnavailable(f"{what} within {LOOKS_MAX * LOOK_SECONDS:.0f} s")


# strategy


def _decision(desk: Desk) -> tuple:
    mark = desk.marks()[desk.symbol]
    asked = mark, Position(desk.symbol), None
    decision, inputs = desk.strategy.decide(*asked), desk.strategy.inputs(*asked)
    numbers = " ".join(f"{name}={inputs[name]:.2f}"
                       for name in ("mark_price", "short_ma", "long_ma"))
    return True, f"{decision.action}: {decision.reason}; {numbers}"


def _crossings(desk: Desk) -> tuple:
    """Replay the candles, and show where the averages crossed."""
    found = crossings(desk.closes, desk.strategy.config)
    shown = ", ".join(f"{at:%m-%d %H:%M} {side}" for at, side in found[-CROSSINGS_SHOWN_MAX:])
    return True, f"{len(found)} in {len(desk.closes)} bars, the last: {shown or 'none'}"


# e2e


def _round_trip(desk: Desk) -> tuple:
    """Enter, protect and exit on paper, through the real engine, over real events."""
    venue, settings = desk.venue, desk.settings
    if desk.rest is not None:
        venue = PaperBroker(venue, settings.paper_equity, settings.fee_rate,
                            settings.fee_per_contract, settings.slippage_bps)
    with TemporaryDirectory(prefix="perps-bot-") as folder:
        events = Path(folder) / "events"
        bot = assemble(settings, venue, EventStore(events, desk.now()), "paper")
        recover(bot)
        attempt(bot, desk.clock)
        if bot.trouble:
            return False, bot.trouble
        said = _trade(bot, desk)
        bot.store.close()
        missing = {"order.intended", "trade.executed", "stop.placed"} - {
            event.type for event in read_events(events)}
    return not missing, f"no {' '.join(sorted(missing))} in the events" if missing else said


def _trade(bot: Bot, desk: Desk) -> str:
    """Return what a round trip of the smallest order did.  Raises what the engine raises."""
    engine, symbol = bot.engine, bot.symbols[0]
    product = bot.catalog.get(symbol)
    entry = OrderIntent(symbol, Side.BUY, product.min_quantity)

    def is_enough_offered() -> bool:
        _work(bot, desk)
        most = largest_order(entry, engine.marks[symbol], product, bot.risk.config)
        return most >= entry.quantity

    _until(is_enough_offered, f"{symbol}: too little is offered at the best price")
    engine.place_order(symbol, Side.BUY, product.min_quantity, reason="validate")
    _work(bot, desk)
    stop = bot.protector.stop_price(symbol)
    if not bot.tracker.get_position(symbol).quantity or stop is None:
        raise VenueUnavailable(f"{symbol}: bought, but there is no stop")
    bot.protector.exit(symbol, "validate")
    _until(lambda: _work(bot, desk), f"{symbol} is not flat")
    books = bot.tracker.get_position(symbol)
    return (f"{product.min_quantity:f} {symbol} bought, stop at {stop:f}, sold: "
            f"{books.realized_pnl:.2f} USD before {books.fees:.2f} USD of fees")


def _work(bot: Bot, desk: Desk) -> bool:
    """Take one step of the engine; True once nothing is held and nothing under way."""
    engine, symbol = bot.engine, bot.symbols[0]
    bot.store.now = desk.now()
    engine.see(desk.marks())
    engine.settle()
    bot.protector.work(symbol, bot.strategy.trailing_stop(bot.tracker.get_position(symbol)))
    engine.settle()
    return not bot.tracker.get_position(symbol).quantity and not engine.outstanding(symbol)


STEPS = {
    "client": (
        ("permissions", _permissions), ("quotes", _quotes), ("candles", _candles),
        ("balance", _balance), *((name, _listing(name)) for name in (
            "positions", "orders", "fills"))),
    "ws": (("heartbeat", _heard), ("ticker", _ticker), ("sequence", _sequence),
           ("reconnect", _reconnect)),
    "strategy": (("warm-up", _candles), ("decision", _decision), ("crossings", _crossings)),
    "e2e": (("account", lambda desk: (None, "a paper account" if desk.rest is None else
                                      "e2e places no order on the real account: live prices, "
                                      "paper orders")), ("round trip", _round_trip)),
}


# The sandbox


# Signs nothing: the sandbox asks nobody who they are, and shall not see our key.
ANYBODY = SimpleNamespace(name="sandbox", rest_token=lambda *_: "none")


def sandbox_steps(what: str, settings: Settings) -> Iterator[Check]:
    """Yield what fixed answers can prove.  Raises ConfigError for what they cannot."""
    if what not in SANDBOX_STEPS:
        raise ConfigError(f"the sandbox has no market and no WebSocket, so it proves nothing of "
                          f"{what}: leave COINBASE_SANDBOX out")
    url = SANDBOX if "coinbase.com" in settings.api_url else settings.api_url
    yield Check("sandbox", None,
                f"{url} answers with fixed bodies: words are checked, not behaviour")
    rest = Rest(url, ANYBODY, VenueClock())
    for name, take in SANDBOX_STEPS[what]:
        try:
            yield Check(name, True, take(rest))
        except (PerpsBotError, wire.Malformed) as failure:
            yield Check(name, False, str(failure))
            return


def _no_token(rest: Rest) -> str:
    rest.get("/orders/historical/batch", [OPEN], public=True)
    return "answers without a token, so keys prove nothing here"


def _fixed(path: str, name: str, moment: str) -> Callable[[Rest], str]:
    """A check that the rows of a list carry a moment, as ours must."""
    def take(rest: Rest) -> str:
        found = wire.rows(rest.get(path, [OPEN] if name == "orders" else ()), name)
        for row in found:
            wire.moment(row.get(moment), moment)
        return f"{len(found)} understood"
    return take


def _fixed_create(rest: Rest) -> str:
    product = SYNTHETIC_PRODUCTS[0]
    intent = OrderIntent(product.symbol, Side.BUY, product.min_quantity)
    body = wire.create_body(Order("validate-1", intent, rest.clock.now()), product, None)
    answer = rest.send("/orders", body)
    said = answer.get("success_response")
    # It speaks of an order of its own, and is measured by that one.
    sent = {**body, **(said if isinstance(said, dict) else {})}
    sent["order_configuration"] = answer.get("order_configuration") or body["order_configuration"]
    try:
        return f"understood as accepted, {wire.accepted(answer, sent)}"
    except OrderRejected as refusal:
        return f"understood as refused, {refusal.code}"


def _fixed_cancel(rest: Rest) -> str:
    answers = wire.cancel_answers(rest.cancel({"order_ids": ["validate-1"]}))
    return ", ".join(f"{identity}: {reason or 'taken'}" for identity, reason in answers.items())


SANDBOX_STEPS = {
    "client": (
        ("auth", _no_token),
        ("orders", _fixed("/orders/historical/batch", "orders", "created_time")),
        ("fills", _fixed("/orders/historical/fills", "fills", "trade_time"))),
    "e2e": (("create", _fixed_create), ("cancel", _fixed_cancel)),
}
