"""Checklist: could it trade here, with these settings?

What the owner asks before a start: `check`, `products`, `symbol`.  Each question is one line with
its numbers and, where the answer is no, with what to change; one that fails holds up no other.
Nothing here sends an order or changes a file, and no key or address that is secret is printed.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from perps_bot.courier import post
from perps_bot.broker import MarketData
from perps_bot.catalog import ProductCatalog, ceil_to, quantity_for, quantize_quantity
from perps_bot.errors import BelowMinimum, ConfigError, StoreDamaged, VenueUnavailable
from perps_bot.execution import ExecutionConfig
from perps_bot.limits import largest_order
from perps_bot.bot import configured
from perps_bot.market import bar_closes
from perps_bot.model import ZERO, Account, Mark, OrderIntent, OrderType, Product, Side
from perps_bot.risk import LiveRiskManager, RiskConfig, caps, counted, headroom, worst_price
from perps_bot.settings import FOREIGN_VARIABLES, Settings, described
from perps_bot.store import DAY_FILES, EPOCH, EventStore, distrust, read_events
from perps_bot.strategy import BaselinePerpsStrategy, StrategyConfig
from perps_bot.terminal import Terminal
from perps_bot.tracker import OrderTracker, PositionTracker

# What the advice of `check` adds to what is needed now, for the price to move.
SPARE = Decimal("1.1")
# Beyond these differences of clocks it is time to look, and tokens are about to fail.
CLOCK_WARN_SECONDS, CLOCK_OFF_SECONDS_MAX = 2, 10
# How long the WebSocket may take to say something.
FEED_LOOKS_MAX, FEED_LOOK_SECONDS = 50, 0.1
# Over so many bars trips are counted; what they may cost a day, of equity.
FEE_BARS, FEES_PCT_MAX = 300, Decimal("0.005")
VERDICTS = {True: ("ok", "plain"), False: ("NO", "bad"), None: ("--", "dim")}
KEY_MISSING = "set COINBASE_API_KEY and COINBASE_API_SECRET, or COINBASE_API_KEY_FILE"


class Check(NamedTuple):
    """One line of `check`: what was looked at, whether it is well, and what to do if not.

    ok  None where there is nothing to judge, or only something to know
    """

    name: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        return f"{VERDICTS[self.ok][0]}  {self.name}: {self.text}"


def check(settings: Settings, market: MarketData, now: datetime) -> Iterator[Check]:
    """Prove that the settings in force can produce a legal order in every symbol."""
    catalog = _catalog(market)
    account = Account(now, settings.paper_equity, marks=market.marks(settings.symbols, now))
    for symbol in settings.symbols:
        try:
            product = catalog.get(symbol)
        except ConfigError as refusal:
            yield Check(symbol, False, str(refusal))
            continue
        yield from _orders_of(product, account, settings)


def settings_text(settings: Settings) -> str:
    """Every value in force and where it came from, one line each."""
    return in_columns([(n, f"{value} {unit}".rstrip(), source)
                       for n, value, unit, source in described(settings)])


def check_text(settings: Settings, kind: str, checks: Sequence[Check], terminal: Terminal) -> str:
    """All of it for people."""
    said = (f"{settings.api_url} was asked; nothing was sent." if kind != "paper-synthetic" else
            f"Prices and product rules are the synthetic market's, equity is taken as "
            f"{settings.paper_equity:f} USD; no venue was asked.")
    lines = (terminal.paint(str(row), VERDICTS[row.ok][1]) for row in checks)
    return "\n".join((settings_text(settings), "", *lines, said))


def check_values(settings: Settings, kind: str, checks: Sequence[Check]) -> dict[str, object]:
    """All of it for programs."""
    names = ("name", "value", "unit", "source")
    return {"ok": all(row.ok is not False for row in checks), "broker": kind,
            "checks": [row._asdict() for row in checks],
            "settings": [dict(zip(names, row)) for row in described(settings)]}


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


# check, of a real venue


@dataclass
class Inquiry:
    """What `check` learns of a real venue, one question after the other.

    client       asks with the key where there is one, and sends nothing
    key_trouble  why a key that was given cannot be used, or ""
    is_up        whether the venue has answered at all
    account      as if flat, and with the settings' equity until the venue has said its own
    """

    settings: Settings
    client: Any
    folder: Path
    environ: Mapping[str, str]
    key_trouble: str = ""
    sends_alert: bool = False
    is_up: bool = False
    products: dict[str, Product] = field(default_factory=dict)
    account: Account = Account(EPOCH, ZERO)

    @property
    def now(self) -> datetime:
        return self.client.rest.clock.now()

    @property
    def is_dry(self) -> bool:
        return self.settings.dry_run or self.settings.sandbox

    @property
    def limits(self) -> RiskConfig:
        return configured(RiskConfig, self.settings)

    def trip_fees(self, product: Product, quantity: Decimal, price: Decimal) -> Decimal:
        """USD that getting in and out again costs at the settings' fees."""
        contracts = quantity / product.contract_size
        return 2 * (self.settings.fee_rate * quantity * price
                    + self.settings.fee_per_contract * contracts)


