"""The specification of `perps_bot/control.py` and its mailbox: each request once, and no lie.

Files as an owner, a crash or an enemy may leave them, and a bot over a venue that does as it is
told.  The same with real processes is in `test_emergency.py`.
"""

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from helpers import BTC, ETH, NOON, RISING, Rig, ScriptedVenue, VirtualClock, verified
from perps_bot import control as room
from perps_bot import store as store_room
from perps_bot.clock import StopRequest, SystemClock
from perps_bot.control import Control
from perps_bot.errors import ConfigError
from perps_bot.bot import assemble, recover
from perps_bot.loop import run
from perps_bot.mailbox import Answer, Mailbox, Request, answer_to, put, request_of
from perps_bot.model import Margin, Position, TradingState
from perps_bot.ops import Surfaces, close_all_positions
from perps_bot.store import EventStore
from words import replace

ID = "0123456789abcdef" * 2
HALT = {"reason": "by the test", "reduce_only": False}
REDUCE = {"reason": "by the test", "reduce_only": True}
RESUME = {"reason": "by the test", "clear_daily_loss": False}
CLOSE = {"reason": "by the test", "symbols": []}


class Clock(VirtualClock):
    def wall(self):
        return self.now()


class Died(BaseException):
    """The process ended here."""


def dies(*_arguments):
    raise Died


class Owned(Rig):
    """A bot that can be asked, and what the owner sees of it."""

    def start(self, **settings):
        self.settings = self.settings.replace(**settings)
        self.place = self.folder / "control"
        store = EventStore(self.folder / "events")
        self.bot = assemble(self.settings, self.venue, store, "scripted", self.folder)
        self.bot.control = Control(store, Mailbox(self.place))
        self.bot.surfaces = Surfaces(self.folder, self.said.append)
        self.events = []
        for apply in (self.events.append, self.bot.surfaces.apply):
            store.subscribe(apply)
        recover(self.bot)
        return self

    def leave(self, command, args, identity=ID, age=0):
        self.place.mkdir(mode=0o700, exist_ok=True)
        request = Request(identity, command, args, self.now - timedelta(seconds=age))
        assert put(self.place, request) is None
        return request

    def obey(self, **clock):
        """What the loop does before a tick; the signal that came meanwhile."""
        clock = Clock(self.now, on_wait=lambda _: self._pass_to(clock.now()), **clock)
        self._pass_to(self.now)
        number = self.bot.control.obey(self.bot, clock)
        self.now = clock.now()
        return number

    def _pass_to(self, now):
        self.venue.now = now

    def asks(self, command, args, identity=ID, age=0, **clock):
        request = self.leave(command, args, identity, age)
        self.obey(**clock)
        return answer_to(self.place, request)

    def files(self):
        return sorted(os.listdir(self.place))

    @property
    def state(self):
        return self.bot.risk.state


@pytest.fixture
def rig(tmp_path):
    return Owned(ScriptedVenue(BTC, ETH), tmp_path, symbols=(BTC, ETH), bar=60)


def entered(rig, rests=False):
    """A long in BTC with its stop; or an entry that rests."""
    rig.venue.history = {BTC: RISING}
    if rests:
        rig.venue.answers.append("rest")
    rig.tick()
    rig.tick()
    return rig


def last(answer):
    return answer.text.split("\n")[-2]


# A halt


@pytest.mark.parametrize("args, state", [(HALT, "HALTED"), (REDUCE, "REDUCING")])
def test_a_halt_is_held_in_the_events_and_leaves_the_stop(rig, args, state):
    entered(rig)
    answer = rig.asks("halt", args)
    assert (answer.exit_code, last(answer)) == (0, "halted: every entry confirmed gone")
    assert answer.text.split("\n")[0] == f"{state}: by the test"
    assert f"{BTC} position: " in answer.text and ", stop at " in answer.text
    assert rig.venue.live() and not rig.venue.cancelled
    assert rig.restart().state == state
    assert rig.files() == ["answer.json"]


def test_a_resting_entry_is_cancelled_and_named(rig):
    entered(rig, rests=True)
    answer = rig.asks("halt", REDUCE)
    assert answer.exit_code == 0 and f"{BTC} entry " in answer.text
    assert ": cancelled" in answer.text and rig.venue.live() == []


