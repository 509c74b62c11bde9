"""Emergency: how does the owner reach the bot, alive, hung or dead?

A request goes to whoever holds the profile's lock, by file, and its answer is waited for; where
nobody holds it, this process takes the lock and does the same itself.  There is one writer at a
time.  What is done, and what of it is verified, is `control`'s.
"""

import os
import signal
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from perps_bot.clock import StopRequest, SystemClock
from perps_bot.confirmed import NOT_VERIFIED
from perps_bot.control import LOOK_FOR_ALONE, Control
from perps_bot.errors import ConfigError, InUse
from perps_bot.bot import assemble, recover
from perps_bot.mailbox import Answer, Request, answer_to, put, turn
from perps_bot.settings import Settings, data_folder, resolve
from perps_bot.store import (
    EventStore, InstanceLock, account_lock, prepare_folder, read_state, refuse_denied,
)
from perps_bot.wiring import alone_in, alone_on, bot_of, broker_kind, clock_of, venue_of

POLL_SECONDS = 0.1
# How often an answer is looked for (10 s), another command is waited for, and a killed bot.
ANSWER_LOOKS_MAX, TURN_LOOKS_MAX, KILLED_LOOKS_MAX = 100, 100, 50
TAKES_MAX = 3  # how often another command may have been quicker
# What may wait when the lock is taken: what an earlier process had taken or kept, and ours.
WAITING_MAX = 3


def ask(settings: Settings, command: str, args: Mapping[str, Any], kills: bool = False) -> Answer:
    """Have `command` done by the bot or, where it is dead, by this process; say what came of it.

    kills  end a bot that does not answer
    """
    folder = Path(data_folder(settings))
    refuse_denied(folder)
    # On another machine, too, what is held at the venue must be closed.
    if not os.path.isdir(folder) and (command, broker_kind(settings)) != ("close-all", "coinbase"):
        raise ConfigError(f"{folder} does not exist: nothing ran there, nothing is halted; see "
                          f"EVENT_STORE_ROOT, or begin: perps-bot --profile {settings.profile}")
    prepare_folder(folder)
    request = Request(uuid.uuid4().hex, command, args, SystemClock().now())
    lock = InstanceLock(folder / "lock")
    for _ in range(TAKES_MAX):
        if answer := _told(lock, folder / "control", request, kills):
            return answer
        with suppress(InUse):  # another command was quicker: it is asked as a bot is
            return _act(settings, folder, request)
    return _act(settings, folder, request)


def close_all_positions(client: Any, symbols: Iterable[str]) -> Answer:
    """Cancel every order in `symbols`, close every position there, and say what the venue shows.

    As `close-all`, over any client and without files; ConfigError while a bot trades with its key.
    """
    settings, rest = resolve({"symbols": [*symbols]}, {}), getattr(client, "rest", None)
    with ExitStack() as held:
        if rest is not None and rest.signer is not None:
            account = account_lock(rest.signer.name)
            if account is None:
                raise ConfigError("a bot trades with this key: use perps-bot close-all")
            held.enter_context(account)
        bot = assemble(settings, client, EventStore(), "by hand")
        bot.control = control = Control(bot.store, look_for=LOOK_FOR_ALONE)
        clock = SystemClock(now=rest and rest.clock.now)
        args = {"symbols": [*settings.symbols], "reason": "close_all_positions"}
        request = Request(uuid.uuid4().hex, "close-all", args, clock.wall())
        control.perform(bot, clock, request)
        return control.answers[request.id]