def check_venue(asked: Inquiry) -> Iterator[Check]:
    """Ask everything; what fails is one line, and the rest is asked all the same."""
    for name, needs, ask in LIVE_CHECKS:
        if needs and not asked.is_up:
            yield Check(name, False, "not asked, because the REST host does not answer")
        elif needs == "key" and asked.client.rest.signer is None:
            yield _keyless(asked, name)
        else:
            try:
                yield from ask(asked)
            except (VenueUnavailable, ConfigError, StoreDamaged) as failure:
                yield Check(name, False, str(failure))


def _keyless(asked: Inquiry, name: str) -> Check:
    """What cannot be asked without a key is a fault, but for a run that needs none."""
    if asked.is_dry and not asked.key_trouble:
        return Check(name, None, "not asked: a dry run needs no key")
    return Check(name, False, f"needs a key: {asked.key_trouble or KEY_MISSING}")


def _reached(asked: Inquiry) -> Iterator[Check]:
    ahead = asked.client.rest.measure_clock()
    asked.is_up = True
    yield Check("REST", True, f"{asked.settings.api_url} answers")
    advice = ": set it by a time server" if abs(ahead) > CLOCK_WARN_SECONDS else ""
    yield Check("clock", abs(ahead) <= CLOCK_OFF_SECONDS_MAX,
                f"this machine's clock is {abs(ahead):.2f} s from the venue's{advice}")


def _credentials(asked: Inquiry) -> Iterator[Check]:
    is_there = asked.client.rest.signer is not None
    yield (Check("credentials", True, "a name and a private key, well formed") if is_there
           else _keyless(asked, "credentials"))


def _permissions(asked: Inquiry) -> Iterator[Check]:
    before = asked.client.rest.read_only
    view_only = asked.client.connect() != before  # raises ConfigError for what must not be used
    yield Check("permissions", None if view_only else True, "view only: it would observe and send "
                "nothing" if view_only else "view and trade, no transfer")


def _derivatives(asked: Inquiry) -> Iterator[Check]:
    is_set = asked.settings.enable_derivatives
    yield Check("derivatives", is_set or (None if asked.is_dry else False), "enabled" if is_set else
                "set COINBASE_ENABLE_DERIVATIVES=1 before orders are sent")


def _products(asked: Inquiry) -> Iterator[Check]:
    """What each symbol is at the venue, whether it trades, and what it costs."""
    catalog, symbols = _catalog(asked.client), asked.settings.symbols
    for symbol in symbols:
        try:
            asked.products[symbol] = product = catalog.get(symbol)
        except ConfigError as refusal:
            yield Check(f"{symbol} product", False, str(refusal))
            continue
        yield Check(f"{symbol} product", True, f"{product.product_id}, contract of "
                    f"{product.contract_size:f}, tick {product.price_increment:f} USD")
        is_well = None if _is_closed(product) else product.tradable
        yield Check(f"{symbol} session", is_well, session_said(product))
    asked.account = Account(asked.now, asked.settings.paper_equity)
    marks = asked.client.marks(symbols, asked.now)
    asked.account = asked.account._replace(at=asked.now, marks=marks)


def _websocket(asked: Inquiry) -> Iterator[Check]:
    feed = asked.client.feed
    feed.follow(asked.products.values())
    for _ in range(FEED_LOOKS_MAX):
        stale = {name for name, figures in feed.figures().items() if figures["stale"]}
        if not stale:
            break
        sleep(FEED_LOOK_SECONDS)
    feed.stop()
    for name in feed.figures():
        yield Check(f"WebSocket {name}", name not in stale, "messages arrive" if name not in stale
                    else f"no message within {FEED_LOOKS_MAX * FEED_LOOK_SECONDS:.0f} s: check "
                         f"the network, and what stands between")
    if asked.client.rest.signer is None:
        yield _keyless(asked, "WebSocket user")


