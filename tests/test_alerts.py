"""The specification of `alerts.py` and `courier.py`: what stands, and what becomes of a post.

The receivers are real servers on loopback: one that takes alerts, and ones that hang, drip,
refuse and redirect.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from bad_server import BadServer, answer, close_after, drip, forever, hang, reset, says
from helpers import Rig
from pace import Stopwatch

from perps_bot import courier as room
from perps_bot.alerts import TEXT_LENGTH_MAX, Alerts, causes
from perps_bot.courier import WAITING_MAX, Courier, post
from perps_bot.errors import VenueUnavailable
from perps_bot.model import Event, OrderStatus, Purpose, TradingState
from perps_bot.ops import settings_hash
from perps_bot.risk import Hold
from perps_bot.secret import Secret, redacted
from perps_bot.settings import resolve
from perps_bot.store import EventStore, read_events

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
BTC = "BTC-PERP"
OK = says({})


def eventually(happened):
    """Poll, generously, until it is so; return what was found."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not (found := happened()):
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.01)
    return found


def secret(server, path="/swordfish/of/the/owner"):
    return Secret(server.url + path)


def bodies(server):
    return [json.loads(request.body) for request in server.requests]


def texts(server):
    return [body["text"] for body in bodies(server)]


# What alerts: the table


def a_bot(**changes):
    """What the table asks of a bot, with nothing the matter."""
    about = {
        "holds": {}, "orders": (), "trouble": "", "disk": "", "is_over": False, "aged": 0,
        "is_protected": True, "untraded": set(), "has_price": True, "expires_at": None,
        "restricted": {}, "is_started": True, **changes}
    orders = [SimpleNamespace(symbol=BTC, **order) for order in about["orders"]]
    return SimpleNamespace(
        symbols=(BTC,), folder=Path("/data/dev"),
        is_started=about["is_started"], is_over=about["is_over"],
        trouble=about["trouble"], untraded=about["untraded"], _observes="",
        _products_at=NOON - timedelta(seconds=about["aged"]),
        has_price=lambda symbol: about["has_price"],
        risk=SimpleNamespace(holds=about["holds"]),
        books=SimpleNamespace(restricted=about["restricted"]),
        store=SimpleNamespace(writable=not about["disk"], trouble=about["disk"], now=NOON,
                              day=None),
        engine=SimpleNamespace(outstanding=lambda: orders),
        protector=SimpleNamespace(is_protected=lambda symbol: about["is_protected"]),
        catalog=SimpleNamespace(get=lambda symbol: SimpleNamespace(expires_at=about["expires_at"])))


def held(kind, state=TradingState.REDUCING):
    return {"holds": {kind: Hold(state, "12 % lost", NOON)}}


def an_order(status, purpose=Purpose.EXIT):
    return {"id": "pb-1", "status": status, "purpose": purpose}


UNKNOWN, OPEN = (an_order(status) for status in (OrderStatus.UNKNOWN, OrderStatus.OPEN))
ENTRY = an_order(OrderStatus.OPEN, Purpose.ENTRY)


