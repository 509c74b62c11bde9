"""Bot: which parts, and what does one process remember between ticks?

The parts of a run, put together over one venue and one store, and read back from its events.
What happens with them, and when, is the loop's; no time passes here and nothing is decided.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from perps_bot.calm import Calm
from perps_bot.catalog import ProductCatalog
from perps_bot.errors import ConfigError, VenueUnavailable
from perps_bot.execution import ExecutionConfig, ExecutionEngine
from perps_bot.model import Event, Mark, TradingState
from perps_bot.paper import PaperBroker
from perps_bot.protection import Protector
from perps_bot.reconcile import BOOK_EVENTS, Reconciler, obstacles
from perps_bot.risk import LiveRiskManager, Remedy, RiskConfig, remedy
from perps_bot.service import Service
from perps_bot.settings import Settings
from perps_bot.store import EPOCH, EventStore, Recovery
from perps_bot.strategy import STRATEGY_EVENTS, BaselinePerpsStrategy, StrategyConfig
from perps_bot.tracker import PositionTracker

HOUR = timedelta(hours=1)
# How old a product's flags and session may be when an entry is sent.
PRODUCTS_AGE_MAX = timedelta(seconds=60)


@dataclass
class Bot:
    """The parts, put together, and what one process remembers between ticks.

    folder    the profile's files; None writes none (replay)
    surfaces  what people and monitors read: `publish` after each tick, `say` at a stop
    feed      live quotes that can wake the loop; None where there are none
    service   the service manager that wants to know that the loop lives, if there is one
    control   what the owner asks of it; None where nobody can (replay)
    """

    settings: Settings
    venue: object
    store: EventStore
    catalog: ProductCatalog
    tracker: PositionTracker
    risk: LiveRiskManager
    strategy: BaselinePerpsStrategy
    engine: ExecutionEngine
    protector: Protector
    books: Reconciler
    broker_name: str
    folder: Path | None = None
    surfaces: Any = None
    feed: Any = None
    service: Service = field(default_factory=Service)
    control: Any = None
    lifts_risk_holds_at_midnight: bool = False
    is_settled: bool = False  # what an earlier process left is known: a stop may be sent
    is_started: bool = False
    is_over: bool = False
    trouble: str = ""
    last_decisions: dict[str, str] = field(default_factory=dict)
    _observes: str | None = None  # None: not connected; else why nothing can be sent, or ""
    _products_at: datetime | None = None
    _products_due: datetime = EPOCH
    _doubts: str = ""  # why the products could not be read anew
    _refused: dict[str, str] = field(default_factory=dict)  # by symbol, since its last decision
    _next_bar: dict[str, datetime] = field(default_factory=dict)
    _decided: dict[str, tuple] = field(default_factory=dict)
    _seen: dict[str, Mark] = field(default_factory=dict)
    _listing: object = None  # of the products, as they are known
    _message: str | None = ""
    calm: Calm | None = None  # what the last whole look has left; None: the next tick looks

    @property
    def message(self) -> str:
        """What stands in the way, for people; put together when somebody asks."""
        if self._message is None:
            said = (text for symbol in self.symbols for text in obstacles(self, symbol))
            self._message = "; ".join(said)
        return self._message

    @message.setter
    def message(self, text: str | None) -> None:
        self._message = text

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.settings.symbols

    @property
    def untraded(self) -> set[str]:
        return self.books.untraded

    def has_price(self, symbol: str) -> bool:
        """Whether there is a mark, or the market is closed and needs none."""
        is_closed = self.is_started and not self.catalog.get(symbol).is_session_open
        return is_closed or symbol in self.engine.marks

    @property
    def bar(self) -> timedelta:
        return timedelta(seconds=int(self.settings.bar))

    def apply(self, event: Event) -> None:
        if event.data["code"] and remedy(event.data["code"]) is Remedy.REFRESH:
            self._products_at = self._products_due = EPOCH  # sizes or steps are not what they were

    def know_products(self, now: datetime) -> None:
        """They were read: again when they are old, and at once after the hour."""
        self._products_at, due = now, now + PRODUCTS_AGE_MAX
        if due.hour != now.hour:
            due = now.replace(minute=0, second=0, microsecond=0) + HOUR
        self._products_due = due

    def work(self, symbols: Iterable[str]) -> list[VenueUnavailable]:
        """Exits and stops, each one step further; return the failures, which hold up no other."""
        failures = []
        for symbol in symbols:
            if symbol not in self.untraded and not self._observes:
                position = self.tracker.get_position(symbol)
                try:
                    self.protector.work(symbol, self.strategy.trailing_stop(position))
                except VenueUnavailable as failure:
                    failures.append(failure)
        return failures

    def make_ready(self, now: datetime) -> None:
        """Know the products, and what an earlier process left.  Raises VenueUnavailable."""
        with suppress(VenueUnavailable):  # what only reduces needs neither greeting nor price
            if self._observes is None:
                self._observes = self.venue.connect(self.books.traded())
            if not self.is_settled:
                self.engine.see(self.venue.marks(self.symbols, now))
        if not self.is_settled:
            settle_first(self, now)

    def say(self, text: str) -> None:
        if self.surfaces is not None:
            self.surfaces.say(text)

    def publish(self, now: datetime, error: str = "") -> None:
        if self.surfaces is not None:
            self.surfaces.publish(self, now, error)

    def snapshot(self) -> dict[str, object]:
        """Everything that a restart must know, by part; each part reads its own back."""
        parts = {"tracker": self.tracker, "orders": self.engine.orders, "risk": self.risk,
                 "strategy": self.strategy, "protection": self.protector}
        if self.surfaces is not None:
            parts["surfaces"] = self.surfaces
        return {name: part.snapshot() for name, part in parts.items()}


def assemble(
    settings: Settings, venue: object, store: EventStore, broker_name: str,
    folder: Path | None = None,
) -> Bot:
    """Put the parts together over `venue`, which implements both protocols."""
    tracker = PositionTracker(store)
    risk = LiveRiskManager(configured(RiskConfig, settings), store)
    strategy = BaselinePerpsStrategy(configured(StrategyConfig, settings))
    catalog = ProductCatalog()
    engine = ExecutionEngine(
        configured(ExecutionConfig, settings), store, venue, catalog, risk, tracker)
    protector = Protector(engine)
    books = Reconciler(store, engine, settings.symbols, settings.adopt)
    bot = Bot(settings, venue, store, catalog, tracker, risk, strategy, engine, protector, books,
              broker_name, folder)
    store.subscribe(strategy.apply, STRATEGY_EVENTS, recovered=("strategy.signal",))
    store.subscribe(books.apply, BOOK_EVENTS)
    store.subscribe(bot.apply, ("order.updated",))
    return bot


def configured(kind: type, settings: Settings):
    """Return the config class `kind` with every field that is a setting taken from there."""
    names = {each.name for each in fields(kind)} & settings.said.keys()
    return kind(**{name: getattr(settings, name) for name in names})


def recover(bot: Bot) -> Recovery:
    """Read the events back; starting and recovering are the same code."""
    found, books = bot.store.recover(), bot.tracker
    if isinstance(bot.venue, PaperBroker) and books.start_equity is not None:
        bot.venue.restore(
            books.equity() - books.total("unrealized_pnl"), books.positions().values(),
            bot.engine.orders.resting(), bot.store.now,
        )
    if found.damage:
        bot.risk.hold("damage", TradingState.REDUCING, found.damage)
    bot.engine.recover()
    return found


def settle_first(bot: Bot, now: datetime) -> None:
    """Settle what an earlier process left: from here on a position can be given its stop."""
    bot.catalog.load_from_brokerage(bot.venue)
    bot.know_products(now)
    bot.engine.settle()
    _hold_as_set(bot)
    ours = {*bot.tracker.positions(), *(o.symbol for o in bot.engine.outstanding())}
    if left_out := sorted(ours - {*bot.symbols}):
        raise ConfigError(f"{' '.join(left_out)}: still held or with orders of ours; add it to "
                          f"--symbols, or it would be left alone")
    if not bot.is_settled:
        # Milliseconds of the start: new for each run, even where a full disk forgot the last one.
        epoch = f"{(now - EPOCH) // timedelta(milliseconds=1):x}"
        bot.engine.config, bot.is_settled = replace(bot.engine.config, epoch=epoch), True


def _hold_as_set(bot: Bot) -> None:
    """`--reduce-only` and `kill_switch_enabled` hold for as long as they are set."""
    config = bot.risk.config
    if bot._observes:
        bot.risk.hold("observe", TradingState.HALTED, bot._observes)
    else:
        bot.risk.lift("observe", "orders can be sent")
    if config.kill_switch_enabled:
        bot.risk.hold("settings", TradingState.HALTED, "kill_switch_enabled is set")
    elif config.reduce_only_mode:
        if bot.risk.state is TradingState.HALTED:
            bot.risk.lift("settings", "kill_switch_enabled is no longer set")
        bot.risk.hold("settings", TradingState.REDUCING, "--reduce-only is set")
    else:
        bot.risk.lift("settings", "no longer set")
