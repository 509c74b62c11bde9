"""Faults: what may go wrong in a run, and which row of the fault map is it?

One table.  A kind strikes at random moments of the noisy phase, with dice of its own, so that
leaving out another kind changes nothing about it.  `strike` does the harm and plans its end;
`end` mends at once what would outlast the quiet phase.
"""

import random
from datetime import timedelta
from decimal import Decimal

from .net import SPOILED, Rule
from .seams import ERRNO
from .world import IDS

KINDS_MIN = 35
REJECTS = (
    "INSUFFICIENT_FUNDS", "PREVIEW_INSUFFICIENT_FUNDS_FOR_FUTURES", "TRADING_DISABLED",
    "INVALID_SIZE_PRECISION", "UNKNOWN_FAILURE_REASON", "SOMETHING_NEW", "INVALID_LIMIT_PRICE",
    "PREVIEW_NOT_ALLOWED_BY_MARKET_STATE", "UNSUPPORTED_ORDER_CONFIGURATION",
    "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL", "ORDER_ENTRY_DISABLED", "INVALID_PRODUCT_ID",
    "PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION", "STOP_ALREADY_TRIGGERED",
)
STOP_REJECTS = ("UNSUPPORTED_ORDER_CONFIGURATION", "INVALID_BRACKET_PRICES", "SOMETHING_NEW",
                "PREVIEW_INVALID_BRACKET_ORDER_SIDE", "BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS",
                "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION", "INVALID_LIMIT_PRICE")
FLAGS = ("is_disabled", "trading_disabled", "cancel_only", "limit_only", "post_only", "view_only",
         "auction_mode")
ANY, POST = "", "POST "
PLACES = (ANY, POST, "POST /orders$", "GET ", "/orders", "batch_cancel", "close_position",
          "historical/batch", "historical/fills", "cfm/positions", "balance_summary",
          "best_bid_ask", "/products", "/time")
# How long after a strike order may still be missing, beside the strike's own time.
AFTERMATH = 25
# How likely a kind strikes as an order leaves: 1 in 6, where its mean gap is 45 s.
AT_ORDERS = 7.5
# Of a pair: orders that leave before its first strike, operations until its second, and the peace.
PAIR_ORDERS_SKIPPED, PAIR_OPERATIONS, PAIR_PEACE_SECONDS = 4, 16, 45


class Fault:
    """One kind.  row: of the fault map; gap: mean seconds between two strikes."""

    def __init__(self, row, strike, gap=45, end=None):
        self.row, self.strike, self.gap, self._end, self.name = row, strike, gap, end, ""

    def begin(self, sim):
        dice = random.Random(f"{sim.seed} {self.name}")
        sim.at_orders.append((self, random.Random(f"{sim.seed} {self.name} at orders")))
        gap = self.gap * dice.choice((0.2, 0.5, 1.5))
        sim.time.at(dice.expovariate(1 / gap), self._again, sim, dice, gap)

    def _again(self, sim, dice, gap):
        if not sim.is_quiet:
            sim.say(f"fault {self.name}")
            sim.world.arrive()
            self.strike(sim, dice)
            sim.time.at(dice.expovariate(1 / gap), self._again, sim, dice, gap)

    def at_an_order(self, sim, dice):
        """An order or a cancel is about to leave: the worst of all moments."""
        if dice.random() < AT_ORDERS / self.gap:
            sim.say(f"fault {self.name}")
            self.strike(sim, dice)

    def end(self, sim):
        if self._end is not None:
            self._end(sim)


# The wire


def on_wire(how, places=PLACES, times=(1, 1, 2, 5), **more):
    """The next requests of some kind go wrong; a value that is a tuple is drawn from."""
    def strike(sim, dice):
        numbers = {name: dice.choice(value) if isinstance(value, tuple) else value
                   for name, value in more.items()}
        rule = sim.wire.add(Rule(how, dice.choice(places), dice.choice(times), **numbers))
        sim.time.at(20, sim.wire.drop, rule)
        sim.disturb(20 + AFTERMATH)
    return strike


