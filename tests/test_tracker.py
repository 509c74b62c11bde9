"""What `tracker.py` promises: average-price books that a restart reads back to the last digit."""

from datetime import date
from decimal import Decimal

import pytest

from perps_bot.model import Purpose, Side
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker, apply_fill
from words import BTC, ETH, NOON, a_fill, a_payment, a_position, hours, said

DAY = date(2025, 5, 1)


class Books:
    """A tracker over a store, and the words to write into it.  The day begins with 10,000 USD."""

    def __init__(self, folder=None):
        self.folder, self._fills = folder, 0
        self.store = EventStore(folder, NOON - hours(12))
        self.tracker = PositionTracker(self.store)
        if not self.store.recover().events:
            self.open_day(0, "10000")

    def restart(self):
        self.store.close()
        books = Books(self.folder)
        books.store.now, books._fills = self.store.now, self._fills
        return books

    def open_day(self, days, equity):
        self.store.now = NOON + hours(24 * days - 12)
        self.store.open_day(self.store.now.date(), {"tracker": self.tracker.snapshot()},
                            equity=Decimal(equity))

    def fill(self, *lines, symbol=BTC, fill_id=None, at=None):
        for words in lines:
            self._fills += 1
            self.store.now = at or self.store.now + hours(1)
            fill = a_fill(words, symbol, fill_id or f"fill-{self._fills}", self.store.now)
            self.tracker.apply_fill(fill, Purpose.ENTRY, "a cross", None)
        return self

    def pay(self, amount, symbol=BTC, at=None):
        self.store.now = at or self.store.now + hours(1)
        self.tracker.apply_funding(a_payment(amount, symbol, self.store.now))
        return self

    def see(self, price, symbol=BTC, equity="10000"):
        """As the loop does: value everything, and leave mark and equity in the events."""
        self.tracker.last_equity = Decimal(equity)
        self.tracker.mark(symbol, Decimal(price))
        self.store.append("strategy.signal", symbol=symbol, mark_price=Decimal(price),
                          equity=Decimal(equity))
        return self

    def held(self, symbol=BTC):
        return said(self.tracker.get_position(symbol))

    def numbers(self):
        books = self.tracker
        return (books.snapshot(), books.equity(), books.start_equity, books.last_equity,
                books.day_start_equity, books.daily_loss(), books.remembers_since)


# One fill


@pytest.mark.parametrize("held, fill, left, realized_pnl", [
    ("flat",          "BUY 1 @ 100",    "long 1 @ 100",    "0"),
    ("flat",          "SELL 1 @ 100",   "short 1 @ 100",   "0"),
    ("long 1 @ 100",  "BUY 1 @ 110",    "long 2 @ 105",    "0"),
    ("long 2 @ 105",  "SELL 1 @ 115",   "long 1 @ 105",    "10"),
    ("long 1 @ 105",  "SELL 1 @ 100",   "flat",            "-5"),
    ("long 1 @ 105",  "SELL 3 @ 100",   "short 2 @ 100",   "-5"),
    ("short 1 @ 100", "SELL 3 @ 96",    "short 4 @ 97",    "0"),
    ("short 4 @ 97",  "BUY 1 @ 90",     "short 3 @ 97",    "7"),
    ("short 3 @ 97",  "BUY 3 @ 99",     "flat",            "-6"),
    ("short 3 @ 97",  "BUY 5 @ 95",     "long 2 @ 95",     "6"),
])
def test_a_fill_moves_the_position(held, fill, left, realized_pnl):
    position = apply_fill(a_position(held), a_fill(fill))
    assert said(position) == left
    assert position.realized_pnl == Decimal(realized_pnl)


def test_a_flat_position_has_no_entry_price():
    assert apply_fill(a_position("long 1 @ 100"), a_fill("SELL 1 @ 90")).entry_price == 0


@pytest.mark.parametrize("fill", ["BUY 1 @ 1 fee 3", "SELL 1 @ 1 fee 3", "SELL 9 @ 1 fee 3"])
def test_every_fill_pays_its_fee_and_no_fee_is_in_the_realized_profit(fill):
    position = a_position("long 2 @ 1")
    assert apply_fill(position, a_fill(fill)).fees == 3
    assert apply_fill(position, a_fill(fill)).realized_pnl == 0


def test_what_rounding_an_average_leaves_over_is_realized_at_once():
    position = apply_fill(a_position("long 1 @ 100"), a_fill("BUY 2 @ 100.01"))
    assert position.entry_price == Decimal("100.0066666667")  # of 100.00666…
    assert position.realized_pnl == Decimal("0.0000000001")  # 3 * 100.0066666667 - 300.02
    closed = apply_fill(position, a_fill("SELL 3 @ 100.01"))
    assert closed.realized_pnl == Decimal("0.01")  # what the cash says: 300.03 - 300.02


