"""Wiring: which parts, put together how?

Settings in, parts out: which venue, asked with which key, over which files, and that nobody else
does the same.  Nothing here trades, prints or reads arguments.  Rooms that a run does not need
are imported only where they are used, so that `--help` starts at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from perps_bot.errors import ConfigError, InUse
from perps_bot.rooms import rooms
from perps_bot.settings import events_folder


def broker_kind(settings) -> str:
    """Return "paper-synthetic", "paper-live" (real prices, cannot send) or "coinbase"."""
    if settings.profile == "dev" or settings.force_mock:
        return "paper-synthetic"
    if settings.profile == "prod" and settings.sandbox:
        raise ConfigError(
            f"sandbox ({settings.sources['sandbox']}) with --profile prod: Coinbase's sandbox "
            f"has no market; use --profile demo, or --dry-run without the sandbox"
        )
    return "paper-live" if settings.dry_run or settings.sandbox else "coinbase"


def venue_of(settings, signals=None):
    """The venue of a profile, on which nothing has happened yet.

    signals  what a blocked call gives way to, and what the feed wakes; None for one question
    """
    if broker_kind(settings) == "coinbase":
        return _coinbase(settings, signals)
    return rooms.paper.PaperBroker(
        market_of(settings, signals), settings.paper_equity, settings.fee_rate,
        settings.fee_per_contract, settings.slippage_bps)


def market_of(settings, signals=None):
    """The market of a profile, asked without a key."""
    if broker_kind(settings) != "paper-synthetic":
        return _client(settings, None, signals, "--dry-run sends nothing")
    market = rooms.market.SyntheticMarket(settings.seed)
    known = {product.symbol for product in market.products()}
    for symbol in settings.symbols:
        if symbol not in known:
            raise ConfigError(f"{symbol}: no such product; there are {' '.join(sorted(known))}: "
                              f"see perps-bot products")
    return market


def inquirer(settings):
    """The client that asks with the key, where there is one, and sends nothing; the key's fault."""
    signer, trouble = None, ""
    try:
        signer = rooms.keys.load_credentials(settings, os.environ)
    except ConfigError as refusal:
        trouble = str(refusal)
    return _client(settings, signer, rooms.clock.StopRequest(), "only a run sends orders"), trouble


def clock_of(venue, signals=None):
    client = _client_of(venue)
    return rooms.clock.SystemClock(signals, client.rest.clock.now if client else None)


@contextmanager
def alone_in(folder: os.PathLike) -> Iterator[None]:
    """Be the only writer of `folder` for a while."""
    lock = rooms.store.InstanceLock(folder / "lock")
    try:
        holder = lock.acquire()
    except OSError as error:
        raise ConfigError(f"{folder / 'lock'}: {error.strerror}: move it away") from error
    if holder is not None:
        raise InUse(f"{folder} is in use by pid {holder}; stop it first: kill -TERM {holder}")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone_on(venue) -> Iterator[None]:
    """Be the only process of this host that trades with this API key."""
    client = _client_of(venue)
    if client is None or client.rest.signer is None:
        yield
        return
    held = rooms.store.account_lock(client.rest.signer.name)
    if held is None:
        raise InUse("another process on this host trades with this API key: stop it first")
    with held:
        yield


def bot_of(settings, venue, folder: os.PathLike):
    """The parts, put together over the profile's events."""
    kind = broker_kind(settings)
    store = rooms.store.EventStore(events_folder(folder, settings.profile, kind),
                                   profile=settings.profile)
    bot, client = rooms.bot.assemble(settings, venue, store, kind, folder), _client_of(venue)
    bot.feed = client and client.feed
    bot.control = rooms.control.Control(store, rooms.mailbox.Mailbox(folder / "control"))
    return bot


def _coinbase(settings, signals):
    """The client that can send, for a profile that may trade futures with a key."""
    signer = rooms.keys.load_credentials(settings, os.environ)
    if signer is None:
        raise ConfigError(
            f"profile {settings.profile} needs an API key: set COINBASE_API_KEY and "
            f"COINBASE_API_SECRET, or COINBASE_API_KEY_FILE; or use --dry-run, which needs none; "
            f"see perps-bot check --profile {settings.profile}")
    if not settings.enable_derivatives:
        raise ConfigError(f"profile {settings.profile} trades futures: say so with "
                          f"COINBASE_ENABLE_DERIVATIVES=1, or use --dry-run; see perps-bot check "
                          f"--profile {settings.profile}")
    return _client(settings, signer, signals, "")


def _client(settings, signer, signals, read_only: str):
    """The client over REST and, where a loop can be woken, the feed.

    read_only  why nothing may be sent, or ""
    """
    clock, feed = rooms.rest.VenueClock(), None
    rest = rooms.rest.Rest(settings.api_url, signer, clock,
                           signals.interrupts if signals else lambda: False, read_only=read_only)
    if signals is not None:
        token = signer and (lambda: signer.websocket_token(clock.now()))
        feed = rooms.feed.MarkFeed(
            settings.ws_url, settings.ws_user_url, token, clock.now, signals.wake)
    return rooms.client.CoinbasePerpetualsClient(rest, feed, settings.symbols)


def _client_of(venue):
    """The Coinbase client that stands behind a venue; None on a synthetic market."""
    client = getattr(venue, "market", venue)
    return client if hasattr(client, "rest") else None