def outage(sim, dice):
    rule = sim.wire.add(Rule(dice.choice(("refuse", "lose")), "", None))
    seconds = dice.choice((5, 15, 40))
    sim.time.at(seconds, sim.wire.drop, rule)
    sim.disturb(seconds + AFTERMATH)


def key_revoked(sim, dice):
    rule = sim.wire.add(Rule("status", "", None, status=401))
    seconds = dice.choice((5, 30))
    sim.time.at(seconds, sim.wire.drop, rule)
    sim.disturb(seconds + AFTERMATH)


def frozen_quotes(sim, dice):
    rule = sim.wire.add(Rule("stale", "best_bid_ask", None))
    seconds = dice.choice((10, 30))
    sim.time.at(seconds, sim.wire.drop, rule)
    sim.disturb(seconds + AFTERMATH)


# The exchange's books and words


def mishap(name, lasts=20, **more):
    """Switch one of the exchange's own faults on for a while."""
    def strike(sim, dice):
        numbers = {key: dice.choice(value) if isinstance(value, tuple) else value
                   for key, value in more.items()}
        sim.world.exchange.fault(name, **numbers)
        sim.time.at(lasts, _clear, sim, name)
        sim.disturb(lasts + AFTERMATH)
    return strike


def _clear(sim, name):
    sim.world.exchange.fault("clear", only=name)


def stop_withdrawn(sim, dice):
    """The venue cancels a stop by itself."""
    for order in list(sim.world.engine.live.values()):
        if order.kind in ("BRACKET", "STOP_LIMIT") and order.by != "owner":
            sim.world.engine._move(order, "CANCELLED", "cancelled by the exchange")
    sim.disturb(AFTERMATH)


def thin_book(sim, dice):
    sim.world.depth = dice.choice(("1", "2", "4"))
    sim.time.at(15, setattr, sim.world, "depth", "50")
    sim.disturb(15 + AFTERMATH)


# The market


def price_gap(sim, dice):
    share = Decimal(dice.choice(("-0.06", "-0.02", "-0.012", "0.012", "0.02", "0.06")))
    sim.world.jump(dice.choice(sim.settings.symbols), share)
    sim.disturb(AFTERMATH)


def flash_crash(sim, dice):
    symbol, share = dice.choice(sim.settings.symbols), Decimal(dice.choice(("-0.12", "0.12")))
    price = sim.world.prices[symbol]
    sim.world.jump(symbol, share)
    sim.time.at(dice.choice((2, 8)), _back, sim, symbol, price)
    sim.disturb(8 + AFTERMATH)


def _back(sim, symbol, price):
    sim.world.arrive()
    sim.world.prices[symbol] = price
    sim.world.show(symbol)


def odd_book(bid, ask):
    """Quotes that are none, for a while; `bid` and `ask` in ticks from the price, None for none."""
    def strike(sim, dice):
        world, symbol = sim.world, dice.choice(sim.settings.symbols)
        market, seconds = world.engine.markets[IDS[symbol]], dice.choice((8, 25))
        price = market.on_tick(world.prices[symbol])
        world.frozen.add(symbol)
        world.show(symbol, *(0 if side is None else price + side * market.tick
                             for side in (bid, ask)), last="")
        sim.time.at(seconds, _thaw, sim, symbol)
        sim.disturb(seconds + AFTERMATH)
    return strike


def _thaw(sim, symbol):
    sim.world.arrive()
    sim.world.frozen.discard(symbol)
    sim.world.show(symbol)


def thaw_all(sim):
    for symbol in sorted(sim.world.frozen):
        _thaw(sim, symbol)


# The venue


def session_close(sim, dice):
    seconds = dice.choice((15, 45))
    sim.world.exchange.set_session("*", False)
    sim.time.at(seconds, _open_session, sim)
    sim.disturb(seconds + AFTERMATH)


def _open_session(sim):
    sim.world.arrive()
    sim.world.exchange.set_session("*", None)


