"""Days: what does the whole bot do when one of its bytes is hostile?

The real bot over the real client and `Rest`, with the exchange's core in this process behind it.
For some ticks certain answers are spoiled, or its state files are garbage at the start.  It may
not see, wait, or protect itself; it may not increase anything because of that.
"""

import json
import random
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from urllib.parse import parse_qsl

from exchange.core import Exchange
from helpers import the_settings

from perps_bot import rest as rest_room
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.bot import assemble, recover
from perps_bot.loop import attempt
from perps_bot.ops import Surfaces
from perps_bot.rest import Rest, VenueClock
from perps_bot.store import EventStore
from perps_bot.transport import Answer

from . import answers, files, mutate, seeds
from .judge import require, sound_text

BEGIN = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
BIP, PRICE, STEP, BARS = "BIP-20DEC30-CDE", 60000, 5, 60
TICK = timedelta(seconds=5)
TICKS = 6
# What another price, or another history of it, may lead to is no fault of the bytes.
PRICED = frozenset(("quotes", "candles", "book"))
KINDS = tuple(kind for kind in answers.KINDS if kind not in ("book", "create"))


class _Line:
    """The way to the exchange; in some ticks some answers come back spoiled."""

    def __init__(self, exchange, spoil):
        self._exchange, self._spoil = exchange, spoil
        self.tick, self.used_at, self.orders, self.spoiled = 0, answers.monotonic(), [], []

    def ask(self, request, until, meanwhile):
        if meanwhile:
            meanwhile()
        path, _, query = request.target.partition("?")
        body = json.loads(request.body) if request.body else None
        status, answer = self._exchange.request(
            request.method, path, parse_qsl(query), body, "Authorization" in request.headers)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        asked = f"{request.method} {path.removeprefix(rest_room.ROOT)}"
        if asked in ("POST /orders", "POST /orders/close_position"):
            self.orders.append((self.tick, asked, body))
        kind = next((kind for form, kind in answers.PATHS if form.fullmatch(asked)), None)
        changed = self._spoil(self.tick, kind, data)
        if changed != data:
            self.spoiled.append((asked, changed))
        return Answer(status, changed)

    def close(self):
        pass


class Day:
    """A bot on a quiet market, or on one that rises and that it buys."""

    def __init__(self, folder, rises, spoil=lambda tick, kind, data: data):
        self.folder, self.now = folder, BEGIN
        self.exchange = Exchange({"now": BEGIN.isoformat(), "cash": "10000"})
        for name in [each for each in self.exchange.engine.markets if each != BIP]:
            del self.exchange.engine.markets[name]
        end, step = int(BEGIN.timestamp()), STEP * rises
        self.exchange.candles_from(BIP, [
            [end - 60 * (BARS - n), *[str(PRICE - step * (BARS - n))] * 4, "5"]
            for n in range(BARS)])
        self.exchange.price(BIP, str(PRICE), str(PRICE + 5), last=str(PRICE))
        self.line = _Line(self.exchange, spoil)
        rest = Rest("http://127.0.0.1:1", answers.SIGNER,
                    VenueClock(lambda: self.now, lambda: (self.now - BEGIN).total_seconds()),
                    jitter=answers.JITTER)
        rest._trading = rest._cancels = self.line
        settings = the_settings("prod", enter_on_start=rises, bar=60)
        self.bot = assemble(settings, CoinbasePerpetualsClient(rest, None, settings.symbols),
                            EventStore(folder / "events", sync=False), "coinbase", folder)
        self.bot.surfaces = Surfaces(folder, lambda text: sound_text(text, "what is said"))
        self.bot.store.subscribe(self.bot.surfaces.apply)
        recover(self.bot)

    def run(self, ticks=TICKS):
        for number in range(ticks):
            self.line.tick = number
            self.now += TICK
            self.exchange.advance(self.now)
            attempt(self.bot, SimpleNamespace(now=lambda: self.now))
            self.bot.surfaces.publish(self.bot, self.now)
            sound_text(self.bot.trouble[:answers.mutate.NODES_MAX], "the trouble")
        self.bot.store.close()
        return self.line.orders


def make_day(dice):
    """Which answers are spoiled in which ticks, by which dice; or what the state files hold."""
    rises = dice.random() < 0.5
    if dice.random() < 0.25:
        states = {name: files.make_state(dice)[1] for name in files.STATES}
        return "states", rises, states
    first = dice.randrange(TICKS - 2)
    ticks = (first, first + dice.choice((0, 0, 1, TICKS)))
    return "answers", rises, (tuple(dice.sample(KINDS, dice.choice((1, 1, 2)))), ticks,
                              dice.randrange(2**32))


def check_day(given):
    how, rises, what = given
    if how == "states":
        _check_states(rises, what)
    else:
        _check_answers(rises, *what)


def _check_states(rises, states):
    """I-22: the same orders, to the last byte."""
    path = files.folder()
    for name, data in states.items():
        (path / name).write_bytes(data)
    told = _said(Day(path, rises).run())
    require(told == _baseline(rises), f"other orders because of state files: {told!a:.300}")


def _check_answers(rises, kinds, ticks, seed):
    dice = random.Random(seed)

    def spoil(tick, kind, data):
        if kind not in kinds or not ticks[0] <= tick <= ticks[1]:
            return data
        try:
            return mutate.json_bytes(dice, json.loads(data), seeds.words())
        except ValueError:
            return mutate.spoiled(dice, data)

    day = Day(files.folder(), rises, spoil)
    orders = day.run()
    increases = [body for _, asked, body in orders if asked == "POST /orders" and
                 body["side"] == "BUY" and "trigger" not in str(body["order_configuration"])]
    spoiled = f"after {day.line.spoiled!a:.500}"
    require(len(increases) <= rises or PRICED & {*kinds}, f"bought {increases!a:.200} {spoiled}")
    positions = day.exchange.truth()["positions"].values()
    held = sum(int(position["contracts"]) for position in positions)
    bought = sum(int(body["order_configuration"][kind]["base_size"]) for body in increases
                 for kind in body["order_configuration"])
    require(0 <= held <= bought or PRICED & {*kinds}, f"holds {held} of {bought} {spoiled}")


@lru_cache(2)
def _baseline(rises):
    """The orders of a day without any state file."""
    return _said(Day(files.folder(), rises).run())


def _said(orders):
    """The orders without what the moment of the start gives them: their names."""
    return [(tick, asked, {**body, "client_order_id": ""}) for tick, asked, body in orders]
