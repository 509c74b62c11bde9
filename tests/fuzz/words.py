"""Words: what may an owner, a shell or an editor have written?

Settings by flag, environment and file; whole command lines.  What comes of them is a value within
its range, or one line that repeats no refused value: it may be a secret in the wrong place.
"""

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from enum import Enum
from pathlib import Path
from unittest.mock import patch

from perps_bot import cli, commands
from perps_bot.errors import ConfigError
from perps_bot.secret import Secret
from perps_bot.settings import PROFILES, SETTINGS, described, resolve

from . import files, mutate
from .judge import require, sound_error, sound_text

CANARY = "canary-7Q4Z"
RANGE = re.compile(r"(?:from|above) ([0-9.]+),? (?:up )?to ([0-9.]+)")
FLAGGED = [row for row in SETTINGS if row.flag]
NAMED = [row for row in SETTINGS if row.env]
KEYED = [row for row in SETTINGS if row.in_config]
VALUES = (
    "1e9", "inf", "-1", "０", " ", "true", "false", "1", "0", "", "dev", "demo", "prod",
    "DEV", "5",
    "20", "BTC-PERP", "ETH-PERP", "btc-perp", "../../x", "a/b", ".", "~", "/x/y", "market", "GTC",
    "https://api.coinbase.com", "https://evil.invalid", "http://127.0.0.1:1", "http://[::1]:5",
    "wss://advanced-trade-ws.coinbase.com", "https://user:pass@x.invalid/",
    "http://127.0.0.1:99999",
    "https://api.coinbase.com/", "https://api.coinbase.com@evil.invalid", "DEBUG", "0.01", "0.0100",
    f"{CANARY}-in-the-wrong-place", "1" * 16, "0." + "1" * 13, "00001", "-0", "1.", ".5", "１",
)
TOML_VALUES = (
    "1", "-1", "0.01", "1e5", "inf", "-inf", "nan", "1e400", "1e-400", "0x10", "0b1",
    "1_000", "true",
    "false", '"dev"', '"x"', '["BTC-PERP"]', "[]", "[1]", '[["a"]]', "{a=1}", "2025-05-01",
    "2025-05-01T12:00:00Z", "12:00:00", '"""a\nb"""', "'''x'''", '"\\u0000"', '"\\ud800"',
    "9" * 5000,
    "1e99999999999999999999", "-0.0", '"' + "a" * 2000 + '"', f'"{CANARY}"', "[" * 2000, "1.5.5",
)


def _value(dice):
    if dice.random() < 0.6:
        return dice.choice(VALUES)
    return dice.choice((mutate.number, mutate.text, mutate.time))(dice)


# Settings


def make_settings(dice):
    """Flags, environment and a config file, as `resolve` gets them."""
    flags, environ, config = {}, {}, None
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        row = dice.choice(FLAGGED)
        flags[row.name] = _flag_value(dice, row)
    for _ in range(dice.choice((0, 1, 1, 2, 4))):
        row = dice.choice(NAMED)
        name = row.env if dice.random() < 0.95 else mutate.like(dice, row.env)[:300]
        environ[name] = _value(dice)
    if dice.random() < 0.7:
        config = _config(dice)
    return flags, environ, config


def _flag_value(dice, row):
    if bool in row.kind.types:
        return True
    if list in row.kind.types:
        return [_value(dice) for _ in range(dice.randint(1, 3))]
    return _value(dice)


def _config(dice):
    lines = []
    for _ in range(dice.choice((0, 1, 2, 4))):
        row = dice.choice(KEYED if dice.random() < 0.95 else SETTINGS)
        value = dice.choice(TOML_VALUES)
        if dice.random() < 0.4 and row.default is not None:
            value = str(row.default) if not isinstance(row.default, str) else f'"{row.default}"'
        lines.append(f"{row.name} = {value}")
    if dice.random() < 0.1:
        lines.insert(0, dice.choice(("[table]", "[[a]]", "# x", "a.b.c = 1", "\ufeff", "=",
                                     "a", "[a")))
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    return mutate.spoiled(dice, data) if dice.random() < 0.4 else data


