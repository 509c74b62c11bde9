"""Init: what does an owner need before the first start?

Writes a config file in which every setting stands with its default, commented out, and makes the
folders; then says what is still missing and what to run next.  Nothing that is there is changed,
no secret is written down, and nobody is asked over the network: that is what `check` is for.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from perps_bot.errors import ConfigError
from perps_bot.rooms import rooms
from perps_bot.settings import PROFILES, SETTINGS, Setting, Settings, data_folder, resolve
from perps_bot.store import prepare_folder, write_new
from perps_bot.terminal import Terminal

GROUPS = {
    # first setting     heading
    "symbols":          "What to run",
    "order_type":       "Orders",
    "short_ma_period":  "Strategy",
    "target_leverage":  "Limits",
    "seed":             "Paper and replay",
    "event_store_root": "Surroundings",
}
HEAD = """\
# Settings of perps-bot, profile {profile}; used with --config FILE.
#
# Every setting stands here with its default, commented out: take the # away to change one.
# A flag or an environment variable of the same setting wins over this file.  What is misspelt
# or out of its range refuses the start.  Keys, secrets and webhooks do not belong here: they
# come from the environment or from a file of mode 0600.
"""


@dataclass(frozen=True)
class Start:
    """What is there now.

    made     what was made, and what was there already: name and words
    missing  what orders, alerts or a live price still need: name and the way out
    then     the next commands
    """

    made: tuple[tuple[str, str], ...]
    missing: tuple[tuple[str, str], ...]
    then: tuple[str, ...]

    def text(self, terminal: Terminal) -> str:
        said = terminal.rows([*self.made, *self.missing])
        # Never wrapped: they are to be copied.
        return "\n".join((*said, "", terminal.heading("next:"), *(f"  {t}" for t in self.then)))


def begin(flags: Mapping[str, object], environ: Mapping[str, str], config: str, folder: str
          ) -> Start:
    """Make in `folder` what is not there.  Raises ConfigError, and then overwrites nothing."""
    here = os.getcwd()
    if not os.path.lexists(folder):
        prepare_folder(folder)
    try:
        with chdir(folder):
            is_new = not os.path.lexists(config)
            settings = resolve(flags, environ, None if is_new else config)
            made = [_made(path) for path in (Path(data_folder(settings)), settings.log_dir)]
            if is_new:
                write_new(config, config_text(settings.profile))
            words = ("written: every setting, commented out" if is_new else
                     "was there, and is kept as it is")
            then = commands(settings.profile, config, () if os.getcwd() == here else (folder,))
            return Start(((config, words), *made), tuple(missing(settings, environ)), tuple(then))
    except OSError as error:
        raise ConfigError(f"{error.filename or folder}: {error.strerror}: name another place with "
                          f"--dir or --config") from error


def config_text(profile: str) -> str:
    """The config file of a profile: the table, with what a person needs to change a row."""
    parts = [HEAD.format(profile=profile)]
    for row in SETTINGS:
        if row.in_config:
            if row.name in GROUPS:
                parts.append(f"\n\n# {GROUPS[row.name]}\n")
            parts.append("\n" + "".join(f"{line}\n" for line in _lines(row, profile)))
    return "".join(parts)


def missing(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is still needed, and the way to it."""
    is_paper = settings.profile == "dev" or settings.force_mock
    if not is_paper:
        yield "key", _key_trouble(settings, environ) or "found, readable by its owner alone"
        if not settings.enable_derivatives:
            yield "futures", "not allowed: orders need COINBASE_ENABLE_DERIVATIVES=1"
        yield "network", "not asked: check does"
    for name, url, what in (
        ("PERPS_ALERT_WEBHOOK_URL", settings.alert_webhook_url, "alerts reach only the log"),
        ("PERPS_HEARTBEAT_URL", settings.heartbeat_url, "nobody notices when it is dead"),
    ):
        if url is None:
            yield name, f"not set: {what}"


def commands(profile: str, config: str, folders: Iterable[str]) -> Iterator[str]:
    """The next commands, as they can be typed where `init` was; `folders`: where to go first."""
    yield from (f"cd {shlex.quote(folder)}" for folder in folders)
    given = f"--profile {profile} --config {shlex.quote(config)}"
    run = "--dev-fast" if profile == "dev" else "--dry-run"
    yield f"{program()} check {given}{' --dry-run' if profile != 'dev' else ''}"
    yield f"{program()} drill {given}"
    yield f"{program()} {given} {run}"


def program() -> str:
    """How this program is started from here: by its checkout's launcher, its name or its Python."""
    launcher, here = Path(__file__).resolve().parents[1] / "bin/perps-bot", Path.cwd()
    if not launcher.is_file():
        module = f"{shlex.quote(sys.executable)} -m perps_bot"
        return "perps-bot" if shutil.which("perps-bot") else module
    is_below = launcher.is_relative_to(here)
    return shlex.quote(str(launcher.relative_to(here) if is_below else launcher))


def _made(path: Path) -> tuple[str, str]:
    was_there = path.is_dir()
    prepare_folder(path)
    return str(path), "was there, mode 0700" if was_there else "made, mode 0700"


def _lines(row: Setting, profile: str) -> Iterator[str]:
    facts = [row.kind.allowed if bool not in row.kind.types else "true or false"]
    facts += [row.unit] * bool(row.unit) + [place for place in (row.flag, row.env) if place]
    default = PROFILES[profile].get(row.name, row.default)
    if row.name in PROFILES[profile]:
        facts.append("by profile")
    yield f"# {row.help} ({'; '.join(facts)})"
    yield f"#{row.name} = {_toml(row, default)}" if default is not None else (
        f"# {row.name}: not set")


def _toml(row: Setting, value: object) -> str:
    """`value` as the config file has it; what the table holds as text may be a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return f'"{value}"' if str in row.kind.types else str(value)


def _key_trouble(settings: Settings, environ: Mapping[str, str]) -> str:
    try:
        if rooms.keys.load_credentials(settings, environ):
            return ""
    except ConfigError as trouble:
        return str(trouble)
    return ("none: a dry run needs none; for orders set COINBASE_API_KEY_FILE to the JSON file of "
            "Coinbase, mode 0600")
