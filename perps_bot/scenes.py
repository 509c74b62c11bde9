"""Scenes: how does each emergency go, and what must be seen at its end?

Played on paper: the program's own loop, engine, files and paper venue, over a market that does
what the scene says.  Where a claim is about signals, a killed process, a full disk or an HTTP
answer, that is a real one.  A scene passes by what was seen at the paper venue and in the files,
never by what the bot says of itself alone; it decides nothing and tells nobody.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

from perps_bot.catalog import floor_to
from perps_bot.clock import StopRequest, SystemClock
from perps_bot.errors import ConfigError, OrderRejected, StoreDamaged
from perps_bot.bot import assemble, recover
from perps_bot.loop import attempt, run
from perps_bot.market import SyntheticMarket
from perps_bot.model import (
    ZERO, Candle, FundingRate, Margin, Mark, Order, OrderStatus, OrderType, Purpose, Side,
    TimeInForce, TradingState,
)
from perps_bot.ops import Surfaces
from perps_bot.paper import LIQUIDATION_SHARE, PaperBroker
from perps_bot.rest import Rest, VenueClock
from perps_bot.settings import Settings
from perps_bot.store import EventStore, prepare_folder, read_events, read_state

# Not another program: a copy of this one, so that what is rehearsed is what is loaded.
processes = multiprocessing.get_context("fork")
# A contract on the stage is worth so much of the largest position, so that all can be halved.
CONTRACTS_A_POSITION = 10
# How often a scene looks, tick after tick, for what must come; and a living bot's ticks.
TICKS_MAX, LIVE_TICKS_MAX = 60, 30
TICK_SECONDS = 5
READY_SECONDS_MAX, STOP_SECONDS_MAX = 6, 10
# A scene that is not over by then has failed: all together a minute.
INTERRUPT_SECONDS_MAX, SCENE_SECONDS_MAX = 18, 7
# What the drill sets itself, whatever the owner set: without these, no scene could begin.
ON_STAGE = {"adopt": (), "enter_on_start": True, "reduce_only_mode": False,
            "kill_switch_enabled": False, "max_order_qty": None, "bar": 3600,
            "order_type": OrderType.MARKET, "interval": Decimal(1)}


class Unseen(Exception):
    """What should have been seen was not; says what was seen instead."""


@dataclass(frozen=True)
class Scene:
    """One emergency: what it is called, how it is played, and after how long it has failed."""

    name: str
    play: Callable[[Settings, Path], str]
    seconds_max: int


def _see(is_so: object, otherwise: str) -> None:
    if not is_so:
        raise Unseen(otherwise)


# The stage: a market, a venue and a bot


class _Market:
    """One calm symbol, which rises until the drill begins, so that the strategy wants to buy.

    price    USD per base unit, the bid; the ask is one tick above
    offered  base units at the best price
    is_dead  no marks come
    rate     funding per hour, fraction of notional
    scale    a contract here, in contracts of the venue
    """

    def __init__(self, settings: Settings, now: datetime) -> None:
        symbol, listing = settings.symbols[0], SyntheticMarket(settings.seed).products()
        like = next((p for p in listing if p.symbol == symbol), listing[0])
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)  # one price a day
        quote = SyntheticMarket(settings.seed).marks([like.symbol], midnight)[like.symbol]
        self.price = quote.bid
        most = min(settings.max_position, settings.max_order_notional or settings.max_position,
                   settings.paper_equity * min(settings.max_position_pct_per_symbol,
                                               settings.max_exposure_pct))
        share = most / CONTRACTS_A_POSITION / quote.ask
        size = min(like.contract_size, Decimal(1).scaleb(share.adjusted()))
        self.scale = size / like.contract_size
        self.product = replace(like, symbol=symbol, contract_size=size, quantity_increment=size,
                               min_quantity=size, max_quantity=size * 10_000)
        self.offered, self.is_dead, self.rate = size * 10_000, False, ZERO

    def connect(self, traded=()) -> str:
        return ""

    def products(self) -> list:
        return [self.product]

    def marks(self, symbols, now: datetime) -> Mapping[str, Mark]:
        if self.is_dead:
            return {}
        bid, ask = self.price, self.price + self.product.price_increment
        return {self.product.symbol: Mark(self.product.symbol, (bid + ask) / 2, bid, ask, now,
                                          self.offered, self.offered)}

    def candles(self, symbol: str, seconds: int, count: int, now: datetime) -> list[Candle]:
        length = timedelta(seconds=seconds)
        begin = datetime.min.replace(tzinfo=now.tzinfo)
        end = now - (now - begin) % length
        closes = [self.price * (1 - Decimal(n) / 100_000) for n in range(count, 0, -1)]
        return [Candle(end - (count - n) * length, *[close] * 4, ZERO)
                for n, close in enumerate(closes)]

    def funding(self, symbol: str, now: datetime) -> FundingRate:
        return FundingRate(symbol, self.rate, now.replace(minute=0, second=0, microsecond=0))


class _Venue(PaperBroker):
    """The paper venue, and what goes wrong with it.

    sent       every order that arrived, exits and stops too
    mishap     called once an order was taken, before that is answered
    available  USD of margin left; None: as much as there is
    """

    revision = None  # what a scene changes moves none

    def __init__(self, market: _Market, settings: Settings) -> None:
        super().__init__(market, settings.paper_equity, settings.fee_rate,
                         settings.fee_per_contract * market.scale, settings.slippage_bps)
        self.sent: list[Order] = []
        self.mishap: Callable[[], object] = lambda: None
        self.available: Decimal | None = None

    def place(self, order: Order, now: datetime) -> Order:
        self.sent.append(order)
        answer = super().place(order, now)
        self.mishap()
        return answer

    def margin(self) -> Margin | None:
        found = super().margin()
        return found if self.available is None else found._replace(available=self.available)


class _Stage:
    """One bot over one venue, in time that passes only by `tick`."""

    def __init__(self, settings: Settings, folder: Path, now: datetime, **changes) -> None:
        self.settings = settings.replace(symbols=settings.symbols[:1], **{**ON_STAGE, **changes})
        self.folder, self.now, self.symbol = folder, now, settings.symbols[0]
        self.market = _Market(self.settings, now)
        self.venue = _Venue(self.market, self.settings)
        store = EventStore(folder / "events", profile=settings.profile)
        self.bot = assemble(self.settings, self.venue, store, "paper-drill", folder)
        self.bot.surfaces = Surfaces(folder, lambda text: None)
        store.subscribe(self.bot.surfaces.apply)
        recover(self.bot)

    def tick(self, seconds: int = TICK_SECONDS) -> None:
        self.now += timedelta(seconds=seconds)
        self.bot.publish(attempt(self.bot, SystemClock(now=lambda: self.now)))

    def until(self, is_so: Callable[[], object], otherwise: str) -> None:
        """Tick until it is so, a bounded number of times; else the scene has failed."""
        for _ in range(TICKS_MAX):
            if is_so():
                return
            self.tick()
        _see(is_so(), f"{otherwise}{self.trouble()}")

    def enter(self) -> None:
        """Let the strategy open a position, and its stop come to rest."""
        self.until(lambda: self.held and self.is_guarded,
                   "with these settings no position with a stop could be opened")

    def ask_for_more(self) -> str:
        """Ask for an entry as the strategy would; return the refusal, or "" where it was sent."""
        try:
            self.bot.engine.enter(self.symbol, Side.BUY, self.market.product.min_quantity, "drill")
        except (OrderRejected, StoreDamaged) as refusal:
            return str(refusal)
        return ""

    def leave(self) -> None:
        """The owner's exit; it needs no room, no limit and no disk."""
        self.bot.protector.exit(self.symbol, "the owner leaves")
        self.until(lambda: not self.held and not self.resting(Purpose.STOP), "the exit did not go")

    @property
    def held(self) -> Decimal:
        """Base units, by the venue's books."""
        found = self.venue.positions().get(self.symbol)
        return found.quantity if found else ZERO

    def resting(self, purpose: Purpose) -> list[Order]:
        return [order for order in self.venue.orders(self.now)
                if order.purpose is purpose and not order.status.is_terminal]

    @property
    def is_guarded(self) -> bool:
        """Whether stops at the venue cover exactly what is held there."""
        return sum((o.remaining for o in self.resting(Purpose.STOP)), ZERO) == abs(self.held)

    def entries(self) -> int:
        return sum(order.purpose is Purpose.ENTRY for order in self.venue.sent)

    def health(self) -> Mapping:
        return read_state(self.folder / "health.json") or {}

    def trouble(self) -> str:
        said = self.bot.trouble or self.bot.message
        return f": {said}" if said else ""


