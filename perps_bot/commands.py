"""Commands: what does each command do?

One function for each: parsed arguments in, exit code out.  It asks the rooms that know and shows
what they say; it decides nothing about trading and hides no error.  Arguments are not parsed here.
Rooms that a command does not need are imported only when it runs.
"""

import argparse
import json
import os
import sys
from decimal import Decimal

from perps_bot.errors import ConfigError
from perps_bot.process import answer, complain, draw, say

WITH_RECORDED = ("recorded", "profile", "dry_run", "config", "json")
EVENTS_KEPT_MAX, KEEP_DAYS_MAX = 10_000, 36_500
DONE, NO, SETTINGS_WRONG, NOT_VERIFIED, LOCKED = 0, 1, 2, 3, 75


def run(arguments: argparse.Namespace) -> int:
    from perps_bot.alerts import Alerts
    from perps_bot.clock import StopRequest
    from perps_bot.bot import recover
    from perps_bot.loop import run as run_bot
    from perps_bot.diary import log_to
    from perps_bot.ops import Surfaces, cycle_lines, start_lines, warn
    from perps_bot.service import Service
    from perps_bot.settings import data_folder, refuse_foreign_variables
    from perps_bot.store import prepare_folder
    from perps_bot.wiring import alone_in, alone_on, bot_of, broker_kind, clock_of, venue_of

    settings, signals = _settings(arguments), StopRequest()
    if broker_kind(settings) == "coinbase":
        refuse_foreign_variables(settings, os.environ)
    venue = venue_of(settings, signals)  # refuses before anything is written
    folder = prepare_folder(data_folder(settings))
    with alone_in(folder), alone_on(venue):
        log_to(settings)
        bot = bot_of(settings, venue, folder)
        alerts = Alerts(settings.profile, settings.alert_webhook_url, settings.heartbeat_url)
        bot.surfaces = Surfaces(folder, say, alerts)
        bot.service = Service(os.environ.get("NOTIFY_SOCKET", ""), settings.interval)
        bot.store.subscribe(bot.surfaces.apply)
        signals.is_asked = bot.control.mailbox.is_asked
        signals.install()
        found = recover(bot)
        for line in start_lines(bot, found):
            say(line)
        warn(settings, found)
        bot.surfaces.is_live = True
        try:
            code = run_bot(bot, clock_of(venue, signals), cycles=1 if settings.dev_fast else None)
        finally:
            alerts.flush()
        alerts.take_results(bot)
        for line in cycle_lines(bot) if settings.dev_fast else ():
            say(line)
        bot.store.close()
        if bot.feed is not None:
            bot.feed.stop()
    return code


