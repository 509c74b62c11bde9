"""Alerts: what must a person know now, and was it told?

An alert is a state: it stands for as long as what it tells of, health.json lists it meanwhile,
and its coming and going are events.  Where an address is set, `courier` posts it there too, and
later says what became of it, so no tick ever waits.  Nothing is decided here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from perps_bot.model import Event, Order, OrderStatus, Purpose, TradingState, moment
from perps_bot.process import one_line
from perps_bot.risk import EXPIRY_DAYS
from perps_bot.rooms import rooms
from perps_bot.secret import Secret

# The same code is posted at most this often; the heartbeat is sent after each such good time.
TELL_EVERY = BEAT_EVERY = timedelta(minutes=1)
TEXT_LENGTH_MAX = 1500  # what every receiver takes whole
FLUSH_SECONDS_MAX = 0.9  # at the end of a run, with what the ending itself costs below 1
# How old the products may be before somebody should ask whether one was delisted.
PRODUCTS_AGE_MAX = timedelta(minutes=1)

Key = tuple[str, str]  # code, and what it is about


@dataclass(frozen=True)
class Alert:
    """One thing that a person should know, while it lasts.

    code   stable and searchable
    about  a symbol or an order; empty where the code says it all
    """

    code: str
    about: str
    message: str
    since: datetime

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.code, self.about, self.message)))


def causes(bot: Any) -> Iterator[tuple[int, str, str, str]]:
    """The table of what alerts: the seconds that it must have lasted, code, about, message."""
    for kind, hold in bot.risk.holds.items():  # risk trips, halts, mismatch, liquidation, damage
        if kind != "settings":  # the owner's own wish, which the start has printed
            yield 0, kind.upper(), "", f"{hold.state}: {hold.reason}"
    # Where the files lie is nobody's business who reads a post.
    disk = bot.store.trouble.replace(f"{bot.folder}/", "")
    age = bot.store.now - bot._products_at if bot.is_started else timedelta()
    rows = [
        # stands when, for so many seconds, code, about, message
        (not bot.store.writable, 0, "EVENTS_NOT_WRITTEN", "", disk),
        (bot.trouble and bot.store.writable, 60, "TICKS_FAIL", "", bot.trouble),
        (age > PRODUCTS_AGE_MAX, 60, "PRODUCTS_UNKNOWN", "",
         "cannot be read, nothing is opened: is one delisted?"),
        *(row for order in bot.engine.outstanding() for row in _order_rows(bot, order)),
        *(row for symbol in bot.symbols for row in _symbol_rows(bot, symbol)),
    ]
    yield from (row for is_so, *row in rows if is_so)


def _order_rows(bot: Any, order: Order) -> tuple[tuple, ...]:
    is_left = bot.is_over and order.purpose is Purpose.ENTRY
    said = f"{order.symbol} {order.purpose} {order.status}"
    return (
        (order.status is OrderStatus.UNKNOWN, 10, "OUTCOME_UNKNOWN", order.id, said),
        (is_left, 0, "ENTRY_LEFT", order.id, f"{said}: not confirmed gone as the bot ended"),
    )


def _symbol_rows(bot: Any, symbol: str) -> tuple[tuple, ...]:
    ends_at = bot.catalog.get(symbol).expires_at if bot.is_started else None
    ends_soon = ends_at and ends_at - bot.store.now <= timedelta(days=EXPIRY_DAYS)
    return (
        # While a stop is moved, and while an exit is tried, there is none for some seconds.
        (not bot.protector.is_protected(symbol), 10, "NO_STOP", symbol,
         "the position has no stop at the venue"),
        (symbol in bot.books.restricted, 0, "RESTRICTED", symbol, "it is held, and the venue says: "
         f"{bot.books.restricted.get(symbol)}; it may have to be closed there"),
        (symbol in bot.untraded, 0, "LEFT_ALONE", symbol,
         "our events do not explain what is there; see --adopt"),
        (bot.is_started and not bot.has_price(symbol), 60, "NO_MARK", symbol, "no price"),
        (ends_soon, 0, "EXPIRING_SOON", symbol, f"the contract ends at {ends_at}"),
    )


# Raised by an event, and cleared by another one.
BY_EVENT = frozenset({"TIE_OUT"})


class Alerts:
    """What stands now, what the events have of it, and what was posted of it."""

    def __init__(self, profile: str = "", webhook: Secret | None = None,
                 heartbeat: Secret | None = None) -> None:
        self._profile = profile
        # Half of what a bot without an address would load belongs to that room.
        self._webhook = webhook and rooms.courier.Courier("alerts", webhook)
        self._heartbeat = heartbeat and rooms.courier.Courier("heartbeat", heartbeat)
        self._standing: dict[Key, Alert] = {}
        self._recorded: dict[Key, Alert] = {}
        self._shown: set[Key] = set()  # by the last `look`
        self._suspected: dict[Key, datetime] = {}  # since when it is so
        self._told: dict[Key, Alert] = {}
        self._told_at: dict[str, datetime] = {}  # by code
        self._posting: dict[str, dict[Key, Alert]] = {}  # by code, what had been told before
        self._good_since: datetime | None = None

    def apply(self, event: Event, is_live: bool) -> None:
        """Fold one event; a hold that is taken now is posted now, however long its tick lasts."""
        data = event.data
        if event.type == "day.opened" and not self._recorded:
            for row in data["snapshot"].get("surfaces", {}).get("alerts", ()):
                alert = Alert(**{**row, "since": moment(row["since"])})
                self._standing[alert.code, alert.about] = alert
            self._recorded = dict(self._standing)
        elif event.type == "alert":
            key = data["code"], data.get("about", "")
            alert = self._standing.setdefault(key, Alert(*key, data["message"], event.at))
            self._recorded[key] = alert
        elif event.type == "alert.cleared":
            for kept in (self._recorded, self._standing):
                kept.pop((data["code"], data["about"]), None)
        elif event.type == "account.tied_out" and data["explained"]:
            self._standing.pop(("TIE_OUT", ""), None)
        elif event.type == "state.changed" and is_live:
            self._see_hold(event)

    def look(self, bot: Any, now: datetime, error: str = "") -> bool:
        """See what stands after a tick, record it and have it posted; True when that is news.

        error  why the process ends; then nothing else is looked at, and nothing is recorded
        """
        if error:
            self._standing["ENDED", ""] = Alert("ENDED", "", f"the process ended: {error}", now)
        else:
            self._compare(bot, now)
            self._record(bot)
        self.take_results(bot)
        self._tell(now)
        shown, self._shown = self._shown, set(self._standing)
        return shown != self._shown

    def beat(self, now: datetime, is_ok: bool) -> None:
        """Send the heartbeat after each minute in which all was well."""
        since = self._good_since
        if not is_ok or since is None or now < since:
            self._good_since = now if is_ok else None
        elif now - since >= BEAT_EVERY:
            self._good_since = now
            if self._heartbeat:
                self._heartbeat.put("heartbeat", None)

    def rows(self) -> list[dict]:
        """What stands, the newest last."""
        return [vars(alert) for alert in self._standing.values()]

    def snapshot(self) -> list[dict]:
        return [vars(alert) for alert in self._recorded.values()]

    def delivery(self) -> dict[str, dict | None] | None:
        """How the posts fare; None where no address is set."""
        couriers = {"webhook": self._webhook, "heartbeat": self._heartbeat}
        if not any(couriers.values()):
            return None
        return {name: courier and courier.figures() for name, courier in couriers.items()}

    def take_results(self, bot: Any) -> None:
        """Write down what became of the posts; what failed will be tried again."""
        for courier in filter(None, (self._webhook, self._heartbeat)):
            for code, trouble, is_news in courier.results():
                before = self._posting.pop(code, None)
                if before is None:
                    continue  # a heartbeat, of which health.json tells
                if trouble:
                    others = {k: a for k, a in self._told.items() if k[0] != code}
                    self._told = others | before
                if _can_record(bot) and not trouble:
                    bot.store.append("alert.sent", code=code)
                elif _can_record(bot) and is_news:  # an outage is told once, not every minute
                    bot.store.append("alert.failed", code=code, reason=trouble)

    def flush(self) -> None:
        """Let the thread post what waits, for a moment; nothing is posted any more after it."""
        if self._webhook:
            self._webhook.close(FLUSH_SECONDS_MAX)

    def _see_hold(self, event: Event) -> None:
        kind, state, reason = (event.data[name] for name in ("kind", "state", "reason"))
        if kind != "settings" and state != TradingState.TRADING:
            key = kind.upper(), ""
            self._standing.setdefault(key, Alert(*key, f"{state}: {reason}", event.at))
            self._tell(event.at)

    def _compare(self, bot: Any, now: datetime) -> None:
        suspected, standing = {}, {}
        for seconds, code, about, message in causes(bot):
            key = code, about
            since = suspected[key] = min(self._suspected.get(key, now), now)
            known = self._standing.get(key)
            if known or bot.is_over or now - since >= timedelta(seconds=seconds):
                standing[key] = Alert(*key, message, known.since if known else now)
        self._suspected = suspected
        # Before the first complete look at the venue, nothing is known to be over.
        kept = {key: alert for key, alert in self._standing.items()
                if not bot.is_started or key[0] in BY_EVENT}
        self._standing = kept | standing

    def _record(self, bot: Any) -> None:
        if not _can_record(bot) or bot.is_over:  # the next start records what stands then
            return
        new = [alert for key, alert in self._standing.items() if key not in self._recorded]
        over = [alert for key, alert in self._recorded.items() if key not in self._standing]
        for alert in new:
            bot.store.append("alert", code=alert.code, about=alert.about, message=alert.message)
        for alert in over:
            bot.store.append("alert.cleared", code=alert.code, about=alert.about)

    def _tell(self, now: datetime) -> None:
        """Have posted what is not as it was told last, each code at most once a minute."""
        if self._webhook is None:
            return
        for code in sorted({key[0] for key in self._standing.keys() ^ self._told.keys()}):
            at = self._told_at.get(code)
            is_early = at is not None and timedelta() <= now - at < TELL_EVERY
            if not is_early and code not in self._posting:
                self._told_at[code] = now
                self._post(code, now)

    def _post(self, code: str, now: datetime) -> None:
        stands, told = ({key: alert for key, alert in kept.items() if key[0] == code}
                        for kept in (self._standing, self._told))
        lines = [str(alert) for key, alert in stands.items() if key not in told]
        lines += [f"over: {alert}" for key, alert in told.items() if key not in stands]
        text = one_line(f"perps-bot {self._profile}: {'; '.join(lines)}")[:TEXT_LENGTH_MAX]
        body = {"text": text, "bot": "perps-bot", "profile": self._profile, "code": code,
                "state": "raised" if stands else "over", "at": now.isoformat()}
        if self._webhook.put(code, body):
            self._posting[code] = told
            self._told = {k: a for k, a in self._told.items() if k[0] != code} | stands


def _can_record(bot: Any) -> bool:
    """Whether there is an open day, and the venue's clock to date an event by."""
    return bot._observes is not None and bot.store.day is not None