def _noon() -> datetime:
    """Half a minute before today's noon: a day is far, an hour is near."""
    now = SystemClock().now()
    return now.replace(hour=11, minute=59, second=30, microsecond=0)


# The scenes


def _interrupted(settings: Settings, folder: Path) -> str:
    """A living bot, an entry resting and a position held; then kill -INT."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_live, args=(settings, folder, theirs))
    process.start()
    theirs.close()
    try:
        _see(ours.poll(READY_SECONDS_MAX), "the bot did not begin")
        trouble = ours.recv()
        _see(not trouble, trouble)
        os.kill(process.pid, signal.SIGINT)
        _see(ours.poll(STOP_SECONDS_MAX), f"not ended {STOP_SECONDS_MAX} s after kill -INT")
        entries, stops, held = ours.recv()
        process.join(STOP_SECONDS_MAX)
    except EOFError:
        raise Unseen("the bot ended without a word") from None
    finally:
        process.kill()
    _see(not entries, f"{entries} entries still rest at the venue")
    _see(held and stops == held, f"{held:f} are held, and stops for {stops:f} were left")
    _see(process.exitcode == 0, f"exit code {process.exitcode}")
    ends = [event for event in read_events(folder / "events") if event.type == "bot.stopped"]
    _see(ends and not ends[-1].data["orders_left"], "the events do not tell a clean end")
    state = _Stage(settings, folder, SystemClock().now()).bot.risk.state
    if settings.profile == "dev":
        return f"entry gone, stop kept on {held:f}, exit 0; {state}, for dev keeps no halt"
    _see(state is TradingState.HALTED, f"after the restart it is {state}")
    return f"entry gone, stop kept on {held:f}, exit 0, HALTED after a restart"


def _live(settings: Settings, folder: Path, answer) -> None:
    """The process that is interrupted: real time, real signals."""
    stage, signals = _Stage(settings, folder, SystemClock().now(), order_type=OrderType.LIMIT,
                            time_in_force=TimeInForce.GTD), StopRequest()
    signals.install()
    stage.tick(0)
    # The market comes down one tick for a moment and takes half of what rests there.
    tick, plenty = stage.market.product.price_increment, stage.market.offered
    size = stage.market.product.contract_size
    for order in stage.resting(Purpose.ENTRY):
        stage.market.offered = max(size, floor_to(order.quantity / 2, size))
    stage.market.price -= tick
    stage.tick(0)
    stage.market.price, stage.market.offered = stage.market.price + tick, plenty
    stage.tick(0)
    is_ready = stage.held and stage.is_guarded and stage.resting(Purpose.ENTRY)
    answer.send("" if is_ready else f"no entry rests beside a position{stage.trouble()}")
    code = run(stage.bot, SystemClock(signals), cycles=LIVE_TICKS_MAX)
    stops = sum((order.remaining for order in stage.resting(Purpose.STOP)), ZERO)
    answer.send((len(stage.resting(Purpose.ENTRY)), stops, stage.held))
    sys.exit(code)


def _dead_feed(settings: Settings, folder: Path) -> str:
    stage = _Stage(settings, folder, _noon())
    stage.market.is_dead = True
    for _ in range(3):
        stage.tick()
    _see(not stage.venue.sent, "an order was sent without a price")
    stage.market.is_dead = False
    stage.enter()
    stage.market.is_dead = True
    count = len(stage.venue.sent)
    for _ in range(12):
        stage.tick()
    refusal, health = stage.ask_for_more(), stage.health()
    _see(len(stage.venue.sent) == count and "No mark price" in refusal,
         f"an entry without a price was not refused for that: {refusal or 'sent'}")
    _see(stage.held and stage.is_guarded, "the position lost its stop")
    _see(health["ok"] is False and "No mark price" in health["message"],
         f"health says ok {health['ok']}, {health['message'] or 'nothing'}")
    return f"nothing opened, health not ok ({health['message'].partition(':')[0]}), stop stays"


def _error_500(settings: Settings, folder: Path) -> str:
    """The order is taken, and the answer is a real HTTP 500, read by the program's own client."""
    stage, server = _Stage(settings, folder, _noon()), HTTPServer(("127.0.0.1", 0), _Answers500)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stage.venue.mishap = lambda: _post(server.server_port)
    stage.tick()
    stage.venue.mishap = lambda: None
    found = [o for o in stage.bot.engine.outstanding() if o.status is OrderStatus.UNKNOWN]
    _see(stage.held and stage.entries() == 1, f"no entry was taken{stage.trouble()}")
    _see(len(found) == 1, "after the 500 the order does not count as unknown")
    refusal = stage.ask_for_more()
    _see("unknown outcome" in refusal, f"a second entry was not refused for the first one: "
                                       f"{refusal or 'sent'}")
    stage.until(lambda: stage.is_guarded and not [
        o for o in stage.bot.engine.outstanding() if o.purpose is Purpose.ENTRY],
        "the order was not found by listing")
    _see(stage.bot.tracker.get_position(stage.symbol).quantity == stage.held,
         "the books do not have what was filled")
    _see(stage.entries() == 1, f"{stage.entries()} entries were sent")
    return f"sent once, unknown, found by listing: {stage.held:f} held with its stop"