# The identity


@pytest.mark.parametrize("lines, marked, expected", [
    # the fills,                                              the last mark, what is then left
    (("BUY 1 @ 100 fee 1",),                                  "130",  "10029"),
    (("BUY 1 @ 100 fee 1", "BUY 3 @ 108 fee 2"),              "107",  "10001"),
    (("BUY 2 @ 100", "SELL 1 @ 150 fee 5"),                   "90",   "10035"),
    (("BUY 2 @ 100", "SELL 5 @ 110", "BUY 1 @ 120"),          "115",  "10000"),
    (("SELL 1 @ 100", "SELL 2 @ 100.01", "BUY 1 @ 100.07"),   "99.93", "10000.09"),
    (("BUY 0.07 @ 61234.5 fee 0.42", "BUY 0.04 @ 61000.1"),   "60999.9", "9983.15"),
])
def test_equity_is_what_the_cash_and_the_mark_say(lines, marked, expected):
    books = Books().fill(*lines).see(marked)
    assert books.tracker.equity() == Decimal(expected)


def test_the_parts_add_up_to_the_equity_over_all_symbols():
    books = Books().fill("BUY 2 @ 100 fee 1", "SELL 1 @ 120 fee 2")
    books.fill("SELL 10 @ 30 fee 3", symbol=ETH).pay("0.5").pay("-0.25", ETH)
    books.see("90").see("31", ETH)
    total = books.tracker.total
    assert [total(name) for name in ("realized_pnl", "unrealized_pnl", "fees", "funding")] == [
        20, -20, 6, Decimal("0.25")]
    assert books.tracker.equity() == Decimal("9993.75")


@pytest.mark.parametrize("amount, equity", [("7", "9993"), ("-7", "10007")])
def test_funding_that_we_pay_is_positive_and_costs(amount, equity):
    books = Books().pay(amount)
    assert books.tracker.get_position(BTC).funding == Decimal(amount)
    assert books.tracker.equity() == Decimal(equity)


def test_a_position_opened_again_is_not_valued_at_a_mark_of_long_ago():
    books = Books().fill("BUY 1 @ 100").see("100").fill("SELL 1 @ 100", "BUY 1 @ 200")
    assert books.tracker.get_position(BTC).unrealized_pnl == 0
    assert books.tracker.daily_loss() == 0


def test_a_mark_values_what_is_held():
    books = Books().fill("SELL 2 @ 100")
    books.tracker.mark(BTC, Decimal(90))
    assert books.tracker.get_position(BTC).unrealized_pnl == 20


def test_only_open_positions_are_listed():
    books = Books().fill("BUY 1 @ 100", "SELL 1 @ 101").fill("BUY 1 @ 10", symbol=ETH)
    assert list(books.tracker.positions()) == [ETH]


# Once


def test_a_fill_and_a_payment_that_come_twice_are_booked_once():
    books = Books()
    for _ in range(2):
        books.fill("BUY 1 @ 100 fee 1", fill_id="same").pay("2", at=NOON)
    assert books.held() == "long 1 @ 100"
    assert (books.tracker.total("fees"), books.tracker.total("funding")) == (1, 2)
    assert books.tracker.knows("same") and not books.tracker.knows("other")


def test_nothing_is_booked_again_however_late_it_is_read_again(tmp_path):
    """A stop that rests for weeks makes every read begin weeks ago."""
    books = Books(tmp_path / "events").fill("BUY 1 @ 100", fill_id="first", at=NOON)
    payments = [NOON + hours(n) for n in range(1, 24 * 5)]
    for at in payments:
        if at.date() > books.store.day:
            books.open_day((at.date() - DAY).days, "10000")
        books.pay("1", at=at)
    for again in (books, books.restart()):
        for at in (NOON, *payments):
            again.tracker.apply_funding(a_payment("1", at=at))
        again.tracker.apply_fill(a_fill("BUY 1 @ 100", fill_id="first"), Purpose.ENTRY, "", None)
        assert again.tracker.total("funding") == len(payments)
        assert again.held() == "long 1 @ 100"


def test_what_happened_while_nobody_looked_is_booked_however_long_that_was():
    books = Books().fill("BUY 1 @ 100", at=NOON)
    books.open_day(9, "10000")
    books.fill("SELL 1 @ 90", at=NOON + hours(24)).pay("3", at=NOON + hours(12))
    assert (books.held(), books.tracker.total("funding")) == ("flat", 3)


