"""The specification of `perps_bot/init.py`: the first hour begins with everything in its place."""

import hashlib
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from test_keys import EC_KEY, NAME, pem

from perps_bot import init
from perps_bot.cli import main
from perps_bot.settings import PROFILES, SETTINGS, resolve

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PERPS_", "COINBASE_", "EVENT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def fingerprint(folder="."):
    return {str(path): path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
            for path in Path(folder).rglob("*")}


def values(settings):
    return {row.name: getattr(settings, row.name) for row in SETTINGS}


# The config file


@pytest.mark.parametrize("profile", PROFILES)
def test_with_every_line_uncommented_the_file_says_the_defaults(profile, tmp_path):
    text = init.config_text(profile)
    assert tomllib.loads(text) == {}
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^#(\w+ = )", r"\1", text, flags=re.M))
    given = tomllib.loads(path.read_text(), parse_float=Decimal)
    plain = resolve({"profile": profile}, {}, None)
    assert values(resolve({"profile": profile}, {}, path)) == values(plain)
    unset = {row.name for row in SETTINGS if row.in_config and getattr(plain, row.name) is None}
    assert given.keys() | unset == {row.name for row in SETTINGS if row.in_config}


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.in_config],
                         ids=lambda row: row.name)
def test_each_setting_stands_there_with_help_range_unit_and_where_else_it_is_said(row):
    before, _, _ = init.config_text("prod").partition(f"\n#{row.name} = ")
    if row.default is None and row.name not in PROFILES["prod"]:
        before, _, _ = init.config_text("prod").partition(f"\n# {row.name}: not set")
    line = before.splitlines()[-1]
    assert line.startswith(f"# {row.help} (")
    is_switch = bool in row.kind.types
    for fact in ("true or false" if is_switch else row.kind.allowed, row.unit, row.flag, row.env):
        assert (fact or "") in line
    assert ("by profile" in line) is (row.name in PROFILES["prod"])


def test_nothing_that_is_secret_or_of_one_run_stands_in_it():
    text = init.config_text("prod")
    for row in SETTINGS:
        assert bool(re.search(rf"^# ?{row.name}\b( =|:)", text, re.M)) is row.in_config, row.name


def test_each_group_begins_at_a_setting_and_all_are_there_in_order():
    text = init.config_text("dev")
    heads = re.findall(r"\n\n\n# (.+)\n\n", text)
    assert heads == list(init.GROUPS.values())
    assert init.GROUPS.keys() <= {row.name for row in SETTINGS if row.in_config}


# The command


@pytest.mark.parametrize("profile", PROFILES)
def test_it_makes_the_file_and_the_folders_for_the_owner_alone(profile, capsys, monkeypatch):
    before = os.umask(0)
    try:
        assert main(["init", "--profile", profile]) == 0
    finally:
        os.umask(before)
    modes = {str(path): oct(stat.S_IMODE(path.stat().st_mode)) for path in Path().rglob("*")}
    assert modes == {"perps.toml": "0o600", "logs": "0o700", "data": "0o700",
                     "data/perps_bot": "0o700", f"data/perps_bot/{profile}": "0o700"}
    out = capsys.readouterr().out
    assert "written" in out and out.count("made, mode 0700") == 2
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    assert main(["--profile", profile, "--config", "perps.toml", "--dev-fast"]) == 0