def _balance(asked: Inquiry) -> Iterator[Check]:
    equity = asked.client.equity()
    margin = asked.client.margin()
    asked.account = asked.account._replace(equity=equity, margin=margin)
    yield Check("account", True, "open for futures")
    yield Check("equity", equity > 0, f"{equity:.2f} USD{'' if equity > 0 else ': add funds'}")
    yield Check("liquidation guard", True if margin else None, "armed" if margin else
                "UNARMED: the venue does not say its margin figures")


def _limits(asked: Inquiry) -> Iterator[Check]:
    """Whether the limits fit each other: a stop of everything allowed is no day's loss."""
    limits, settings = asked.limits, asked.settings
    share = min(limits.max_position_pct_per_symbol * len(settings.symbols), limits.max_exposure_pct)
    leverage = min(limits.target_leverage, limits.leverage_limit)
    at_stop = share * leverage * (limits.trailing_stop_pct + 2 * settings.fee_rate)
    fits = at_stop < limits.max_daily_loss_pct
    yield Check("limits", fits, f"all stops at once lose {at_stop:.2%} of equity, the daily limit "
                f"is {limits.max_daily_loss_pct:.2%}{'' if fits else ': lower --leverage'}")


def _orders(asked: Inquiry) -> Iterator[Check]:
    for product in asked.products.values():
        yield from _orders_of(product, asked.account, asked.settings)


def _fees(asked: Inquiry) -> Iterator[Check]:
    """What the strategy would have traded over the newest bars, and what that costs a day."""
    settings, total, said = asked.settings, ZERO, []
    bar = timedelta(seconds=settings.bar)
    for symbol, product in asked.products.items():
        closes = bar_closes(
            asked.client, symbol, bar, FEE_BARS + settings.long_ma_period, asked.now)
        entered = [side for _, side in crossings(closes, configured(StrategyConfig, settings))
                   if side in _sides(settings)]
        days = Decimal((len(closes) - settings.long_ma_period) * settings.bar) / 86400
        if days <= 0 or symbol not in asked.account.marks:
            yield Check("fees", None, f"{symbol}: too few candles, or no price: unknown")
            return
        fee = asked.trip_fees(product, *_Entry(product, Side.BUY, asked.account,
                                               asked.limits).size())
        total += len(entered) / days * fee
        said.append(f"{symbol} {len(entered)} round trips in {days:.1f} days, {fee:.2f} USD each")
    share = total / asked.account.equity if asked.account.equity > 0 else total
    advice = ""
    if share > FEES_PCT_MAX:
        longer = min(86400, ceil_to(settings.bar * share / FEES_PCT_MAX, Decimal(settings.bar)))
        advice = f", above {FEES_PCT_MAX:.1%}: set --bar {longer:f}, or longer averages"
    if said:
        yield Check("fees", share <= FEES_PCT_MAX, f"{'; '.join(said)}: {total:.2f} USD, "
                    f"{share:.2%} of equity a day{advice}")


def _stops(asked: Inquiry) -> Iterator[Check]:
    """Whether a stop costs more than the trip itself, and comes before liquidation."""
    account, limits = asked.account, asked.limits
    for symbol, product in asked.products.items():
        name, mark = f"{symbol} stop", account.marks.get(symbol)
        if mark is None:
            yield Check(name, None, "no price: unknown")
            continue
        quantity, price = _Entry(product, Side.BUY, account, limits).size()
        lost = quantity * price * limits.trailing_stop_pct
        spent = asked.trip_fees(product, quantity, price) + quantity * (mark.ask - mark.bid)
        yield Check(name, lost > spent, f"{limits.trailing_stop_pct:.2%} away is {lost:.2f} USD, "
                    f"fees and spread {spent:.2f} USD"
                    f"{'' if lost > spent else ': widen --trailing-stop-pct'}")
        for side in _sides(asked.settings):
            quantity, price = _Entry(product, side, account, limits).size()
            would = counted(quantity * price, ZERO, ZERO)
            for cap in caps(account, product, side, limits):
                if cap.code == "STOP_BEYOND_LIQUIDATION" and cap.room(would) < 0:
                    yield Check(name, False, str(cap.breach(would)))