def check(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from perps_bot import checklist
    from perps_bot.clock import SystemClock
    from perps_bot.settings import data_folder
    from perps_bot.wiring import broker_kind, inquirer, market_of

    settings = _settings(arguments)
    kind, sends = broker_kind(settings), arguments.send_test_alert
    if kind == "paper-synthetic":
        checks = list(checklist.check(settings, market_of(settings), SystemClock().now()))
        checks += checklist.check_alerts(settings, sends) if sends else ()
    else:
        client, trouble = inquirer(settings)
        checks = list(checklist.check_venue(checklist.Inquiry(
            settings, client, Path(data_folder(settings)), os.environ, trouble, sends)))
    is_well = all(row.ok is not False for row in checks)
    text = (_json(checklist.check_values(settings, kind, checks)) if arguments.json else
            checklist.check_text(settings, kind, checks, _terminal()))
    return _answer(text, DONE if is_well else NO, draw)


def products(arguments: argparse.Namespace) -> int:
    from perps_bot.checklist import in_columns, product_columns, product_rows

    _, market, now = _opened(arguments)
    rows = product_rows(market, now)
    text = _json({"products": rows}) if arguments.json else in_columns(list(product_columns(rows)))
    return _answer(text)


def symbol(arguments: argparse.Namespace) -> int:
    from perps_bot.checklist import in_columns, symbol_columns, symbol_report

    settings, market, now = _opened(arguments)
    try:
        report = symbol_report(market, arguments.name, settings, now)
    except ConfigError as unknown:
        complain(str(unknown))
        return NO
    return _answer(_json(report) if arguments.json else in_columns(list(symbol_columns(report))))


def validate(arguments: argparse.Namespace) -> int:
    """One line for each step; the first that fails is the last."""
    from perps_bot import validate as room
    from perps_bot.wiring import clock_of, inquirer, venue_of

    settings, what = _settings(arguments), arguments.what
    if not settings.run_sandbox_validations:
        raise ConfigError("validations run only where they are asked for: set "
                          "RUN_SANDBOX_VALIDATIONS=1")
    if settings.use_real_adapter and settings.sandbox:
        steps = room.sandbox_steps(what, settings)
    else:
        venue, trouble = inquirer(settings) if settings.use_real_adapter else (
            venue_of(settings.replace(force_mock=True)), "")
        if trouble:
            raise ConfigError(trouble)
        steps = room.validate(what, settings, venue, clock_of(venue))
    for step in steps:
        if not answer(room.line(step)):
            return NOT_VERIFIED
        if step[1] is False:
            return NO
    return DONE


def halt(arguments: argparse.Namespace) -> int:
    return _asked(arguments, "halt", reason=arguments.reason, reduce_only=arguments.stays)


def resume(arguments: argparse.Namespace) -> int:
    return _asked(arguments, "resume", reason=arguments.reason,
                  clear_daily_loss=arguments.clear_daily_loss)


def close_all(arguments: argparse.Namespace) -> int:
    """Ask a person, unless told not to; nobody else is taken for one."""
    from perps_bot.wiring import broker_kind

    settings, said = _settings(arguments), vars(arguments).get("symbols", [])
    if not arguments.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ConfigError("close-all asks before it acts, and there is no terminal: add --yes")
        say(f"close-all: profile {settings.profile} ({broker_kind(settings)}): cancels every order "
            f"and closes every position in {' '.join(said) or 'its symbols'}, then stays HALTED")
        say("type yes to go on:")
        if sys.stdin.readline().strip() != "yes":
            complain("nothing was asked and nothing was done")
            return NO
    return _asked(arguments, "close-all", reason=arguments.reason, symbols=[*said])


def status(arguments: argparse.Namespace) -> int:
    from perps_bot import watch
    from perps_bot.sight import look
    from perps_bot.wall import now

    folder = _profile_folder(arguments)
    if arguments.watch:
        return _watched(folder, arguments.json)
    sight = look(folder, now())
    text = (_json(watch.as_json(sight)) if arguments.json else
            "\n".join(watch.status_lines(sight, _terminal())))
    return _answer(text, watch.status_code(sight), draw)


def _watched(folder: str, is_json: bool) -> int:
    """Redraw until q, or a signal, which ends it in good order."""
    from perps_bot import watch
    from perps_bot.clock import StopRequest
    from perps_bot.sight import look
    from perps_bot.terminal import Screen, can_redraw
    from perps_bot.wall import now

    if is_json or not can_redraw(sys.stdin, sys.stdout, os.environ):
        raise ConfigError("--watch needs a terminal that can be redrawn, and no --json: leave out "
                          "--watch, or connect with ssh -t")
    signals = StopRequest()
    signals.install()
    look(folder, now())  # refuses while the screen is still as it was
    with Screen(sys.stdin, sys.stdout) as screen:
        watch.redraw(screen, lambda: watch.status_lines(look(folder, now()), _terminal()),
                     lambda: signals.wait(Decimal(0)) is not None)
    return DONE


def health(arguments: argparse.Namespace) -> int:
    from perps_bot.sight import look, seconds_given
    from perps_bot.wall import now

    sight = look(_profile_folder(arguments), now())
    if sight.health is None:
        raise ConfigError("; ".join(sight.troubles))
    code, why = sight.verdict(seconds_given("--max-age", arguments.max_age))
    text = _json({"ok": code == DONE, "why": why, "age_seconds": sight.age_seconds,
                  "health": sight.health}) if arguments.json else f"{sight.name}: {why}"
    return _answer(text, code and NO)


def why(arguments: argparse.Namespace) -> int:
    from perps_bot.ledger import why as look_back
    from perps_bot.ledger import why_lines
    from perps_bot.sight import in_the_way, look
    from perps_bot.wall import now

    ticks, folder = _count("--ticks", arguments.ticks), _events_folder(arguments)
    ledger = look_back(folder, arguments.name, ticks)
    ledger.now = in_the_way(look(os.path.dirname(folder), now()), folder)
    return _answer(_json(ledger.as_json()) if arguments.json else
                   "\n".join(why_lines(ledger, _terminal())), tell=draw)


def tail(arguments: argparse.Namespace) -> int:
    from perps_bot import ledger
    from perps_bot.clock import StopRequest

    count, signals = _count("-n", arguments.count), StopRequest()
    folder = _events_folder(arguments)
    if arguments.follow:
        signals.install()
    wait = (lambda: signals.wait(ledger.FOLLOW_EVERY_SECONDS) is not None)
    for event in ledger.tail(folder, count, arguments.type, wait if arguments.follow else None):
        line = (json.dumps(ledger.tail_row(event), default=_plain) if arguments.json else
                ledger.tail_line(event))
        if not answer(line):
            return NOT_VERIFIED
    return DONE


def backup(arguments: argparse.Namespace) -> int:
    from perps_bot import backup as room

    keeps = arguments.keep_days and _count("--keep-days", arguments.keep_days, KEEP_DAYS_MAX,
                                           "; days")
    return _copied(arguments, "backed up to", lambda data, profile, now: room.backup(
        data, arguments.folder, profile, now, keeps))


def restore(arguments: argparse.Namespace) -> int:
    from perps_bot import backup as room

    return _copied(arguments, "restored to", lambda data, profile, now: room.restore(
        arguments.folder, data, profile, now))


def replay(arguments: argparse.Namespace) -> int:
    if arguments.recorded is not None:
        return _replay_recorded(arguments)
    from dataclasses import asdict

    from perps_bot.clock import SystemClock
    from perps_bot.ops import output_paths
    from perps_bot.replay import replay as rehearse
    from perps_bot.replay import report_lines

    if arguments.symbol:
        arguments.symbols = arguments.symbol
    settings = _settings(arguments)
    outputs, market = list(output_paths(arguments)), _recorded(arguments, settings)
    clock = SystemClock()
    with _Progress() as progress:
        result = rehearse(market, settings, *outputs, progress)
    speed = (result.bars / clock.elapsed()).quantize(Decimal("0.1"))
    row = {**asdict(result), "bars_per_second": speed}
    return _answer(json.dumps(row, default=_plain) if arguments.json else "\n".join(
        (*report_lines(result), f"speed {speed:,.0f} bars a second")))


def sweep(arguments: argparse.Namespace) -> int:
    import signal

    from perps_bot import tried
    from perps_bot.outputs import new_file

    page = new_file("--csv", arguments.csv) if arguments.csv else None
    for number in (signal.SIGTERM, signal.SIGHUP):  # they end it as Ctrl-C does; nohup may ignore
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        outcome = _swept(arguments)
    except KeyboardInterrupt:
        complain(f"interrupted; the same command goes on from {arguments.out}" if arguments.out else
                 "interrupted, and nothing was kept: --out FILE would have")
        return NOT_VERIFIED
    if page:
        tried.write_csv(page, outcome)
    text = _json(tried.as_json(outcome)) if arguments.json else "\n".join(
        tried.lines(outcome, _count("--top", arguments.top)))
    return _answer(text, NOT_VERIFIED if outcome.failed else DONE)


def _swept(arguments: argparse.Namespace):
    from perps_bot import sweep as room
    from perps_bot.tried import combinations

    arguments.symbols = [arguments.symbol]
    settings, jobs = _settings(arguments), arguments.jobs and _count("--jobs", arguments.jobs)
    points = combinations(arguments.set, arguments.list)
    job = room.job_of(arguments.file, settings, arguments.split, arguments.funding,
                      _own_bar(settings), *_span(arguments), arguments.skip_bad_rows)
    with _Progress("of the runs done") as progress:
        return room.sweep(job, points, None, jobs, arguments.out, progress)


def _copied(arguments: argparse.Namespace, did: str, copy) -> int:
    from pathlib import Path

    from perps_bot.backup import summary
    from perps_bot.clock import SystemClock
    from perps_bot.settings import data_folder

    settings = _settings(arguments)
    done = copy(Path(data_folder(settings)), settings.profile, SystemClock().now())
    return _answer(_json(done.row()) if arguments.json else summary(done, did))


def init(arguments: argparse.Namespace) -> int:
    from perps_bot.init import begin

    flags = {"profile": arguments.profile} if "profile" in arguments else {}
    start = begin(flags, os.environ, arguments.config, arguments.dir)
    return _answer(_json(vars(start)) if arguments.json else start.text(_terminal()), tell=draw)


def drill(arguments: argparse.Namespace) -> int:
    from perps_bot import drill as room

    terminal = _terminal()
    told = room.hold(_settings(arguments), arguments.out, lambda line: (
        arguments.json or draw(room.shown(line, terminal))))
    left = f"; what the failed ones left: {told.left}" if told.left else ""
    text = _json(told.values()) if arguments.json else f"{told.verdict()}; page: {told.page}{left}"
    return _answer(text, DONE if told.passed else NO)


def _replay_recorded(arguments: argparse.Namespace) -> int:
    from perps_bot import recorded

    if any(given for name, given in vars(arguments).items() if name not in WITH_RECORDED):
        raise ConfigError("--recorded takes the day's own prices and settings: leave out "
                          "everything but --profile, --dry-run, --config and --json")
    is_file = arguments.recorded.endswith(".jsonl")
    folder = None if is_file else _events_folder(arguments)
    outcome = recorded.replay_day(recorded.find_day(arguments.recorded, folder))
    return _answer(_json(recorded.values(outcome)) if arguments.json else
                   "\n".join(recorded.lines(outcome)), NO if outcome.difference else DONE)


def _asked(arguments: argparse.Namespace, command: str, **args: object) -> int:
    """Have the bot do it, or do it where it is dead; show what came of it."""
    from perps_bot.emergency import ask
    from perps_bot.mailbox import REASON_LENGTH_MAX

    if not arguments.reason.strip():
        raise ConfigError("the reason is empty: say what was checked, or why")
    if len(arguments.reason) > REASON_LENGTH_MAX:
        raise ConfigError(f"the reason is above {REASON_LENGTH_MAX} characters: shorten it")
    try:
        done = ask(_settings(arguments), command, args, arguments.kill)
    except KeyboardInterrupt:
        complain(f"interrupted: whether the {command} is obeyed is not known")
        return NOT_VERIFIED
    if done.exit_code and "\n" not in done.text and not arguments.json:
        complain(done.text)
        return done.exit_code
    row = {"exit_code": done.exit_code, "lines": done.text.split("\n")}
    return _answer(_json(row) if arguments.json else done.text, done.exit_code)


def report(arguments: argparse.Namespace) -> int:
    from perps_bot import report as room

    with _Progress() as progress:
        source, reading = room.opened(arguments, _span(arguments), _place(arguments), progress)
        said = room.report(arguments, source, reading)
    if not arguments.json and not said["written"]:
        return _answer("\n".join(room.text_lines(said)), DONE if reading.is_whole else NOT_VERIFIED)
    return _exported(reading, _json(said) if arguments.json else "\n".join(
        f"written: {path}" for path in said["written"]))


def export(arguments: argparse.Namespace) -> int:
    from perps_bot import report as room

    with _Progress() as progress:
        _, reading = room.opened(arguments, _span(arguments), _place(arguments), progress)
        lines = room.export(arguments, reading)
    return _exported(reading, "\n".join(lines))


def _exported(reading, text: str) -> int:
    """What was written, and on stderr what it lacks."""
    for note in reading.notes:
        complain(note)
    return _answer(text, DONE if reading.is_whole else NOT_VERIFIED)


def _settings(arguments: argparse.Namespace):
    from perps_bot.settings import SETTINGS, resolve

    names = {row.name for row in SETTINGS}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    return resolve(flags, os.environ, arguments.config)


def _profile_folder(arguments: argparse.Namespace):
    from perps_bot.settings import data_folder

    return data_folder(_settings(arguments))


def _events_folder(arguments: argparse.Namespace):
    """The events that a run with these settings would go on with."""
    from perps_bot.reading import refuse_without
    from perps_bot.settings import data_folder, events_folder
    from perps_bot.wiring import broker_kind

    settings = _settings(arguments)
    folder = events_folder(data_folder(settings), settings.profile, broker_kind(settings))
    refuse_without(folder)
    return folder


def _count(flag: str, text: str, most: int = EVENTS_KEPT_MAX, unit: str = "") -> int:
    """How many; of events so many are kept at once, and what is older is what `export` is for."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not is_number or not 0 < int(text) <= most:
        raise ConfigError(f"{flag} {text[:20]}: must be a whole number from 1 to {most}{unit}")
    return int(text)


def _opened(arguments: argparse.Namespace) -> tuple:
    """The settings, their market without a key, and its time."""
    from perps_bot.wiring import clock_of, market_of

    settings = _settings(arguments)
    market = market_of(settings)
    market.connect()
    return settings, market, clock_of(market).now()


def _recorded(arguments: argparse.Namespace, settings):
    from perps_bot.market import RecordedMarket

    if not arguments.files:
        raise ConfigError("name a FILE of prices, or --recorded DAY; see perps-bot replay --help")
    begin, end = _span(arguments)
    return RecordedMarket(arguments.files, settings.symbols, arguments.funding,
                          _own_bar(settings), begin, end, arguments.skip_bad_rows)


def _own_bar(settings) -> int | None:
    """The profile's bar is for a living market; candles bring their own."""
    return None if settings.sources["bar"].startswith("profile") else settings.bar


def _span(arguments: argparse.Namespace) -> tuple:
    """--from and --to."""
    from perps_bot.ops import time_given

    # The parser keeps them under their flags' names, of which one is a keyword.
    begin, end = (time_given(flag, vars(arguments)[flag[2:]]) for flag in ("--from", "--to"))
    if begin and end and begin >= end:
        raise ConfigError(f"--from {begin.isoformat()} is not before --to {end.isoformat()}")
    return begin, end


def _place(arguments: argparse.Namespace) -> tuple:
    """The profile's folder, whether paper was asked for, and the profile."""
    from pathlib import Path

    from perps_bot.settings import data_folder
    from perps_bot.wiring import broker_kind

    settings = _settings(arguments)
    return Path(data_folder(settings)), broker_kind(settings) != "coinbase", settings.profile


def _answer(text: str, code: int = DONE, tell=answer) -> int:
    """Print a command's whole answer; one that nobody could read is not verified."""
    return code if tell(text) else NOT_VERIFIED


def _terminal():
    from perps_bot.terminal import terminal_of

    return terminal_of(sys.stdout, os.environ)


class _Progress:
    """Hands out what shows progress where somebody looks; its line is gone afterwards."""

    def __init__(self, what: str = "read") -> None:
        self._what = what

    def __enter__(self):
        self._is_watched = sys.stderr is not None and sys.stderr.isatty()
        return self._show if self._is_watched else None

    def __exit__(self, *_: object) -> None:
        if self._is_watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self, done: Decimal) -> None:
        print(f"\r{done:.0%} {self._what}", end="", file=sys.stderr, flush=True)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else value.isoformat()