def check_settings(given):
    flags, environ, config = given
    path = None
    if config is not None:
        path = files.folder() / "perps-bot.toml"
        path.write_bytes(config)
    try:
        settings = resolve(flags, environ, path)
    except ConfigError as error:
        sound_error(error)
        require(CANARY not in str(error), "a refused value in a message")
        return
    for row in SETTINGS:
        _check_value(row, getattr(settings, row.name), settings)
    for name, value, unit, source in described(settings):
        for each in (name, unit, source):
            sound_text(each, name)
        sound_text(value.replace("\\n", ""), name)


def _check_value(row, value, settings):
    """Within the range that people are told."""
    if value is None:
        return
    if found := RANGE.search(row.kind.allowed):
        low, high = map(Decimal, found.groups())
        require(isinstance(value, int | Decimal) and not isinstance(value, bool),
                f"{row.name} is {value!r}")
        require(Decimal(value).is_finite() and low <= value <= high, f"{row.name} is {value}")
        require("above" not in row.kind.allowed or value > low, f"{row.name} is {value}")
    elif row.name == "profile":
        require(value in PROFILES, f"a profile {value!a:.80}")
    elif isinstance(value, Path):
        require("\x00" not in str(value) and str(value).isprintable(), f"{row.name} is {value!a}")
    elif isinstance(value, tuple):
        require(all(re.fullmatch("[A-Z0-9-]{1,80}", each) for each in value),
                f"{row.name} is {value!a:.80}")
    else:
        require(isinstance(value, bool | Enum | str | Secret), f"{row.name} is {value!a:.80}")
    allowed = PROFILES[settings.profile]["max_leverage"]
    require(settings.max_leverage <= allowed, "more leverage than the profile allows")


# Command lines

WORDS = ("--json", "--help", "-h", "--version", "--reason", "--clear-daily-loss", "--config",
         "--from", "--to", "--events", "--trades", "--skip-bad-rows", "--send-test-alert", "--",
         "-", "--dev-fast=1", "--dev", "--prof", "BTC-PERP", "e2e", "client", "2025-05-01", "x.csv")
COMMAND = tuple(cli.COMMANDS)
EXIT_CODES = {0, 1, 2, 3, 75}


def make_argv(dice):
    argv = [dice.choice(COMMAND)] if dice.random() < 0.85 else []
    for _ in range(dice.choice((0, 1, 2, 3, 6))):
        row, roll = dice.choice(FLAGGED), dice.random()
        if roll < 0.55:
            argv.append(row.flag)
            if bool not in row.kind.types:
                argv.append(_value(dice))
        elif roll < 0.65:
            argv.append(f"{row.flag}={_value(dice)}")
        elif roll < 0.85:
            argv.append(dice.choice(WORDS))
        else:
            argv.append(_value(dice))
    environ = {dice.choice(NAMED).env: _value(dice)} if dice.random() < 0.2 else {}
    return [each for each in argv if "\x00" not in each], environ


def _resolved(arguments):
    """In the place of every command: its settings, and no more."""
    commands._settings(arguments)
    return commands.DONE


def check_argv(given):
    """One of our exit codes, one line on stderr at most, and nothing done."""
    argv, environ = given
    harmless = {name: row._replace(run=_resolved)
                for name, row in cli.COMMANDS.items()}
    out, err = io.StringIO(), io.StringIO()
    with patch.object(cli, "COMMANDS", harmless), patch.object(os, "environ", environ):
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.main(argv)
    require(code in EXIT_CODES, f"the exit code {code!r}")
    said = err.getvalue()
    require(not said or said.endswith("\n"), "half a line")
    for line in said.splitlines():
        sound_text(line, "a line on stderr")
    require(len(said.splitlines()) == (0 if code == 0 else 1), f"{code} with {said!a:.200}")
    require(code != 0 or "Traceback" not in out.getvalue(), "a traceback")