@pytest.mark.parametrize("cancels, down, code, words", [
    ("queue", "",       3, "NOT verified: not confirmed in the time there is"),
    ("queue", "orders", 4, "NOT verified: orders: the line is dead"),
    ("queue", "fills",  4, "NOT verified: fills: the line is dead"),
    ("queue", "positions", 4, "NOT verified: positions: the line is dead"),
])
def test_a_halt_says_what_it_did_not_see_and_holds_all_the_same(rig, cancels, down, code, words):
    entered(rig, rests=True)
    rig.venue.cancels = cancels
    rig.venue.down = {down}
    begun = rig.now
    answer = rig.asks("halt", HALT)
    assert (answer.exit_code, last(answer)) == (code, words)
    assert "unknown" in answer.text or code == 3
    assert rig.state is TradingState.HALTED
    assert rig.now - begun <= room.LOOK_FOR + timedelta(seconds=1), "the asking one waits ten"


def test_a_halt_is_obeyed_while_every_tick_fails_and_before_the_first_one(rig):
    rig.venue.down = {"connect", "marks", "products", "orders"}
    rig.leave("halt", HALT)
    clock = Clock(rig.now, ticks=30)
    assert run(rig.bot, clock) == 0
    assert rig.state is TradingState.HALTED and rig.files() == ["answer.json"]
    assert rig.events[1].type == "control.requested" and rig.events[2].type == "state.changed"


# Once, and never twice


def test_a_request_is_done_once_however_often_it_lies_there(rig):
    entered(rig)
    rig.asks("halt", HALT)
    rig.bot.risk.resume("looked", rig.now.date())
    for _ in range(2):
        answer = rig.asks("halt", HALT)
        assert answer.exit_code == 0 and rig.state is TradingState.TRADING
        rig.restart()
    assert len([each for each in verified(rig.folder / "events")
                if each["type"] == "control.requested"]) == 1


@pytest.mark.parametrize("command, args, state, code", [
    ("halt",      HALT,   "HALTED",  0),
    ("close-all", CLOSE,  "HALTED",  0),
    ("resume",    RESUME, "REDUCING", 3),  # what was taken meanwhile is not lifted unseen
])
def test_a_restart_in_the_middle_finds_the_request(rig, monkeypatch, command, args, state, code):
    entered(rig)
    rig.bot.risk.hold("damage", TradingState.REDUCING, "by the test")
    request = rig.leave(command, args)
    with monkeypatch.context() as patch:
        patch.setitem(room._DO, command, dies)
        with pytest.raises(Died):
            rig.obey()
    assert rig.files() == ["taken.json"]
    rig.restart().obey()
    assert answer_to(rig.place, request).exit_code == code
    assert rig.state == state and rig.files() == ["answer.json"]


def test_an_answer_that_was_not_given_is_given_after_a_restart(rig, monkeypatch):
    entered(rig)
    request = rig.leave("resume", RESUME)
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "give", dies)
        with pytest.raises(Died):
            rig.obey()
    rig.bot.risk.hold("operator", TradingState.HALTED, "later")
    rig.restart().obey()
    assert answer_to(rig.place, request).exit_code == 0
    assert rig.state is TradingState.HALTED, "done before the halt, and not again"


# What is late


@pytest.mark.parametrize("command, args, state, code", [
    ("halt",      HALT,   "HALTED",   0),
    ("close-all", CLOSE,  "HALTED",   3),
    ("resume",    RESUME, "REDUCING", 3),
])
@pytest.mark.parametrize("age", [3600, -3600])
def test_of_an_old_request_only_the_halt_is_good(rig, command, args, state, code, age):
    entered(rig)
    rig.bot.risk.hold("rejects", TradingState.REDUCING, "by the test")
    held = rig.held()
    assert rig.asks(command, args, age=age).exit_code == code
    assert rig.state == state and rig.venue.held() == held > 0


@pytest.mark.parametrize("waits, comes, stays", [
    ("halt",      "resume",    True),
    ("close-all", "halt",      True),
    ("halt",      "close-all", False),
    ("resume",    "halt",      False),
    ("halt",      "halt",      False),
])
def test_a_request_that_waits_gives_way_only_to_one_that_does_more(rig, waits, comes, stays):
    every = {"halt": HALT, "resume": RESUME, "close-all": CLOSE}
    first = rig.leave(waits, every[waits])
    second = Request("f" * 32, comes, every[comes], rig.now)
    assert put(rig.place, second) == (first if stays else None)
    assert Mailbox(rig.place).take().id == (first if stays else second).id


