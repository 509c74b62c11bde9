"""Markets: what is the price of a product, is it open, and when does either change?

Pure.  A market holds the product's row, the quotes, the scripted path still to be played, the
candles built from what was played, and the trading session by the calendar of Chicago.
"""

from collections import deque
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from zoneinfo import ZoneInfo

from .forms import decimal, epoch, moment, plain, short_iso

CHICAGO = ZoneInfo("America/Chicago")
BOOK_LEVELS = 10
TRADES_KEPT = 100
MINUTE = 60
OPEN, CLOSE, PRE_OPEN, NO_CANCEL = "OPEN", "CLOSE", "PRE_OPEN", "PRE_OPEN_NO_CANCEL"
ROLL = time(16)
FRIDAY = 4
# The weekly closure of the round-the-clock products, by Chicago's clock on a Friday.
CLOSURE = ((time(16), CLOSE), (time(16, 50), PRE_OPEN), (time(16, 59, 30), NO_CANCEL),
           (time(17), OPEN))
REASON = "FCM_TRADING_SESSION_CLOSED_REASON_"
STATE = "FCM_TRADING_SESSION_STATE_"


class Market:
    """One product."""

    def __init__(self, row: dict, now: datetime, friday_close: bool):
        self.row = row
        self.product_id = row["product_id"]
        details = row.get("future_product_details") or {}
        self.tick = decimal(row.get("price_increment") or 1)
        self.contract_size = decimal(details.get("contract_size") or 1)
        self.tradable = row.get("product_venue") == "FCM"
        self.perpetual = bool(details.get("funding_interval"))
        self.funding_rate = decimal(details.get("funding_rate") or 0)
        self.next_funding_rate: Decimal | None = None
        self.open_in_hour = True
        self.friday_close = friday_close and self.tradable
        self.forced: str | None = None
        self.reason = ""
        self.maintenance: tuple[datetime, datetime] | None = None
        self.halted = False
        self.listed = True
        self.path: deque = deque()
        self.waiting_row = None
        self.history: dict[int, list[Decimal]] = {}
        self.trades: deque = deque(maxlen=TRADES_KEPT)
        self.trade_count = 0
        price = decimal(row.get("price") or 0)
        self.bid, self.ask = price - self.tick, price + self.tick
        self.bid_size = self.ask_size = Decimal(50)
        self.last = price
        if details.get("maintenance"):
            self.announce(details["maintenance"])
        self.phase = self.phase_at(now)

    # Prices

    @property
    def matches(self) -> bool:
        return self.phase == OPEN and not self.halted and self.tradable

    @property
    def mid(self) -> Decimal:
        if self.bid > 0 and self.ask > 0:
            return (self.bid + self.ask) / 2
        return self.last

    mark = mid

    def on_tick(self, price: Decimal, rounding: str = ROUND_HALF_EVEN) -> Decimal:
        return (price / self.tick).quantize(Decimal(1), rounding) * self.tick

    def quotes(self, side: str) -> list[tuple[Decimal, Decimal]]:
        """The levels as they are published: none while the market is closed."""
        return self.levels(side) if self.phase == OPEN else []

    def levels(self, side: str) -> list[tuple[Decimal, Decimal]]:
        """What a taker of `side` meets, best first."""
        best, size, step = ((self.ask, self.ask_size, self.tick) if side == "BUY"
                            else (self.bid, self.bid_size, -self.tick))
        if best <= 0 or size <= 0:
            return []
        prices = (best + step * level for level in range(BOOK_LEVELS))
        return [(price, size) for price in prices if price > 0]

    def quote(self, bid: Decimal, ask: Decimal, last: Decimal | None, now: datetime) -> None:
        self.bid, self.ask = bid, ask
        if last is None:
            return
        self.last = last
        self.trade_count += 1
        self.trades.appendleft((self.trade_count, last, now, "BUY"))
        start = epoch(now) // MINUTE * MINUTE
        candle = self.history.get(start)
        if candle is None:
            self.history[start] = [last, last, last, last, Decimal(1)]
        else:
            candle[0], candle[1] = min(candle[0], last), max(candle[1], last)
            candle[3] = last
            candle[4] += 1

    def play(self, rows: list) -> None:
        """Take a path of [time, mid], [time, bid, ask] or [time, bid, ask, last]."""
        read = [(moment(row[0]), *(decimal(price) for price in row[1:])) for row in rows]
        self.path = deque(sorted([*self.path, *read], key=lambda row: row[0]))

    def read_path_row(self, row) -> tuple[Decimal, Decimal, Decimal]:
        if len(row) == 2:
            mid = self.on_tick(row[1])
            return mid - self.tick, mid + self.tick, mid
        bid, ask = self.on_tick(row[1]), self.on_tick(row[2])
        return bid, ask, self.on_tick(row[3] if len(row) > 3 else (bid + ask) / 2)

    def load_candles(self, rows: list) -> None:
        for row in rows:
            if int(row[0]) % MINUTE:
                raise ValueError(f"a candle begins on a whole minute, not at {row[0]}")
            self.history[int(row[0])] = [decimal(value) for value in row[1:6]]

    def candles(self, start: int, end: int, step: int, now: datetime) -> list[list]:
        """Buckets of `step` seconds that begin in start..end, newest first; gaps stay gaps."""
        buckets: dict[int, list] = {}
        first, present = -(-start // step) * step, epoch(now)
        for begun in self._starts(first, min(end // step * step + step - 1, present)):
            bucket = begun // step * step
            low, high, opened, closed, volume = self.history[begun]
            if bucket not in buckets:
                buckets[bucket] = [bucket, low, high, opened, closed, volume]
                continue
            built = buckets[bucket]
            built[1], built[2] = min(built[1], low), max(built[2], high)
            built[4] = closed
            built[5] += volume
        return [buckets[bucket] for bucket in sorted(buckets, reverse=True)]

    def _starts(self, first: int, final: int) -> list[int]:
        minutes = range(first, final + 1, MINUTE)
        if len(minutes) < len(self.history):
            return [start for start in minutes if start in self.history]
        return sorted(start for start in self.history if first <= start <= final)

    # Sessions

    def announce(self, window: dict | None) -> None:
        self.maintenance = window and (moment(window["start_time"]), moment(window["end_time"]))

    def phase_at(self, now: datetime) -> str:
        if self.forced is not None:
            return self.forced
        if self.maintenance and self.maintenance[0] <= now < self.maintenance[1]:
            return CLOSE
        local = now.astimezone(CHICAGO)
        phase = OPEN
        if self.friday_close and local.weekday() == FRIDAY:
            for begins, state in CLOSURE:
                phase = state if local.time() >= begins else phase
        return phase

    def next_change(self, now: datetime) -> datetime | None:
        """When the session may next change by the calendar."""
        times = [at for at in self.maintenance or () if at > now]
        if self.friday_close:
            local = now.astimezone(CHICAGO)
            friday = local.date() + timedelta(days=(FRIDAY - local.weekday()) % 7)
            for week in (0, 7):
                day = friday + timedelta(days=week)
                times += [at for begins, _ in CLOSURE
                          if (at := datetime.combine(day, begins, CHICAGO).astimezone(UTC)) > now]
        return min(times, default=None)

    def session(self, now: datetime) -> dict:
        opened, closes = trade_date(now)
        window = self.maintenance if self.maintenance and self.maintenance[1] > now else None
        reason = self.reason or ("UNDEFINED" if self.phase == OPEN else
                                 "EXCHANGE_MAINTENANCE" if window and window[0] <= now else
                                 "REGULAR_MARKET_CLOSE")
        given = self.row.get("fcm_trading_session_details") or {}
        computed = {
            "is_session_open": self.phase == OPEN,
            "open_time": short_iso(opened),
            "close_time": short_iso(closes),
            "session_state": STATE + self.phase,
            "after_hours_order_entry_disabled": False,
            "closed_reason": reason if reason.startswith(REASON) else REASON + reason,
            "maintenance": window and {"start_time": short_iso(window[0]),
                                       "end_time": short_iso(window[1])},
        }
        static = {"after_hours_order_entry_disabled"}
        return {key: given[key] if key in static else computed.get(key, given[key])
                for key in given}

    # The row

    def shown(self, now: datetime) -> dict:
        row = copied(self.row)
        if not self.tradable or not row.get("price"):
            return row
        row["price"] = plain(self.last)
        if "mid_market_price" in row:
            row["mid_market_price"] = plain(self.mid)
        if row.get("fcm_trading_session_details"):
            row["fcm_trading_session_details"] = self.session(now)
        details = row.get("future_product_details") or {}
        if self.perpetual and "funding_rate" in details:
            details["funding_rate"] = plain(self.funding_rate)
            # The most recent top of the hour: the rate is that of the hour which ended then.
            details["funding_time"] = short_iso(now.replace(minute=0, second=0, microsecond=0))
        return row

    def margin_rate(self, contracts: Decimal) -> Decimal:
        rates = ((self.row.get("future_product_details") or {}).get("overnight_margin_rate")
                 or {"long_margin_rate": "1", "short_margin_rate": "1"})
        return decimal(rates.get("long_margin_rate" if contracts > 0 else "short_margin_rate")
                       or 1)

    def flag(self, name: str) -> bool:
        return self.row.get(name) is True


def copied(value):
    """As `copy.deepcopy` does with what JSON carries, at a fifth of its cost."""
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


def trade_date(now: datetime) -> tuple[datetime, datetime]:
    """The open and the close of the trade date: it rolls at 16:00 in Chicago, Monday to Friday."""
    local = now.astimezone(CHICAGO)
    rolls = [datetime.combine(local.date() + timedelta(days=days), ROLL, CHICAGO)
             for days in range(-4, 5)]
    rolls = [at for at in rolls if at.weekday() <= FRIDAY]
    last = max(at for at in rolls if at <= local)
    opened = last + timedelta(hours=1) if last.weekday() == FRIDAY else last
    return opened, min(at for at in rolls if at > local)


def next_roll(now: datetime) -> datetime:
    return trade_date(now)[1].astimezone(UTC)