def test_the_ids_of_two_days_are_kept_and_no_more():
    books = Books()
    for day in range(1, 9):
        books.fill("BUY 1 @ 100", at=NOON + hours(24 * day - 24))
        books.open_day(day, "10000")
    assert len(books.tracker.snapshot()["seen"]) == 3  # the newest, and those within two days
    assert books.tracker.remembers_since == NOON + hours(24 * 5)


def test_a_time_from_the_future_does_not_make_everything_else_too_old():
    books = Books()
    books.tracker.apply_fill(a_fill("BUY 1 @ 100", at=NOON + hours(9999)), Purpose.ENTRY, "", None)
    books.open_day(1, "10000")
    books.fill("BUY 1 @ 100")
    assert books.held() == "long 2 @ 100"


# The day's loss


@pytest.mark.parametrize("happens, loss", [
    (lambda books: books.fill("BUY 1 @ 100 fee 3"),                 "3"),
    (lambda books: books.fill("BUY 1 @ 100", "SELL 1 @ 60"),        "40"),
    (lambda books: books.fill("BUY 1 @ 100").see("70"),             "30"),
    (lambda books: books.fill("SELL 1 @ 100").see("70"),            "-30"),
    (lambda books: books.pay("5"),                                  "5"),
    (lambda books: books.see("100", equity="25000"),                "0"),  # a deposit
    (lambda books: books.see("100", equity="500"),                  "0"),  # a withdrawal
])
def test_the_days_loss_counts_what_trading_cost_and_no_transfer(happens, loss):
    assert happens(Books()).tracker.daily_loss() == Decimal(loss)


def test_midnight_begins_a_new_loss_from_the_last_known_marks(tmp_path):
    books = Books(tmp_path / "events").fill("BUY 1 @ 100 fee 2").see("60")
    assert books.tracker.daily_loss() == 42
    books.open_day(1, "9958")
    assert (books.tracker.daily_loss(), books.tracker.day_start_equity) == (0, 9958)
    books.see("45").pay("1")
    assert books.tracker.daily_loss() == 16
    assert books.restart().tracker.daily_loss() == 16
    assert books.restart().tracker.day_start_equity == 9958


def test_a_restart_within_the_day_forgets_no_loss(tmp_path):
    books = Books(tmp_path / "events").fill("BUY 1 @ 100", "SELL 1 @ 60 fee 1")
    for _ in range(3):
        books = books.restart()
    assert books.tracker.daily_loss() == 41


def test_a_cleared_loss_counts_from_then_on(tmp_path):
    books = Books(tmp_path / "events").fill("BUY 1 @ 100").see("60")
    books.store.append("state.changed", kind="daily_loss", state="TRADING", clears_loss=True)
    books.store.append("state.changed", kind="rejects", state="TRADING", clears_loss=False)
    assert books.tracker.daily_loss() == 0
    books = books.restart()
    assert books.tracker.daily_loss() == 0
    books.see("55")
    assert books.restart().tracker.daily_loss() == 5


def test_a_restart_knows_at_which_marks_a_loss_was_cleared(tmp_path):
    books = Books(tmp_path / "events").fill("BUY 1 @ 100").see("60")
    books.tracker.mark(BTC, Decimal(57))  # no signal has it
    books.store.append("state.changed", kind="daily_loss", state="TRADING", clears_loss=True,
                       pnl=books.tracker.pnl())
    assert books.restart().see("55").tracker.daily_loss() == 2


def test_a_hold_that_is_lifted_without_clearing_forgets_no_loss():
    books = Books().fill("BUY 1 @ 100").see("60")
    books.store.append("state.changed", kind="daily_loss", state="TRADING", clears_loss=False)
    books.store.append("state.changed", kind="kill_switch", state="HALTED")
    assert books.tracker.daily_loss() == 40


# The venue's position, taken over


@pytest.mark.parametrize("held, marked, theirs, realized_pnl", [
    ("flat",         None, "long 2 @ 100",  "20"),   # it had lost that before we came
    ("long 1 @ 100", "70", "flat",          "-30"),  # gone, at the last mark that we know
    ("long 2 @ 100", "90", "long 1 @ 100",  "-10"),
    ("long 1 @ 100", "90", "short 1 @ 80",  "0"),
])
@pytest.mark.parametrize("event", ["position.adopted", "reconcile.mismatch"])
def test_taking_over_the_venues_position_is_neither_a_gain_nor_a_loss(
        event, held, marked, theirs, realized_pnl, tmp_path):
    books = Books(tmp_path / "events")
    if held != "flat":
        books.fill(f"BUY {held.split()[1]} @ 100").see(marked)
    before = books.tracker.equity(), books.tracker.daily_loss()
    books.tracker.adopt(event, a_position(theirs, mark="90"))
    for again in (books, books.restart()):
        assert again.held() == theirs
        assert again.tracker.get_position(BTC).realized_pnl == Decimal(realized_pnl)
        assert (again.tracker.equity(), again.tracker.daily_loss()) == before
    books.see("89")
    assert books.tracker.daily_loss() - before[1] == books.tracker.get_position(BTC).quantity