def flag_set(sim, dice):
    identity, flag = IDS[dice.choice(sim.settings.symbols)], dice.choice(FLAGS)
    sim.world.exchange.set_product(identity, **{flag: True})
    sim.checks.flagged(identity)
    sim.time.at(dice.choice((10, 90)), _unflag, sim, identity, flag)
    sim.disturb(90 + AFTERMATH)


def _unflag(sim, identity, flag):
    sim.world.exchange.set_product(identity, **{flag: False})
    sim.checks.unflagged(identity)


def unflag_all(sim):
    for symbol in sim.settings.symbols:
        for flag in FLAGS:
            _unflag(sim, IDS[symbol], flag)


def step_change(sim, dice):
    identity = IDS[dice.choice(sim.settings.symbols)]
    name, value = dice.choice((("price_increment", "1"), ("price_increment", "10"),
                               ("base_min_size", "2"), ("contract_size", "0.02")))
    if name == "contract_size" and sim.world.engine.account.contracts(identity):
        return  # what a held contract would then be worth is the venue's secret
    sim.world.exchange.set_product(identity, **{name: value})
    sim.checks.steps_changed()
    sim.disturb(70 + AFTERMATH)


def delisted(sim, dice):
    symbol = dice.choice(sim.settings.symbols)
    sim.world.exchange.set_product(IDS[symbol], remove=True)
    sim.time.at(dice.choice((20, 90)), list_again, sim)
    sim.disturb(90 + AFTERMATH)


def list_again(sim):
    for symbol in sim.settings.symbols:
        sim.world.engine.markets[IDS[symbol]].listed = True


def expiry_near(sim, dice):
    ends = sim.world.later(dice.choice((3600 * 20, 3600 * 24 * 5)))
    identity = IDS[dice.choice(sim.settings.symbols)]
    sim.world.exchange.set_product(identity, contract_expiry=f"{ends:%Y-%m-%dT%H:%M:%SZ}")
    sim.disturb(60 + AFTERMATH)


def funding_spike(sim, dice):
    sim.world.exchange.set_product(IDS[dice.choice(sim.settings.symbols)],
                                   funding_rate=dice.choice(("0.01", "-0.01", "0.0005")))


def margin_step(sim, dice):
    rate = dice.choice(("0.5", "0.9"))
    sim.world.exchange.fault("margin_step", long=rate, short=rate)
    sim.disturb(60 + AFTERMATH)


def liquidation(sim, dice):
    for product_id, position in sim.world.engine.account.positions.items():
        if position.contracts:
            sim.world.note_outside(product_id)
    sim.world.exchange.fault("liquidate")
    sim.disturb(AFTERMATH)


# The account


def manual_trade(sim, dice):
    symbol = dice.choice(sim.settings.symbols)
    sim.world.trade_by_hand(symbol, dice.choice(("BUY", "SELL")), dice.choice((1, 2, 5)))
    sim.disturb(30 + AFTERMATH)


def foreign_order(sim, dice):
    symbol, side = dice.choice(sim.settings.symbols), dice.choice(("BUY", "SELL"))
    market = sim.world.engine.markets[IDS[symbol]]
    away = Decimal(dice.choice(("0.0002", "0.01"))) * (1 if side == "SELL" else -1)
    sim.world.order_by_hand(symbol, side, dice.choice((1, 2)),
                            market.on_tick(market.last * (1 + away)))
    sim.disturb(30 + AFTERMATH)


def deposit(sim, dice):
    sim.world.exchange.deposit(dice.choice(("5000", "-3000", "100")))
    sim.disturb(5)


def view_only(sim, dice):
    rights = sim.world.exchange.endpoints.permissions
    rights["can_trade"] = False
    sim.time.at(30, rights.__setitem__, "can_trade", True)
    sim.disturb(30 + AFTERMATH)


def trade_again(sim):
    sim.world.exchange.endpoints.permissions["can_trade"] = True


# The clocks


def wall_leap(sim, dice):
    sim.time.leapt += dice.choice((-1, 3, 40, -3600, 86_400, -86_400 * 3650, 0.5))


def wall_mended(sim):
    sim.time.leapt = 0.0