# What else may lie there


def good(**changes):
    return {"id": ID, "command": "halt", "args": HALT, "at": NOON.isoformat(), **changes}


BAD = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"{" * 5000, b"9" * 5000, b" " * (1 << 20) + b"{}",
    *(json.dumps(each).encode() for each in (
        {}, good(id=7), good(id="../../etc/passwd"), good(command="buy"), good(command=["halt"]),
        good(args=None), good(args={}), good(args={**HALT, "more": 1}),
        good(args={"reason": "x", "reduce_only": 1}), good(args={**HALT, "reason": " "}),
        good(args={**HALT, "reason": "x" * 501}), good(at="yesterday"), good(at=7),
        good(at="2025-05-01T12:00:00"), good(command="close-all", args=HALT),
        good(at="0001-01-01T00:00:00+23:59"), good(at="9999-12-31T23:59:59-23:59"),
        good(at="0001-01-01T00:00:00+23:59"), good(at="9999-12-31T23:59:59-23:59"),
        good(command="close-all", args={"reason": "x", "symbols": 5}),
        good(command="close-all", args={"reason": "x", "symbols": [5]}),
    )),
]


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_no_request_is_moved_aside_with_one_line_and_changes_nothing(rig, data, caplog):
    entered(rig)
    rig.place.mkdir(mode=0o700)
    (rig.place / "request.json").write_bytes(data)
    before, sent = len(rig.events), len(rig.venue.sent)
    for _ in range(3):
        rig.obey()
    assert rig.files() == ["taken.json.bad"]
    assert (len(rig.events), len(rig.venue.sent)) == (before, sent)
    assert len([each for each in caplog.records if "taken.json" in each.getMessage()]) == 1
    assert rig.asks("halt", HALT).exit_code == 0, "and the next one is obeyed"


def test_a_good_request_is_one_of_ours():
    assert request_of(good()).rank == 2


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to("/etc/hostname"),
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.mkdir(),
    os.mkfifo,
], ids=["link", "dead link", "folder", "pipe"])
def test_what_is_no_file_is_moved_aside(rig, make):
    entered(rig)
    rig.place.mkdir(mode=0o700)
    make(rig.place / "request.json")
    rig.obey()
    assert rig.files() == ["taken.json.bad"]


def test_a_folder_that_others_may_write_is_not_read(rig, caplog):
    entered(rig)
    rig.leave("halt", HALT)
    rig.place.chmod(0o777)
    for _ in range(3):
        rig.obey()
    assert rig.state is TradingState.TRADING
    assert not rig.bot.control.mailbox.is_asked(), "or every wait would end at once"
    assert sum("cannot be taken" in each.getMessage() for each in caplog.records) == 1
    rig.place.chmod(0o700)
    rig.obey()
    assert rig.state is TradingState.HALTED


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b'{"id": 7}'])
def test_an_answer_that_is_none_is_not_taken_for_one(rig, said):
    request = rig.leave("halt", HALT)
    (rig.place / "answer.json").write_bytes(said)
    assert answer_to(rig.place, request) is None


# A signal


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_a_request_is_done_is_obeyed_at_once(rig, name):
    entered(rig, rests=True)
    rig.venue.cancels = "queue"
    request = rig.leave("close-all", CLOSE)
    clock = Clock(rig.now, signals={1: getattr(signal, name)},
                  on_wait=lambda number: number == 3 and rig.venue.finish_cancels())
    assert run(rig.bot, clock) == 0
    answer = answer_to(rig.place, request)
    assert answer.exit_code == 3 and "NOT flat: interrupted by signal" in answer.text
    assert rig.events[-1].type == "bot.stopped" and rig.events[-1].data["reason"] == name


# Resuming


def test_a_resume_lifts_what_holds_and_keeps_what_is_set(rig):
    entered(rig)
    rig.restart(reduce_only_mode=True).tick()
    rig.bot.risk.hold("operator", TradingState.HALTED, "x")
    answer = rig.asks("resume", RESUME)
    assert (answer.exit_code, rig.state) == (0, TradingState.REDUCING)
    assert set(rig.bot.risk.holds) == {"settings"}


