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
from perps_bot.rooms import rooms

WITH_RECORDED = ("recorded", "profile", "dry_run", "config", "json")
EVENTS_KEPT_MAX, KEEP_DAYS_MAX = 10_000, 36_500
DONE, NO, SETTINGS_WRONG, NOT_VERIFIED, LOCKED = 0, 1, 2, 3, 75


def run(arguments: argparse.Namespace) -> int:
    settings, signals = _settings(arguments), rooms.clock.StopRequest()
    if rooms.wiring.broker_kind(settings) == "coinbase":
        rooms.settings.refuse_foreign_variables(settings, os.environ)
    venue = rooms.wiring.venue_of(settings, signals)  # refuses before anything is written
    folder = rooms.store.prepare_folder(rooms.settings.data_folder(settings))
    with rooms.wiring.alone_in(folder), rooms.wiring.alone_on(venue):
        rooms.diary.log_to(settings)
        bot = rooms.wiring.bot_of(settings, venue, folder)
        alerts = rooms.alerts.Alerts(
            settings.profile, settings.alert_webhook_url, settings.heartbeat_url)
        bot.surfaces = rooms.ops.Surfaces(folder, say, alerts)
        bot.service = rooms.service.Service(os.environ.get("NOTIFY_SOCKET", ""), settings.interval)
        bot.store.subscribe(bot.surfaces.apply)
        signals.is_asked = bot.control.mailbox.is_asked
        signals.install()
        found = rooms.bot.recover(bot)
        for line in rooms.ops.start_lines(bot, found):
            say(line)
        rooms.ops.warn(settings, found)
        bot.surfaces.is_live = True
        try:
            code = rooms.loop.run(bot, rooms.wiring.clock_of(venue, signals),
                                  cycles=1 if settings.dev_fast else None)
        finally:
            alerts.flush()
        alerts.take_results(bot)
        for line in rooms.ops.cycle_lines(bot) if settings.dev_fast else ():
            say(line)
        bot.store.close()
        if bot.feed is not None:
            bot.feed.stop()
    return code


def check(arguments: argparse.Namespace) -> int:
    room, settings, sends = rooms.checklist, _settings(arguments), arguments.send_test_alert
    kind = rooms.wiring.broker_kind(settings)
    if kind == "paper-synthetic":
        market, now = rooms.wiring.market_of(settings), rooms.clock.SystemClock().now()
        checks = list(room.check(settings, market, now))
        checks += room.check_alerts(settings, sends) if sends else ()
    else:
        client, trouble = rooms.wiring.inquirer(settings)
        checks = list(room.check_venue(room.Inquiry(
            settings, client, _data_path(settings), os.environ, trouble, sends)))
    is_well = all(row.ok is not False for row in checks)
    text = (_json(room.check_values(settings, kind, checks)) if arguments.json else
            room.check_text(settings, kind, checks, _terminal()))
    return _answer(text, DONE if is_well else NO, draw)


def products(arguments: argparse.Namespace) -> int:
    _, market, now = _opened(arguments)
    room, rows = rooms.checklist, rooms.checklist.product_rows(market, now)
    return _answer(_json({"products": rows}) if arguments.json else
                   room.in_columns(list(room.product_columns(rows))))


def symbol(arguments: argparse.Namespace) -> int:
    (settings, market, now), room = _opened(arguments), rooms.checklist
    try:
        report = room.symbol_report(market, arguments.name, settings, now)
    except ConfigError as unknown:
        complain(str(unknown))
        return NO
    return _answer(_json(report) if arguments.json else
                   room.in_columns(list(room.symbol_columns(report))))


def validate(arguments: argparse.Namespace) -> int:
    """One line for each step; the first that fails is the last."""
    settings, what = _settings(arguments), arguments.what
    if not settings.run_sandbox_validations:
        raise ConfigError("validations run only where they are asked for: set "
                          "RUN_SANDBOX_VALIDATIONS=1")
    if settings.use_real_adapter and settings.sandbox:
        steps = rooms.validate.sandbox_steps(what, settings)
    else:
        venue, trouble = rooms.wiring.inquirer(settings) if settings.use_real_adapter else (
            rooms.wiring.venue_of(settings.replace(force_mock=True)), "")
        if trouble:
            raise ConfigError(trouble)
        steps = rooms.validate.validate(what, settings, venue, rooms.wiring.clock_of(venue))
    for step in steps:
        if not answer(str(step)):
            return NOT_VERIFIED
        if step.ok is False:
            return NO
    return DONE