def suspend(sim, dice):
    """The machine sleeps: time is gone, and nobody noticed it passing."""
    sim.disturb(AFTERMATH)
    seconds = dice.choice((20, 90, 600))
    sim.say(f"suspended for {seconds} s")
    sim.time.mono += seconds
    sim.checks.slept(seconds)
    sim.disturb(AFTERMATH)


# The disk


def disk_refuses(field, *names, is_short=False, seconds=(5, 20, 60)):
    def strike(sim, dice):
        setattr(sim.disk, field, ERRNO[dice.choice(names)])
        sim.disk.is_short = is_short
        sim.checks.disk_failed()
        sim.time.at(dice.choice(seconds), setattr, sim.disk, field, 0)
    return strike


def disk_mended(sim):
    sim.disk.refuses = sim.disk.fails_sync = sim.disk.refuses_open = 0
    sim.disk.is_short = False


def state_files(harm):
    """The files beside the events are gone, or hold something else."""
    def strike(sim, dice):
        for path in sorted((sim.folder / "profile").glob("*.json")):
            if dice.random() < 0.7:
                harm(path, dice)
        sim.at_operation(dice.randrange(1, 60), _killed(sim))
        sim.disturb(AFTERMATH)
    return strike


def _deleted(path, dice):
    path.unlink()


def _garbage(path, dice):
    path.write_bytes(dice.choice((b"", b"[]", b"{", b"null", b"\x00" * 50, b'{"BTC-PERP":7}',
                                  b'{"BTC-PERP":{"closes":"x","bar_at":1,"bar_seconds":{}}}')))


# The feed


def feed_harm(**harm):
    """A value that is a number of seconds lasts so long; any other is done once."""
    def strike(sim, dice):
        for name, value in harm.items():
            value = dice.choice(value) if isinstance(value, tuple) else value
            lasts = name in ("mute", "frozen", "refuses")
            setattr(sim.stream, name, sim.time.mono + value if lasts else value)
        sim.disturb(15 + AFTERMATH)
    return strike


def feed_closed(sim, dice):
    for link in list(sim.stream._links):
        link.close()


ODD_MESSAGES = (
    b"", b"[]", b"{", b'{"channel":7}', b'{"channel":"ticker","sequence_num":null}', b"\xff\xfe",
    b'{"type":"error","message":"authentication failure"}',
    b'{"channel":"ticker","sequence_num":99999999,"timestamp":"x","events":[]}',
    b'{"channel":"user","sequence_num":1e400,"events":[{"type":"update","orders":"?"}]}',
)


# The process


def _killed(sim):
    def do(where, size):
        sim.disturb(AFTERMATH)
        sim.kill(where, size)
    return do


def crash(where, power=False):
    """The process dies at one of the next operations whose name begins so."""
    def strike(sim, dice):
        count, kill = dice.randrange(1, 25), _killed(sim)

        def due(place, size):
            if not place.startswith(where):
                sim.at_operation(1, due)
                return
            sim.power = power
            kill(place, size)
        sim.at_operation(count, due)
    return strike


def crash_in_recovery(sim, dice):
    kill = _killed(sim)

    def first(where, size):
        sim.at_operation(dice.randrange(1, 30), kill)
        kill(where, size)
    sim.at_operation(dice.randrange(1, 60), first)


def on_signal(*names, gap=0.7):
    def strike(sim, dice):
        sim.disturb(AFTERMATH)
        for number, name in enumerate(names):
            if dice.random() < 0.5:  # in the midst of an operation, or while time passes
                sim.at_operation(dice.randrange(1, 40), lambda where, size, n=name: sim.signal(n))
            else:
                sim.time.at(number * gap, sim.signal, name)
    return strike


def owner_asks(command, **args):
    """By file, as the commands do, whether or not a process is there to read it."""
    def strike(sim, dice):
        sim.disturb(AFTERMATH)
        sim.time.at(dice.choice((0, 0.3, 2)), sim.ask, command, args)
    return strike