def test_a_days_loss_is_cleared_once_a_day_and_the_old_value_is_said(rig):
    entered(rig)
    clear = {"reason": "understood", "clear_daily_loss": True}
    rig.venue.prices[BTC] = Decimal(90)
    rig.bot.engine.see(rig.venue.marks([BTC], rig.now))
    loss = rig.bot.tracker.daily_loss()
    rig.bot.risk.hold("daily_loss", TradingState.REDUCING, "5.1 % are gone")
    answer = rig.asks("resume", clear, "1" * 32)
    assert loss > 0 and answer.exit_code == 0
    assert f"the day's loss was {loss:.2f} USD" in answer.text
    assert "nothing was cleared" in rig.asks("resume", clear, "2" * 32).text
    rig.bot.risk.hold("daily_loss", TradingState.REDUCING, "5.2 % are gone")
    for number in "34":
        answer = rig.asks("resume", clear, number * 32)
        assert answer.exit_code == 2 and "\n" not in answer.text
        assert "--clear-daily-loss was used today already, at 12:00:10 UTC" in answer.text
        rig.restart()
    assert rig.state is TradingState.REDUCING


def test_the_first_clearing_of_a_day_is_remembered_over_a_midnight_snapshot(rig):
    entered(rig)
    clear = {"reason": "understood", "clear_daily_loss": True}
    rig.bot.risk.hold("daily_loss", TradingState.REDUCING, "x")
    rig.asks("resume", clear)
    assert rig.bot.risk.snapshot()["cleared_at"] == rig.now.isoformat()
    rig.now += timedelta(days=1)
    rig.tick()
    rig.restart()
    rig.bot.risk.hold("daily_loss", TradingState.REDUCING, "y")
    assert rig.asks("resume", clear, "2" * 32).exit_code == 0, "a new day"


# Closing everything


def closes(rig, **clock):
    return rig.asks("close-all", CLOSE, **clock)


FLAT = f"flat: the venue shows no position and no order in {BTC} {ETH}"


def test_everything_is_closed_whoever_opened_it_and_stays_closed(rig):
    entered(rig)
    rig.venue.trade_by_hand("-3", ETH)
    rig.venue.trade_by_hand("2", BTC)
    answer = closes(rig)
    assert (answer.exit_code, last(answer)) == (0, FLAT)
    assert (rig.venue.held(), rig.venue.held(ETH)) == (0, 0)
    assert rig.venue.live() == rig.venue.live(ETH) == []
    assert rig.bot.tracker.positions() == {}
    assert [event.data["symbol"] for event in rig.of("position.adopted")] == [BTC, ETH]
    sent = len(rig.venue.sent)
    for _ in range(5):
        assert rig.tick(60)
    assert len(rig.venue.sent) == sent and rig.state is TradingState.HALTED
    assert rig.restart().tick() and len(rig.venue.sent) == sent and not rig.bot.untraded
    assert rig.venue.overcommitted == []


def test_what_was_left_alone_is_closed_when_the_owner_says_everything(rig):
    rig.venue.trade_by_hand("3", ETH)
    for _ in range(4):
        rig.tick()
    assert rig.bot.untraded == {ETH}
    assert closes(rig).exit_code == 0
    assert rig.venue.held(ETH) == 0 and not rig.bot.untraded


def test_only_the_symbols_that_were_named_are_closed_and_the_rest_is_listed(rig):
    entered(rig)
    rig.venue.trade_by_hand("3", ETH)
    answer = rig.asks("close-all", {"reason": "x", "symbols": [BTC]})
    assert answer.exit_code == 0 and (rig.venue.held(), rig.venue.held(ETH)) == (0, 3)
    assert f"{ETH} position: 3, NO stop of ours, not covered" in answer.text


def test_a_symbol_that_is_not_traded_is_refused_and_the_halt_stays(rig):
    entered(rig)
    answer = rig.asks("close-all", {"reason": "x", "symbols": ["DOGE-PERP"]})
    assert answer.exit_code == 2 and "DOGE-PERP is not traded here" in answer.text
    assert rig.state is TradingState.HALTED and rig.venue.held() > 0


@pytest.mark.parametrize("answer", ["unknown", "lost", "unavailable"])
def test_a_close_whose_answer_is_lost_is_looked_up_before_another_is_sent(rig, answer):
    entered(rig)
    rig.venue.answers.append(answer)
    said = closes(rig)
    exits = [order for order in rig.venue.sent if order.purpose == "exit"]
    assert len(exits) == 1
    if answer == "unknown":  # it had arrived
        assert said.exit_code == 0 and rig.venue.held() == 0
    else:
        assert said.exit_code == 3 and "NOT flat" in said.text and rig.venue.held() > 0
        for _ in range(6):
            rig.tick()
        assert rig.venue.held() == 0, "a living bot goes on with it"


