"""The specification of `perps_bot/validate.py`: the validation scripts, on paper, against the
exchange of the tests, and against fixed bodies such as the sandbox's."""

import http.server
import os
import shlex
import threading
import time
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
from exchange.harness import Simulator

from perps_bot.cli import main
from perps_bot.paper import PaperBroker

PAYLOADS = Path(__file__).resolve().parents[2] / "shared/reference/payloads"
BTC, HOUR = "BIP-20DEC30-CDE", 3600
NAMES = ("client", "ws", "strategy", "e2e")
STEPS = {
    "client": "connect products permissions quotes candles balance positions orders fills",
    "ws": "connect products heartbeat ticker sequence reconnect",
    "strategy": "connect products warm-up decision crossings",
    "e2e": "connect products account round",
}


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """A function that validates here, and returns the exit code and the lines."""
    for name in [name for name in os.environ if name.startswith(("PERPS_", "COINBASE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUN_SANDBOX_VALIDATIONS", "1")

    def run(line, **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        code = main(["validate", *shlex.split(line)])
        out, err = capsys.readouterr()
        return code, [row.split(":")[0].split(maxsplit=1) for row in out.splitlines()], out + err

    return run


def named(rows):
    return " ".join(name.split()[0] for _, name in rows)


@pytest.mark.parametrize("value", ["", "0"])
@pytest.mark.parametrize("what", NAMES)
def test_nothing_is_validated_unless_it_was_asked_for(what, value, said):
    code, rows, text = said(what, RUN_SANDBOX_VALIDATIONS=value)
    assert code == 2 and "set RUN_SANDBOX_VALIDATIONS=1" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("profile", ["dev", "prod"])
@pytest.mark.parametrize("what", NAMES)
def test_on_paper_every_step_is_a_line_and_none_fails(what, profile, said):
    code, rows, text = said(f"{what} --profile {profile}")
    assert (code, named(rows)) == (0, STEPS[what]), text
    assert "NO" not in [mark for mark, _ in rows]
    assert os.listdir() == []


def test_what_paper_cannot_show_is_not_claimed(said):
    _, rows, _ = said("ws")
    assert [name for mark, name in rows if mark == "--"] == ["heartbeat", "sequence", "reconnect"]


def test_the_round_trip_tells_its_numbers(said):
    _, _, text = said("e2e")
    assert "0.01 BTC-PERP bought, stop at " in text and " USD of fees" in text


def test_the_first_step_that_fails_is_the_last(said, monkeypatch):
    monkeypatch.setattr(PaperBroker, "marks", lambda *_: {})
    code, rows, text = said("client")
    assert (code, rows[-1]) == (1, ["NO", "quotes"])
    assert "no quote of BTC-PERP" in text


def test_a_limit_that_forbids_the_smallest_order_fails_the_round_trip(said):
    code, rows, text = said("e2e --profile demo")
    assert (code, rows[-1]) == (1, ["NO", "round trip"])
    assert "set --max-position" in text


@pytest.mark.parametrize("thin_looks, code, told", [
    (20,     0, "0.01 BTC-PERP bought"),
    (10_000, 1, "BTC-PERP: too little is offered at the best price"),
])
def test_a_round_trip_waits_until_enough_is_offered(thin_looks, code, told, said, monkeypatch):
    """One contract at the best price is too little for one contract: half of it may be taken."""
    quotes, looks = PaperBroker.marks, count()

    def marks(*arguments):
        size = Decimal("0.01") if next(looks) < thin_looks else Decimal(1)
        return {symbol: mark._replace(bid_size=size, ask_size=size)
                for symbol, mark in quotes(*arguments).items()}

    monkeypatch.setattr(PaperBroker, "marks", marks)
    monkeypatch.setattr("perps_bot.validate.LOOK_SECONDS", 0.01)
    found, _, text = said("e2e")
    assert found == code and told in text


# Against the real adapter


@pytest.fixture
def exchange(tmp_path):
    with Simulator(folder=tmp_path) as simulator:
        last = int(time.time()) // HOUR * HOUR
        simulator.call("candles_from", product_id=BTC, rows=[
            [last - HOUR * n, *[str(82_000 + 100 * (n % 40))] * 4, "3"] for n in range(330, 0, -1)])
        yield simulator


@pytest.mark.parametrize("what", NAMES)
def test_against_the_exchange_everything_is_read_and_nothing_sent(what, said, exchange):
    code, rows, text = said(f"{what} --profile prod", USE_REAL_ADAPTER="1", **exchange.environment)
    assert (code, named(rows)) == (0, STEPS[what]), text
    assert exchange.requests("POST") == []
    assert exchange.truth()["orders"] == [] and exchange.truth()["fills"] == []
    assert exchange.keys.name not in text and exchange.keys.secret not in text
    assert ("places no order on the real account" in text) is (what == "e2e")


def test_reconnecting_makes_new_connections(said, exchange):
    said("ws --profile prod", USE_REAL_ADAPTER="1", **exchange.environment)
    assert len(exchange.rows("upgrade")) == 4  # market and user, twice


@pytest.mark.parametrize("what, fault, step", [
    ("client",   {"name": "summary_null"},                   "balance"),
    ("client",   {"name": "transient_403", "match": "fills"}, "fills"),
    ("strategy", None,                                       "warm-up"),
])
def test_a_venue_that_answers_wrongly_fails_its_step(what, fault, step, said, exchange):
    if fault:
        exchange.fault(fault.pop("name"), **fault)
    flags = "" if fault is not None else " --symbols ETH-PERP"  # of which there are no candles
    code, rows, text = said(
        f"{what} --profile prod{flags}", USE_REAL_ADAPTER="1", **exchange.environment)
    assert (code, rows[-1]) == (1, ["NO", step]), text


def test_a_socket_that_cannot_be_reached_fails_the_heartbeat(said, exchange):
    code, rows, _ = said("ws --profile prod", USE_REAL_ADAPTER="1",
                         **exchange.environment | {"COINBASE_WS_URL": "ws://127.0.0.1:1"})
    assert (code, rows[-1]) == (1, ["NO", "heartbeat"])


def test_a_missing_key_fails_where_it_is_needed(said, exchange):
    environ = {**exchange.environment, "COINBASE_API_KEY": "", "COINBASE_API_SECRET": ""}
    code, rows, text = said("client --profile prod", USE_REAL_ADAPTER="1", **environ)
    assert (code, rows[-1]) == (1, ["NO", "balance"])
    assert "COINBASE_API_KEY" in text


# The sandbox


@pytest.fixture
def sandbox():
    """A server of the fixed bodies that the venue's sandbox is made of."""
    if not PAYLOADS.is_dir():
        pytest.skip("the recorded bodies are not here")

    class Fixed(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = "fills_list__doc" if "fills" in self.path else "orders_list__open_and_filled"
            self.answer(name)

        def do_POST(self):
            server.sent.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            cancels = "batch_cancel" in self.path
            self.answer("order_cancel__success" if cancels else server.create)

        def answer(self, name):
            server.tokens.add(self.headers.get("Authorization"))
            body = (PAYLOADS / f"{name}.json").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fixed)
    server.tokens, server.sent = set(), []
    server.create = "order_create__success_futures_post_only"
    server.environ = {"USE_REAL_ADAPTER": "1", "COINBASE_SANDBOX": "1",
                      "COINBASE_API_URL": f"http://127.0.0.1:{server.server_port}",
                      "COINBASE_API_KEY": "swordfish"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("what, steps", [
    ("client", "sandbox auth orders fills"), ("e2e", "sandbox create cancel"),
])
def test_of_the_sandbox_only_words_are_checked_and_it_never_sees_a_key(what, steps, said, sandbox):
    code, rows, text = said(f"{what} --profile demo", **sandbox.environ)
    assert (code, named(rows)) == (0, steps), text
    assert "answers with fixed bodies: words are checked, not behaviour" in text
    assert sandbox.tokens <= {None, "Bearer none"}
    assert "swordfish" not in text


@pytest.mark.parametrize("create, words", [
    ("order_create__success_futures_post_only", "understood as accepted"),
    ("order_create__success_legacy_top_level_id", "understood as accepted"),
    ("order_create__failure_fcm_session", "understood as refused, INVALID_FCM_TRADING_SESSION"),
])
def test_a_canned_answer_to_a_create_is_understood(create, words, said, sandbox):
    sandbox.create = create
    code, _, text = said("e2e --profile demo", **sandbox.environ)
    assert code == 0 and words in text


def test_a_canned_answer_that_is_none_fails(said, sandbox):
    sandbox.create = "cfm_positions__empty"
    code, rows, _ = said("e2e --profile demo", **sandbox.environ)
    assert (code, rows[-1]) == (1, ["NO", "create"])


@pytest.mark.parametrize("what", ["ws", "strategy"])
def test_what_the_sandbox_cannot_prove_is_refused(what, said, sandbox):
    code, rows, text = said(f"{what} --profile demo", **sandbox.environ)
    assert (code, rows) == (2, []) and "proves nothing" in text
    assert sandbox.tokens == set()