FAULTS = {
    # kind                      row      what it does
    # The wire
    "connection refused":  Fault("C2", on_wire("refuse")),
    "request lost":        Fault("C2", on_wire("lose")),
    "answer lost":         Fault("D2", on_wire("answer_lost")),
    "reset after accept":  Fault("C10", on_wire("reset")),
    "late arrival":        Fault("D4", on_wire("late", (POST,), seconds=(10.5, 12, 14))),
    "slow body":           Fault("C3", on_wire("slow", seconds=(2, 5, 12))),
    "429":                 Fault("C8", on_wire("status", status=429, retry_after=(0, 2, 60, None))),
    "500":                 Fault("C9", on_wire("status", status=(500, 503, 504))),
    "500 after accept":    Fault("C9", on_wire("status", status=(500, 502, 504), accepts=True)),
    "502 html":            Fault("C9", on_wire("status", status=502)),
    "307":                 Fault("C6", on_wire("status", status=(301, 302, 307, 308))),
    "400":                 Fault("C7", on_wire("status", status=400)),
    "401":                 Fault("C7", on_wire("status", status=401)),
    "403":                 Fault("C7", on_wire("status", status=403)),
    "408":                 Fault("C9", on_wire("status", status=(408, 409))),
    "truncated body":      Fault("C5", on_wire("spoil", what="truncated")),
    "html with 200":       Fault("C5", on_wire("spoil", what="html")),
    "odd body":            Fault("C5", on_wire("spoil", what=tuple(sorted(SPOILED)))),
    "new fields":          Fault("E12", on_wire("spoil", what="new fields")),
    "outage":              Fault("C1", outage, gap=80),
    "key revoked":         Fault("E13", key_revoked, gap=120),
    # Reads
    "partial page":        Fault("D10", mishap("partial_page", cursor=("", "repeated"),
                                               times=(1, 3))),
    "listing lag":         Fault("D4", mishap("lag_orders", seconds=(2, 5, 8))),
    "fills lag":           Fault("A4", mishap("lag_fills", seconds=(2, 5, 8))),
    "positions lag":       Fault("E2", mishap("lag_positions", seconds=(2, 5, 8))),
    "balance lag":         Fault("E2", mishap("lag_balance", seconds=(3, 10))),
    "empty positions":     Fault("E3", mishap("empty_positions", times=(1, 2, 40))),
    "zero rows linger":    Fault("E3", mishap("zero_rows_linger", seconds=30)),
    "no balance":          Fault("E3", mishap("summary_null", times=(1, 3))),
    "unknown status":      Fault("E12", mishap("status_unknown", reads=(1, 4))),
    "a field missing":     Fault("E12", mishap("fields_missing", path=(
        "orders.status", "orders.filled_size", "fills.price", "positions.number_of_contracts",
        "products.price_increment", "balance_summary.total_usd_balance", "pricebooks.bids"),
        times=(1, 3))),
    "last page cursor":    Fault("D10", mishap("last_page_cursor")),
    # Orders
    "partial fill":        Fault("D6", mishap("partial_fill", fraction=("0.3", "0.6"),
                                              times=(1, 2))),
    "held execution":      Fault("D7", mishap("no_fill_yet", seconds=(1, 6, 14), times=(1, 2))),
    "dripping fills":      Fault("D6", thin_book),
    "cancel slow":         Fault("D9", mishap("cancel_slow", seconds=(2, 6), times=(1, 3))),
    "cancel slow by reads": Fault("D9", mishap("cancel_slow", reads=(1, 3), times=(1, 3))),
    "cancel then fill":    Fault("D7", mishap("cancel_fills", times=(1, 2))),
    "cancel refused":      Fault("D9", mishap("cancel_refused", times=(1, 3),
                                              reason=("UNKNOWN_CANCEL_FAILURE_REASON",
                                                      "COMMANDER_REJECTED_CANCEL_ORDER"))),
    "cancel not taken":    Fault("D9", mishap("cancel_lost", times=(1, 3))),
    "order rejected":      Fault("D5", mishap("reject", reason=REJECTS, times=(1, 2, 4))),
    "bracket refused":     Fault("D5", mishap("bracket_refused", reason=STOP_REJECTS,
                                              times=(1, 4, 9))),
    "stops refused":       Fault("D5", mishap("reject", kind=("BRACKET", "STOP_LIMIT"),
                                              reason=STOP_REJECTS, times=(2, 6))),
    "profit out of bounds": Fault("D5", mishap("profit_out_of_bounds", pct=("0.02", "0.06"))),
    "close refused":       Fault("D5", mishap("close_refused", reason=REJECTS, times=(1, 3))),
    "accepted and cancelled": Fault("D5", mishap("accepted_then_cancelled",
                                                      times=(1, 2))),
    "another's answer":    Fault("D1", mishap("echo_other_order", placed=(True, False), times=1)),
    "yes and no":          Fault("D5", mishap("contradiction", shape=(
        "failure_with_id", "success_without_id"), placed=(True, False), times=1)),
    "stop withdrawn":      Fault("D14", stop_withdrawn),
    "attached refused":    Fault("D14", mishap("attached_refused", late=(True, False), times=1)),
    "price band":          Fault("D5", mishap("price_band", ticks=(20, 400))),
    "bracket left behind": Fault("D11", mishap("bracket_left_behind")),
    "stops reserve":       Fault("D11", mishap("stops_reserve")),
    "ends filled in part": Fault("D6", mishap("partial_ends_filled", times=2)),
    # The market
    "price gap":           Fault("F6", price_gap),
    "flash crash":         Fault("F6", flash_crash, gap=80),
    "no quotes":           Fault("F7", odd_book(None, None), end=thaw_all),
    "one-sided book":      Fault("F6", odd_book(0, None), end=thaw_all),
    "crossed book":        Fault("F6", odd_book(1, -1), end=thaw_all),
    "wide spread":         Fault("F6", odd_book(-80, 80), end=thaw_all),
    "frozen quotes":       Fault("F7", frozen_quotes),
    # The venue
    "session closed":      Fault("E9", session_close, gap=90, end=_open_session),
    "halted":              Fault("E9", mishap("halt", lasts=15), gap=90),
    "product flags":       Fault("E8", flag_set, gap=90, end=unflag_all),
    "steps change":        Fault("E11", step_change, gap=150),
    "delisted":            Fault("E10", delisted, gap=150, end=list_again),
    "expiry near":         Fault("E10", expiry_near, gap=200),
    "funding spike":       Fault("E4", funding_spike),
    "margin step":         Fault("E7", margin_step, gap=150),
    "liquidation":         Fault("E5", liquidation, gap=200),
    # The account
    "manual trade":        Fault("E1", manual_trade, gap=90),
    "foreign order":       Fault("E1", foreign_order, gap=90,
                                 end=lambda sim: sim.world.clear_hand()),
    "deposit":             Fault("I-34", deposit),
    "key may only view":   Fault("E13", view_only, gap=150, end=trade_again),
    # The clocks
    "wall clock leaps":    Fault("B1", wall_leap, end=wall_mended),
    "venue clock leaps":   Fault("B2", on_wire("clock", ("/time",), (1, 3), seconds=(
        -4000, -30, -8, 4, 30, 50, 4000))),
    "suspend":             Fault("B4", suspend, gap=200),
    "midnight":            Fault("B3", lambda sim, dice: None),
    # The feed
    "feed gap":            Fault("F3", feed_harm(skip=(1, 1, 3))),
    "feed repeats":        Fault("F3", feed_harm(repeat=True)),
    "feed silent":         Fault("F1", feed_harm(mute=(4, 9, 30)), gap=60),
    "feed frozen":         Fault("F2", feed_harm(frozen=(8, 40)), gap=60),
    "feed refused":        Fault("F4", feed_harm(refuses=(5, 40), mute=6), gap=90),
    "feed closed":         Fault("F4", feed_closed),
    "feed odd message":    Fault("F5", feed_harm(odd=ODD_MESSAGES)),
    # The disk
    "disk full":           Fault("A10", disk_refuses("refuses", "ENOSPC"), gap=90,
                                 end=disk_mended),
    "short write":         Fault("A10", disk_refuses("refuses", "ENOSPC", is_short=True), gap=90,
                                 end=disk_mended),
    "write EIO":           Fault("A9", disk_refuses("refuses", "EIO"), gap=120, end=disk_mended),
    "fsync EIO":           Fault("A9", disk_refuses("fails_sync", "EIO", seconds=(1, 10)), gap=150,
                                 end=disk_mended),
    "read-only disk":      Fault("A13", disk_refuses("refuses_open", "EROFS"), gap=120,
                                 end=disk_mended),
    "state files lost":    Fault("A5", state_files(_deleted), gap=150),
    "state files garbage": Fault("A14", state_files(_garbage), gap=150),
    # The process
    "killed on the wire":  Fault("A2", crash("net"), gap=60),
    "killed at the answer": Fault("A3", crash("net answered"), gap=60),
    "killed at the disk":  Fault("A6", crash("disk"), gap=60),
    "killed in a write":   Fault("A7", crash("disk inside"), gap=60),
    "power cut":           Fault("A6", crash("", power=True), gap=80),
    "power cut at a sync": Fault("A6", crash("disk", power=True), gap=80),
    "killed in recovery":  Fault("A23", crash_in_recovery, gap=100),
    "SIGINT":              Fault("H1", on_signal("SIGINT"), gap=120),
    "SIGINT twice":        Fault("H4", on_signal("SIGINT", "SIGINT"), gap=150),
    "SIGINT three times":  Fault("H4", on_signal("SIGINT", "SIGINT", "SIGINT"), gap=200),
    "SIGTERM":             Fault("H5", on_signal("SIGTERM"), gap=120),
    "SIGTERM then SIGINT": Fault("H5", on_signal("SIGTERM", "SIGINT"), gap=150),
    "SIGHUP":              Fault("H5", on_signal("SIGHUP"), gap=150),
    "SIGUSR1":             Fault("H6", on_signal("SIGUSR1"), gap=120),
    "halt asked":          Fault("H6", owner_asks("halt", reduce_only=False), gap=120),
    "close-all asked":     Fault("L1", owner_asks("close-all", symbols=[]), gap=100),
}
for _name, _fault in FAULTS.items():
    _fault.name = _name