def test_a_read_that_lags_behind_our_own_fill_is_not_taken_for_somebody_elses(rig):
    entered(rig)
    rig.now += timedelta(seconds=30)
    rig.venue.position_lag = 3
    answer = closes(rig)
    assert answer.exit_code == 0 and rig.of("position.adopted") == []
    assert rig.venue.held() == 0


@pytest.mark.parametrize("initial", [None, 1200])
def test_an_empty_list_of_positions_is_not_believed_while_something_else_says_otherwise(
    rig, initial
):
    entered(rig)
    rig.venue.position_lag = 10**6  # the read is empty, and what is held is held
    rig.venue.the_margin = initial and Margin(Decimal(initial), Decimal(9000), Decimal(1000))
    rig.now += timedelta(minutes=1)
    answer = closes(rig)
    assert answer.exit_code == 3 and last(answer).startswith("NOT flat")
    assert rig.venue.held() > 0 and rig.venue.live(), "its stop is not taken away"


def test_flat_is_not_said_while_the_balance_shows_margin_in_use(rig):
    rig.tick()
    rig.venue.the_margin = Margin(Decimal(1200), Decimal(9000), Decimal(1000))
    assert closes(rig).exit_code == 3
    rig.venue.the_margin = Margin(Decimal(0), Decimal(9000), Decimal(0))
    assert rig.asks("close-all", CLOSE, "2" * 32).exit_code == 0


@pytest.mark.parametrize("initial", [None, 0])
def test_what_the_owner_closed_by_hand_is_gone_from_the_books_too(rig, initial):
    entered(rig)
    rig.now += timedelta(minutes=1)
    rig.venue.trade_by_hand(-rig.venue.held())
    rig.venue.the_margin = None if initial is None else Margin(*[Decimal(initial)] * 3)
    answer = closes(rig)
    assert (answer.exit_code, last(answer)) == (0, FLAT), answer.text
    assert rig.bot.tracker.positions() == {} and rig.venue.live() == []


def test_an_order_of_the_owners_that_cannot_be_cancelled_keeps_no_position_open(rig):
    entered(rig)
    foreign = replace(rig.venue.live()[0], id="hand", venue_order_id="v-hand")
    rig.venue._set(replace(foreign, intent=replace(foreign.intent, symbol=ETH)))
    rig.venue.down = {"cancel"}
    answer = rig.asks("close-all", {"reason": "x", "symbols": [ETH]})
    assert answer.exit_code == 3 and "v-hand, not ours, sell: NOT confirmed gone" in answer.text
    rig.venue.down = set()
    answer = rig.asks("close-all", CLOSE, "2" * 32)
    assert answer.exit_code == 0 and "v-hand, not ours, sell: gone" in answer.text


@pytest.mark.parametrize("lag", [9, 12, 30])
@pytest.mark.parametrize("by_hand", ["0", "3"])
@pytest.mark.parametrize("look_for", [room.LOOK_FOR, room.LOOK_FOR_ALONE], ids=["8s", "80s"])
def test_however_long_positions_lag_nothing_is_closed_twice_or_called_flat_untruly(
    rig, lag, by_hand, look_for
):
    """What a close beyond the position does, the venue does not say: it could open."""
    entered(rig)
    rig.venue.position_lag, rig.bot.control.look_for = lag, look_for
    rig.now += timedelta(seconds=1)
    if Decimal(by_hand):
        rig._pass_to(rig.now)
        rig.venue.trade_by_hand(by_hand)
    for number in range(10):  # the owner asks until it is done
        answer = rig.asks("close-all", CLOSE, f"{number:032x}")
        exits = [order for order in rig.venue.sent if order.purpose == "exit"]
        assert sum(order.quantity for order in exits) <= 100 + Decimal(by_hand)
        assert rig.venue.held() >= 0 and rig.venue.overcommitted == []
        assert answer.exit_code == 3 or rig.venue.held() == 0 and rig.venue.live() == []
        rig.now += timedelta(seconds=15)
    assert answer.exit_code == 0, answer.text


