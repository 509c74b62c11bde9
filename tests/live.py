"""A real prod bot against the exchange process, in this process and in virtual time.

The loop, the engine, the client, REST and its sockets are the real ones; only time is ours.  The
exchange keeps its own books, which are what a test compares with.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

from exchange.harness import Simulator

from helpers import the_settings
from perps_bot import rest as rest_room
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.feed import MarkFeed
from perps_bot.keys import load_credentials
from perps_bot.bot import assemble, recover
from perps_bot.loop import attempt
from perps_bot.model import Purpose
from perps_bot.ops import Surfaces
from perps_bot.rest import Rest, VenueClock
from perps_bot.store import EventStore

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
BTC, ETH, SOL, XRP = "BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP"
IDS = {BTC: "BIP-20DEC30-CDE", ETH: "ETP-20DEC30-CDE", SOL: "SLP-20DEC30-CDE",
       XRP: "XPP-20DEC30-CDE"}
TICKS = {BTC: Decimal(5), ETH: Decimal("0.5"), SOL: Decimal("0.01"), XRP: Decimal("0.0005")}


class LiveRig:
    """One account, and the processes of a bot that it lives through.

    with_feed  quotes by WebSocket as well; else every quote is asked by REST
    settings   of `the_settings`: enter_on_start, bar, symbols, ...
    """

    def __init__(self, folder, scenario=None, now=NOON, with_feed=False, **settings):
        self.folder, self.now, self.with_feed = folder, now, with_feed
        self.settings = the_settings("prod", **{
            "enter_on_start": True, "bar": 60, "symbols": (BTC,), **settings})
        (folder / "exchange").mkdir()
        self.sim = Simulator({"now": now.isoformat(), "cash": "10000", **(scenario or {})},
                             clock="manual", folder=folder / "exchange").start()
        self.said, self.bot = [], None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.end_process()
        broken = self.sim.stop()
        assert kind is not None or not broken, f"the exchange broke:\n{broken}"

    # The exchange

    def history(self, closes, symbol=BTC, seconds=60):
        """Closed candles before now, oldest first."""
        end = int(self.now.timestamp()) // seconds * seconds
        rows = [[end - seconds * (len(closes) - n), *[str(close)] * 4, "5"]
                for n, close in enumerate(closes)]
        self.sim.call("candles_from", product_id=IDS[symbol], rows=rows)

    def price(self, bid, symbol=BTC, last=None, **more):
        """A book one tick wide from `bid` on, and a trade there (matching runs)."""
        bid = Decimal(bid)
        self.sim.price(IDS[symbol], bid, bid + TICKS[symbol], last=str(last or bid), **more)

    def rising(self, to=60000, step=10, bars=60, symbol=BTC):
        """A history whose averages show a long, and the market where it ends."""
        to, step = Decimal(to), Decimal(str(step))
        self.history([to - step * (bars - n) for n in range(bars)], symbol)
        self.price(to, symbol)

    def falling(self, to=60000, step=10, bars=60, symbol=BTC):
        self.rising(to, -Decimal(str(step)), bars, symbol)

    def truth(self):
        return self.sim.truth()

    def held(self, symbol=BTC):
        """Signed contracts by the exchange's own books."""
        return Decimal(self.truth()["positions"].get(IDS[symbol], {}).get("contracts", 0))

    def orders(self, path="/orders"):
        """The bodies of every order that reached the wire, in order."""
        return [row["body"] for row in self.sim.requests("POST", path)]

    # The bot

    def start(self, **settings):
        """A new process over the same files."""
        self.end_process()
        self.settings = self.settings.replace(**settings)
        keys = self.sim.keys
        signer = load_credentials(
            SimpleNamespace(api_key=keys.name, api_secret=keys.secret, api_key_file=None), {})
        begun = self.now
        clock = VenueClock(lambda: self.now, lambda: (self.now - begun).total_seconds())
        self.rest = Rest(self.sim.url, signer, clock)
        self.feed = None
        if self.with_feed:
            self.feed = MarkFeed(self.sim.ws_url, self.sim.ws_url,
                                 lambda: signer.websocket_token(clock.now()), clock.now,
                                 lambda: None)
        self.client = CoinbasePerpetualsClient(self.rest, self.feed, self.settings.symbols)
        store = EventStore(self.folder / "events")
        self.bot = assemble(self.settings, self.client, store, "coinbase", self.folder)
        self.bot.feed = self.feed
        self.events = []
        store.subscribe(self.events.append)
        self.bot.surfaces = Surfaces(self.folder, self.said.append)
        store.subscribe(self.bot.surfaces.apply)
        recover(self.bot)
        return self

    def end_process(self):
        """As a kill does: nothing is said, sent or written any more."""
        if self.bot is not None:
            self.bot.store.close()
            self.rest.close()
            if self.feed:
                self.feed.stop()
            self.bot = None

    def tick(self, seconds=5):
        """Venue time passes, then one tick as `run` does it; whether it could be finished."""
        if seconds:
            self.now += timedelta(seconds=seconds)
            self.sim.advance(self.now)
        attempt(self.bot, SimpleNamespace(now=lambda: self.now))
        self.bot.surfaces.publish(self.bot, self.now)
        return not self.bot.trouble

    def ticks(self, count, seconds=5):
        for _ in range(count):
            self.tick(seconds)

    def of(self, *types):
        return [event for event in self.events if event.type in types]

    def books(self, symbol=BTC):
        return self.bot.tracker.get_position(symbol)

    def stops(self, symbol=BTC):
        return [o for o in self.bot.engine.outstanding(symbol) if o.purpose is Purpose.STOP]


def at_once(monkeypatch):
    """Virtual time needs no rate budget: there is nothing to go easy on."""
    monkeypatch.setattr(rest_room, "REQUESTS_PER_SECOND_MAX", 100_000)