def test_a_second_time_it_changes_nothing_and_says_so(capsys):
    main(["init"])
    before = fingerprint()
    capsys.readouterr()
    assert main(["init", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [words for _, words in told["made"]] == [
        "was there, and is kept as it is", "was there, mode 0700", "was there, mode 0700"]
    assert fingerprint() == before


def test_what_the_owner_changed_is_kept_and_is_what_counts(capsys):
    Path("perps.toml").write_text('event_store_root = "elsewhere"\n')
    assert main(["init"]) == 0
    assert Path("perps.toml").read_text() == 'event_store_root = "elsewhere"\n'
    assert Path("elsewhere/perps_bot/dev").is_dir() and not Path("data").exists()


@pytest.mark.parametrize("put, line, words", [
    (lambda: Path("perps.toml").write_text("nonsense"), "init", "not valid TOML"),
    (lambda: Path("perps.toml").write_text("bra = 3"), "init", "nearest is bar"),
    (lambda: Path("perps.toml").mkdir(), "init", "cannot be read (Is a directory)"),
    (lambda: Path("perps.toml").symlink_to("nowhere"), "init", "cannot be read (No such file"),
    (lambda: Path("plain").write_text(""), "init --dir plain", "plain: Not a directory: name ano"),
    (lambda: Path("data").write_text(""), "init", "choose another folder"),
    (lambda: None, "init --config no/where.toml", "no/where.toml: No such file or directory: name"),
    (lambda: None, "init --dir ''", "name another place with --dir"),
    (lambda: None, "init --profile test", "profile (flag --profile)"),
    (lambda: None, "init now", "unrecognized arguments"),
])
def test_what_cannot_be_used_is_refused_in_one_line_and_overwritten_by_nothing(
    put, line, words, capsys
):
    put()
    before = {path: text for path, text in fingerprint().items() if text}
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and len(err.splitlines()) == 1
    assert {path: text for path, text in fingerprint().items() if text} == before


def test_a_disk_that_takes_half_of_it_leaves_no_half_behind(capsys, monkeypatch):
    monkeypatch.setattr("perps_bot.store._write", lambda fd, data: os.write(fd, data[:99]))
    assert main(["init"]) == 2
    assert not Path("perps.toml").exists()


@pytest.mark.parametrize("profile, environ, words", [
    ("dev",  {}, ["PERPS_ALERT_WEBHOOK_URL  not set", "PERPS_HEARTBEAT_URL"]),
    ("prod", {}, ["key                      none: a dry run needs none", "COINBASE_API_KEY_FILE",
                  "COINBASE_ENABLE_DERIVATIVES=1", "network                  not asked"]),
    ("prod", {"COINBASE_API_KEY_FILE": "open.json"}, ["can be read by others; chmod 600"]),
    ("prod", {"COINBASE_API_KEY_FILE": "key.json"}, ["found, readable by its owner alone"]),
    ("demo", {"COINBASE_API_KEY": "half"}, ["COINBASE_API_SECRET is missing"]),
])
def test_it_says_what_is_missing(profile, environ, words, capsys, monkeypatch):
    for name, mode in (("open.json", 0o644), ("key.json", 0o600)):
        Path(name).write_text(json.dumps({"name": NAME, "privateKey": pem(EC_KEY)}))
        Path(name).chmod(mode)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["init", "--profile", profile]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert [word for word in words if " ".join(word.split()) not in out] == []
    assert "PRIVATE KEY" not in out


@pytest.mark.parametrize("name", ["bots", "my bots"])
def test_the_next_commands_work_as_they_are_printed(name, tmp_path, capsys):
    assert main(["init", "--dir", name]) == 0
    go, *then = [line.strip() for line in capsys.readouterr().out.partition("next:")[2].splitlines()
                 if line]
    assert go == f"cd {shlex.quote(name)}" and len(then) == 3
    program = f"{shlex.quote(str(ROOT))}/bin/perps-bot "
    assert all(line.startswith(program) for line in then)
    python = f"{shlex.quote(sys.executable)} -P -m perps_bot "
    lines = " && ".join([go, *(line.replace(program, python, 1) for line in then)])
    run = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=False,
                         env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "7 of 7 passed" in run.stdout and "one cycle done" in run.stdout


def test_the_launcher_is_named_as_it_is_typed_there(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert init.program() == "bin/perps-bot"
    monkeypatch.setattr(init, "__file__", str(tmp_path / "site-packages/perps_bot/init.py"))
    monkeypatch.setattr(init.shutil, "which", {"perps-bot": "/usr/bin/perps-bot"}.get)
    assert init.program() == "perps-bot"
    monkeypatch.setattr(init.shutil, "which", lambda name: None)
    assert init.program() == f"{shlex.quote(sys.executable)} -m perps_bot"