def halt(arguments: argparse.Namespace) -> int:
    return _asked(arguments, "halt", reason=arguments.reason, reduce_only=arguments.stays)


def resume(arguments: argparse.Namespace) -> int:
    return _asked(arguments, "resume", reason=arguments.reason,
                  clear_daily_loss=arguments.clear_daily_loss)


def close_all(arguments: argparse.Namespace) -> int:
    """Ask a person, unless told not to; nobody else is taken for one."""
    settings, said = _settings(arguments), vars(arguments).get("symbols", [])
    if not arguments.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise ConfigError("close-all asks before it acts, and there is no terminal: add --yes")
        kind, where = rooms.wiring.broker_kind(settings), " ".join(said) or "its symbols"
        say(f"close-all: profile {settings.profile} ({kind}): cancels every order and closes every "
            f"position in {where}, then stays HALTED")
        say("type yes to go on:")
        if sys.stdin.readline().strip() != "yes":
            complain("nothing was asked and nothing was done")
            return NO
    return _asked(arguments, "close-all", reason=arguments.reason, symbols=[*said])


def status(arguments: argparse.Namespace) -> int:
    folder = rooms.settings.data_folder(_settings(arguments))
    if arguments.watch:
        return _watched(folder, arguments.json)
    sight = _sight(folder)
    text = (_json(rooms.watch.as_json(sight)) if arguments.json else
            "\n".join(rooms.watch.status_lines(sight, _terminal())))
    return _answer(text, rooms.watch.status_code(sight), draw)


def _watched(folder: str, is_json: bool) -> int:
    """Redraw until q, or a signal, which ends it in good order."""
    if is_json or not rooms.terminal.can_redraw(sys.stdin, sys.stdout, os.environ):
        raise ConfigError("--watch needs a terminal that can be redrawn, and no --json: leave out "
                          "--watch, or connect with ssh -t")
    signals = rooms.clock.StopRequest()
    signals.install()
    _sight(folder)  # refuses while the screen is still as it was
    with rooms.terminal.Screen(sys.stdin, sys.stdout) as screen:
        rooms.watch.redraw(
            screen, lambda: rooms.watch.status_lines(_sight(folder), _terminal()),
            lambda: signals.wait(Decimal(0)) is not None)
    return DONE


def health(arguments: argparse.Namespace) -> int:
    sight = _sight(rooms.settings.data_folder(_settings(arguments)))
    if sight.health is None:
        raise ConfigError("; ".join(sight.troubles))
    code, why = sight.verdict(rooms.sight.seconds_given("--max-age", arguments.max_age))
    row = {"ok": code == DONE, "why": why, "age_seconds": sight.age_seconds, "health": sight.health}
    line = f"perps-bot {os.path.basename(sight.folder)}: {why}"
    return _answer(_json(row) if arguments.json else line, code and NO)


def why(arguments: argparse.Namespace) -> int:
    ticks, folder = _count("--ticks", arguments.ticks), _events_folder(arguments)
    ledger = rooms.ledger.why(folder, arguments.name, ticks)
    ledger.now = rooms.sight.in_the_way(_sight(os.path.dirname(folder)), folder)
    return _answer(_json(ledger.as_json()) if arguments.json else
                   "\n".join(rooms.ledger.why_lines(ledger, _terminal())), tell=draw)


def tail(arguments: argparse.Namespace) -> int:
    count, signals = _count("-n", arguments.count), rooms.clock.StopRequest()
    folder, room, wait = _events_folder(arguments), rooms.ledger, None
    if arguments.follow:
        signals.install()
        wait = (lambda: signals.wait(room.FOLLOW_EVERY_SECONDS) is not None)
    for event in room.tail(folder, count, arguments.type, wait):
        if not answer(json.dumps(room.tail_row(event), default=_plain) if arguments.json else
                      room.tail_line(event)):
            return NOT_VERIFIED
    return DONE


def backup(arguments: argparse.Namespace) -> int:
    keeps = arguments.keep_days and _count("--keep-days", arguments.keep_days, KEEP_DAYS_MAX,
                                           "; days")
    return _copied(arguments, "backed up to", lambda data, profile, now: rooms.backup.backup(
        data, arguments.folder, profile, now, keeps))