@pytest.mark.parametrize("matter, said", [
    ({},                                        None),
    (held("settings", TradingState.HALTED),     None),
    *((held(kind), (0, kind.upper(), "", "REDUCING: 12 % lost")) for kind in (
        "daily_loss", "drawdown", "losses", "entries", "rejects", "refusal", "liquidation",
        "liquidation_distance", "mismatch", "contract", "damage", "operator")),
    (held("signal", TradingState.HALTED),       (0, "SIGNAL", "", "HALTED: 12 % lost")),
    ({"disk": "full"},                          (0, "EVENTS_NOT_WRITTEN", "", "full")),
    ({"disk": "/data/dev/events/1: full"},      (0, "EVENTS_NOT_WRITTEN", "", "events/1: full")),
    ({"disk": "full", "trouble": "full"},       (0, "EVENTS_NOT_WRITTEN", "", "full")),
    ({"trouble": "down"},                       (60, "TICKS_FAIL", "", "down")),
    ({"aged": 60},                              None),
    ({"aged": 61},                              (60, "PRODUCTS_UNKNOWN", "", "")),
    ({"aged": 61, "is_started": False},         None),
    ({"orders": [OPEN, ENTRY]},                 None),
    ({"orders": [UNKNOWN, OPEN]},               (10, "OUTCOME_UNKNOWN", "pb-1", "BTC-PERP exit")),
    ({"orders": [ENTRY, OPEN], "is_over": True}, (0, "ENTRY_LEFT", "pb-1", "BTC-PERP entry")),
    ({"is_protected": False},                   (10, "NO_STOP", BTC, "no stop at the venue")),
    ({"untraded": {BTC}},                       (0, "LEFT_ALONE", BTC, "--adopt")),
    ({"restricted": {BTC: "no longer listed"}}, (0, "RESTRICTED", BTC, "says: no longer listed;")),
    ({"has_price": False},                      (60, "NO_MARK", BTC, "no price")),
    ({"has_price": False, "is_started": False}, None),
    ({"expires_at": NOON + timedelta(days=7)},  (0, "EXPIRING_SOON", BTC, "2025-05-08")),
    ({"expires_at": NOON + timedelta(days=8)},  None),
])
def test_what_alerts_and_how_long_it_must_have_lasted_E2_E5_E10_C7(matter, said):
    found = list(causes(a_bot(**matter)))
    if said is None:
        assert found == []
    else:
        ((*row, message),) = found
        assert tuple(row) == said[:3] and said[3] in message and "/data/dev" not in message


@pytest.mark.parametrize("matter, seconds", [({"is_protected": False}, 10), ({"trouble": "x"}, 60)])
def test_what_may_be_over_at_once_alerts_when_it_has_lasted(matter, seconds):
    alerts, bot = Alerts(), a_bot(**matter)
    assert not alerts.look(bot, NOON) and alerts.rows() == []
    assert not alerts.look(bot, NOON + seconds * SECOND - SECOND)
    assert not alerts.look(a_bot(), NOON + seconds * SECOND)  # it was over: it begins anew
    assert not alerts.look(bot, NOON + seconds * SECOND + SECOND)
    assert alerts.look(bot, NOON + 2 * seconds * SECOND + SECOND)
    assert len(alerts.rows()) == 1
    assert alerts.look(a_bot(), NOON + 2 * seconds * SECOND + 2 * SECOND) and not alerts.rows()


def test_when_the_bot_has_ended_nothing_waits_to_have_lasted():
    alerts = Alerts()
    assert alerts.look(a_bot(is_protected=False, is_over=True), NOON)


def test_a_clock_that_goes_back_begins_the_waiting_anew_and_raises_nothing():
    alerts, bot = Alerts(), a_bot(is_protected=False)
    for now in (NOON, NOON - timedelta(hours=1), NOON - timedelta(hours=1) + 9 * SECOND):
        assert not alerts.look(bot, now)
    assert alerts.look(bot, NOON - timedelta(hours=1) + 10 * SECOND)


def test_before_the_first_complete_look_nothing_is_known_to_be_over():
    alerts = Alerts()
    row = {"code": "NO_STOP", "about": BTC, "message": "none", "since": NOON.isoformat()}
    opened = Event(1, NOON, "day.opened", {"snapshot": {"surfaces": {"alerts": [row]}}})
    alerts.apply(opened, is_live=False)
    alerts.look(a_bot(is_started=False), NOON)
    assert alerts.rows() == [{**row, "since": NOON}]
    assert alerts.look(a_bot(), NOON) and alerts.rows() == []


# An alert is a state


@pytest.fixture
def rig(tmp_path):
    rig = Rig(folder=tmp_path / "dev")
    rig.bot.surfaces.is_live = True
    rig.tick()
    return rig


def codes(rig):
    return [row["code"] for row in rig.file("health.json")["alerts"]]


def told(rig, *types):
    return [(row["type"], row.get("code")) for row in rig.file("risk_events.json")
            if row["type"] in types]