# What may go wrong between the decision to send an order and the knowledge of what became of it:
# the kinds of which all ordered pairs are tried.
OFF_THE_PATH = ("E4", "E5", "E6", "E7", "E8", "E9", "E10", "E11", "E13", "B1", "B2", "B3", "B4")
ORDER_PATH = tuple(name for name, fault in FAULTS.items()
                   if fault.row[0] in "ABCDEH" and fault.row not in OFF_THE_PATH)


class Pair:
    """Two kinds, one after the other, while one order is on its way.

    The first strikes as an order or a cancel leaves; the second some operations later, or as the
    next one leaves.  Then there is peace for a while, and it comes again.
    """

    def __init__(self, first, second):
        self.first, self.second, self._is_begun, self._calm_until = first, second, False, 0.0

    def begin(self, sim):
        self._skip = random.Random(f"{sim.seed} pair").randrange(PAIR_ORDERS_SKIPPED)
        sim.at_orders.append((self, random.Random(f"{sim.seed} pair at orders")))

    def at_an_order(self, sim, dice):
        if self._skip:
            self._skip -= 1
        elif self._is_begun:
            self._strike_second(sim, dice)
        elif sim.time.mono >= self._calm_until:
            self._is_begun = True
            self._strike(sim, dice, self.first)
            if dice.random() < 0.7:
                sim.at_operation(dice.randrange(1, PAIR_OPERATIONS), lambda where, size:
                                 self._is_begun and self._strike_second(sim, dice))

    def _strike_second(self, sim, dice):
        self._is_begun = False
        self._calm_until = sim.time.mono + PAIR_PEACE_SECONDS
        self._strike(sim, dice, self.second)

    @staticmethod
    def _strike(sim, dice, name):
        sim.say(f"fault {name}")
        FAULTS[name].strike(sim, dice)