def restore(arguments: argparse.Namespace) -> int:
    return _copied(arguments, "restored to", lambda data, profile, now: rooms.backup.restore(
        arguments.folder, data, profile, now))


def replay(arguments: argparse.Namespace) -> int:
    if arguments.recorded is not None:
        return _replay_recorded(arguments)
    from dataclasses import asdict

    if arguments.symbol:
        arguments.symbols = arguments.symbol
    settings = _settings(arguments)
    outputs, market = list(rooms.ops.output_paths(arguments)), _recorded(arguments, settings)
    clock = rooms.clock.SystemClock()
    with _Progress() as progress:
        result = rooms.replay.replay(market, settings, *outputs, progress)
    speed = (result.bars / clock.elapsed()).quantize(Decimal("0.1"))
    row = {**asdict(result), "bars_per_second": speed}
    return _answer(json.dumps(row, default=_plain) if arguments.json else "\n".join(
        (*rooms.replay.report_lines(result), f"speed {speed:,.0f} bars a second")))


def sweep(arguments: argparse.Namespace) -> int:
    import signal

    page = rooms.outputs.new_file("--csv", arguments.csv) if arguments.csv else None
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
        rooms.tried.write_csv(page, outcome)
    text = _json(rooms.tried.as_json(outcome)) if arguments.json else "\n".join(
        rooms.tried.lines(outcome, _count("--top", arguments.top)))
    return _answer(text, NOT_VERIFIED if outcome.failed else DONE)


def _swept(arguments: argparse.Namespace):
    arguments.symbols = [arguments.symbol]
    settings, jobs = _settings(arguments), arguments.jobs and _count("--jobs", arguments.jobs)
    points = rooms.tried.combinations(arguments.set, arguments.list)
    job = rooms.sweep.job_of(
        arguments.file, settings, arguments.split, arguments.funding, _own_bar(settings),
        *_span(arguments), arguments.skip_bad_rows)
    with _Progress("of the runs done") as progress:
        return rooms.sweep.sweep(job, points, None, jobs, arguments.out, progress)


def _copied(arguments: argparse.Namespace, did: str, copy) -> int:
    settings = _settings(arguments)
    done = copy(_data_path(settings), settings.profile, rooms.clock.SystemClock().now())
    return _answer(_json(done.row()) if arguments.json else rooms.backup.summary(done, did))


def init(arguments: argparse.Namespace) -> int:
    flags = {"profile": arguments.profile} if "profile" in arguments else {}
    start = rooms.init.begin(flags, os.environ, arguments.config, arguments.dir)
    return _answer(_json(vars(start)) if arguments.json else start.text(_terminal()), tell=draw)


def drill(arguments: argparse.Namespace) -> int:
    terminal = _terminal()
    told = rooms.drill.hold(_settings(arguments), arguments.out, lambda line: (
        arguments.json or draw(rooms.drill.shown(line, terminal))))
    left = f"; what the failed ones left: {told.left}" if told.left else ""
    text = _json(told.values()) if arguments.json else f"{told.verdict()}; page: {told.page}{left}"
    return _answer(text, DONE if told.passed else NO)


def _replay_recorded(arguments: argparse.Namespace) -> int:
    if any(given for name, given in vars(arguments).items() if name not in WITH_RECORDED):
        raise ConfigError("--recorded takes the day's own prices and settings: leave out "
                          "everything but --profile, --dry-run, --config and --json")
    is_file = arguments.recorded.endswith(".jsonl")
    folder = None if is_file else _events_folder(arguments)
    outcome = rooms.recorded.replay_day(rooms.recorded.find_day(arguments.recorded, folder))
    return _answer(_json(rooms.recorded.values(outcome)) if arguments.json else
                   "\n".join(rooms.recorded.lines(outcome)), NO if outcome.difference else DONE)


def _asked(arguments: argparse.Namespace, command: str, **args: object) -> int:
    """Have the bot do it, or do it where it is dead; show what came of it."""
    if not arguments.reason.strip():
        raise ConfigError("the reason is empty: say what was checked, or why")
    if len(arguments.reason) > (most := rooms.mailbox.REASON_LENGTH_MAX):
        raise ConfigError(f"the reason is above {most} characters: shorten it")
    try:
        done = rooms.emergency.ask(_settings(arguments), command, args, arguments.kill)
    except KeyboardInterrupt:
        complain(f"interrupted: whether the {command} is obeyed is not known")
        return NOT_VERIFIED
    if done.exit_code and "\n" not in done.text and not arguments.json:
        complain(done.text)
        return done.exit_code
    row = {"exit_code": done.exit_code, "lines": done.text.split("\n")}
    return _answer(_json(row) if arguments.json else done.text, done.exit_code)