def test_a_halt_is_in_health_in_the_risk_events_and_on_stderr_until_it_is_lifted(rig, caplog):
    rig.bot.risk.activate_kill_switch("enough\nreally")
    with caplog.at_level(logging.WARNING, "perps_bot"):
        rig.tick(1)
    (alert,) = rig.file("health.json")["alerts"]
    assert alert == {"code": "KILL_SWITCH", "about": "", "message": "HALTED: enough\nreally",
                     "since": alert["since"]}
    assert told(rig, "alert", "alert.cleared") == [("alert", "KILL_SWITCH")]
    (line,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert line.message.startswith(r"alert code=KILL_SWITCH message='HALTED: enough\nreally'")
    rig.tick(60)
    assert codes(rig) == ["KILL_SWITCH"] and len(told(rig, "alert")) == 1
    rig.bot.risk.resume("looked", rig.now.date())
    rig.tick(1)
    assert codes(rig) == []
    assert told(rig, "alert", "alert.cleared")[1:] == [("alert.cleared", "KILL_SWITCH")]


def test_an_alert_is_published_at_once_though_files_were_written_a_moment_ago(rig):
    rig.bot.risk.activate_kill_switch("enough")
    rig.bot.surfaces.publish(rig.bot, rig.now + SECOND / 10)
    assert codes(rig) == ["KILL_SWITCH"]


def test_an_alert_outlives_the_day_and_the_process_and_is_recorded_once(rig):
    rig.bot.risk.activate_kill_switch("enough")
    rig.tick(1)
    since = rig.file("health.json")["alerts"][0]["since"]
    rig.tick(86400)
    rig.restart().tick()
    assert rig.file("health.json")["alerts"][0]["since"] == since
    events = list(read_events(rig.folder / "events"))
    assert [event.type for event in events].count("alert") == 1


def test_what_happened_between_two_processes_is_cleared_by_the_next(rig):
    rig.bot.risk.activate_kill_switch("enough")
    rig.tick(1)
    rig.bot.risk.resume("looked", rig.now.date())  # as the command does, with nobody watching
    rig.restart().tick()
    assert codes(rig) == [] and rig.of("alert.cleared")


def test_a_venue_that_is_down_for_a_minute_alerts_and_recovers(rig, monkeypatch):
    def down(*_):
        raise VenueUnavailable("nobody answers")

    with monkeypatch.context() as venue:
        venue.setattr(rig.venue, "positions", down)
        rig.tick(1)
        assert codes(rig) == []
        rig.tick(60)
        assert codes(rig) == ["TICKS_FAIL"]
    rig.tick(5)
    assert codes(rig) == []


def test_before_the_venue_was_reached_an_alert_stands_and_is_not_dated_by_this_clock(
        rig, monkeypatch):
    rig.restart()

    def down(*_):
        raise VenueUnavailable("nobody answers")

    with monkeypatch.context() as venue:
        venue.setattr(rig.venue, "connect", down)
        rig.tick(1)
        rig.tick(61)
        assert codes(rig) == ["TICKS_FAIL"] and rig.of("alert") == []
    rig.tick(5)
    assert codes(rig) == [] and rig.of("alert") == []


def test_a_tie_out_that_does_not_add_up_stands_until_one_does():
    store, alerts = EventStore(now=NOON), Alerts()
    store.subscribe(lambda event: alerts.apply(event, True))
    bot = a_bot()
    bot.store = store
    store.open_day(NOON.date(), {})
    store.append("account.tied_out", explained=False)
    store.append("alert", code="TIE_OUT", about="", message="12 USD")
    alerts.look(bot, NOON)
    assert [row["code"] for row in alerts.rows()] == ["TIE_OUT"]
    store.append("account.tied_out", explained=True)
    store.open_day(NOON.date() + timedelta(days=1), {"surfaces": {"alerts": alerts.snapshot()}})
    assert alerts.look(bot, NOON) and alerts.rows() == []
    assert alerts.snapshot() == []  # that it is over was recorded


def test_after_the_end_of_a_run_was_written_down_no_alert_is():
    bot = a_bot(orders=[ENTRY], is_over=True)
    bot.store = EventStore(now=NOON)
    bot.store.open_day(NOON.date(), {})
    alerts, events = Alerts(), []
    bot.store.subscribe(events.append)
    assert alerts.look(bot, NOON) and alerts.rows() and events == []


def test_the_end_by_a_bug_is_an_alert_that_asks_nothing_of_the_bot():
    alerts = Alerts()
    assert alerts.look(object(), NOON, "bug: KeyError: 'x'")
    assert alerts.rows()[0]["message"] == "the process ended: bug: KeyError: 'x'"


# The post


@pytest.fixture
def hurried(monkeypatch):
    """Next to no pauses; what is to succeed may take its time."""
    monkeypatch.setattr(room, "POST_SECONDS_MAX", 30)
    monkeypatch.setattr(room, "PAUSES_SECONDS", (0.01, 0.01))


REDIRECT = answer(307, b"", "Location: /elsewhere")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"


@pytest.mark.parametrize("behaviour, trouble", [
    (OK,                                  ""),
    (answer(204),                         ""),
    (answer(500),                         "HTTP 500"),
    (answer(404),                         "HTTP 404"),
    (REDIRECT,                            "HTTP 307"),
    (hang,                                "not delivered: no answer within 0.3 seconds"),
    (drip(HEAD),                          "not delivered: no answer within 0.3 seconds"),
    (drip(OK + b"x" * 100, 0.001),        ""),
    (forever(HEAD, b"x" * 65536),         "not delivered: OSError"),
    (close_after(b"HTTP/1."),             None),
    (reset,                               None),
], ids=["ok", "no content", "500", "404", "307", "hung", "dripping", "slow", "endless", "cut off",
        "reset"])
def test_a_post_ends_in_time_and_says_what_became_of_it_C3_C4_C6(
        behaviour, trouble, hurried, monkeypatch):
    if "within" in (trouble or ""):
        monkeypatch.setattr(room, "POST_SECONDS_MAX", 0.3)
    with BadServer(behaviour) as server:
        with Stopwatch() as took:
            found = post(secret(server), {"text": "x"})
        assert took.seconds < 5
        assert found == trouble if trouble is not None else found.startswith("not delivered: ")
        assert [r.target for r in server.requests] == ["/swordfish/of/the/owner"]
    assert "127.0.0.1" not in found and "swordfish" not in found


def test_nobody_there_is_said_without_saying_where_C2(hurried):
    assert post(Secret("http://127.0.0.1:1/swordfish"), {}) == (
        "not delivered: ConnectionRefusedError")
    assert post(Secret("https://hooks.example.invalid/swordfish"), {}) == (
        "not delivered: OSError")


def test_nothing_of_the_environment_changes_where_a_post_goes_C11(monkeypatch, hurried):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with BadServer(OK) as server:
        assert post(secret(server), {"text": "x"}) == ""
    (request,) = server.requests
    assert request.headers["content-type"] == "application/json"
    assert "authorization" not in request.headers


def test_what_is_sent_is_what_slack_discord_and_telegram_take():
    with BadServer(OK) as server:
        alerts = Alerts("prod", secret(server, "/bot1:2/sendMessage?chat_id=3"))
        alerts.look(a_bot(**held("daily_loss")), NOON)
        (body,) = eventually(lambda: bodies(server))
        assert server.requests[0].target == "/bot1:2/sendMessage?chat_id=3"
    assert body == {
        "text": "perps-bot prod: DAILY_LOSS: REDUCING: 12 % lost", "bot": "perps-bot",
        "profile": "prod", "code": "DAILY_LOSS", "state": "raised", "at": NOON.isoformat()}


def test_a_text_is_one_line_of_bounded_length_without_secrets_I1_J5():
    key = Secret("correct-horse-battery-staple")
    said = f"{key.reveal()}\n\x1b[0m" + "x" * 5000
    with BadServer(OK) as server:
        alerts = Alerts("prod", secret(server))
        alerts.look(a_bot(disk=said), NOON)
        (text,) = eventually(lambda: texts(server))
    assert text.isprintable() and len(text) <= TEXT_LENGTH_MAX
    assert "[secret]" in text and "horse" not in text


@pytest.mark.parametrize("answers, tries, trouble", [
    ([answer(500), answer(429), OK], 3, ""),
    ([hang, OK],                     2, ""),
    ([answer(503)],                  3, "HTTP 503"),
    ([answer(404), OK],              1, "HTTP 404"),
    ([REDIRECT, OK],                 1, "HTTP 307"),
])
def test_a_post_is_tried_three_times_where_that_may_help(answers, tries, trouble, hurried):
    with BadServer(*answers) as server:
        courier = Courier("test", secret(server))
        courier.put("CODE", {"text": "x"})
        assert eventually(lambda: list(courier.results())) == [("CODE", trouble, bool(trouble))]
        # Each over a connection of its own: one that was kept would be stale by the next.
        assert [request.connection for request in server.requests] == [*range(1, tries + 1)]
    assert courier.figures() == {
        "ok": not trouble, "error": trouble, "waiting": 0, "sent": int(not trouble),
        "failed": int(bool(trouble)), "dropped": 0}


def test_a_queue_that_is_full_drops_and_counts_and_nobody_waits():
    with BadServer(hang) as server:
        courier = Courier("test", secret(server))
        assert courier.put("FIRST", {"text": "x"})
        eventually(lambda: server.requests)
        taken = [courier.put(str(n), {"text": "x"}) for n in range(WAITING_MAX + 3)]
        assert taken == [True] * WAITING_MAX + [False] * 3
        # All of that happened while the first post was still hanging.
        assert not list(courier.results()) and len(server.requests) == 1
        assert courier.figures()["dropped"] == 3


def test_ticks_go_on_while_the_receiver_hangs(rig):
    with BadServer(hang) as server:
        rig.bot.surfaces.alerts = alerts = Alerts("dev", secret(server))
        rig.bot.risk.activate_kill_switch("enough")
        rig.tick(1)
        eventually(lambda: server.requests)
        for _ in range(30):
            rig.bot.risk.resume("on", rig.now.date())
            assert rig.tick(5)
            rig.bot.risk.activate_kill_switch("off")
            assert rig.tick(5)
        # Five minutes later the first post still hangs, and no second one of that code waits.
        assert len(server.requests) == 1
        delivery = alerts.delivery()["webhook"]
        assert (delivery["sent"], delivery["failed"], delivery["waiting"]) == (0, 0, 0)


def test_a_hold_is_posted_when_it_is_taken_though_its_tick_never_ends(rig):
    with BadServer(OK) as server:
        rig.bot.surfaces.alerts = Alerts("dev", secret(server))
        rig.bot.risk.hold("daily_loss", TradingState.REDUCING, "lost")
        assert eventually(lambda: texts(server)) == [
            "perps-bot dev: DAILY_LOSS: REDUCING: lost"]


def test_the_owners_own_wish_and_what_is_lifted_are_not_posted(rig):
    with BadServer(OK) as server:
        rig.bot.surfaces.alerts = Alerts("dev", secret(server))
        rig.bot.risk.hold("settings", TradingState.REDUCING, "--reduce-only is set")
        rig.bot.risk.lift("settings", "no longer set")
        rig.bot.risk.hold("operator", TradingState.REDUCING, "SIGUSR1")
        eventually(lambda: server.requests)
    assert [body["code"] for body in bodies(server)] == ["OPERATOR"]


def delivered(alerts, count):
    """Wait until so many posts were answered, and take the answers."""
    def is_done():
        alerts.take_results(SimpleNamespace(_observes=None))
        figures = alerts.delivery()["webhook"]
        return figures["sent"] + figures["failed"] >= count
    eventually(is_done)


def test_a_code_is_posted_once_a_minute_and_then_as_it_is():
    """It comes and goes eleven times within a minute."""
    bot, well = a_bot(**held("mismatch")), a_bot()
    with BadServer(OK) as server:
        alerts = Alerts("dev", secret(server))
        for second in range(0, 55, 5):
            alerts.look(bot, NOON + second * SECOND)
            alerts.look(well, NOON + second * SECOND + SECOND)
        delivered(alerts, 1)
        alerts.look(well, NOON + 59 * SECOND)
        alerts.look(well, NOON + MINUTE)
        delivered(alerts, 2)
        alerts.look(bot, NOON + MINUTE + SECOND)
        alerts.look(bot, NOON + 2 * MINUTE)
        delivered(alerts, 3)
        alerts.look(bot, NOON + 9 * MINUTE)
    assert [(body["state"], body["at"]) for body in bodies(server)] == [
        ("raised", NOON.isoformat()), ("over", (NOON + MINUTE).isoformat()),
        ("raised", (NOON + 2 * MINUTE).isoformat())]


def test_two_symbols_of_one_code_share_a_post_and_other_codes_do_not_wait():
    bot = a_bot(untraded={BTC, "ETH-PERP"}, disk="full")
    bot.symbols = (BTC, "ETH-PERP")
    with BadServer(OK) as server:
        alerts = Alerts("dev", secret(server))
        alerts.look(bot, NOON)
        eventually(lambda: len(server.requests) == 2)
    disk, left_alone = texts(server)
    assert "EVENTS_NOT_WRITTEN" in disk
    assert "LEFT_ALONE: BTC-PERP:" in left_alone and "LEFT_ALONE: ETH-PERP:" in left_alone


def test_what_could_not_be_posted_is_said_once_and_tried_again_each_minute(rig, hurried):
    with BadServer(answer(404), answer(404), OK) as server:
        rig.bot.surfaces.alerts = alerts = Alerts("dev", secret(server))
        rig.bot.risk.activate_kill_switch("enough")
        for count in (1, 2, 3):
            rig.tick(60)
            eventually(lambda count=count: len(server.requests) >= count)
            eventually(lambda: alerts._webhook._results)
        rig.tick(60)
        rig.tick(60)
        assert texts(server) == ["perps-bot dev: KILL_SWITCH: HALTED: enough"] * 3
    assert [(e.type, e.data["code"]) for e in rig.of("alert.failed", "alert.sent")] == [
        ("alert.failed", "KILL_SWITCH"), ("alert.sent", "KILL_SWITCH")]
    assert rig.of("alert.failed")[0].data["reason"] == "HTTP 404"
    assert rig.file("health.json")["delivery"] == {
        "webhook": {"ok": True, "error": "", "waiting": 0, "sent": 1, "failed": 2, "dropped": 0},
        "heartbeat": None}
    assert ("alert.failed", "KILL_SWITCH") in told(rig, "alert.failed")


def test_health_says_that_nothing_is_delivered(rig, hurried):
    with BadServer(answer(404)) as server:
        rig.bot.surfaces.alerts = alerts = Alerts("dev", secret(server))
        rig.bot.risk.activate_kill_switch("enough")
        eventually(lambda: alerts._webhook._results)
        rig.tick(1)
    delivery = rig.file("health.json")["delivery"]["webhook"]
    assert (delivery["ok"], delivery["error"]) == (False, "HTTP 404")


def test_a_thread_that_ended_is_said(monkeypatch):
    monkeypatch.setattr(room.threading, "excepthook", lambda bug: None)
    monkeypatch.setattr(room, "_lane", lambda url: 1 / 0)
    alerts = Alerts("dev", Secret("http://127.0.0.1:1/swordfish"))
    eventually(lambda: not alerts.delivery()["webhook"]["ok"])
    assert alerts.delivery()["webhook"]["error"] == "its thread ended"


# The end of a run


def test_what_waits_at_the_end_is_posted_once():
    with BadServer(answer(500), OK) as server:
        courier = Courier("test", secret(server))
        courier.put("ONE", {"text": "one"})
        courier.put("TWO", {"text": "two"})
        courier.close(PATIENCE_SECONDS)
        assert [row[:2] for row in courier.results()] == [("ONE", "HTTP 500"), ("TWO", "")]
        assert texts(server) == ["one", "two"]


@pytest.mark.parametrize("waiting", [1, WAITING_MAX + 1])
def test_a_receiver_that_hangs_delays_the_end_by_less_than_a_second(waiting):
    with BadServer(hang) as server:
        alerts = Alerts("dev", secret(server))
        alerts._webhook.put("0", {"text": "x"})
        eventually(lambda: server.requests)
        assert all(alerts._webhook.put(str(n), {"text": "x"}) for n in range(1, waiting))
        with Stopwatch() as took:
            alerts.flush()
        assert took.seconds < 2  # 0.9, on a machine that may be busy


def test_without_an_address_there_is_no_thread_and_nothing_to_end():
    alerts = Alerts("dev")
    alerts.look(a_bot(**held("damage")), NOON)
    alerts.flush()
    assert alerts.delivery() is None and alerts.rows()


# The heartbeat


def test_the_heartbeat_follows_each_good_minute_and_nothing_else():
    alerts, beats = Alerts(), []
    for second, is_ok in (
        (0, True), (59, True), (60, True),      # one
        (90, True), (91, False), (119, True),   # not a good minute
        (120, True), (178, True), (179, True),  # two
        (1, True), (60, True), (61, True),      # the clock went back: three
    ):
        alerts._heartbeat = SimpleNamespace(put=lambda *job, at=second: beats.append((at, *job)))
        alerts.beat(NOON + second * SECOND, is_ok)
    assert beats == [(at, "heartbeat", None) for at in (60, 179, 61)]


def test_a_bot_that_is_well_is_heard_and_one_that_fails_is_not_L6(rig, monkeypatch):
    with BadServer(OK) as server:
        rig.bot.surfaces.alerts = alerts = Alerts("dev", None, secret(server))
        for _ in range(13):
            rig.tick(5)
        eventually(lambda: alerts._heartbeat._results)
        rig.tick(5)
        assert rig.file("health.json")["delivery"] == {"webhook": None, "heartbeat": {
            "ok": True, "error": "", "waiting": 0, "sent": 1, "failed": 0, "dropped": 0}}
        rig.bot.risk.activate_kill_switch("enough")
        for _ in range(30):
            rig.tick(5)
        alerts._heartbeat.close(PATIENCE_SECONDS)
    (request,) = server.requests
    assert (request.method, request.target, request.body) == (
        "GET", "/swordfish/of/the/owner", b"")


# The addresses


def test_the_addresses_are_secrets_and_no_setting_shows_them_I1():
    settings = resolve({}, {"PERPS_ALERT_WEBHOOK_URL": "https://a.invalid/swordfish",
                            "PERPS_HEARTBEAT_URL": "https://b.invalid/swordfish"})
    assert isinstance(settings.alert_webhook_url, Secret)
    assert isinstance(settings.heartbeat_url, Secret)
    assert "swordfish" not in repr(settings) + str(settings.alert_webhook_url)
    with BadServer() as server:
        Courier("test", secret(server, "/a-path/that-is-secret"))
    assert redacted("GET /a-path/that-is-secret HTTP/1.1") == "GET /[secret] HTTP/1.1"
    others = {"PERPS_ALERT_WEBHOOK_URL": "https://c.invalid/x",
              "PERPS_HEARTBEAT_URL": "https://d.invalid"}
    assert settings_hash(settings) == settings_hash(resolve({}, others))
    assert settings_hash(settings) != settings_hash(resolve({}, {}))


def test_a_real_bot_posts_within_five_seconds_and_shows_no_address(tmp_path):
    """Alerts within 5 s as a state, in a process of its own; H6 and K5 beside it.

    Its end waits for the answer to a post that is under way.
    """
    place, printed = tmp_path / "data/perps_bot/dev", tmp_path / "printed"

    def hesitates(link):
        eventually(lambda: "stopped: " in printed.read_text())
        link.sendall(OK)

    with BadServer(hesitates) as server:
        environ = {name: value for name, value in os.environ.items()
                   if not name.startswith(("PERPS_", "COINBASE_", "EVENT_STORE", "LOG_LEVEL"))}
        environ |= {"PYTHONPATH": str(ROOT), "LOG_LEVEL": "DEBUG",
                    "PERPS_ALERT_WEBHOOK_URL": secret(server).reveal(),
                    "PERPS_HEARTBEAT_URL": secret(server).reveal(), "PYTHONUNBUFFERED": "1"}
        with printed.open("w") as out:
            bot = subprocess.Popen(
                [sys.executable, "-m", "perps_bot", "--profile", "dev", "--interval", "60"],
                cwd=tmp_path, env=environ, stdout=out, stderr=out)
        try:
            eventually((place / "health.json").exists)
            begun = time.monotonic()
            bot.send_signal(signal.SIGUSR1)
            eventually(lambda: server.requests)
            took = time.monotonic() - begun
            said = eventually(lambda: (found := health(place))["alerts"] and found)
            bot.send_signal(signal.SIGTERM)
            bot.wait(timeout=PATIENCE_SECONDS)
        finally:
            bot.kill()
    assert took < 5 and bot.returncode == 0
    assert [row["code"] for row in said["alerts"]] == ["OPERATOR"]
    assert len(said["settings_hash"]) == 12 and said["version"]
    assert "ERROR alert code=OPERATOR" in printed.read_text()
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert '"type":"alert.sent","code":"OPERATOR"' in written
    assert "swordfish" not in written


def health(place):
    return json.loads((place / "health.json").read_text())
