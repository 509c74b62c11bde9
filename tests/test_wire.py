"""What Coinbase's words mean, and that nothing else is ever taken for one of them.

Rows of `faults.md` shown here: D1, D5, D9 (answers), E3, E6, E8, E9, E12 (account, products),
F6 (quotes), G1, G2, G3, G5, J5 (numbers, JSON, words).
"""

import json
import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from bodies import (
    BIP, CLOSE, ETP, NEEDS_PAYLOADS, NOW, PAYLOADS, a_book, a_candle, a_dated_row, a_fill_row,
    a_position_row, a_product, a_refusal, a_row, a_sparse_row, a_summary, an_answer, an_ended_row,
    an_order, an_order_row, encoded, payload, usd,
)

from perps_bot import wire
from perps_bot.errors import OrderRejected, OutcomeUnknown
from perps_bot.model import OrderStatus, OrderType, Purpose, Side, TimeInForce
from perps_bot.wire import Malformed

BTC = a_product()
LISTED = {BIP: BTC, ETP: a_product("ETH-PERP", ETP, "0.1", "0.5"),
          "AVP-20DEC30-CDE": a_product("AVAX-PERP", "AVP-20DEC30-CDE", "10", "0.01")}
MILLISECONDS_MAX = 50


# How the tests say what was read


def named(row):
    return wire.text(row.get("product_id"), "product_id")


def said_product(row):
    if wire.symbol_of(row) is None:
        return f"{named(row)}: not ours"
    found, rate = wire.product(row, NOW, CLOSE), wire.funding_rate(row)
    return (f"{found.product_id} is {found.symbol}, {found.contract_size:f} a contract, tick "
            f"{found.price_increment:f}, {found.min_quantity:f} to {found.max_quantity:f}, margin "
            f"{found.long_margin_rate:f} and {found.short_margin_rate:f}, "
            f"{'open' if found.is_session_open else 'closed'}"
            f"{'' if found.tradable else ', not tradable: ' + found.note}, closes "
            f"{found.closes_at and f'{found.closes_at:%m-%d %H:%M}'}, funding "
            f"{rate and f'{rate.rate:f} of {rate.at:%m-%d %H:%M}'}")


def said_mark(book):
    product = LISTED.get(named(book))
    if product is None:
        return f"{named(book)}: not ours"
    mark = wire.quote(book, product)
    return mark and (f"{mark.symbol} {mark.bid:f} x {mark.bid_size:f}, "
                     f"{mark.ask:f} x {mark.ask_size:f}, mid {mark.price:f}, {mark.at:%m-%d %H:%M}")


def said_candle(row):
    found = wire.candle(row, BTC)
    return (f"{found.opened_at:%m-%d %H:%M} {found.open:f} {found.high:f} {found.low:f} "
            f"{found.close:f} {found.volume:f}")


def said_balance(body):
    said, margin = f"equity {wire.equity(body):f}", wire.margin(body)
    return margin and (
        f"{said}, margin {margin.initial:f} of {margin.available:f} down to "
        f"{margin.threshold:f}, funding to come {margin.unbooked_funding}")


def said_position(row):
    product = LISTED.get(named(row))
    found = wire.position(row, product.symbol if product else named(row),
                          product and product.contract_size)
    return found and (f"{found.symbol} {found.quantity:f} @ {found.entry_price:f}, "
                      f"now {found.mark_price}")


def said_order(row):
    if named(row) not in LISTED:
        return f"{named(row)}: not ours"
    found = wire.order(row, LISTED[named(row)])
    intent = found.intent
    return (f"{found.status} {intent.side} {intent.quantity:f} {found.symbol} {intent.order_type} "
            f"{intent.time_in_force}, filled {found.filled_quantity:f} @ {found.average_price}")


def said_fill(row):
    if named(row) not in LISTED:
        return f"{named(row)}: not ours"
    found = wire.fill(row, LISTED[named(row)], "owner", False)
    return (f"{found.side} {found.quantity:f} {found.symbol} @ {found.price:f} fee {found.fee:f} "
            f"{found.at:%H:%M:%S.%f}")


def sent(answer):
    """A request that `answer` fits, of which the echo says what it says."""
    said, echo = (wire.part({"it": answer.get(name) or {}}, "it")
                  for name in ("success_response", "order_configuration"))
    key = next(iter(echo), "limit_limit_gtc")
    size = wire.part({"it": echo.get(key, {})}, "it").get("base_size", "1")
    return {"client_order_id": said.get("client_order_id", "ours"),
            "product_id": said.get("product_id", BIP), "side": said.get("side", "BUY"),
            "order_configuration": {key: {"base_size": size}}}


def said_answer(answer):
    try:
        return f"order {wire.accepted(answer, sent(answer))}"
    except (OrderRejected, OutcomeUnknown) as error:
        return f"{type(error).__name__}: {error}"


def said_rights(body):
    return [wire.flag(body.get(name), name) for name in ("can_view", "can_trade", "can_transfer")]


def each(name, say):
    return lambda body: [say(row) for row in wire.rows(body, name)]


def one(name, say):
    return lambda body: say(wire.part(body, name))


