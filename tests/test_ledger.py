"""The specification of `perps_bot/ledger.py`: why it did not trade, and events one by one."""

from datetime import UTC, datetime, timedelta

import pytest

from perps_bot.errors import ConfigError
from perps_bot.ledger import NO_WORD, UNDER_WAY, tail, tail_line, tail_row, why, why_lines
from perps_bot.store import EventStore
from perps_bot.terminal import Terminal

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BTC, ETH = "BTC-PERP", "ETH-PERP"
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


class Diary:
    """A folder of events, written one each second."""

    def __init__(self, folder):
        self.folder, self.store = folder, EventStore(folder, NOON)

    def add(self, type, **data):
        self.store.now += SECOND
        self.store.append(type, **data)
        return self

    def decides(self, action, reason="upward cross 0 bars ago", symbol=BTC):
        return self.add("strategy.signal", symbol=symbol, action=action, reason=reason,
                        mark_price="70000")

    def refused(self, *codes, reason="upward cross 0 bars ago", purpose="entry", symbol=BTC):
        breaches = [{"code": code, "limit": "max", "measured": "3.4", "allowed": "3", "unit": "x"}
                    for code in codes]
        return self.add("risk.rejected", symbol=symbol, side="buy", quantity="1", reason=reason,
                        purpose=purpose, breaches=breaches, message="in words")

    def sent(self, purpose="entry", number=1):
        return self.add("order.intended", symbol=BTC, purpose=purpose,
                        client_order_id=f"pb-{number}")

    def became(self, status, purpose="entry", number=1, **more):
        return self.add("order.updated", symbol=BTC, purpose=purpose, status=status,
                        client_order_id=f"pb-{number}", **more)

    def traded(self, purpose="entry", number=1):
        return self.add("trade.executed", symbol=BTC, purpose=purpose,
                        client_order_id=f"pb-{number}")

    def day(self):
        self.store.now += DAY
        self.store.open_day(self.store.now.date(), {})
        return self


@pytest.fixture
def diary(tmp_path):
    return Diary(tmp_path / "events")


@pytest.mark.parametrize("write, gate", [
    (lambda d: d.decides("hold", "no cross pending"),
     ("strategy: no cross pending", "no cross pending")),
    (lambda d: d.decides("hold", "warming: 3 of 20 bars"),
     ("strategy: warming", "warming: 3 of 20 bars")),
    (lambda d: d.decides("buy").refused("LEVERAGE_EXCEEDED", "NO_MARK", "X"),
     ("risk: LEVERAGE_EXCEEDED", "measured 3.4, allowed 3 x, and 2 more")),
    (lambda d: d.decides("buy").refused(), ("risk: ?", "in words")),
    (lambda d: d.decides("buy").sent().became("rejected", code="TRADING_DISABLED"),
     ("venue: rejected", "TRADING_DISABLED")),
    (lambda d: d.decides("buy").sent().became("open").became("expired", answer="GTD: too late"),
     ("venue: expired", "GTD: too late")),
    (lambda d: d.decides("buy").sent().add("order.unknown", symbol=BTC, reason="timed out",
                                                client_order_id="pb-1"),
     ("venue: unknown", "timed out")),
    (lambda d: d.decides("buy").sent().became("open"),
     UNDER_WAY),
    (lambda d: d.decides("buy").sent().became("open").decides("buy"), UNDER_WAY),
    (lambda d: d.decides("buy").sent().became("cancelled").decides("buy"), NO_WORD),
    (lambda d: d.decides("buy"), NO_WORD),
    # What concerns another symbol, another purpose, or a stop, says nothing of this decision.
    (lambda d: d.decides("buy").refused("NO_MARK", symbol=ETH), NO_WORD),
    (lambda d: d.decides("buy").refused("NOT_REDUCING", purpose="exit"), NO_WORD),
    (lambda d: d.decides("buy").became("cancelled", "stop"), NO_WORD),
    (lambda d: d.decides("buy").traded(number=7), NO_WORD),
    (lambda d: d.decides("hold", "position follows the averages").sent("exit").traded("exit"),
     ("strategy: position follows the averages", "position follows the averages")),
    (lambda d: d.decides("hold", "position follows the averages").sent("stop").traded("stop"),
     ("strategy: position follows the averages", "position follows the averages")),
    (lambda d: d.decides("close").refused("NOT_REDUCING", purpose="exit"),
     ("risk: NOT_REDUCING", "measured 3.4, allowed 3 x")),
    # A refusal that only repeats itself was not written again; another one would have been.
    (lambda d: d.refused("NO_MARK").decides("buy"), NO_WORD),
    (lambda d: d.decides("buy").refused("NO_MARK").decides("buy"),
     ("risk: NO_MARK", "measured 3.4, allowed 3 x (since 12:00:02)")),
    (lambda d: d.decides("buy").refused("NO_MARK").sent().became("rejected").decides("buy"),
     NO_WORD),
    (lambda d: d.decides("buy").refused("NO_MARK").decides("buy", "upward cross 1 bars ago"),
     NO_WORD),
])
def test_the_gate_is_the_first_that_the_events_name(diary, write, gate):
    write(diary)
    answer = why(diary.folder, BTC, 20).answers[-1]
    assert (answer.did_trade, (answer.gate, answer.numbers)) == (False, gate)


def test_a_decision_that_traded_says_so(diary):
    diary.decides("buy").sent().traded().became("filled").decides("hold", "follows")
    ledger = why(diary.folder, BTC, 20)
    assert [answer.did_trade for answer in ledger.answers] == [True, False]
    assert ledger.counts() == {"strategy: follows": 1}