def _holdings(asked: Inquiry) -> Iterator[Check]:
    """What stands at the venue and not in our events."""
    symbols, beside, strange = asked.settings.symbols, [], dict(_unexplained(asked))
    for symbol, what in strange.items():
        if symbol not in symbols:
            beside.append(f"{symbol} {what}")
            continue
        is_adopted = symbol in asked.settings.adopt
        yield Check(f"{symbol} holding", is_adopted, f"the account {what}: " + (
            "taken over by --adopt" if is_adopted else
            f"take it over with --adopt {symbol}, or close it at the venue"))
    if beside:
        yield Check("beside", None, f"{'; '.join(beside)}: not ours, counts as exposure")
    if len(strange) == len(beside):
        yield Check("holdings", True, "our events explain all that our symbols hold")


def _unexplained(asked: Inquiry) -> Iterator[tuple[str, str]]:
    """Yield by symbol what our events do not explain; of two things, the last."""
    books, orders = _our_books(asked.folder / "events")
    for order in asked.client.orders(asked.now):
        is_ours = orders.knows(order.id) or orders.is_ours(order.originating_order_id)
        if not is_ours and not order.status.is_terminal:
            yield order.symbol, f"has an order that is not ours, {order.id[:40]}"
    held = asked.client.positions()
    for symbol in {*held, *books.positions()}:
        theirs = held[symbol].quantity if symbol in held else ZERO
        ours = books.get_position(symbol).quantity
        if theirs != ours:
            yield symbol, f"holds {theirs:f}, our events explain {ours:f}"


def _our_books(folder: Path) -> tuple[PositionTracker, OrderTracker]:
    """Fold the newest day of the events; nothing is changed, for a bot may be at work."""
    store = EventStore()
    books, orders = PositionTracker(store), OrderTracker(store, ExecutionConfig.tag)
    for path in sorted(folder.glob(DAY_FILES))[-1:]:
        for event in read_events(folder, date.fromisoformat(path.stem)):
            books.apply(event)
            orders.apply(event)
    return books, orders


def _folder(asked: Inquiry) -> Iterator[Check]:
    folder = asked.folder
    if not folder.exists():
        parent = next(path for path in folder.absolute().parents if path.exists())
        yield Check("folder", os.access(parent, os.W_OK), f"{folder}: the first start makes it")
        return
    wrong = distrust(folder) or (
        "cannot be written" if not os.access(folder, os.W_OK) else
        f"others may read it: chmod 700 {folder}" if folder.stat().st_mode & 0o077 else "")
    yield Check("folder", not wrong, f"{folder}: {wrong or 'ours alone, writable'}")


def _environment(asked: Inquiry) -> Iterator[Check]:
    """Whoever sets these expects them to matter, and to us they do not."""
    found = [name for name in FOREIGN_VARIABLES if asked.environ.get(name)]
    is_prod = asked.settings.profile == "prod"
    yield Check("environment", not found or (False if is_prod else None), f"{' '.join(found)} "
                f"set: without effect here, so unset what somebody relies on" if found
                else "nothing that pretends to change how we connect")


def check_alerts(settings: Settings, sends: bool) -> Iterator[Check]:
    """Whether there is a route, and with `sends` whether it takes an alert."""
    url = settings.alert_webhook_url
    if not url:
        yield Check("alerts", False if sends else None, "no route: set PERPS_ALERT_WEBHOOK_URL")
    elif not sends:
        yield Check("alerts", None, "a route is set; --send-test-alert tries it")
    else:
        text = f"perps-bot: test alert of profile {settings.profile}"
        trouble = post(url, {"text": text})
        yield Check("alerts", not trouble, trouble or "the test alert was taken: see that it came")


LIVE_CHECKS = (
    # name             needs   what asks
    ("REST",           "",     _reached),
    ("credentials",    "",     _credentials),
    ("permissions",    "key",  _permissions),
    ("derivatives",    "",     _derivatives),
    ("products",       "rest", _products),
    ("WebSocket",      "",     _websocket),
    ("account",        "key",  _balance),
    ("limits",         "",     _limits),
    ("orders",         "rest", _orders),
    ("fees",           "rest", _fees),
    ("stop",           "rest", _stops),
    ("holdings",       "key",  _holdings),
    ("folder",         "",     _folder),
    ("backup",         "",     lambda asked: [Check(
        "backup", None, "take one, best each day: perps-bot backup DEST --profile "
        f"{asked.settings.profile}")]),
    ("environment",    "",     _environment),
    ("alerts",         "",     lambda asked: check_alerts(asked.settings, asked.sends_alert)),
)  # fmt: skip