# What there is to read, by the first part of the file's name.
READERS = {
    "products_list": each("products", said_product), "product": said_product,
    "best_bid_ask": each("pricebooks", said_mark), "product_book": one("pricebook", said_mark),
    "candles": each("candles", said_candle), "cfm_balance_summary": said_balance,
    "cfm_positions": each("positions", said_position),
    "cfm_position": one("position", said_position),
    "orders_list": each("orders", said_order), "order_get": one("order", said_order),
    "fills_list": each("fills", said_fill), "order_create": said_answer,
    "close_position": said_answer, "order_cancel": wire.cancel_answers,
    "key_permissions": said_rights,
    "server_time": lambda body: [f"{wire.moment(body.get('iso'), 'iso'):%m-%d %H:%M:%S}",
                                 wire.number(body.get("epochMillis"), "epochMillis")],
}
NOT_OURS = "read by nobody"
OURS = "like ours"
FEED = "read by the feed, or by nobody"
MEANINGS = {
    "products_list__cfm_perps_2026_10.json": [
        "BIP-20DEC30-CDE is BTC-PERP, 0.01 a contract, tick 5, 0.01 to 50.00, margin 0.21025 and "
        "0.256625, open, closes 10-16 21:00, funding 0.000009 of 10-09 23:00",
        "ETP-20DEC30-CDE is ETH-PERP, 0.1 a contract, tick 0.5, 0.1 to 500.0, margin 0.24125 and "
        "0.303625, open, closes 10-16 21:00, funding 0.000014 of 10-09 23:00"],
    "products_list__futures_bip_bit_2026_04.json": [
        "BIP-20DEC30-CDE is BTC-PERP, 0.01 a contract, tick 5, 0.01 to 50.00, margin 0.245625 and "
        "0.306375, open, closes 10-16 21:00, funding 0.000013 of 04-07 00:00",
        "BIT-24APR26-CDE: not ours"],
    "product__slp_20dec30_cde.json":
        "SLP-20DEC30-CDE is SOL-PERP, 5 a contract, tick 0.01, 5 to 5000, margin 0.366 and "
        "0.55975, open, closes 10-16 21:00, funding 0.000006 of 10-09 23:00",
    "product__bit_24apr26_cde.json": "BIT-24APR26-CDE: not ours",
    "product__btc_usd_spot.json": "BTC-USD: not ours",
    "product__sol_perp_intx_2025_05.json": "SOL-PERP-INTX: not ours",
    "products_list__spot.json": ["BTC-USD: not ours", "BTC-USDC: not ours"],
    "best_bid_ask__avp_future.json": ["AVAX-PERP 6.46 x 80, 6.48 x 90, mid 6.47, 07-13 12:00"],
    "best_bid_ask__btc_usd.json": ["BTC-USD: not ours"],
    "product_book__btc_usd.json": "BTC-USD: not ours",
    "candles__one_hour_newest_first.json": [
        "04-04 01:00 66312.4 66331.99 66055.14 66181.6 3.5582896243",
        "04-04 00:00 65984.18 66387.77 65857.35 66314.59 3.5874851052"],
    "cfm_balance_summary__flat_live.json":
        "equity 1490, margin 0 of 1490 down to 0, funding to come 0",
    "cfm_balance_summary__one_short_negative_pnl.json":
        "equity 496.80, margin 75.10 of 421.70 down to 37.55, funding to come -0.04",
    "cfm_balance_summary__doc.json": Malformed,  # its currency is called "string"
    "cfm_balance_summary__not_onboarded_null.json": Malformed,
    "cfm_positions__empty.json": [],
    "cfm_positions__one_long_bip.json": ["BTC-PERP 0.03 @ 118995, now 119395"],
    "cfm_positions__one_short.json": ["ETH-PERP -0.1 @ 2448.5, now 2480.5"],
    "cfm_position__bit_long.json": "BIT-31OCT25-CDE 3 @ 63000.00, now Infinity",
    "orders_list__etp_round_trip.json": [
        "filled buy 0.1 ETH-PERP market IOC, filled 0.1 @ 2490",
        "filled sell 0.1 ETH-PERP market IOC, filled 0.1 @ 2500"],
    "orders_list__open_and_filled.json": ["BTC-USD: not ours", "ETH-USD: not ours"],
    "orders_list__page_with_cursor.json": ["ADA-USDT: not ours"],
    "order_get__open_partially_filled.json": "BTC-USD: not ours",
    "order_get__open_stop_limit_2023.json": "LTC-BTC: not ours",
    "fills_list__etp_round_trip.json": [
        "buy 0.1 ETH-PERP @ 2490 fee 0.359 13:00:00.100000",
        "sell 0.1 ETH-PERP @ 2500 fee 0.36 12:00:00.100000"],
    "fills_list__ada_perp_intx_2024.json": ["ADA-PERP-INTX: not ours"],
    "fills_list__doc.json": ["BTC-USD: not ours"],
    "fills_list__spot_maker_taker.json": ["BTC-USD: not ours", "ETH-USD: not ours"],
    "order_create__success_futures_post_only.json": "order 1b6f2317-ce08-47e1-a36f-d4ca106c9018",
    "order_create__success_legacy_top_level_id.json":
        "order 52cfe5e2-0b29-4c19-a245-a6a773de5030",
    "order_create__doc_everything_filled_in.json": "order 11111-00000-000000",
    "order_create__failure_bracketed_position.json":
        "OrderRejected: PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION: the venue gave no words",
    "order_create__failure_fcm_session.json":
        "OrderRejected: INVALID_FCM_TRADING_SESSION: invalid FCM trading session",
    "order_create__failure_unsupported_configuration.json":
        "OrderRejected: UNSUPPORTED_ORDER_CONFIGURATION: source is not enabled for trading",
    "close_position__success_short.json": "order 00000000-0000-4000-8000-00000000a201",
    "order_cancel__success.json": {"bb8851a3-4fda-4a2c-aa06-9048db0e0f0d": ""},
    "order_cancel__duplicate_request.json": {"child-1": "DUPLICATE_CANCEL_REQUEST"},
    "order_cancel__mixed_commander_rejected.json": {
        "11111-00000-000000": "", "22222-00000-000000": "COMMANDER_REJECTED_CANCEL_ORDER"},
    "key_permissions__view_trade.json": [True, True, False],
    "server_time__strings.json": ["04-07 00:28:59", Decimal(1775521739000)],
    **dict.fromkeys((
        "accounts__page_with_next.json", "accounts__two_wallets.json",
        "cfm_margin_setting__standard.json", "cfm_margin_window__doc.json",
        "cfm_margin_window__overnight.json", "cfm_sweeps__pending_and_processing.json",
        "gw_auth__success.json", "gw_buy__minimal.json", "gw_candles__spot.json",
        "gw_error__not_enough_funds.json", "gw_error__too_many_requests.json",
        "gw_funding_rate_history__zero.json", "gw_order_book__btc_usdc.json",
        "gw_ticker__btc_usdc_perpetual.json", "gw_ws_heartbeat__test_request.json",
        "gw_ws_subscription__user_order.json", "http_error__400_fills_filter_combination.json",
        "http_error__400_unknown_proto_field.json", "http_error__401_plain_text.json",
        "http_error__403_fcm_not_onboarded.json", "http_error__404_retired_endpoint.json",
        "http_error__404_unknown_path.json", "http_error__429_rate_limit.json",
        "http_error__500_doc_envelope.json", "intx_balances__doc.json", "intx_position__doc.json",
        "intx_positions__ada_long_2024.json", "market_trades__doc_no_bid_ask_keys.json",
        "market_trades__three.json", "order_edit__doc_old_shape.json",
        "order_edit__failure_futures_not_editable.json", "order_edit__failure_order_not_found.json",
        "order_edit__success_empty_errors.json", "order_edit_preview__doc.json",
        "order_preview__etp_itemized_fee.json", "order_preview__spot_ok.json",
        "portfolio_breakdown__doc_strings.json", "portfolios__default_only.json",
        "transaction_summary__doc_old.json", "transaction_summary__intro_tier.json",
        "request_gw_auth__cdp.json", "request_gw_buy__limit.json",
        "request_order_edit__price_and_size.json",
    ), NOT_OURS),
    **dict.fromkeys((
        "request_close_position__partial.json", "request_order_cancel__one.json",
        "request_order_create__limit_gtc_post_only.json", "request_order_create__limit_ioc.json",
        "request_order_create__limit_with_attached_bracket_doc.json",
        "request_order_create__market_ioc_base.json",
        "request_order_create__stop_limit_gtc.json",
    ), OURS),
    **dict.fromkeys((
        "request_ws_subscribe__ticker.json", "ws_candles__update.json",
        "ws_error__authentication_failure.json", "ws_futures_balance_summary__snapshot.json",
        "ws_heartbeats__counter_number.json", "ws_heartbeats__counter_string.json",
        "ws_level2__snapshot.json", "ws_level2__update_with_delete.json",
        "ws_market_trades__update.json", "ws_status__one_product.json",
        "ws_subscriptions__level2_trades.json", "ws_ticker__btc_usd.json",
        "ws_ticker_batch__no_bid_ask.json", "ws_user__doc_full_with_positions.json",
        "ws_user__snapshot_open.json",
    ), FEED),
}
READ = [name for name, meaning in MEANINGS.items() if meaning not in (NOT_OURS, OURS, FEED)]


def reader(name):
    return READERS[name.partition("__")[0]]


# The recorded bodies


@NEEDS_PAYLOADS
def test_the_table_names_every_recorded_body():
    assert set(MEANINGS) == {path.name for path in PAYLOADS.glob("*.json")}


