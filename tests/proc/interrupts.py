"""Interrupts: how soon does `kill -INT` cancel, and is that seen through?

An account with more resting orders than a page has, a bot that knows them all, and surroundings
that fail at that very moment.  Timed are the first cancel on the wire and the line that says that
every entry is gone; from the signal on, nothing that could raise exposure may be sent.
"""

import os
import random
import resource
import select
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from threading import Lock
from types import SimpleNamespace

from exchange.harness import wait_until
from helpers import the_settings
from live import BTC
from pace import Stopwatch

from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.keys import load_credentials
from perps_bot.bot import assemble, recover
from perps_bot.rest import Rest, VenueClock, _Budget
from perps_bot.store import EventStore

from .account import INTERVAL_SECONDS, PATIENCE_SECONDS, account
from .judge import CANCELS, Broken

ORDERS = 110  # on two pages, and in two cancels
OPEN = ("OPEN", "PENDING", "QUEUED", "CANCEL_QUEUED")
GONE = "stopped: every entry confirmed gone"
# What was on its way when the signal came: between the look for signals and the wire.
ON_ITS_WAY_SECONDS = 0.1
POLL_SECONDS = 0.002
NAME_SERVER_PORT = 53
PLACING = Lock()
LIMITS = {name: Decimal(1_000_000) for name in (
    "max_open_orders", "max_entries_per_hour", "max_orders_per_minute", "max_messages_per_second",
    "max_orders_per_minute_per_symbol", "max_position", "max_daily_turnover")}


@dataclass
class Interrupted:
    """Seconds from the signal to three moments.

    first  the first cancel is on the wire
    all    the exchange has answered that none rests any more
    told   that is written down, order by order, and said
    """

    first: float
    all: float
    told: float


def interrupt(surroundings="", seed=0):
    """Have all orders rest, start the bot, and interrupt it while its surroundings fail."""
    start, strike = SURROUNDINGS[surroundings]
    with account(symbols=(BTC,)) as one, start(one) as how:
        rest_orders(one)
        one.begin(*how.get("wrapper", ()), **how.get("environ", {})).converge()
        time.sleep(random.Random(seed).uniform(0, 2 * INTERVAL_SECONDS))
        strike(one)
        return interrupted(one)


def rest_orders(one, count=ORDERS):
    """Have that many orders of the bot's rest, far below the market.

    They are placed by the bot's own engine, within this process and without its rate budget.
    """
    with PLACING:  # all at once they would miss their deadlines
        _rest_orders(one, count)
    if (there := len(resting(one))) != count:
        raise Broken(f"{there} orders rest, not {count}")


def _rest_orders(one, count):
    keys = one.sim.keys
    signer = load_credentials(
        SimpleNamespace(api_key=keys.name, api_secret=keys.secret, api_key_file=None), {})
    settings = the_settings("prod", symbols=(BTC,), max_exposure_pct=Decimal(1),
                            max_position_pct_per_symbol=Decimal(1),
                            duplicate_window_seconds=Decimal("0.001"), **LIMITS)
    rest = Rest(one.sim.url, signer, VenueClock())
    rest._budget = _Budget(1_000_000)
    store = EventStore(one.data / "events", profile="prod")
    try:
        client = CoinbasePerpetualsClient(rest, None, (BTC,))
        client.connect()
        bot = assemble(settings, client, store, "coinbase", one.data)
        recover(bot)
        store.now = rest.clock.now()
        bot.engine.config = bot.engine.config.__class__(epoch=f"{time.monotonic_ns():x}")
        bot.catalog.load_from_brokerage(client)
        bot.engine.settle()
        bot.engine.see(client.marks((BTC,), store.now))
        for number in range(count):
            store.now += timedelta(milliseconds=10)
            bot.engine.place_order(BTC, "buy", bot.catalog.get(BTC).quantity_increment, "limit",
                                   Decimal(59_000 - 5 * number), "GTC")
    finally:
        store.close()
        rest.close()


def resting(one):
    return [order for order in one.truth()["orders"] if order["status"] in OPEN
            and order["order_type"] == "LIMIT"]


