"""World: the market, the owner, and the exchange that both meet at.

The exchange's core keeps the truth; here prices move and the owner acts, by virtual time and the
dice of the seed.
"""

from datetime import timedelta
from decimal import Decimal

from exchange.core import Exchange
from exchange.endpoints import Endpoints
from exchange.forms import plain

BTC, ETH = "BTC-PERP", "ETH-PERP"
IDS = {BTC: "BIP-20DEC30-CDE", ETH: "ETP-20DEC30-CDE"}
SYMBOLS = {identity: symbol for symbol, identity in IDS.items()}
TICKS = {BTC: Decimal(5), ETH: Decimal("0.5")}
BEGIN = {BTC: 60000, ETH: 2500}
STEP_SECONDS = 2.5
HISTORY_BARS = 40
ALWAYS_LISTED = ("BIP-20DEC30-CDE", "ETP-20DEC30-CDE", "SLP-20DEC30-CDE", "BIT-25DEC26-CDE")


class Routed(Endpoints):
    """The exchange's endpoints, with the way to each looked up once."""

    _known = {}

    @classmethod
    def _route(cls, method, path, parts):
        key = method, path
        if key not in cls._known:
            cls._known[key] = Endpoints._route(method, path, parts)
        return cls._known[key]


class World:
    """One account and its market.

    frozen    the symbols whose price stands still
    outside   when somebody other than the bot last did something, by product id (seconds, mono)
    """

    def __init__(self, time, dice, symbols):
        self.time, self.dice, self.symbols = time, dice, symbols
        self.exchange = Exchange({"now": time.venue().isoformat(), "cash": "10000"})
        self.engine = self.exchange.engine
        self.exchange.endpoints = Routed(self.engine)
        for name in [n for n in self.engine.markets if n not in ALWAYS_LISTED]:
            del self.engine.markets[name]
        self.prices = {s: Decimal(BEGIN[s]) for s in symbols}
        self.drift = {s: dice.choice((-1, 1)) for s in symbols}
        self.spread = {s: 1 for s in symbols}
        self.pace = dice.choice((1, 2, 4, 8))
        self.depth, self.frozen, self.quiet = "50", set(), False
        self.outside = {}
        self.owners_orders = []
        self.heard = lambda asked: None
        self.told = lambda rows: None
        for symbol in symbols:
            self._history(symbol)
            self.show(symbol)
        time.at(STEP_SECONDS, self._walk)

    # The venue, as the wire asks it

    def arrive(self):
        self.exchange.advance(self.time.venue())

    def request(self, method, path, query, body, has_token):
        return self.exchange.request(method, path, query, body, has_token)

    def answered(self, asked):
        self.heard(asked)
        self.told(self.exchange.take_events())

    # Prices

    def _history(self, symbol):
        end = int(self.time.venue().timestamp()) // 60 * 60
        step, price = TICKS[symbol] * self.drift[symbol], self.prices[symbol]
        rows = [[end - 60 * n, *[plain(price - step * n)] * 4, "5"]
                for n in range(HISTORY_BARS, 0, -1)]
        self.exchange.candles_from(IDS[symbol], rows)

    def _walk(self):
        self.arrive()
        dice = self.dice
        for symbol in self.symbols:
            if dice.random() < (0.02 if self.quiet else 0.2):
                self.drift[symbol] = dice.choice((-2, -1, 1, 2))
            if symbol not in self.frozen:
                step = dice.choice((0, 0, 1, -1, 2, -2, 4, -4)) + self.drift[symbol]
                self.prices[symbol] += step * TICKS[symbol] * (1 if self.quiet else self.pace)
                self.show(symbol)
        self.told(self.exchange.take_events())
        self.time.at(STEP_SECONDS * dice.choice((0.5, 1, 1, 2)), self._walk)

    def show(self, symbol, bid=None, ask=None, last=None):
        """Set the book around the price."""
        tick, price = TICKS[symbol], self.prices[symbol]
        market = self.engine.markets[IDS[symbol]]
        tick = market.tick
        price = max(market.on_tick(price), tick * 10)
        bid = price if bid is None else bid
        ask = price + tick * self.spread[symbol] if ask is None else ask
        self.exchange.price(IDS[symbol], bid, ask, last=price if last is None else last,
                            bid_size=self.depth, ask_size=self.depth)

    def jump(self, symbol, share):
        """A gap in the price."""
        self.arrive()
        self.prices[symbol] = (self.prices[symbol] * (1 + share)).quantize(Decimal(1))
        self.show(symbol)

    # The owner

    def trade_by_hand(self, symbol, side, contracts):
        self.arrive()
        market = self.engine.markets[IDS[symbol]]
        if market.matches and market.levels(side):
            self.note_outside(IDS[symbol])
            self.exchange.trade_by_owner(IDS[symbol], side, contracts)

    def order_by_hand(self, symbol, side, contracts, price):
        self.arrive()
        try:
            identity = self.exchange.order_by_owner(IDS[symbol], side, contracts, plain(price))
        except ValueError:
            return  # the venue took it not
        self.owners_orders.append(identity)
        self.note_outside(IDS[symbol])

    def clear_hand(self):
        self.arrive()
        for identity in self.owners_orders:
            if identity in self.engine.live:
                self.engine.cancel(identity)
        self.owners_orders.clear()

    def note_outside(self, product_id):
        self.outside[product_id] = self.time.mono

    def later(self, seconds):
        return self.time.venue() + timedelta(seconds=seconds)