@pytest.mark.parametrize("lag", [5, 9, 30])
def test_it_is_not_flat_while_others_fills_say_that_more_was_bought(rig, lag):
    rig.tick()
    rig._pass_to(rig.now)
    rig.venue.trade_by_hand("3")
    rig.venue.position_lag = lag
    rig.now += timedelta(seconds=1)
    for number in range(10):  # the owner asks until it is done
        answer = rig.asks("close-all", CLOSE, f"{number:032x}")
        assert (answer.exit_code == 0) <= (rig.venue.held() == 0), answer.text
        rig.now += timedelta(seconds=15)
    assert answer.exit_code == 0 and rig.venue.overcommitted == []


@pytest.mark.parametrize("by_hand", ["-100", "-40", "3"])
def test_what_others_fills_explain_is_believed_at_once(rig, by_hand):
    entered(rig)
    rig.now += timedelta(seconds=1)
    rig._pass_to(rig.now)
    rig.venue.trade_by_hand(by_hand)
    begun = rig.now
    assert closes(rig).exit_code == 0 and rig.venue.held() == 0 and rig.venue.overcommitted == []
    assert rig.now - begun < timedelta(seconds=3)


def test_one_answer_without_the_position_takes_no_stop_away_and_is_not_called_flat(rig):
    entered(rig)
    rig.now += timedelta(hours=1)
    truth, looks = rig.venue.positions, []
    rig.venue.positions = lambda: looks.append(1) or ({} if len(looks) < 10 else truth())
    answer = rig.asks("close-all", {"reason": "x", "symbols": [BTC]})
    assert (answer.exit_code, rig.venue.held()) == (0, 0) and len(looks) > 10
    assert not rig.of("position.adopted")


def test_what_others_closed_is_flat_once_that_has_stood_for_a_minute(rig):
    entered(rig)
    rig.now += timedelta(hours=1)
    rig._pass_to(rig.now)
    rig.venue._fills.clear()  # so old that no fill tells why
    assert closes(rig).exit_code == 3
    rig.bot.control.look_for = room.LOOK_FOR_ALONE
    begun = rig.now
    assert rig.asks("close-all", CLOSE, "2" * 32).exit_code == 0
    assert timedelta(seconds=60) <= rig.now - begun < room.LOOK_FOR_ALONE


@pytest.mark.parametrize("down, code", [
    ("marks", 0), ("equity", 0), ("candles", 0), ("positions", 4), ("orders", 4), ("fills", 4)])
def test_only_what_must_be_known_can_keep_it_from_being_said(rig, down, code):
    entered(rig)
    rig.venue.down = {down}
    answer = closes(rig)
    assert answer.exit_code == code, answer.text
    assert ("flat: " in answer.text.replace("NOT flat: ", "")) == (code == 0)
    assert rig.venue.held() == 0 or code == 4


def test_what_an_earlier_process_left_is_closed_before_the_first_tick(rig):
    entered(rig)
    rig.restart()
    rig.venue.down = {"marks", "equity"}
    assert closes(rig).exit_code == 0 and rig.venue.held() == 0


def test_with_a_key_that_can_only_view_it_says_so_at_once(tmp_path):
    venue = ScriptedVenue(BTC)
    venue.observes = "this API key can only view: it observes and sends nothing"
    rig = Owned(venue, tmp_path, symbols=(BTC,), bar=60)
    venue.trade_by_hand("2")
    begun = rig.now
    answer = closes(rig)
    assert (answer.exit_code, last(answer)) == (3, f"NOT flat: {venue.observes}")
    assert f"{BTC} position: 2, NO stop of ours" in answer.text and rig.now == begun


@pytest.mark.parametrize("names", [[], [BTC], [BTC, "EHT-PERP"], ["EHT-PERP", BTC]])
def test_one_name_that_the_venue_does_not_list_keeps_no_position_open(rig, names):
    """As after a start that was refused for a slip of the pen, or with a product that ended."""
    entered(rig)
    rig.restart(symbols=("EHT-PERP", BTC))
    answer = rig.asks("close-all", {"reason": "x", "symbols": names})
    assert rig.venue.held() == 0 and rig.venue.live() == []
    assert answer.exit_code == (0 if names == [BTC] else 3)
    if names != [BTC]:
        assert "NOT flat: EHT-PERP: no such product; the venue lists BTC-PERP" in answer.text