class _Answers500(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(500)

    def log_message(self, *_) -> None:
        pass


def _post(port: int) -> None:
    signer = SimpleNamespace(name="drill", rest_token=lambda *_: "drill")
    Rest(f"http://127.0.0.1:{port}", signer, VenueClock()).send("/orders", {}, opens=True)


def _loss_limit(settings: Settings, folder: Path) -> str:
    stage = _Stage(settings, folder, _noon())
    stage.enter()
    limit, books = settings.max_daily_loss_pct, stage.bot.tracker
    # The next hour's funding costs all that a day may lose, and a little more.
    stage.market.rate = books.day_start_equity * limit * Decimal("1.02") / (
        stage.held * stage.market.price)
    stage.until(lambda: "daily_loss" in stage.bot.risk.holds, "the limit did not act")
    loss, refusal = books.daily_loss(), stage.ask_for_more()
    stage.market.rate = ZERO
    risk = stage.bot.risk
    _see(risk.state is TradingState.REDUCING, f"the state is {risk.state}")
    _see("Daily loss exceeds limit" in refusal, f"an entry was not refused: {refusal or 'sent'}")
    stage.leave()
    try:
        risk.resume("drill", stage.now.date())
        raise Unseen("it could be resumed on the same day")
    except ConfigError:
        pass
    stage.tick(24 * 3600)
    _see(risk.state is TradingState.REDUCING, "the next day lifted it by itself")
    risk.resume("drill", stage.now.date())
    refusal = stage.ask_for_more()
    _see(stage.held and not refusal, f"resumed, an entry was refused: {refusal}")
    return (f"{loss:.2f} USD lost of {books.start_equity:f}: REDUCING, entry refused, exit went; "
            f"same day not resumed, next day it trades")


def _liquidation(settings: Settings, folder: Path) -> str:
    """The margin runs out, as when money is moved away or another position eats it."""
    stage = _Stage(settings, folder, _noon())
    stage.enter()
    held = [stage.held]
    for ratio, allowed in (("1.4", held[0]), ("1.2", held[0] / 2), ("1.05", ZERO)):
        stage.tick(30)  # so that the last fill is in what is read
        stage.venue.available = (
            Decimal(ratio) * LIQUIDATION_SHARE * PaperBroker.margin(stage.venue).initial)
        stage.tick()
        stage.until(lambda: "liquidation_distance" in stage.bot.risk.holds
                    and stage.held <= allowed and stage.is_guarded,
                    f"at {ratio} x the liquidation threshold {stage.held:f} is still held")
        held.append(stage.held)
    liquidated = [fill for fill in stage.venue.fills(stage.now - timedelta(days=1))
                  if fill.is_liquidation]
    _see(not liquidated, "the venue liquidated")
    _see(held[1] == held[0] and held[2], f"given up too early: {' '.join(map(str, held))}")
    _see("Margin nears liquidation" in stage.bot.risk.holds["liquidation_distance"].reason
         and "liquidation_distance" in stage.ask_for_more(), "an entry was not refused for that")
    return (f"REDUCING at 1.4 x the threshold, at 1.2 x {held[2]:f} of {held[0]:f} kept, at 1.05 x "
            f"flat, before the venue acts")


def _full_disk(settings: Settings, folder: Path) -> str:
    stage = _Stage(settings, folder, _noon())
    stage.market.is_dead = True
    stage.tick()  # it has begun, and wants to buy as soon as there is a price
    stage.market.is_dead = False
    with _no_room(folder / "events"):
        for _ in range(3):
            stage.tick()
        refusal = stage.ask_for_more()
        _see(not stage.venue.sent and "jsonl" in refusal,
             f"an entry was sent without its intent on the disk: {refusal}")
        _see("jsonl" in stage.health()["error"], "health does not tell of the full disk")
    stage.enter()
    held = stage.held
    with _no_room(folder / "events"):
        stage.leave()
    stage.tick()
    told = [event for event in read_events(folder / "events") if event.type == "trade.executed"]
    _see(told and not Decimal(told[-1].data["position_quantity"]) and not (
        stage.health()["error"]), "with room again, the events do not tell the exit")
    return f"no entry; the exit of {held:f} went, and is in the events since there is room"


@contextmanager
def _no_room(events: Path) -> Iterator[None]:
    """No file of this process grows beyond what the events have now."""
    size = max(path.stat().st_size for path in events.glob("*.jsonl"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _killed(settings: Settings, folder: Path) -> str:
    """kill -9 between the intent and its answer; the order arrived, or it did not."""
    now = _noon()
    process = processes.Process(target=_die_in_mid_order, args=(settings, folder / "first", now))
    process.start()
    process.join(READY_SECONDS_MAX)
    process.kill()
    _see(process.exitcode == -signal.SIGKILL, f"no order was sent: exit {process.exitcode}")
    shutil.copytree(folder / "first", folder / "second")
    arrived = _restarted(settings, folder / "first", now, arrives=True)
    _see(arrived.entries() == 0, "the order that had arrived was sent again")
    lost = _restarted(settings, folder / "second", now, arrives=False)
    _see(lost.entries() <= 1, f"{lost.entries()} orders took the place of the one that was lost")
    return f"killed in mid-order; arrived: {arrived.held:f} held once, with its stop; lost: told"


def _die_in_mid_order(settings: Settings, folder: Path, now: datetime) -> None:
    stage = _Stage(settings, prepare_folder(folder), now)
    stage.venue.mishap = lambda: os.kill(os.getpid(), signal.SIGKILL)
    stage.tick()


def _restarted(settings: Settings, folder: Path, now: datetime, arrives: bool) -> _Stage:
    """The next process over what the killed one left."""
    stage = _Stage(settings, folder, now + timedelta(seconds=TICK_SECONDS))
    (order,) = stage.bot.engine.outstanding()
    _see(order.status is OrderStatus.UNKNOWN, f"the order in doubt counts as {order.status}")
    if arrives:
        stage.venue.place(order, stage.now)
        stage.venue.sent.clear()
    stage.tick()
    _see(stage.entries() == 0, "a second order was sent while the first was in doubt")
    stage.until(lambda: stage.bot.engine.order(order.id).status is not OrderStatus.UNKNOWN
                and stage.is_guarded, "the order stayed in doubt")
    status = stage.bot.engine.order(order.id).status
    wanted = OrderStatus.FILLED if arrives else OrderStatus.LOST
    _see(status is wanted, f"the order counts as {status}, not as {wanted}")
    return stage


SCENES = (
    Scene("kill -INT, entry resting", _interrupted, INTERRUPT_SECONDS_MAX),
    Scene("dead feed", _dead_feed, SCENE_SECONDS_MAX),
    Scene("answer 500 after accepting", _error_500, SCENE_SECONDS_MAX),
    Scene("daily loss limit", _loss_limit, SCENE_SECONDS_MAX),
    Scene("liquidation approach", _liquidation, SCENE_SECONDS_MAX),
    Scene("full disk", _full_disk, SCENE_SECONDS_MAX),
    Scene("kill -9 in mid-order", _killed, SCENE_SECONDS_MAX),
)