def test_a_fill_that_comes_late_belongs_to_the_decision_that_asked_for_it(diary):
    diary.decides("buy").sent().became("open").decides("buy", "upward cross 1 bars ago")
    diary.traded().became("filled")
    answers = why(diary.folder, BTC, 20).answers
    assert [(answer.did_trade, answer.gate) for answer in answers] == [
        (True, ""), (False, UNDER_WAY[0])]


def test_it_looks_so_many_decisions_back_and_over_midnight(diary):
    for number in range(5):
        diary.decides("hold", f"before {number}")
    diary.day()
    diary.decides("hold", "one").decides("hold", "other", ETH).decides("hold", "two")
    said = [answer.numbers for answer in why(diary.folder, BTC, 4).answers]
    assert said == ["before 3", "before 4", "one", "two"]


def test_a_symbol_without_decisions_is_refused_with_those_that_there_are(diary):
    diary.decides("hold", "x").decides("hold", "x", ETH)
    with pytest.raises(ConfigError, match="no decision on DOGE-PERP .* BTC-PERP ETH-PERP$"):
        why(diary.folder, "DOGE-PERP", 5)


def test_where_nothing_was_decided_it_says_that(diary):
    diary.add("feed.stale", connection="market", reason="closed")
    with pytest.raises(ConfigError, match="there is none on any symbol"):
        why(diary.folder, BTC, 5)


def test_the_ledger_is_told_with_counts_runs_and_what_was_around(diary):
    diary.add("feed.stale", connection="user", reason="before the first decision")
    diary.decides("hold", "no cross pending").decides("hold", "no cross pending")
    diary.decides("buy").refused("LEVERAGE_EXCEEDED")
    diary.add("state.changed", before="TRADING", kind="operator", state="HALTED", reason="dinner")
    diary.decides("hold", "no cross pending")
    assert list(why_lines(why(diary.folder, BTC, 9), Terminal(90)))[:-2] == [
        "BTC-PERP: the last 4 decisions, 2026-11-23 12:00:02 to 2026-11-23 12:00:07 UTC: 0 traded",
        "  3 x  strategy: no cross pending",
        "  1 x  risk: LEVERAGE_EXCEEDED",
        "11-23 12:00:02 to 12:00:03, 2 times hold: no cross pending",
        "11-23 12:00:04 buy (upward cross 0 bars ago): risk: LEVERAGE_EXCEEDED: measured 3.4,",
        "    allowed 3 x",
        "11-23 12:00:06 -- HALTED because of operator: dinner (was TRADING)",
        "11-23 12:00:07 hold: no cross pending"]


def test_a_run_over_midnight_shows_both_days(diary):
    diary.decides("hold", "x").day().decides("hold", "x")
    assert "11-23 12:00:01 to 11-24 12:00:02, 2 times hold: x" in why_lines(
        why(diary.folder, BTC, 9), Terminal(90))


def test_the_ledger_as_json_has_the_same(diary):
    diary.decides("buy").refused("NO_MARK")
    diary.add("feed.stale", connection="user", reason="silent")
    said = why(diary.folder, BTC, 9).as_json()
    assert (said["counts"], said["traded"]) == ({"risk: NO_MARK": 1}, 0)
    assert [row["gate"] for row in said["decisions"]] == ["risk: NO_MARK"]
    assert [row["type"] for row in said["around"]] == ["feed.stale"]


@pytest.mark.parametrize("value", [None, [], {}, "x\x1b", 10**300, True])
def test_whatever_stands_in_the_events_is_told_on_printable_lines(diary, value):
    fields = dict.fromkeys(("action", "reason", "mark_price", "purpose", "status", "answer", "kind",
                            "client_order_id", "breaches", "message", "state", "code"), value)
    diary.decides("buy")
    for type in ("strategy.signal", "order.intended", "risk.rejected", "order.updated",
                 "order.unknown", "order.lost", "trade.executed", "state.changed", "feed.stale"):
        diary.add(type, symbol=BTC, **fields)
    ledger = why(diary.folder, BTC, 9)
    assert all(line.isprintable() for line in why_lines(ledger, Terminal(80)))
    assert ledger.as_json()["decisions"][1]["gate"]
    assert all(tail_line(event).isprintable() for event in tail(diary.folder, 99, (), None))


# Events, one by one


def test_the_last_events_come_oldest_first_and_of_the_types_that_are_wanted(diary):
    diary.decides("buy").sent().became("open").traded().day().decides("hold", "x")

    def types(count, *names):
        return [event.type for event in tail(diary.folder, count, names, None)]

    assert types(2) == ["day.opened", "strategy.signal"]
    assert types(9, "order") == ["order.intended", "order.updated"]
    assert types(1, "trade.executed", "order.updated") == ["trade.executed"]
    with pytest.raises(ConfigError, match="--type trade.x: no such events; there are .*trade"):
        types(1, "trade.x")


def test_what_comes_is_followed_over_midnight_until_it_is_enough(diary):
    diary.decides("buy")
    steps = iter([lambda: diary.sent(), lambda: diary.day(), lambda: diary.traded(), None])

    def wait():
        step = next(steps)
        if step:
            step()
        return step is None

    seen = [event.type for event in tail(diary.folder, 1, (), wait)]
    assert seen == ["strategy.signal", "order.intended", "day.opened", "trade.executed"]


def test_a_line_has_its_time_and_a_row_all_fields(diary):
    diary.add("alert.sent", code="NO_STOP")
    (event,) = tail(diary.folder, 1, (), None)
    assert tail_line(event) == "2026-11-23 12:00:01Z the alert NO_STOP was posted"
    row = tail_row(event)
    assert (row["seq"], row["ts"], row["type"], row["code"], row["text"]) == (
        2, NOON + SECOND, "alert.sent", "NO_STOP", "the alert NO_STOP was posted")