def interrupted(one, number=signal.SIGINT):
    """Send the signal; return what came of it."""
    said = one.output.stat().st_size
    with Stopwatch() as took:
        one.process.send_signal(number)
        with open(one.output, "rb") as output:
            output.seek(said)
            told, text = wait_for_words(one, output)
        code = one.process.wait(PATIENCE_SECONDS)
    one.judge.look()
    cancels = [row["clock"] for row in one.judge.wire.since(took.begun) if row["path"] == CANCELS]
    if left := resting(one):
        raise Broken(f"H2: {len(left)} orders still rest, exit code {code}: {text}")
    if not cancels or code or text and GONE not in text:  # on a full disk nothing can be said
        raise Broken(f"H2: {len(cancels)} cancels, exit code {code}: {text[-2000:]}")
    if sent := one.judge.entries_since(took.begun + ON_ITS_WAY_SECONDS + took.lost):
        raise Broken(f"I-10: sent after the signal: {sent}")
    looks = [row["clock"] for row in one.sim.rows("request")
             if row["method"] == "GET" and row["clock"] > cancels[-1] and row["status"] == 200]
    return Interrupted(took.until(cancels[0]), took.until(looks[-1]), took.until(told))


def wait_for_words(one, output):
    """Return when it was said that all are gone, or when it ended without that; and all words."""
    text, ended = "", os.pidfd_open(one.process.pid)
    try:
        while GONE not in text and not select.select([ended], [], [], POLL_SECONDS)[0]:
            text += output.read().decode()
        return time.monotonic(), text + output.read().decode()
    finally:
        os.close(ended)


# The surroundings


@contextmanager
def as_usual(one):
    yield {}


def nothing(one):
    pass


def a_call_that(fault, **numbers):
    """The next read meets it, and the signal comes while it lasts."""
    def strike(one):
        one.sim.network(fault, match="GET ", times=1, **numbers)
        wait_until(lambda: [row for row in one.sim.rows("request") if row.get("fault") == fault],
                   f"a call that meets {fault}")
        one.sim.network("clear")

    return strike


def a_full_disk(one):
    """Not one byte more, in any file."""
    most = resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (0, most))


def no_more_descriptors(one):
    used = len(os.listdir(f"/proc/{one.process.pid}/fd"))
    most = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (used, most))


@contextmanager
def with_a_name_server(one):
    """A bot that knows the exchange by its name, in a world where the name can be forgotten."""
    # The name server is ours and says nothing; its address is nobody else's.
    address = "127.0.{}.{}".format(*divmod(one.sim.port, 256))
    hosts, resolver, switch = (one.folder / name for name in ("hosts", "resolv", "switch"))
    hosts.write_text("127.0.0.1 localhost\n")
    resolver.write_text(f"nameserver {address}\noptions timeout:30 attempts:1\n")
    switch.write_text("hosts: files dns\n")
    mounts = " && ".join(f"mount --bind {ours} /etc/{theirs}" for ours, theirs in (
        (hosts, "hosts"), (resolver, "resolv.conf"), (switch, "nsswitch.conf")))
    rest, stream = (url.replace("127.0.0.1", "localhost") for url in (one.sim.url, one.sim.ws_url))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((address, NAME_SERVER_PORT))
        yield {"wrapper": ["unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh"],
               "environ": {"COINBASE_API_URL": rest, "COINBASE_WS_URL": stream,
                           "COINBASE_WS_USER_URL": stream}}


def a_dead_name_server(one):
    """The name is known no more, and every connection that there was is cut."""
    (one.folder / "hosts").write_text("")
    one.sim.network("outage")
    one.sim.network("clear")


@contextmanager
def on_a_small_disk(one):
    """The data folder on a file system of its own, of two megabytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "proc-rig", one.data],
                   check=True)
    try:
        yield {}
    finally:
        subprocess.run(["umount", "-l", one.data], check=True)


def a_disk_without_room(one):
    with open(one.data / "ballast", "wb", 0) as ballast, suppress_no_room():
        while True:
            ballast.write(b"x" * 4096)


@contextmanager
def suppress_no_room():
    try:
        yield
    except OSError:
        pass


def may(*command):
    """Whether this machine lets us do it."""
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def may_mount():
    return may("unshare", "-m", "sh", "-c", "mount -t tmpfs x /mnt && umount /mnt")


SURROUNDINGS = {
    # what fails           how it is started     when the signal comes
    "":                    (as_usual,            nothing),
    "hung call":           (as_usual,            a_call_that("hang")),
    "dripping body":       (as_usual,            a_call_that("drip", bytes_per_second=10)),
    "dripping headers":    (as_usual,            a_call_that("drip_headers", bytes_per_second=10)),
    "full disk":           (as_usual,            a_full_disk),
    "no descriptors":      (as_usual,            no_more_descriptors),
    "no room":             (on_a_small_disk,     a_disk_without_room),
    "dead name server":    (with_a_name_server,  a_dead_name_server),
}  # fmt: skip
NEEDS_ROOT = ("no room", "dead name server")
# Seconds to the first cancel, and until all are confirmed gone: as it should be, and when
# something else fails as well.
AS_USUAL, IN_TROUBLE = (0.25, 1), (2, 5)