@NEEDS_PAYLOADS
@pytest.mark.parametrize("name", READ)
def test_a_recorded_body_is_read_as_what_it_is(name):
    body, meaning = wire.decoded(payload(name)), MEANINGS[name]
    if meaning is Malformed:
        with pytest.raises(Malformed):
            reader(name)(body)
    else:
        assert reader(name)(body) == meaning


@NEEDS_PAYLOADS
@pytest.mark.parametrize("name", [name for name, meaning in MEANINGS.items()
                                  if meaning in (NOT_OURS, FEED)])
def test_what_is_not_ours_is_taken_for_nothing_that_is(name):
    body = wire.decoded(payload(name))
    bodies = [body, *([body["body"]] if isinstance(body.get("body"), dict) else [])]
    for body in bodies:
        for kind, read in READERS.items():
            if kind == "product":
                assert wire.symbol_of(body) is None
                continue
            if kind in ("order_create", "close_position"):
                assert not said_answer(body).startswith("order ")
                continue
            with pytest.raises(Malformed):
                read(body)


@NEEDS_PAYLOADS
@pytest.mark.parametrize("name", READ)
def test_a_damaged_body_is_read_as_something_or_not_at_all(name):
    """Every part of it taken away, nulled, or of another type: E12, G2."""
    body = json.loads(payload(name), parse_float=Decimal, parse_int=Decimal)
    for _ in damaged(body):
        survives(reader(name), body)