class _Nobody:
    """The venue of a command that cannot, or need not, ask one: every question says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        def refuse(*_arguments: object) -> None:
            raise ConfigError(self._why)
        return refuse


def _told(lock: InstanceLock, place: Path, request: Request, kills: bool) -> Answer | None:
    """What whoever holds the lock says; None where nobody does, or nobody does any more."""
    if (pid := _holder(lock)) is None:
        return None
    answer, why = _asked(lock, place, request)
    if answer is not None or _holder(lock) is None:
        return answer
    if not kills:
        why += "; add --kill to end it and act without it"
    elif _killed(lock):
        return None
    else:
        why = "could not be ended: run this as its user, or end it yourself and ask again"
    return Answer(NOT_VERIFIED, f"NOT verified: pid {pid} {why}")


def _holder(lock: InstanceLock) -> int | None:
    try:
        return lock.holder()
    except OSError as error:
        raise ConfigError(f"the lock cannot be read: {error.strerror}: run this as the bot's "
                          f"user") from error


def _asked(lock: InstanceLock, place: Path, request: Request) -> tuple[Answer | None, str]:
    """Ask the holder of the lock; return its answer, or why there is none."""
    for _ in range(TURN_LOOKS_MAX):
        with turn(place) as is_ours:
            if is_ours:
                return _asked_now(lock, place, request)
        time.sleep(POLL_SECONDS)
    return None, "is being asked by another command"


def _asked_now(lock: InstanceLock, place: Path, request: Request) -> tuple[Answer | None, str]:
    try:
        waiting = put(place, request)
    except OSError as failure:
        return None, f"cannot be asked, {place}: {failure.strerror}; kill -INT reaches it as well"
    if waiting is not None:
        return None, f"has not obeyed an earlier {waiting.command}, which stays"
    for _ in range(ANSWER_LOOKS_MAX):
        if answer := answer_to(place, request):
            return answer, ""
        if _holder(lock) is None:
            return None, "has ended"
        time.sleep(POLL_SECONDS)
    kept = ("the halt is obeyed as soon as that can be, by the next start at the latest"
            if request.halts else "the request is void after a minute")
    return None, f"has not answered within {ANSWER_LOOKS_MAX * POLL_SECONDS:.0f} s; {kept}"


def _killed(lock: InstanceLock) -> bool:
    """End the holder of the lock, which recovers from that by itself; whether it has ended."""
    pid = _holder(lock)
    with suppress(OSError):  # it has ended by itself, or is not ours to end
        # A number that another machine or container wrote there names another process here.
        if pid and b"perps" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    for _ in range(KILLED_LOOKS_MAX):
        if _holder(lock) is None:
            return True
        time.sleep(POLL_SECONDS)
    return False


def _act(settings: Settings, folder: Path, request: Request) -> Answer:
    """Do it here, alone in the folder and on the account; what waited there comes first."""
    with alone_in(folder):
        settings = settings.replace(symbols=_traded(settings, folder))
        venue = _venue(settings, request)
        with alone_on(venue):
            bot, signals = bot_of(settings, venue, folder), StopRequest()
            bot.control.look_for = LOOK_FOR_ALONE
            signals.install()
            clock = clock_of(venue, signals)
            try:
                recover(bot)
            except ConfigError as trouble:
                if (request.command, broker_kind(settings)) != ("close-all", "coinbase"):
                    raise
                return _without_events(settings, venue, folder, request, clock, trouble)
            _cover_what_is_ours(bot)
            _leave(folder, request)
            answer = _in_turn(bot, clock, request)
            bot.store.close()
            return answer


def _leave(folder: Path, request: Request) -> None:
    """Where the next start finds it, should this process not come to its end."""
    with suppress(OSError, ConfigError):  # on a full disk it is done all the same
        prepare_folder(folder / "control")
        put(folder / "control", request)


def _in_turn(bot: Any, clock: Any, request: Request) -> Answer:
    """Do what waited, then this; a signal ends it, and what is not done then waits."""
    number = None
    for _ in range(WAITING_MAX):
        number = number or bot.control.obey(bot, clock)
    answers = bot.control.answers
    if answers.get(request.id) is None and number is None:
        bot.control.perform(bot, clock, request)
    return answers.get(request.id) or Answer(
        NOT_VERIFIED, f"NOT verified: signal {number} came over an earlier request; ask again")


def _without_events(settings: Settings, venue: Any, folder: Path, request: Request, clock: Any,
                    trouble: ConfigError) -> Answer:
    """Close what the venue shows; the request stays, so that a start which reads them halts."""
    _leave(folder, request)
    bot = assemble(settings, venue, EventStore(), broker_kind(settings))
    bot.control = Control(bot.store, look_for=LOOK_FOR_ALONE)
    bot.control.perform(bot, clock, request)
    answer = bot.control.answers[request.id]
    return Answer(answer.exit_code, f"{answer.text}\ndone without the events, and not in them: "
                                    f"{trouble}")


def _venue(settings: Settings, request: Request) -> Any:
    if request.command == "resume":
        return _Nobody("a resume asks no venue")
    try:
        return venue_of(settings)
    except ConfigError as refusal:  # a halt needs no key
        return _Nobody(f"the venue was not asked: {refusal}")


def _traded(settings: Settings, folder: Path) -> tuple[str, ...]:
    """The settings' symbols, and those of the last run where its health.json still says them."""
    said = (read_state(folder / "health.json") or {}).get("symbols")
    also = said if isinstance(said, list) and all(isinstance(each, str) for each in said) else []
    with suppress(ConfigError):
        return resolve({"symbols": [*dict.fromkeys((*settings.symbols, *also))]}, {}).symbols
    return settings.symbols


def _cover_what_is_ours(bot: Any) -> None:
    """What our events say is held or ordered belongs to it, whatever --symbols says."""
    ours = (*bot.tracker.positions(), *(order.symbol for order in bot.engine.outstanding()))
    symbols = tuple(dict.fromkeys((*bot.symbols, *ours)))
    bot.settings = bot.settings.replace(symbols=symbols)
    bot.books.symbols = symbols