# products, symbol


def product_rows(market: MarketData, now: datetime) -> list[dict[str, object]]:
    """Every perpetual of the venue: sizes, margin, funding, session and the smallest order."""
    products = sorted(_catalog(market).get_perpetual_products(), key=lambda each: each.symbol)
    marks = market.marks([product.symbol for product in products], now)
    return [_product_row(product, marks.get(product.symbol), market, now) for product in products]


def _product_row(product: Product, mark: Mark | None, market: MarketData, now: datetime
                 ) -> dict[str, object]:
    rates = [product.margin_rate(side) for side in Side]
    funding = market.funding(product.symbol, now)
    leverages = [(1 / rate).quantize(Decimal("0.01"), ROUND_DOWN) if rate else None
                 for rate in rates]
    return {
        "symbol": product.symbol, "product_id": product.product_id,
        "contract_size": product.contract_size, "tick": product.price_increment,
        "margin_long": rates[0], "margin_short": rates[1],
        "max_leverage_long": leverages[0], "max_leverage_short": leverages[1],
        "funding_rate": funding and funding.rate, "funding_at": funding and funding.at,
        "session": session_said(product), "closes_at": product.closes_at,
        "smallest_order_usd": mark and _least(product, mark.ask).quantize(Decimal("0.01")),
    }


def product_columns(rows: Sequence[Mapping]) -> Iterator[tuple[str, ...]]:
    yield ("symbol", "venue id", "contract", "tick", "margin long/short", "max leverage",
           "funding", "smallest USD", "session")
    for row in rows:
        yield (row["symbol"], row["product_id"], *(_said(row[name]) for name in (
            "contract_size", "tick")), *(f"{_said(row[f'{name}_long'])}/"
            f"{_said(row[f'{name}_short'])}" for name in ("margin", "max_leverage")),
            _said(row["funding_rate"]), _said(row["smallest_order_usd"]), row["session"])


def symbol_columns(report: Mapping) -> Iterator[tuple[str, str]]:
    for name, value in report.items():
        if name != "orders":
            yield name, _said(value)
    for name, order in report["orders"].items():
        yield name, f"{'possible' if order['possible'] else 'NOT possible'}: {order['why']}"