def test_what_our_books_hold_of_a_product_that_ended_keeps_nothing_else_open(rig):
    entered(rig)
    rig.bot.tracker.adopt("position.adopted", Position(ETH, Decimal(3), Decimal(100)))
    rig.venue._products = [each for each in rig.venue._products if each.symbol != ETH]
    rig.restart(symbols=(ETH, BTC))
    assert closes(rig).exit_code == 3
    assert rig.venue.held() == 0 and rig.venue.live() == []


def full(_fd, _data):
    raise OSError(28, "No space left on device")


def test_a_disk_that_takes_nothing_keeps_no_position_open(rig, monkeypatch):
    entered(rig)
    request = rig.leave("close-all", CLOSE)
    monkeypatch.setattr(store_room, "_write", full)
    rig.obey()
    assert rig.venue.held() == 0 and rig.venue.live() == []
    assert "the halt is NOT in the events" in rig.bot.control.answers[ID].text
    assert rig.files() == [".answer.json.tmp", "kept.json"]
    rig.obey()
    assert rig.files() == [".answer.json.tmp", "kept.json"], "it stays while that is so"
    monkeypatch.undo()
    rig.restart()
    assert rig.state is TradingState.TRADING, "the disk never knew"
    rig.obey()
    assert rig.state is TradingState.HALTED and answer_to(rig.place, request)


def test_what_a_full_disk_left_as_a_file_is_not_taken_up_again_by_the_same_process(
    rig, monkeypatch
):
    entered(rig)
    rig.leave("halt", HALT)
    with monkeypatch.context() as patch:
        patch.setattr(store_room, "_write", full)
        rig.obey()
        rig.bot.risk.resume("in memory", rig.now.date())
        rig.obey()
        assert rig.state is TradingState.TRADING
    rig.leave("halt", REDUCE, "2" * 32)
    with monkeypatch.context() as patch:
        patch.setattr(store_room, "_write", full)
        rig.obey()
    assert rig.state is TradingState.REDUCING
    rig.bot.store.close()
    assert rig.start().obey() is None
    assert rig.state is TradingState.HALTED, "the stronger of the two was kept"


def test_once_the_disk_takes_it_the_halt_is_in_the_events_alone(rig, monkeypatch):
    entered(rig)
    rig.leave("halt", HALT)
    with monkeypatch.context() as patch:
        patch.setattr(store_room, "_write", full)
        rig.obey()
    assert "kept.json" in rig.files()
    rig.tick(60)
    rig.obey()
    assert "kept.json" not in rig.files() and rig.restart().state is TradingState.HALTED


def test_a_resume_that_the_disk_does_not_take_lifts_nothing(rig, monkeypatch):
    entered(rig)
    rig.bot.risk.hold("rejects", TradingState.REDUCING, "by the test")
    rig.leave("resume", RESUME)
    monkeypatch.setattr(store_room, "_write", full)
    rig.obey()
    answer = rig.bot.control.answers[ID]
    assert answer.exit_code == 3 and answer.text.startswith("not resumed: ")
    assert rig.state is TradingState.REDUCING and "kept.json" not in rig.files()


def test_a_request_ends_the_wait_of_the_real_clock_and_a_signal_still_comes_first():
    request = StopRequest()
    asked = iter([False, True, True])
    request.is_asked = lambda: next(asked)
    clock, begun = SystemClock(request), time.monotonic()
    clock.now()
    assert clock.wait(Decimal(30)) is None
    request._take(signal.SIGTERM, None)
    assert clock.wait(Decimal(30)) == signal.SIGTERM
    assert time.monotonic() - begun < 10


# The function


def test_all_positions_are_closed_over_any_client():
    venue = ScriptedVenue(BTC, ETH)
    venue.now = datetime.now(UTC)
    venue.trade_by_hand("2")
    venue.trade_by_hand("1", ETH)
    answer = close_all_positions(venue, symbols=[BTC])
    assert isinstance(answer, Answer) and answer.exit_code == 0, answer.text
    assert f"flat: the venue shows no position and no order in {BTC}" in answer.text
    assert f"{ETH} position: 1" in answer.text and "resume" not in answer.text
    assert (venue.held(), venue.held(ETH)) == (0, 1)


def test_symbols_that_are_none_are_refused_by_the_function():
    with pytest.raises(ConfigError):
        close_all_positions(ScriptedVenue(), symbols=["nonsense"])