def test_a_position_that_comes_without_a_mark_is_valued_where_it_was_entered():
    books = Books()
    books.tracker.adopt("position.adopted", a_position("long 1 @ 100", mark="0"))
    books.see("99")
    assert books.tracker.daily_loss() == 1


# A fold over events


def test_the_venues_last_equity_and_the_newest_booking_outlive_a_restart(tmp_path):
    books = Books(tmp_path / "events").fill("BUY 1 @ 100", at=NOON + hours(2))
    books.see("100", equity="9123").pay("1", at=NOON + hours(1))  # a payment that came late
    for again in (books, books.restart()):
        assert again.tracker.last_equity == 9123
        assert again.tracker.last_booked_at == NOON + hours(2)

def test_the_books_of_a_restart_are_the_same_to_the_last_digit(tmp_path):
    books = Books(tmp_path / "events")
    steps = (
        lambda: books.fill("BUY 1 @ 100 fee 0.1", "BUY 2 @ 100.01 fee 0.2").see("99.5"),
        lambda: books.fill("SELL 7 @ 2.5 fee 0.3", symbol=ETH).see("2.75", ETH).pay("0.0123"),
        lambda: books.open_day(1, "9991"),
        lambda: books.fill("SELL 4 @ 101 fee 0.4").see("102", equity="9992").pay("-0.5", ETH),
        lambda: books.open_day(2, "9990"),
        lambda: books.fill("BUY 1 @ 100").see("101.05").pay("0.007"),
    )
    for step in steps:
        step()
        again = books.restart()
        assert again.numbers() == books.numbers()
        books = again


def test_recovery_needs_the_last_days_file_alone(tmp_path):
    books = Books(tmp_path / "events").fill("BUY 1 @ 100 fee 1").pay("2")
    books.open_day(1, "9997")
    books.see("105")
    (tmp_path / "events" / f"{DAY}.jsonl").unlink()
    assert books.restart().numbers() == books.numbers()
    assert books.restart().tracker.equity() == 10002


def test_the_books_begin_with_the_venues_first_equity():
    books = Books().fill("BUY 1 @ 100").see("80")
    books.open_day(1, "12345")  # somebody deposited; the books go on
    assert (books.tracker.start_equity, books.tracker.equity()) == (10000, 9980)


def test_each_fill_is_two_events_with_every_number():
    books, seen = Books(), []
    books.store.subscribe(lambda event: seen.append((event.type, event.data)))
    books.fill("BUY 2 @ 100 fee 1", "SELL 1 @ 130 fee 2")
    assert [kind for kind, _ in seen] == ["trade.executed", "position.updated"] * 2
    trade, position = seen[2][1], seen[3][1]
    assert (trade["side"], trade["quantity"], trade["price"], trade["fee"]) == (
        Side.SELL, 1, 130, 2)
    assert (trade["realized_pnl"], trade["position_quantity"], trade["entry_price"]) == (
        30, 1, 100)
    assert (position["quantity"], position["realized_pnl"], position["fees"]) == (1, 30, 3)


# The runbook's sample


def test_positions_are_kept_by_hand_too():
    tracker = PositionTracker(event_store=EventStore())
    tracker.update_position(symbol=BTC, qty=Decimal("0.1"), price=Decimal("50000"))
    assert tracker.get_position(BTC).unrealized_pnl == 0
    tracker.update_position(BTC, Decimal("-0.3"), Decimal("51000"))
    assert said(tracker.get_position(BTC)) == "short 0.2 @ 51000"
    assert tracker.get_position(BTC).realized_pnl == 100
    tracker.update_position(BTC, Decimal(0), Decimal("50000"))  # only a price
    assert tracker.get_position(BTC).unrealized_pnl == 200


@pytest.mark.parametrize("qty, price", [(0.1, Decimal(1)), (Decimal(1), 50000.0)])
def test_no_float_reaches_the_books(qty, price):
    with pytest.raises(TypeError, match="pass a Decimal"):
        PositionTracker(EventStore()).update_position(BTC, qty, price)