@NEEDS_PAYLOADS
@pytest.mark.parametrize("name", READ)
def test_a_body_that_breaks_off_is_no_body(name):
    """C5, at every byte of the smaller ones."""
    body = payload(name).strip()
    step = max(len(body) // 500, 1)
    for end in range(0, len(body), step):
        with pytest.raises(Malformed):
            wire.decoded(body[:end])


@NEEDS_PAYLOADS
@pytest.mark.parametrize("name", READ)
def test_a_flipped_bit_is_read_as_something_or_not_at_all(name):
    body, dice = payload(name).strip(), random.Random(name)
    for _ in range(400):
        spoiled = bytearray(body)
        spoiled[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
        try:
            found = wire.decoded(bytes(spoiled))
        except Malformed:
            continue
        survives(reader(name), found)


# Small bodies, so that this stands without the recorded ones


INLINE = {
    "product": a_row(), "product_book": {"pricebook": a_book()},
    "candles": {"candles": [a_candle(1791_586_800)]}, "cfm_balance_summary": a_summary(),
    "cfm_positions": {"positions": [a_position_row(), a_position_row("SHORT", "1", ETP)]},
    "orders_list": {"orders": [an_order_row(), an_order_row(configuration={
        "trigger_bracket_gtc": {"base_size": "2", "limit_price": "99000",
                                "stop_trigger_price": "81000"}})]},
    "fills_list": {"fills": [a_fill_row()]},
    "order_create": an_answer(an_order(), order_configuration={
        "limit_limit_gtc": {"base_size": "2", "limit_price": "82000"}}),
    "close_position": a_refusal(error="CANNOT_CLOSE_ZERO_POSITION"),
    "order_cancel": {"results": [{"success": True, "failure_reason": "", "order_id": "v1"}]},
    "key_permissions": {"can_view": True, "can_trade": True, "can_transfer": False},
}


@pytest.mark.parametrize("kind", INLINE)
def test_a_small_body_is_read_and_survives_every_damage(kind):
    body = wire.decoded(encoded(INLINE[kind]))
    READERS[kind](body)
    for _ in damaged(body):
        survives(READERS[kind], body)


WRONG = (None, "", "text", "NaN", "sNaN", "Infinity", "-Infinity", "1e400", "1E+400000",
         "\u0661", "1_000", " 5 ", "-1", "0", "0.5", "9" * 40, "UNKNOWN", "a\nb", True, False,
         Decimal(7), Decimal("-7.5"), [], {}, [[]], ["x"], {"x": "y"}, [{"x": None}])
GONE = object()


def damaged(body):
    """Spoil one place of `body` at a time, in place, and mend it again."""
    for holder, key in list(places(body)):
        kept = holder[key]
        for wrong in (GONE, *WRONG):
            if wrong is GONE:
                del holder[key]
            else:
                holder[key] = wrong
            yield
            if wrong is GONE and isinstance(holder, list):
                holder.insert(key, kept)
            else:
                holder[key] = kept


def places(value):
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in keys:
        yield value, key
        yield from places(value[key])


def survives(read, body):
    """A value, or an error that says so."""
    with suppress(Malformed, OrderRejected, OutcomeUnknown):
        read(body)


# Bytes and words


def nested(depth, opening="[", closing="]"):
    return '{"a":' + opening * depth + "1" + closing * depth + "}"


@pytest.mark.parametrize("body", [
    b"", b" ", b"null", b"1", b"[]", b'"a"', b"<html>", b"Unauthorized", b'{"a":1', b"{'a':1}",
    b'{"a":1}{', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1,"a":2}',
    b'{"b":[{"a":1,"a":1}]}', b'\xff\xfe{"a":1}', b'\xef\xbb\xbf{"a":1}', b'{"a":"\xe9"}',
    rb'{"a":"\ud800"}', rb'{"a":["x",{"b":"\udc00x"}]}', rb'{"a":["\ud800"]}',
    rb'{"\ud83d":1}', b'{"a":01}',
    b'{"a":+1}', b'{"a":.5}', b'{"a":1_000}', "{\"a\":\u0661}".encode(),
    *(nested(depth).encode() for depth in (32, 500, 960, 990, 1100, 100_000)),
    *(nested(depth, '{"a":', "}").encode() for depth in (32, 900, 990, 100_000)),
])
def test_what_is_no_strict_json_object_is_no_body(body):
    """G3, C5"""
    with pytest.raises(Malformed):
        wire.decoded(body)


@pytest.mark.parametrize("body, value", [
    (b'{"a":1}', Decimal(1)), (b'{"a":-1.50}', Decimal("-1.50")), (b' {"a" : "x"} ', "x"),
    (b'{"a":null}', None), (b'{"a":true}', True), (rb'{"a":"\ud83d\ude00"}', "\U0001f600"),
    (b'{"a":1e3}', "1e3"), (b'{"a":1E+400000}', "1E+400000"), (b'{"a":' + b"9" * 5000 + b"}",
                                                            "9" * 5000),
])
def test_numbers_of_another_form_stay_text(body, value):
    assert wire.decoded(body) == {"a": value}


def test_a_body_may_be_as_deep_as_the_bound():
    assert wire.decoded(nested(wire.DEPTH_MAX - 1).encode())


@pytest.mark.parametrize("said, value", [
    ("0", "0"), ("-0", "0"), ("7", "7"), ("-7.50", "-7.50"), ("0.000000000000000001", "1E-18"),
    ("999999999999999.999999999999999999", "999999999999999.999999999999999999"),
    ("2498.7142857142857", "2498.7142857142857"),
])
def test_a_number_is_exactly_what_was_said(said, value):
    assert wire.number(said, "it") == Decimal(value)


@pytest.mark.parametrize("said", [
    None, "", " ", " 5 ", "5 ", "5\n", "+5", ".5", "5.", "1,5", "1_000", "1e3", "1E+400000",
    "1E+2000000", "0x10", "NaN", "sNaN", "nan", "Infinity", "-Infinity", "inf", "\u0661\u0662",
    "\uff15", "--5", "1" * 16, "9" * 5000, "0." + "1" * 19, True, False, 5, 5.0, [], {}, ["5"],
])
def test_what_only_looks_like_a_number_is_none(said):
    """G2, F6"""
    with pytest.raises(Malformed):
        wire.number(said, "it")


@pytest.mark.parametrize("literal", ["1E+400000", "1E+2000000", "1E+50000000", "1e-50000000",
                                     "9" * 100_000, "0." + "1" * 100_000])
def test_an_exponent_bomb_costs_nothing(literal):
    """G1: as a JSON number and as text, each within 50 ms."""
    def defused(body):
        begun = time.perf_counter()
        with pytest.raises(Malformed):
            wire.number(wire.decoded(body)["a"], "it")
        return (time.perf_counter() - begun) * 1000

    for body in (f'{{"a":{literal}}}', f'{{"a":"{literal}"}}'):
        assert min(defused(body.encode()) for _ in range(3)) <= MILLISECONDS_MAX


@pytest.mark.parametrize("said, at", [
    ("2026-10-09T23:00:00Z", datetime(2026, 10, 9, 23, tzinfo=UTC)),
    ("2026-10-09T23:00:00.5Z", datetime(2026, 10, 9, 23, 0, 0, 500_000, tzinfo=UTC)),
    ("2026-04-07T00:28:59.662782999Z", datetime(2026, 4, 7, 0, 28, 59, 662_782, tzinfo=UTC)),
])
def test_a_time_is_read_to_the_microsecond(said, at):
    assert wire.moment(said, "it") == at


@pytest.mark.parametrize("said", [
    None, "", "2026-10-09", "2026-10-09T23:00:00", "2026-10-09T23:00:00+01:00", "1775521739",
    "2026-02-30T00:00:00Z", "2026-10-09T25:00:00Z", "0000-01-01T00:00:00Z",
    "\u0662026-10-09T23:00:00Z", "2026-10-09T23:00:00.1234567891Z", 1775521739, True, [], {},
])
def test_what_only_looks_like_a_time_is_none(said):
    with pytest.raises(Malformed):
        wire.moment(said, "it")


@pytest.mark.parametrize("said, told", [
    (("", None, "UNKNOWN_FAILURE_REASON", "INVALID_SIDE"), "INVALID_SIDE"),
    (("REJECT_REASON_UNSPECIFIED",), ""), ((["x"], {"x": 1}, True, 7), ""),
    (("stop\n12:00 INFO kill switch cleared",), "stop?12:00 INFO kill switch cleared"),
    (("\x1b[2Jx\u202ey\x00",), "?[2Jx?y?"), (("x" * 5000,), "x" * wire.WORDS_MAX),
])
def test_the_venues_words_fit_on_one_line(said, told):
    """J5"""
    assert wire.words(*said) == told


@pytest.mark.parametrize("name", ["", None, "a\nb", "x" * 201, "\x1b[2J", 7, ["x"], True])
def test_a_name_that_is_no_plain_text_is_no_name(name):
    with pytest.raises(Malformed):
        wire.text(name, "order_id")
    assert wire.word(name) == ""


def test_a_name_may_be_as_long_as_the_bound():
    assert wire.text("x" * wire.WORDS_MAX, "order_id") == wire.word("x" * wire.WORDS_MAX) != ""


# Products


@pytest.mark.parametrize("row, symbol", [
    (a_row(), "BTC-PERP"), (a_row("US5-20DEC30-CDE", "US500"), "US500-PERP"),
    (a_row("PEP-20DEC30-CDE", "1000PEPE"), "1000PEPE-PERP"), (a_dated_row(), None),
    (an_ended_row(), None), (a_sparse_row(), None), (a_row(product_venue="CBE"), None),
    (a_row(product_venue=None), None), (a_row(future_product_details=None), None),
    (a_row(details={"funding_interval": ""}), None), (a_row(details={"funding_interval": 1}), None),
    (a_row(details={"contract_root_unit": "btc"}), None),
    (a_row(details={"contract_root_unit": "../../x"}), None),
    (a_row(details={"contract_root_unit": ""}), None), ({}, None),
    # J4: the id becomes part of addresses.
    (a_row("../../x"), None), (a_row("BIP?a=b"), None), (a_row("BIP#a"), None), (a_row(".."), None),
])
def test_only_a_perpetual_of_the_living_venue_has_a_symbol(row, symbol):
    assert wire.symbol_of(row) == symbol


def a_read_product(**changes):
    return wire.product(wire.decoded(encoded(a_row(**changes))), NOW, CLOSE)


def test_contracts_become_base_units_and_the_tick_is_the_price_increment():
    found = a_read_product(size="0.1", tick="0.5")
    assert (found.contract_size, found.quantity_increment, found.min_quantity, found.max_quantity,
            found.price_increment, found.long_margin_rate, found.short_margin_rate) == tuple(map(
                Decimal, ("0.1", "0.1", "0.1", "500", "0.5", "0.21", "0.26")))


@pytest.mark.parametrize("changes", [
    {"size": None}, {"size": ""}, {"size": "0"}, {"size": "-1"}, {"size": "NaN"}, {"tick": ""},
    {"tick": "0"}, {"base_increment": "0.1"}, {"base_increment": "0"}, {"base_increment": None},
    {"base_min_size": None}, {"base_max_size": "x"}, {"product_id": ""},
    {"details": {"overnight_margin_rate": {"long_margin_rate": "0.2"}}},
    {"details": {"overnight_margin_rate": {"long_margin_rate": "0", "short_margin_rate": "1"}}},
    {"session": {"maintenance": {"start_time": "soon", "end_time": None}}},
    {"details": {"contract_expiry": "2089"}},
])
def test_a_size_or_step_is_never_guessed(changes):
    """E11, trap 6: no default for a contract size."""
    with pytest.raises(Malformed):
        a_read_product(**changes)


@pytest.mark.parametrize("flag", wire.FLAGS)
@pytest.mark.parametrize("value", [True, None, "false", 0, "missing"])
def test_a_flag_that_is_not_false_restricts(flag, value):
    """E8"""
    row = a_row(**{flag: value})
    if value == "missing":
        del row[flag]
    found = wire.product(wire.decoded(encoded(row)), NOW, CLOSE)
    assert not found.tradable and flag in found.note


@pytest.mark.parametrize("changes, note", [
    ({"some_new_flag": True}, "some_new_flag"),
    ({"fcm_trading_session_details": None}, "session unknown"),
    ({"session": {"is_session_open": False, "closed_reason": "REGULAR_MARKET_CLOSE"}},
     "session closed: REGULAR_MARKET_CLOSE"),
    ({"session": {"is_session_open": None}}, "session closed: no reason given"),
    ({"session": {"is_session_open": "true"}}, "session closed: no reason given"),
    ({"session": {"session_state": "FCM_TRADING_SESSION_STATE_PRE_OPEN"}},
     "session state FCM_TRADING_SESSION_STATE_PRE_OPEN"),
    ({"session": {"session_state": None}}, "session state unknown"),
    ({"details": {"overnight_margin_rate": None}}, "no overnight margin rate"),
])
def test_what_stands_against_an_entry_is_said(changes, note):
    """E8, E9, E12"""
    found = a_read_product(**changes)
    assert (found.tradable, found.note) == (False, note)


def test_a_reason_for_a_close_restricts_nothing_while_the_session_is_open():
    reason = "FCM_TRADING_SESSION_CLOSED_REASON_EXCHANGE_MAINTENANCE"
    found = a_read_product(session={"closed_reason": reason}, **dict.fromkeys(wire.HARMLESS, True))
    assert found.tradable and found.is_session_open and found.note == ""
    assert set(wire.HARMLESS) == {"watched", "new", "is_alpha_testing", "hidden_from_discovery"}


def test_a_least_value_below_zero_is_none():
    with pytest.raises(Malformed, match="quote_min_size"):
        a_read_product(quote_min_size="-1")


@pytest.mark.parametrize("said, least", [("10.5", "10.5"), ("0", "0"), ("", "0"), (None, "0")])
def test_the_least_value_of_an_order_may_be_absent(said, least):
    assert a_read_product(quote_min_size=said).min_notional == Decimal(least)


@pytest.mark.parametrize("said, at", [
    ("2089-12-30T16:00:00Z", datetime(2089, 12, 30, 16, tzinfo=UTC)), (None, None), ("", None),
    ("0001-01-01T00:00:00Z", None)])
def test_the_year_one_and_nothing_are_no_expiry(said, at):
    """E10"""
    assert a_read_product(details={"contract_expiry": said}).expires_at == at


MAINTENANCE = {"start_time": "2026-10-12T10:00:00Z", "end_time": "2026-10-12T19:00:00Z"}
PAST = {"start_time": "2026-10-01T10:00:00Z", "end_time": "2026-10-01T19:00:00Z"}
EMPTY = {"start_time": None, "end_time": ""}


@pytest.mark.parametrize("around_the_clock, maintenance, closes_at", [
    (True, None, CLOSE), (True, MAINTENANCE, datetime(2026, 10, 12, 10, tzinfo=UTC)),
    (True, PAST, CLOSE), (True, EMPTY, CLOSE),
    (False, None, datetime(2026, 10, 12, 21, tzinfo=UTC)),
    (None, MAINTENANCE, datetime(2026, 10, 12, 10, tzinfo=UTC)),
])
def test_the_next_close(around_the_clock, maintenance, closes_at):
    """E9, trap 31: around the clock, `close_time` is only the roll of the day."""
    found = a_read_product(session={"maintenance": maintenance},
                           details={"twenty_four_by_seven": around_the_clock})
    assert found.closes_at == closes_at


def test_a_maintenance_under_way_has_begun():
    now = datetime(2026, 10, 12, 12, tzinfo=UTC)
    row = a_row(session={"maintenance": MAINTENANCE})
    assert wire.product(row, now, CLOSE).closes_at < now


def test_the_funding_rate_is_the_outer_one_and_may_be_missing():
    """Trap 16"""
    rate = wire.funding_rate(a_row())
    assert (rate.symbol, rate.rate, rate.at) == (
        "BTC-PERP", Decimal("0.000009"), datetime(2026, 10, 9, 23, tzinfo=UTC))
    for gone in ({"funding_rate": ""}, {"funding_rate": None}, {"funding_time": None}):
        assert wire.funding_rate(a_row(details=gone)) is None


@pytest.mark.parametrize("row, size", [
    (a_row(), "0.01"), (a_dated_row(size="5"), "5"), (a_sparse_row(), "0.01"),
    (an_ended_row(), None), ({"product_id": "BTC-USD"}, None),
])
def test_every_future_of_the_venue_has_a_contract_size(row, size):
    assert wire.contract_size(row) == (size and Decimal(size))


# Quotes and candles


def test_a_quote_is_the_middle_of_two_sides_and_sizes_are_base_units():
    mark = wire.quote(a_book("82565", "82570", sizes=("3", "4")), BTC)
    assert (mark.price, mark.bid, mark.ask, mark.bid_size, mark.ask_size) == tuple(map(
        Decimal, ("82567.5", "82565", "82570", "0.03", "0.04")))
    assert mark.at == NOW


def test_of_a_deeper_book_the_first_level_counts():
    book = a_book("82565", "82570")
    book["bids"].append({"price": "82560", "size": "9"})
    book["asks"].append({"price": "82575", "size": "x"})
    assert wire.quote(book, BTC) == wire.quote(a_book("82565", "82570"), BTC)


@pytest.mark.parametrize("book", [
    a_book(bid=None), a_book(ask=None), a_book(None, None), a_book("82570", "82565"),
    a_book("82565", "82565"), a_book("0", "82565"), a_book("-5", "5"),
    a_book(sizes=("0", "4")), a_book(sizes=("3", "-4")),
])
def test_a_book_that_is_no_market_has_no_price(book):
    """F6"""
    assert wire.quote(book, BTC) is None


@pytest.mark.parametrize("book", [
    a_book("NaN"), a_book("1e400"), a_book("\u0661"), a_book(at=""), a_book(at=None),
    {"bids": [], "asks": None}, {"bids": ["x"], "asks": []}, {},
])
def test_a_quote_that_cannot_be_read_is_an_error(book):
    """F6"""
    with pytest.raises(Malformed):
        wire.quote(book, BTC)


@pytest.mark.parametrize("changes", [
    {"start": "0"}, {"start": "-5"}, {"start": "1.5"}, {"start": "9" * 12}, {"start": None},
    {"close": "0"}, {"close": "NaN"}, {"volume": ""}, {"low": None},
])
def test_a_candle_with_a_part_missing_is_none(changes):
    with pytest.raises(Malformed):
        wire.candle(a_candle(1791_586_800) | changes, BTC)


# The account


def test_equity_is_the_cash_of_both_accounts_and_what_is_open():
    assert wire.equity(a_summary()) == Decimal("496.80")
    without = a_summary()
    del without["balance_summary"]["total_usd_balance"]
    assert wire.equity(without) == Decimal("496.80")


@pytest.mark.parametrize("body", [
    {"balance_summary": None}, {}, {"balance_summary": []}, a_summary(unrealized_pnl=None),
    a_summary(unrealized_pnl=usd("")), a_summary(unrealized_pnl=usd("NaN")),
    a_summary(total_usd_balance={"value": "500", "currency": "USDC"}),
    a_summary(total_usd_balance=usd(None)), a_summary(total_usd_balance=True),
])
def test_no_balance_is_never_zero(body):
    """E3, E6"""
    with pytest.raises(Malformed):
        wire.equity(body)


def test_the_margin_is_by_the_stricter_window():
    found = wire.margin(a_summary())
    assert (found.initial, found.available, found.threshold, found.unbooked_funding) == tuple(map(
        Decimal, ("75.20", "421.70", "37.55", "-0.04")))


@pytest.mark.parametrize("window", [None, {}, {"initial_margin": ""}, "x"])
def test_without_the_overnight_window_the_margin_is_the_initial_one(window):
    found = wire.margin(a_summary(overnight_margin_window_measure=window, funding_pnl=None))
    assert (found.initial, found.unbooked_funding) == (Decimal("75.10"), None)


@pytest.mark.parametrize("name", ["initial_margin", "available_margin", "liquidation_threshold"])
@pytest.mark.parametrize("value", [None, "", usd(""), usd(None)])
def test_a_margin_that_nobody_says_is_none(name, value):
    assert wire.margin(a_summary(**{name: value})) is None


@pytest.mark.parametrize("row, quantity", [
    (a_position_row("LONG", "3"), "0.03"), (a_position_row("SHORT", "3"), "-0.03"),
    (a_position_row("LONG", "3", entry=usd("82000"), mark=usd("82500")), "0.03"),
])
def test_a_position_is_signed_and_in_base_units(row, quantity):
    found = wire.position(row, "BTC-PERP", Decimal("0.01"))
    assert (found.symbol, found.quantity, found.entry_price, found.mark_price) == (
        "BTC-PERP", Decimal(quantity), 82000, 82500)


@pytest.mark.parametrize("side", ["LONG", "UNKNOWN", None])
def test_a_row_of_zero_contracts_is_flat_whatever_its_side(side):
    assert wire.position(a_position_row(side, "0"), "BTC-PERP", Decimal("0.01")) is None


@pytest.mark.parametrize("changes", [
    {"side": "UNKNOWN"}, {"side": None}, {"side": "long"}, {"number_of_contracts": "-3"},
    {"number_of_contracts": "0.5"}, {"number_of_contracts": None}, {"number_of_contracts": ""},
    {"avg_entry_price": ""}, {"avg_entry_price": "0"}, {"current_price": "0"},
    {"current_price": usd("NaN")}, {"current_price": {"value": "1", "currency": "EUR"}},
])
def test_a_position_in_doubt_is_an_error_and_never_flat(changes):
    """E3"""
    with pytest.raises(Malformed):
        wire.position(a_position_row() | changes, "BTC-PERP", Decimal("0.01"))


def test_a_contract_of_unknown_size_counts_without_bound():
    found = wire.position(a_position_row("SHORT", "2"), "X-25DEC26-CDE", None)
    assert (found.quantity, found.notional) == (-2, Decimal("Infinity"))


# Orders that are read


@pytest.mark.parametrize("said, status", [
    ("PENDING", "open"), ("QUEUED", "open"), ("OPEN", "open"), ("EDIT_QUEUED", "open"),
    ("CANCEL_QUEUED", "cancel_queued"), ("FILLED", "filled"), ("CANCELLED", "cancelled"),
    ("EXPIRED", "expired"), ("FAILED", "rejected"), ("UNKNOWN_ORDER_STATUS", "unknown"),
    ("SOMETHING_NEW", "unknown"), ("open", "unknown"), (None, "unknown"), (7, "unknown"),
])
def test_a_status_that_is_not_known_is_an_unknown_outcome(said, status):
    """E12"""
    assert wire.order(an_order_row(status=said), BTC).status == status


@pytest.mark.parametrize("said, reason", [
    ({}, ""), ({"reject_reason": "HOLD_FAILURE"}, "HOLD_FAILURE"),
    ({"reject_reason": "HOLD_FAILURE", "reject_message": "no money"}, "HOLD_FAILURE"),
    ({"reject_message": "no money", "cancel_message": "x"}, "no money"),
    ({"cancel_message": "User requested\ncancel"}, "User requested?cancel")])
def test_an_order_says_why_it_ended(said, reason):
    assert wire.order(an_order_row(status="FAILED", **said), BTC).reason == reason


def test_a_pending_cancel_may_still_fill_and_undoes_no_end():
    assert wire.order(an_order_row(pending_cancel=True), BTC).status is OrderStatus.CANCEL_QUEUED
    ended = an_order_row(status="FILLED", pending_cancel=True)
    assert wire.order(ended, BTC).status is OrderStatus.FILLED


def test_an_order_has_base_units_its_own_date_and_the_id_of_its_parent():
    found = wire.order(an_order_row(filled_size="1", average_filled_price="81995.5",
                                    originating_order_id="v0", cancel_message="Internal error"),
                       BTC)
    assert (found.id, found.venue_order_id, found.quantity, found.filled_quantity,
            found.average_price, found.originating_order_id, found.reason) == (
                "pb-1-000001", "v1", Decimal("0.02"), Decimal("0.01"), Decimal("81995.5"), "v0",
                "Internal error")
    assert found.created_at == datetime(2026, 10, 9, 23, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("client_id", ["", None, 7, "a\nb", "x" * 300])
def test_an_order_without_a_usable_id_of_its_owner_goes_by_the_venues(client_id):
    assert wire.order(an_order_row(client_id), BTC).id == "venue-v1"


STOP = {"base_size": "2", "limit_price": "80000", "stop_price": "81000",
        "stop_direction": "STOP_DIRECTION_STOP_DOWN"}


@pytest.mark.parametrize("configuration, kind, force, stop, purpose", [
    ({"market_market_ioc": {"base_size": "2"}}, "market", "IOC", None, "entry"),
    ({"sor_limit_ioc": {"base_size": "2", "limit_price": "1"}}, "limit", "IOC", None, "entry"),
    ({"limit_limit_fok": {"base_size": "2", "limit_price": "1"}}, "limit", "FOK", None, "entry"),
    ({"stop_limit_stop_limit_gtc": STOP}, "stop_limit", "GTC", "81000", "stop"),
    ({"stop_limit_stop_limit_gtd": STOP | {"end_time": "2026-10-10T00:00:00Z"}}, "stop_limit",
     "GTD", "81000", "stop"),
    ({"trigger_bracket_gtc": {"base_size": "2", "limit_price": "9", "stop_trigger_price": "8"}},
     "bracket", "GTC", "8", "stop"),
])
def test_an_order_is_of_the_kind_of_its_configuration(configuration, kind, force, stop, purpose):
    intent = wire.order(an_order_row(configuration=configuration), BTC).intent
    assert (intent.order_type, intent.time_in_force, intent.purpose, intent.quantity) == (
        OrderType(kind), TimeInForce(force), Purpose(purpose), Decimal("0.02"))
    assert intent.stop_price == (stop and Decimal(stop))


@pytest.mark.parametrize("configuration", [
    {"twap_limit_gtd": {"base_size": "9"}}, {"scaled_limit_gtc": {}}, "x",
    {"market_market_ioc": {"base_size": "1"}, "sor_limit_ioc": {"base_size": "1"}},
    {"market_market_ioc": {}}, {"market_market_ioc": {"base_size": "0.01"}},
    {"market_market_ioc": {"quote_size": "10"}}, {"market_market_ioc": []},
    {"limit_limit_gtc": {"base_size": "1", "limit_price": "x"}},
    {"limit_limit_gtc": {"base_size": "1", "limit_price": "0"}},
    {"limit_limit_gtc": {"base_size": "1", "limit_price": "-5"}},
    {"stop_limit_stop_limit_gtc": {"base_size": "1", "limit_price": "5", "stop_price": "-5"}}])
def test_of_an_order_that_we_never_send_only_its_existence_matters(configuration):
    found = wire.order(an_order_row(configuration=configuration), BTC)
    assert (found.quantity, found.status) == (0, OrderStatus.OPEN)


@pytest.mark.parametrize("changes", [
    {"order_id": ""}, {"order_id": None}, {"created_time": None}, {"filled_size": ""},
    {"filled_size": "-1"}, {"filled_size": "0.5"}, {"side": "LONG"}, {"side": None},
    {"average_filled_price": "NaN"}, {"average_filled_price": "-1"},
])
def test_an_order_that_cannot_be_read_is_an_error(changes):
    with pytest.raises(Malformed):
        wire.order(an_order_row(**changes), BTC)


@pytest.mark.parametrize("changes, liquidates", [
    ({}, False), ({"is_liquidation": True}, True), ({"order_type": "LIQUIDATION"}, True)])
def test_a_liquidation_says_so_in_two_ways(changes, liquidates):
    """E5"""
    assert wire.is_liquidation(an_order_row(**changes)) is liquidates


def test_a_fill_is_in_base_units_with_its_exact_fee():
    found = wire.fill(a_fill_row(), BTC, "pb-1-000001", False)
    assert (found.fill_id, found.client_order_id, found.side, found.quantity, found.price,
            found.fee) == ("e1", "pb-1-000001", Side.BUY, Decimal("0.02"), 82000, Decimal("1.75"))
    assert found.at == datetime(2026, 10, 9, 23, 10, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize("changes", [
    {"size_in_quote": True}, {"size_in_quote": "true"}, {"size_in_quote": None},
    {"future_legs": [{}]}, {"option_legs": ["x"]}, {"size": "0"}, {"size": "0.5"}, {"size": ""},
    {"price": "0"}, {"price": "1e400"}, {"commission": ""}, {"commission": None},
    {"trade_time": None}, {"entry_id": ""}, {"side": "UNKNOWN_ORDER_SIDE"},
])
def test_a_fill_that_is_not_plain_is_an_error(changes):
    with pytest.raises(Malformed):
        wire.fill(a_fill_row(**changes), BTC, "", False)


# Orders that are sent


def body_of(profit=None, **intent):
    return wire.create_body(an_order(**intent), BTC, profit and Decimal(profit))


LIMIT = {"order_type": OrderType.LIMIT, "limit_price": Decimal("82000")}
RESTS = LIMIT | {"time_in_force": TimeInForce.GTC}
GTD = LIMIT | {"time_in_force": TimeInForce.GTD, "expires_at": NOW + timedelta(seconds=600.7)}
STOPS = {"order_type": OrderType.STOP_LIMIT, "time_in_force": TimeInForce.GTC,
         "limit_price": Decimal("77000"), "stop_price": Decimal("81000")}
BRACKET = {"order_type": OrderType.BRACKET, "time_in_force": TimeInForce.GTC,
           "limit_price": Decimal("99000"), "stop_price": Decimal("81000")}


@pytest.mark.parametrize("intent, configuration", [
    ({}, {"market_market_ioc": {"base_size": "2"}}),
    (LIMIT, {"sor_limit_ioc": {"base_size": "2", "limit_price": "82000"}}),
    (RESTS, {"limit_limit_gtc": {"base_size": "2", "limit_price": "82000"}}),
    (LIMIT | {"time_in_force": TimeInForce.FOK},
     {"limit_limit_fok": {"base_size": "2", "limit_price": "82000"}}),
    (GTD, {"limit_limit_gtd": {"base_size": "2", "limit_price": "82000",
                               "end_time": "2026-10-09T23:24:00Z"}}),
    (BRACKET, {"trigger_bracket_gtc": {"base_size": "2", "limit_price": "99000",
                                       "stop_trigger_price": "81000"}}),
    (STOPS | {"side": Side.SELL}, {"stop_limit_stop_limit_gtc": {
        "base_size": "2", "limit_price": "77000", "stop_price": "81000",
        "stop_direction": "STOP_DIRECTION_STOP_DOWN"}}),
    (STOPS | {"side": Side.BUY}, {"stop_limit_stop_limit_gtc": {
        "base_size": "2", "limit_price": "77000", "stop_price": "81000",
        "stop_direction": "STOP_DIRECTION_STOP_UP"}}),
])
def test_an_order_as_the_venue_documents_it(intent, configuration):
    side = intent.get("side", Side.BUY).value.upper()
    assert body_of(**intent) == {"client_order_id": "pb-1-000001", "product_id": BIP, "side": side,
                                 "order_configuration": configuration}


@pytest.mark.parametrize("intent", [RESTS, GTD])
def test_a_resting_entry_carries_its_bracket_without_a_size(intent):
    body = body_of("98400", attached_stop_price=Decimal("81180"), **intent)
    assert body["attached_order_configuration"] == {"trigger_bracket_gtc": {
        "limit_price": "98400", "stop_trigger_price": "81180"}}
    assert "attached_order_configuration" not in body_of(**intent)


def test_a_close_names_the_product_and_a_whole_number_of_contracts():
    assert wire.close_body(an_order(Side.SELL, "0.03"), BTC) == {
        "client_order_id": "pb-1-000001", "product_id": BIP, "size": "3"}


@NEEDS_PAYLOADS
@pytest.mark.parametrize("name, body, optional", [
    ("market_ioc_base", body_of(), ()), ("limit_ioc", body_of(**LIMIT), ()),
    ("limit_gtc_post_only", body_of(**RESTS), ("post_only",)),
    ("stop_limit_gtc", body_of(**STOPS), ()),
])
def test_our_orders_have_the_keys_of_recorded_ones(name, body, optional):
    theirs = json.loads(payload(f"request_order_create__{name}.json"))
    [(kind, ours)], [(their_kind, values)] = (
        each["order_configuration"].items() for each in (body, theirs))
    assert (set(body), kind) == (set(theirs), their_kind)
    assert set(ours) == set(values) - {*optional}
    assert all(isinstance(value, str) for value in ours.values())


@NEEDS_PAYLOADS
def test_our_other_requests_have_the_keys_of_documented_ones():
    documented = json.loads(payload("request_order_create__limit_with_attached_bracket_doc.json"))
    body = body_of("98400", attached_stop_price=Decimal("81180"), **RESTS)
    for theirs, ours in ((documented, body),
                         (documented["attached_order_configuration"]["trigger_bracket_gtc"],
                          body["attached_order_configuration"]["trigger_bracket_gtc"]),
                         (json.loads(payload("request_close_position__partial.json")),
                          wire.close_body(an_order(), BTC))):
        assert set(theirs) == set(ours)


@pytest.mark.parametrize("quantity", ["0.015", "0.005", "0", "-0.01", "0.0100001"])
def test_a_part_of_a_contract_is_never_sent(quantity):
    """G5, trap 7"""
    with pytest.raises(OrderRejected, match="no whole number") as refused:
        wire.contracts(Decimal(quantity), BTC)
    assert refused.value.code == "INVALID_SIZE_PRECISION"


@pytest.mark.parametrize("quantity, size, contracts", [
    ("0.01", "0.01", "1"), ("50.00", "0.01", "5000"), ("0.30", "0.1", "3"), ("1E+3", "5", "200"),
    ("500000", "500", "1000"),
])
def test_contracts_are_written_as_plain_whole_numbers(quantity, size, contracts):
    assert wire.contracts(Decimal(quantity), a_product(size=size)) == contracts


# The answer to an order


ORDER = an_order(**RESTS)
ECHO = {"limit_limit_gtc": {"base_size": "2", "limit_price": "82000.0", "reduce_only": False}}


def answered(**changes):
    """The answer to ORDER; `said` changes its inner object."""
    said = changes.pop("said", {})
    answer = an_answer(ORDER, order_configuration=ECHO) | changes
    if isinstance(answer["success_response"], dict):
        answer["success_response"] |= said
    return wire.decoded(encoded(answer))


def body_sent(order=ORDER):
    return wire.create_body(order, BTC, None)


@pytest.mark.parametrize("answer", [
    answered(), answered(order_configuration=None), answered(order_configuration={}),
    answered(error_response={"error": "UNKNOWN_FAILURE_REASON", "message": "was invalid"}),
    answered(order_id="v1", said={"order_id": ""}), answered(said={"attached_order_id": "v2"}),
    answered(order_configuration={"limit_limit_gtc": {"base_size": Decimal(2)}}),
])
def test_an_answer_that_fits_is_accepted(answer):
    """D1"""
    assert wire.accepted(answer, body_sent()) == "v1"


@pytest.mark.parametrize("answer", [
    answered(said={"product_id": ETP}), answered(said={"side": "SELL"}),
    answered(said={"client_order_id": "pb-1-000009"}), answered(said={"client_order_id": None}),
    answered(success_response={"order_id": "v1"}), answered(success_response=None),
    answered(success_response=None, order_id="v1"),
    answered(order_configuration={"limit_limit_gtc": {"base_size": "20"}}),
    answered(order_configuration={"limit_limit_gtc": {}}),
    answered(order_configuration={"limit_limit_gtc": "x"}), answered(order_configuration="x"),
    answered(order_configuration={"sor_limit_ioc": {"base_size": "2"}}),
    answered(success=False), answered(success=None), answered(success="true"),
    answered(success=1), answered(said={"order_id": ""}), answered(said={"order_id": None}),
    answered(said={"order_id": ["v1"]}), answered(said={"order_id": "v\n1"}), {},
    {"success": True}, {"success": False, "order_id": "v1"},
    {"success": False, "order_id": 1}, {"success": False, "order_id": "v" * 201},
    a_refusal(error="X") | {"success_response": {"order_id": True}},
    answered(order_id="v2"), answered(order_id=1), answered(order_id=["v1"]),
    answered(said={"order_id": 1}, order_id="v1"),
    answered(error_response={"error": "INSUFFICIENT_FUND"}), answered(error_response="X"),
    answered(error_response={"preview_failure_reason": 7}), answered(failure_reason="INVALID_SIDE"),
    a_refusal(error="X", preview_failure_reason="PREVIEW_DUPLICATE_CLIENT_ORDER_ID"),
    a_refusal(new_order_failure_reason="DUPLICATE_CLIENT_ORDER_ID"),
    a_refusal(preview_failure_reason="PREVIEW_DUPLICATE_CLIENT_ORDER_ID"),
])
def test_an_answer_in_doubt_is_an_unknown_outcome(answer):
    """D1, D2: never a rejection, never an acceptance; the order is looked up."""
    with pytest.raises(OutcomeUnknown):
        wire.accepted(answer, body_sent())


CLOSE_SENT = wire.close_body(an_order(Side.SELL), BTC) | {"side": "SELL"}


@pytest.mark.parametrize("echo, fits", [
    (None, True), ({}, True), ({"market_market_ioc": {"base_size": "2"}}, True),
    ({"market_market_ioc": {"base_size": "3"}}, False), ({"sor_limit_ioc": {}}, False),
])
def test_the_echo_of_a_close_has_its_size(echo, fits):
    answer = an_answer(an_order(Side.SELL), order_configuration=echo)
    if fits:
        assert wire.accepted(answer, CLOSE_SENT) == "v1"
    else:
        with pytest.raises(OutcomeUnknown):
            wire.accepted(answer, CLOSE_SENT)


@pytest.mark.parametrize("reasons, code", [
    ({"new_order_failure_reason": "A", "error": "B", "preview_failure_reason": "C"}, "A"),
    ({"new_order_failure_reason": "", "error": "B", "preview_failure_reason": "C"}, "B"),
    ({"new_order_failure_reason": "UNKNOWN_FAILURE_REASON", "error": "B"}, "B"),
    ({"error": "UNKNOWN_FAILURE_REASON", "preview_failure_reason": "PREVIEW_C"}, "PREVIEW_C"),
    ({"error": "SOME_NEW_REASON"}, "SOME_NEW_REASON"), ({}, "NO_REASON_GIVEN"),
    ({"error": "UNKNOWN_FAILURE_REASON"}, "NO_REASON_GIVEN"), ({"error": 7}, "NO_REASON_GIVEN"),
])
def test_the_reason_that_says_most_is_the_code(reasons, code):
    """D5"""
    with pytest.raises(OrderRejected) as refused:
        wire.accepted(a_refusal(**reasons), body_sent())
    assert refused.value.code == code and str(refused.value).startswith(code)


def test_the_reason_may_stand_where_it_did_in_2023():
    answer = {"success": False, "failure_reason": "INVALID_SIDE", "order_id": ""}
    with pytest.raises(OrderRejected) as refused:
        wire.accepted(answer, body_sent())
    assert refused.value.code == "INVALID_SIDE"


@pytest.mark.parametrize("words, said", [
    ({"message": "a", "error_details": "b"}, "X: a"),
    ({"message": "", "error_details": "b"}, "X: b"), ({}, "X: the venue gave no words")])
def test_the_words_of_a_refusal_come_from_where_there_are_some(words, said):
    with pytest.raises(OrderRejected) as refused:
        wire.accepted(a_refusal(error="X", **words), body_sent())
    assert str(refused.value) == said


def test_a_refusal_says_what_the_venue_said():
    with pytest.raises(OrderRejected, match="^INVALID_SIDE: no\\?way$"):
        wire.accepted(a_refusal(error="INVALID_SIDE", message="no\nway"), body_sent())


def test_cancels_are_answered_one_by_one():
    """D9"""
    results = [{"order_id": "v1", "success": True,
                "failure_reason": "UNKNOWN_CANCEL_FAILURE_REASON"},
               {"order_id": "v2", "success": False, "failure_reason": "UNKNOWN_CANCEL_ORDER"},
               {"order_id": "v3", "success": False, "failure_reason": None}]
    assert wire.cancel_answers({"results": results}) == {
        "v1": "", "v2": "UNKNOWN_CANCEL_ORDER", "v3": "?"}


@pytest.mark.parametrize("body", [
    {}, {"results": None}, {"results": {}}, {"results": ["v1"]},
    {"results": [{"order_id": "v1", "success": "true"}]}, {"results": [{"success": True}]}])
def test_an_answer_to_a_cancel_that_cannot_be_read_is_an_error(body):
    with pytest.raises(Malformed):
        wire.cancel_answers(body)


# Pages


@pytest.mark.parametrize("body, rows, cursor", [
    ({"cursor": "5", "has_next": True}, 3, "5"), ({"cursor": "5", "has_next": False}, 3, ""),
    ({"cursor": "5"}, 3, "5"), ({"cursor": "5"}, 0, ""), ({"cursor": ""}, 3, ""), ({}, 3, ""),
    ({"cursor": None, "has_next": False}, 0, ""),
])
def test_a_list_goes_on_while_it_says_so(body, rows, cursor):
    """D10; fills say only a cursor, which their last page may carry."""
    assert wire.next_cursor(body, rows) == cursor


@pytest.mark.parametrize("body, rows", [
    ({"cursor": "", "has_next": True}, 3), ({"has_next": True}, 3),
    ({"cursor": "5", "has_next": True}, 0), ({"cursor": "5", "has_next": "yes"}, 3),
    ({"cursor": 5}, 3), ({"cursor": ["5"]}, 3), ({"cursor": "5", "has_next": None}, 3),
])
def test_a_page_that_contradicts_itself_is_an_error(body, rows):
    """D10"""
    with pytest.raises(Malformed):
        wire.next_cursor(body, rows)


@pytest.mark.parametrize("paging, more", [
    (None, False), ({}, False), ({"has_next": False}, False), ({"has_next": True}, True)])
def test_the_listing_says_whether_it_goes_on(paging, more):
    assert wire.more_products({"pagination": paging}) is more


def test_a_listing_that_says_it_badly_is_an_error():
    with pytest.raises(Malformed):
        wire.more_products({"pagination": {"has_next": "no"}})