def report(arguments: argparse.Namespace) -> int:
    with _Progress() as progress:
        source, reading = rooms.report.opened(
            arguments, _span(arguments), _place(arguments), progress)
        said = rooms.report.report(arguments, source, reading)
    if not arguments.json and not said["written"]:
        return _answer("\n".join(rooms.report.text_lines(said)),
                       DONE if reading.is_whole else NOT_VERIFIED)
    return _exported(reading, _json(said) if arguments.json else "\n".join(
        f"written: {path}" for path in said["written"]))


def export(arguments: argparse.Namespace) -> int:
    with _Progress() as progress:
        _, reading = rooms.report.opened(arguments, _span(arguments), _place(arguments), progress)
        lines = rooms.report.export(arguments, reading)
    return _exported(reading, "\n".join(lines))


def _exported(reading, text: str) -> int:
    """What was written, and on stderr what it lacks."""
    for note in reading.notes:
        complain(note)
    return _answer(text, DONE if reading.is_whole else NOT_VERIFIED)


def _settings(arguments: argparse.Namespace):
    names = {row.name for row in rooms.settings.SETTINGS}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    return rooms.settings.resolve(flags, os.environ, arguments.config)


def _sight(folder: str):
    return rooms.sight.look(folder, rooms.wall.now())


def _events_folder(arguments: argparse.Namespace):
    """The events that a run with these settings would go on with."""
    settings = _settings(arguments)
    folder = rooms.settings.events_folder(rooms.settings.data_folder(settings), settings.profile,
                                          rooms.wiring.broker_kind(settings))
    rooms.reading.refuse_without(folder)
    return folder


def _count(flag: str, text: str, most: int = EVENTS_KEPT_MAX, unit: str = "") -> int:
    """How many; of events so many are kept at once, and what is older is what `export` is for."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(most))
    if not is_number or not 0 < int(text) <= most:
        raise ConfigError(f"{flag} {text[:20]}: must be a whole number from 1 to {most}{unit}")
    return int(text)


def _opened(arguments: argparse.Namespace) -> tuple:
    """The settings, their market without a key, and its time."""
    settings = _settings(arguments)
    market = rooms.wiring.market_of(settings)
    market.connect()
    return settings, market, rooms.wiring.clock_of(market).now()


def _recorded(arguments: argparse.Namespace, settings):
    if not arguments.files:
        raise ConfigError("name a FILE of prices, or --recorded DAY; see perps-bot replay --help")
    return rooms.market.RecordedMarket(
        arguments.files, settings.symbols, arguments.funding, _own_bar(settings),
        *_span(arguments), arguments.skip_bad_rows)


def _own_bar(settings) -> int | None:
    """The profile's bar is for a living market; candles bring their own."""
    return None if settings.sources["bar"].startswith("profile") else settings.bar


def _span(arguments: argparse.Namespace) -> tuple:
    """--from and --to."""
    # The parser keeps them under their flags' names, of which one is a keyword.
    begin, end = (rooms.ops.time_given(f"--{name}", vars(arguments)[name])
                  for name in ("from", "to"))
    if begin and end and begin >= end:
        raise ConfigError(f"--from {begin.isoformat()} is not before --to {end.isoformat()}")
    return begin, end


def _place(arguments: argparse.Namespace) -> tuple:
    """The profile's folder, whether paper was asked for, and the profile."""
    settings = _settings(arguments)
    is_paper = rooms.wiring.broker_kind(settings) != "coinbase"
    return _data_path(settings), is_paper, settings.profile


def _data_path(settings):
    from pathlib import Path

    return Path(rooms.settings.data_folder(settings))


def _answer(text: str, code: int = DONE, tell=answer) -> int:
    """Print a command's whole answer; one that nobody could read is not verified."""
    return code if tell(text) else NOT_VERIFIED


def _terminal():
    return rooms.terminal.terminal_of(sys.stdout, os.environ)


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
