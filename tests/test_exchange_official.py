"""The exchange simulator, walked through by a client that nobody here wrote.

The vendor's own package signs the requests, builds the bodies and reads the answers, so what it
accepts is not only our own understanding of the reference.  It insists on https, so the exchange
serves TLS with a certificate of the test.  The package is optional: without it nothing here runs.
"""

import json
import queue
from decimal import Decimal

import pytest
from exchange.certificates import a_certificate
from exchange.harness import Keys, Simulator, wait_until

REASON = "coinbase-advanced-py is not installed: the simulator is not checked by a foreign client"
rest_package = pytest.importorskip("coinbase.rest", reason=REASON)
websocket_package = pytest.importorskip("coinbase.websocket", reason=REASON)

BTC = "BIP-20DEC30-CDE"
TIMEOUT_SECONDS = 60
FILLED, OPEN, CANCELLED = "FILLED", "OPEN", "CANCELLED"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module", params=["es256", "ed25519"])
def simulator(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    made = a_certificate(folder)
    with Simulator({"cash": "10000"}, folder=folder, tls=made.pair, key=request.param) as running:
        running.authority = str(made.authority)
        yield running


@pytest.fixture
def client(simulator):
    simulator.price(BTC, 60000, 60005)
    made = rest_package.RESTClient(
        api_key=simulator.keys.name, api_secret=simulator.keys.secret, timeout=TIMEOUT_SECONDS,
        base_url=f"127.0.0.1:{simulator.port}")
    made.session.verify, made.session.trust_env = simulator.authority, False
    yield made
    made.session.close()


@pytest.fixture
def stream(simulator):
    """A WebSocket client of the vendor's and the queue of what it heard."""
    heard = queue.SimpleQueue()
    made = websocket_package.WSClient(
        api_key=simulator.keys.name, api_secret=simulator.keys.secret, timeout=TIMEOUT_SECONDS,
        base_url=simulator.ws_url, on_message=heard.put, retry=False)
    made.open()
    yield made, heard
    made.close()


def test_the_clock_and_the_key_are_known(client):
    assert client.get_unix_time().iso
    permissions = client.get_api_key_permissions()
    assert (permissions.can_view, permissions.can_trade) == (True, True)


def test_the_perpetuals_are_found_among_the_decoys(client):
    found = client.get_products(product_type="FUTURE").products
    bitcoin = next(row for row in found if row.product_id == BTC)
    assert Decimal(bitcoin.price_increment) == 5
    assert Decimal(bitcoin.future_product_details["contract_size"]) == Decimal("0.01")
    assert client.get_product(BTC).product_id == BTC
    assert any(row.product_id.endswith("-PERP-INTX") for row in found)
    page = client.get_products(product_type="FUTURE", limit=2, offset=1).products
    assert [row.product_id for row in page] == [row.product_id for row in found[1:3]]


def test_the_book_is_two_sided(client):
    book = client.get_best_bid_ask([BTC]).pricebooks[0]
    assert (Decimal(book.bids[0].price), Decimal(book.asks[0].price)) == (60000, 60005)
    deeper = client.get_product_book(BTC, limit=5).pricebook
    assert (deeper.bids[0].price, deeper.asks[0].price) == (book.bids[0].price, book.asks[0].price)


def test_an_order_is_bought_filled_held_and_closed(client):
    bought = client.market_order_buy("", BTC, base_size="2")
    assert bought.success, bought
    order_id = bought.success_response["order_id"]
    order = client.get_order(order_id).order
    assert (order.status, Decimal(order.filled_size)) == (FILLED, 2)
    fill, *_ = client.get_fills(order_ids=[order_id]).fills
    assert (Decimal(fill.size), Decimal(fill.price), fill.side) == (2, 60005, "BUY")
    # A thousandth of the notional, and fifteen cents for each contract.
    notional = 60005 * 2 * Decimal("0.01")
    assert Decimal(fill.commission) == notional / 1000 + Decimal("0.3")
    held, = client.list_futures_positions().positions
    assert (held.product_id, held.side, Decimal(held.number_of_contracts)) == (BTC, "LONG", 2)
    summary = client.get_futures_balance_summary().balance_summary
    assert Decimal(summary.initial_margin["value"]) > 0
    closed = client.close_position("", BTC)
    assert closed.success, closed
    assert client.list_futures_positions().positions == []
    summary = client.get_futures_balance_summary().balance_summary
    assert Decimal(summary.total_usd_balance["value"]) < 10000


def test_closing_nothing_is_refused(client):
    refused = client.close_position("", BTC)
    assert not refused.success
    assert "CANNOT_CLOSE_ZERO_POSITION" in str(refused.error_response)


def test_a_resting_order_is_listed_and_cancelled(client):
    placed = client.limit_order_gtc_buy("", BTC, base_size="1", limit_price="50000", post_only=True)
    order_id = placed.success_response["order_id"]
    listed = client.list_orders(product_ids=[BTC], order_status=[OPEN]).orders
    assert [order.order_id for order in listed] == [order_id]
    result, = client.cancel_orders([order_id]).results
    assert (result.success, result.order_id) == (True, order_id)
    wait_until(lambda: client.get_order(order_id).order.status == CANCELLED, "the cancel")
    assert client.list_orders(product_ids=[BTC], order_status=[OPEN]).orders == []


def test_the_same_client_order_id_makes_one_order(client):
    first, second = (client.limit_order_gtc_buy("the same", BTC, "1", "50000") for _ in range(2))
    assert first.success_response["order_id"] == second.success_response["order_id"]
    client.cancel_orders([first.success_response["order_id"]])


def test_orders_and_fills_are_paged_to_the_end(client):
    placed = {client.limit_order_gtc_buy("", BTC, "1", "50000").success_response["order_id"]
              for _ in range(3)}
    seen, cursor = [], None
    for _ in range(100):
        page = client.list_orders(limit=2, cursor=cursor)
        seen += [order.order_id for order in page.orders]
        cursor = page.cursor
        if not page.has_next:
            break
    assert len(seen) == len(set(seen)) == len(client.list_orders().orders)
    assert placed <= set(seen)
    client.cancel_orders(list(placed))


def test_an_order_of_futures_cannot_be_edited(client):
    order_id = client.limit_order_gtc_buy("", BTC, "1", "50000").success_response["order_id"]
    refused = client.edit_order(order_id, size="2", price="50005")
    assert not refused.success
    assert refused.errors[0].edit_failure_reason == "CANNOT_EDIT_FUTURES_ORDER"
    client.cancel_orders([order_id])


def test_an_attached_bracket_appears_when_its_order_fills(client):
    placed = client.create_order(
        "", BTC, "BUY", {"limit_limit_gtc": {"base_size": "1", "limit_price": "60005"}},
        attached_order_configuration={"trigger_bracket_gtc": {
            "limit_price": "66000", "stop_trigger_price": "57000"}})
    assert placed.success, placed
    order_id = placed.success_response["order_id"]
    bracket, = [order for order in client.list_orders(product_ids=[BTC]).orders
                if order.originating_order_id == order_id]
    assert (bracket.order_type, bracket.side, bracket.status) == ("BRACKET", "SELL", OPEN)
    reserved = client.close_position("", BTC)
    assert "BRACKETED" in str(reserved.error_response)
    client.cancel_orders([bracket.order_id])
    wait_until(lambda: client.get_order(bracket.order_id).order.status == CANCELLED, "the cancel")
    assert client.close_position("", BTC).success


@pytest.mark.parametrize("place", [
    lambda client: client.stop_limit_order_gtc_sell(
        "", BTC, "1", "55000", "57000", "STOP_DIRECTION_STOP_DOWN"),
    lambda client: client.limit_order_gtd_buy("", BTC, "1", "50000", "2099-01-01T00:00:00Z"),
    lambda client: client.trigger_bracket_order_gtc_sell("", BTC, "1", "70000", "57000"),
], ids=["stop", "gtd", "bracket"])
def test_orders_that_wait_are_taken_as_the_vendor_writes_them(client, place):
    client.market_order_buy("", BTC, base_size="1")
    placed = place(client)
    assert placed.success, placed
    order_id = placed.success_response["order_id"]
    client.cancel_orders([order_id])
    wait_until(lambda: client.get_order(order_id).order.status == CANCELLED, "the cancel")
    assert client.close_position("", BTC).success


@pytest.mark.parametrize("place, reason", [
    (lambda client: client.market_order_buy("", BTC, base_size="0.01"), "SIZE"),
    (lambda client: client.limit_order_gtc_buy("", BTC, "1", "50001"), "PRICE_PRECISION"),
], ids=["coins for contracts", "between two ticks"])
def test_a_refusal_names_its_reason(client, place, reason):
    refused = place(client)
    assert not refused.success
    assert reason in str(refused.error_response)


def test_a_preview_shows_errors_and_no_order(client):
    before = len(client.list_orders().orders)
    assert client.preview_market_order_buy(BTC, base_size="1").errs == []
    assert len(client.list_orders().orders) == before


def test_fees_accounts_and_portfolios_are_read(client):
    assert client.get_transaction_summary(product_type="FUTURE").fee_tier
    assert client.get_accounts().accounts
    assert [one.type for one in client.get_portfolios().portfolios] == ["DEFAULT"]


def test_candles_and_trades_are_read(client):
    now = int(client.get_unix_time().epoch_seconds)
    candles = client.get_candles(BTC, str(now - 3600), str(now), "ONE_MINUTE").candles
    assert all(int(candle.start) >= now - 3660 for candle in candles)
    assert client.get_market_trades(BTC, limit=5).trades is not None


def test_what_ended_in_october_is_gone(client):
    with pytest.raises(rest_package.rest_base.HTTPError, match="404"):
        client.list_perps_positions("11111111-1111-1111-1111-111111111111")


def test_another_key_is_unauthorized(simulator):
    stranger = Keys()
    client = rest_package.RESTClient(api_key=stranger.name, api_secret=stranger.secret,
                                     base_url=f"127.0.0.1:{simulator.port}", timeout=5)
    client.session.verify, client.session.trust_env = simulator.authority, False
    with pytest.raises(rest_package.rest_base.HTTPError, match="401"):
        client.get_accounts()
    client.session.close()


# The stream


def heard_on(heard, channel, holds=lambda event: True):
    """Return the first event of `channel` for which `holds`, typed by the vendor's package."""
    while True:
        text = heard.get(timeout=TIMEOUT_SECONDS)
        message = json.loads(text)
        assert message.get("type") != "error", text
        if message["channel"] != channel:
            continue
        for event in websocket_package.WebsocketResponse(message).events:
            if holds(event):
                return event


def test_the_heart_beats_each_second(stream):
    client, heard = stream
    client.subscribe([], ["heartbeats"])
    beats = [int(heard_on(heard, "heartbeats").heartbeat_counter) for _ in range(2)]
    assert beats[1] == beats[0] + 1


def test_the_ticker_follows_the_price(stream, simulator):
    client, heard = stream
    client.subscribe([BTC], ["ticker"])
    wait_until(lambda: any("ticker" in one["subscriptions"] for one in simulator.sockets()))
    simulator.price(BTC, 61000, 61005)
    event = heard_on(heard, "ticker", lambda event: Decimal(event.tickers[0].best_bid) == 61000)
    assert event.tickers[0].product_id == BTC
    assert Decimal(event.tickers[0].best_ask) == 61005


def test_the_user_channel_tells_of_an_order_from_open_to_cancelled(stream, client):
    talk, heard = stream
    talk.subscribe([], ["user", "heartbeats"])
    heard_on(heard, "user", lambda event: event.type == "snapshot")
    placed = client.limit_order_gtc_buy("", BTC, base_size="1", limit_price="50000")
    order_id = placed.success_response["order_id"]

    def tells(status):
        return lambda event: any((order.order_id, order.status) == (order_id, status)
                                 for order in event.orders or ())
    heard_on(heard, "user", tells(OPEN))
    client.cancel_orders([order_id])
    heard_on(heard, "user", tells(CANCELLED))


def test_the_balance_is_streamed(stream):
    client, heard = stream
    client.subscribe([], ["futures_balance_summary"])
    summary = heard_on(heard, "futures_balance_summary").fcm_balance_summary
    assert Decimal(summary.total_usd_balance) > 0