def _said(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return "unknown" if value is None else str(value)


def session_said(product: Product) -> str:
    if not product.tradable or not product.is_session_open:
        return f"{'closed' if _is_closed(product) else 'restricted'}: {product.note or '?'}"
    return f"open until {product.closes_at:%Y-%m-%dT%H:%MZ}" if product.closes_at else "open"


def _is_closed(product: Product) -> bool:
    """Whether it is only the session that is closed, which passes; a flag is another matter."""
    return not product.is_session_open and product.note.startswith("session")


def symbol_report(market: MarketData, symbol: str, settings: Settings, now: datetime
                  ) -> dict[str, object]:
    """One product in full, its newest data, and what stands against an order now.

    Raises ConfigError, listing what was found, for a symbol that is not listed.
    """
    product = _catalog(market).get(symbol)
    marks = market.marks([product.symbol], now)
    mark = marks.get(product.symbol)
    candles = market.candles(product.symbol, settings.bar, 1, now)
    ended = candles[-1].opened_at + timedelta(seconds=settings.bar) if candles else None
    account = Account(now, settings.paper_equity, marks=marks)
    return {
        **_product_row(product, mark, market, now),
        "quantity_increment": product.quantity_increment, "min_quantity": product.min_quantity,
        "max_quantity": product.max_quantity, "expires_at": product.expires_at,
        "bid": mark and mark.bid, "ask": mark and mark.ask, "quote_at": mark and mark.at,
        "last_candle_ended_at": ended,
        "last_candle_age_seconds": ended and int((now - ended).total_seconds()),
        "orders": {row.name: {"possible": row.ok is True, "why": row.text}
                   for row in _orders_of(product, account, settings)},
    }


# What all of them ask


def crossings(closes: Iterable[tuple[datetime, Decimal]], config: StrategyConfig
              ) -> list[tuple[datetime, Side]]:
    """When the averages of the closes crossed, and to which side."""
    strategy, sides = BaselinePerpsStrategy(config), []
    for at, close in closes:
        strategy.observe("", close, at)
        sides.append((at, strategy.side("")))
    return [now for (_, before), now in pairwise(sides) if before and now[1] is not before]


def _catalog(market: MarketData) -> ProductCatalog:
    catalog = ProductCatalog()
    catalog.load_from_brokerage(market)
    return catalog


def _sides(settings: Settings) -> tuple[Side, ...]:
    return tuple(Side) if settings.enable_shorts else (Side.BUY,)


def _orders_of(product: Product, account: Account, settings: Settings) -> Iterator[Check]:
    for side in _sides(settings):
        yield _Entry(product, side, account, configured(RiskConfig, settings),
                     settings.order_type).check()


class _Entry(NamedTuple):
    """An entry on one side of a product, as this account could send it within these limits."""

    product: Product
    side: Side
    account: Account
    limits: RiskConfig
    order_type: OrderType = OrderType.MARKET

    @property
    def mark(self) -> Mark | None:
        return self.account.marks.get(self.product.symbol)

    def room(self) -> Decimal:
        """USD that the limits leave."""
        return headroom(self.product.symbol, self.side, self.account, self.product, self.limits)

    def leverage(self) -> Decimal:
        return self.limits.leverage_in_force(self.product, self.side)

    def intent(self) -> OrderIntent:
        """Without a size; a limit order rests at its own side's best price."""
        best = self.mark.bid if self.side is Side.BUY else self.mark.ask
        return OrderIntent(self.product.symbol, self.side, ZERO, self.order_type,
                           limit_price=best if self.order_type is OrderType.LIMIT else None)

    def size(self) -> tuple[Decimal, Decimal]:
        """Base units and price; of the smallest order where none is allowed."""
        price = worst_price(self.intent(), self.mark)
        least = _least(self.product, price) / price
        return max(least, quantity_for(self.product, self.room(), price)), price

    def check(self) -> Check:
        """Size, quantise and ask the gate, as the loop does."""
        product, mark = self.product, self.mark
        name = f"{product.symbol} {'long' if self.side is Side.BUY else 'short'}"
        if _is_closed(product):
            return Check(name, None, f"{session_said(product)}; ask again when it is open")
        if mark is None:
            return Check(name, False, f"No mark price for symbol {product.symbol}: check the venue")
        entry = self.intent()
        price = worst_price(entry, mark)
        said = f"the limits leave {self.room():.2f} USD at {self.leverage():.4g}x leverage"
        try:
            wanted = quantize_quantity(product, quantity_for(product, self.room(), price), price)
            most = max(largest_order(entry, mark, product, self.limits), product.min_quantity)
            quantity = quantize_quantity(product, min(wanted, most), price)
        except BelowMinimum:
            return Check(name, False, f"Quantization failed: Below minimum: {said}, "
                                      f"{self._way_out(price)}")
        verdict = LiveRiskManager(self.limits).pre_trade(
            entry._replace(quantity=quantity), self.account, product)
        size = product.contract_size
        # What is offered at the best price changes by the second: no fault of the settings.
        is_thin = [breach.code for breach in verdict.breaches] == ["TOP_OF_BOOK_EXCEEDED"]
        return Check(name, None if is_thin else verdict.approved, verdict.reason or (
            f"{said}: {quantity / size:f} contracts of {size * price:.2f} USD"))

    def _way_out(self, price: Decimal) -> str:
        """The smallest order, and every number to change so that it becomes possible."""
        limits, account, least = self.limits, self.account, _least(self.product, price)
        share = self.leverage() * min(limits.max_position_pct_per_symbol, limits.max_exposure_pct)
        # What a real account holds is no setting.
        equity = "the account's equity to" if account.margin else "--equity"
        numbers = (
            # flag             what it allows now        what it must be, USD
            ("--max-position", limits.max_position,      least),
            (equity,           account.equity * share,   least / share),
        )  # fmt: skip
        changes = [f"{flag} {(needed * SPARE).quantize(Decimal('1E1'), ROUND_UP):f}"
                   for flag, allowed, needed in numbers if allowed is not None and allowed < least]
        way = f"set {' and '.join(changes)}" if changes else "the liquidation guard leaves less"
        return f"the smallest order is {least:.2f} USD: {way}"


def _least(product: Product, price: Decimal) -> Decimal:
    """USD of the smallest order that the product allows."""
    step = product.quantity_increment
    return max(product.min_quantity, ceil_to(product.min_notional / price, step)) * price
