"""What systemd hears: from real processes, over a real NOTIFY_SOCKET.

The unit's own command line is run under its own environment, in a folder that stands for /.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from decimal import Decimal
from pathlib import Path

import pytest
from helpers import Rig

from perps_bot import rest, shutdown
from perps_bot.cli import COMMANDS
from perps_bot.service import STATUS_LENGTH_MAX, TICK_SECONDS_MAX, Service, watchdog_seconds

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "systemd"
PATIENCE_SECONDS = 60


class Manager:
    """What stands at the other end of NOTIFY_SOCKET."""

    def __init__(self, address):
        self.address, self.heard = address, []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))

    def listen(self, seconds=0.0):
        """Take what has come, waiting for the first of it."""
        self._socket.settimeout(seconds or 0.001)
        try:
            while True:
                message = self._socket.recv(4096).decode()
                self.heard.append(dict(line.split("=", 1) for line in message.split("\n")))
                self._socket.settimeout(0.001)
        except TimeoutError:
            return self.heard

    def wait_for(self, condition, process):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(self.listen(0.1)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, self.heard

    def pings(self):
        return sum("WATCHDOG" in each for each in self.listen())


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = f"@perps-bot-test-{os.getpid()}-{time.monotonic_ns()}"
    return Manager(name if request.param == "abstract" else str(tmp_path / "notify"))


@pytest.fixture
def one_manager(tmp_path):
    return Manager(str(tmp_path / "notify"))


def test_the_first_tick_makes_it_ready_and_every_later_one_is_a_ping(manager):
    service = Service(manager.address, Decimal(5))
    assert manager.listen() == []
    for n in range(3):
        service.tick_ended(f"TRADING\n{n} \x1b")
    service.stopping("SIGTERM")
    assert manager.listen() == [
        {"READY": "1", "WATCHDOG_USEC": "195000000", "STATUS": "TRADING\\n0 \\x1b"},
        {"WATCHDOG": "1", "STATUS": "TRADING\\n1 \\x1b"},
        {"WATCHDOG": "1", "STATUS": "TRADING\\n2 \\x1b"},
        {"STOPPING": "1", "WATCHDOG": "1", "STATUS": "SIGTERM"}]


@pytest.mark.parametrize("interval, seconds", [("1", 183), ("5", 195), ("3600", 10980)])
def test_the_watchdog_waits_for_three_ticks_of_any_length(interval, seconds):
    assert watchdog_seconds(Decimal(interval)) == seconds
    assert TICK_SECONDS_MAX >= 5 * rest.READ_SECONDS_MAX


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@" + "x" * 200, "x\0y", "@nobody"])
def test_where_nobody_listens_nothing_happens(address):
    Service(address, Decimal(5)).tick_ended("TRADING")
    Service(address, Decimal(5)).stopping("SIGTERM")


def test_a_manager_that_takes_nothing_holds_up_nobody_and_hears_that_it_is_ready_later(one_manager):
    service = Service(one_manager.address, Decimal(5))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"A=1", one_manager.address)
    service.tick_ended("lost")
    one_manager.listen()
    one_manager.heard.clear()
    service.tick_ended("TRADING " * 100)
    (ready,) = one_manager.listen()
    assert ready["READY"] == "1" and len(ready["STATUS"]) == STATUS_LENGTH_MAX


def test_a_tick_that_fails_is_over_and_a_bug_is_not(one_manager, tmp_path):
    rig = Rig(folder=tmp_path)
    rig.bot.service = Service(one_manager.address, Decimal(5))
    rig.venue.down.add("marks")
    assert rig.run(cycles=2) == 1
    ready, ping = one_manager.listen()
    assert "VenueUnavailable" in ready["STATUS"] and ready["READY"] == "1" and "WATCHDOG" in ping
    rig.venue.marks = None  # and calling that is a bug
    with pytest.raises(TypeError):
        rig.run()
    assert len(one_manager.listen()) == 2


# Real processes


LAUNCHER = """
import os, sys, time
from perps_bot import loop
from perps_bot.cli import main
tick = loop.tick

def hanging(bot, now):
    tick(bot, now)
    while os.path.exists("hang"):
        open("hung", "w").close()
        time.sleep(0.05)

loop.tick = hanging
sys.exit(main(sys.argv[1:]))
"""


def begun(program, manager, folder, **environ):
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("PERPS_", "COINBASE_", "EVENT_STORE", "LOG_LEVEL"))}
    return subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, env={**kept, "PYTHONPATH": str(ROOT),
                                            "NOTIFY_SOCKET": manager.address, **environ})


def ended(process, number=signal.SIGTERM):
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out


def test_a_tick_that_hangs_is_not_pinged_for_and_one_that_goes_on_is(one_manager, tmp_path):
    bot = begun([sys.executable, "-c", LAUNCHER, "--profile", "dev", "--interval", "1"],
                one_manager, tmp_path)
    try:
        one_manager.wait_for(lambda heard: one_manager.pings() >= 2, bot)
        (tmp_path / "hang").touch()
        one_manager.wait_for(lambda heard: (tmp_path / "hung").exists(), bot)
        before = one_manager.pings()  # all that were sent: the next one is this tick's
        assert one_manager.listen(3) and one_manager.pings() == before
        (tmp_path / "hang").unlink()
        one_manager.wait_for(lambda heard: one_manager.pings() > before, bot)
        assert ended(bot)[0] == 0
    finally:
        bot.kill()
    assert "STOPPING" in one_manager.listen()[-1]


def test_an_outage_from_the_start_is_ready_and_lives(one_manager, tmp_path):
    with socket.socket() as nobody:  # bound and never listening: every connect is refused
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        bot = begun([sys.executable, "-m", "perps_bot", "--profile", "demo", "--dry-run",
                     "--interval", "1"], one_manager, tmp_path,
                    COINBASE_API_URL=f"http://127.0.0.1:{port}",
                    COINBASE_WS_URL=f"ws://127.0.0.1:{port}",
                    COINBASE_WS_USER_URL=f"ws://127.0.0.1:{port}")
        try:
            one_manager.wait_for(lambda heard: one_manager.pings() >= 2, bot)
            assert "READY" in one_manager.heard[0]
            assert "VenueUnavailable" in one_manager.heard[-1]["STATUS"]
        finally:
            code, out = ended(bot)
    assert "Traceback" not in out and code in (0, 3)


def test_what_refuses_a_start_refuses_it_before_it_is_ready(one_manager, tmp_path):
    bot = begun([sys.executable, "-m", "perps_bot", "--profile", "prod"], one_manager, tmp_path)
    assert bot.wait(PATIENCE_SECONDS) == 2
    assert one_manager.listen() == []
    bot.communicate()


# The units


def unit(name="perps-bot@.service"):
    """The settings of a unit, by name; of those that repeat, a list in order."""
    found = {}
    for line in (UNITS / name).read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def as_systemd_has_it(name, profile, root):
    """The command line and the environment of an instance, with `root` in the place of /."""
    def filled(text):
        return re.sub(r"(?<![\w.])/(?=opt|var|etc)", f"{root}/", text.replace("%i", profile))
    said = unit(name)
    environ = dict(word.split("=", 1) for line in said.get("Environment", ())
                   for word in shlex.split(filled(line)))
    return shlex.split(filled(said["ExecStart"][0])), environ


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that stands for /, with the program where the units expect it."""
    root = tmp_path_factory.mktemp("root")
    place = root / "opt" / "perps-bot"
    for folder in ("bin", "perps_bot"):
        shutil.copytree(ROOT / folder, place / folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)
    for folder in (place, place / ".venv"):
        shutil.copy(ROOT / "requirements.lock", folder)
    (site,) = place.glob(".venv/lib/python3*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("lib", "backups"):
        (root / "var" / name / "perps-bot").mkdir(0o700, parents=True)
    return root


def test_the_unit_starts_what_it_says_is_ready_and_stops_well_and_can_be_backed_up(
        installed, one_manager):
    command, environ = as_systemd_has_it("perps-bot@.service", "dev", installed)
    bot = begun(command, one_manager, installed / "opt/perps-bot", **environ)
    try:
        one_manager.wait_for(lambda heard: any("READY" in each for each in heard), bot)
        for name in ("perps-bot-backup@.service", "perps-bot-health@.service"):
            command, environ = as_systemd_has_it(name, "dev", installed)
            if command[1] not in COMMANDS:
                continue
            done = subprocess.run(command, env={"PATH": os.environ["PATH"], **environ}, text=True,
                                  capture_output=True, cwd="/", check=False)
            assert done.returncode == 0, done
        code, out = ended(bot)
    finally:
        bot.kill()
    assert code == 0, out
    assert (installed / "var/lib/perps-bot/perps_bot/dev/events").is_dir()
    assert (installed / "var/lib/perps-bot/logs-dev/perps_bot.log").is_file()
    assert len(list((installed / "var/backups/perps-bot").glob("perps-bot-dev-*"))) == 1


def test_the_times_of_the_unit_are_beyond_those_of_the_program():
    said = unit()
    seconds = {name: int(said[name][0]) for name in ("TimeoutStopSec", "TimeoutStartSec")}
    # The last look begins just in time, cancels, and then reads and sends in turn.
    last_look = rest.CANCEL_SECONDS_MAX + 6 * rest.READ_SECONDS_MAX
    assert seconds["TimeoutStopSec"] >= shutdown.STOP_FOR.total_seconds() + last_look
    assert seconds["TimeoutStartSec"] >= watchdog_seconds(Decimal(5))
    assert said["WatchdogSec"] == [str(watchdog_seconds(Decimal(5)))]
    assert said["Type"] == ["notify"] and said["NotifyAccess"] == ["main"]
    assert said["Restart"] == ["on-failure"] and said["RestartPreventExitStatus"] == ["2 75"]


def test_what_shuts_in_the_bot_shuts_in_its_companions_too():
    kept = {name: value for name, value in unit().items()
            if name.startswith(("Protect", "Private", "Restrict", "System", "Memory", "Lock",
                                "Remove", "Device", "Key", "NoNew", "Cap", "UMask", "Limit"))
            and name != "RestrictAddressFamilies"}
    for name in ("perps-bot-backup@.service", "perps-bot-health@.service"):
        said = unit(name)
        assert {each: said.get(each) for each in kept} == kept
        assert said["PrivateNetwork"] == ["yes"] and "LoadCredential" not in said
        assert said["User"] == unit()["User"] and said["Type"] == ["oneshot"]


# The installation, into a folder that stands for /


def install(*arguments, **more):
    return subprocess.run(["sh", UNITS / "install.sh", *arguments], capture_output=True, text=True,
                          check=False, **more)


def tree(folder):
    return {str(path.relative_to(folder)): (oct(path.stat().st_mode & 0o777),
                                            path.is_file() and path.read_bytes())
            for path in Path(folder).rglob("*")}


def test_what_is_installed_is_all_that_the_units_name_and_again_changes_nothing(tmp_path):
    done = install("--root", tmp_path)
    assert done.returncode == 0, done.stderr
    first = tree(tmp_path)
    for profile in ("dev", "demo", "prod"):
        assert first[f"etc/perps-bot/{profile}.env"][0] == "0o640"
    for name, mode in (("etc/perps-bot", "0o750"), ("var/lib/perps-bot", "0o700"),
                       ("var/backups/perps-bot", "0o700"), ("opt/perps-bot/perps_bot", "0o755"),
                       ("usr/local/bin/perps-bot", "0o755"),
                       ("opt/perps-bot/bin/perps-bot", "0o755")):
        assert first[name][0] == mode, name
    units = {path.name for path in UNITS.glob("*@.*")}
    assert {path.name for path in (tmp_path / "etc/systemd/system").iterdir()} == units
    assert "__pycache__" not in " ".join(first) and len(units) == 5
    for name in units:
        assert first[f"etc/systemd/system/{name}"][1] == (UNITS / name).read_bytes()
    assert "COINBASE_ENABLE_DERIVATIVES=1" not in [
        line for line in (tmp_path / "etc/perps-bot/prod.env").read_text().splitlines()
        if not line.startswith("#")]

    (tmp_path / "etc/perps-bot/prod.env").write_text("COINBASE_ENABLE_DERIVATIVES=1\n")
    (tmp_path / "etc/perps-bot/coinbase_api_key.json").write_text("the key")
    (tmp_path / "opt/perps-bot/perps_bot/gone.py").write_text("")
    kept = {**first, **tree(tmp_path)}
    del kept["opt/perps-bot/perps_bot/gone.py"]
    again = install("--root", tmp_path)
    assert again.returncode == 0 and "prod.env is kept as it is" in again.stdout
    assert tree(tmp_path) == kept


def test_a_dry_run_prints_each_step_and_does_none(tmp_path):
    done = install("--dry-run", "--root", tmp_path)
    assert done.returncode == 0 and list(tmp_path.iterdir()) == []
    real = install("--root", tmp_path)
    assert done.stdout == real.stdout
    on_the_machine = install("--dry-run").stdout
    for step in ("useradd --system", "-m 0700 -o perps-bot -g perps-bot /var/lib/perps-bot",
                 "-m 0750 -o root -g perps-bot /etc/perps-bot", "systemctl daemon-reload",
                 "/opt/perps-bot/bin/perps-bot --version"):
        assert step in on_the_machine or step.startswith("useradd")
    assert "systemctl enable" not in on_the_machine.split("Installed")[0], "it starts nothing"


@pytest.mark.parametrize("arguments, words", [
    (["--rot"], "--rot is not known; there are --dry-run and --root DIR"),
    (["--root"], "--root needs a folder that exists"),
    (["--root", "/nowhere"], "--root needs a folder that exists"),
])
def test_a_wrong_argument_is_refused_in_one_line(arguments, words):
    done = install(*arguments)
    assert (done.returncode, done.stdout) == (2, "") and words in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="it asks sudo for root")
@pytest.mark.parametrize("words, profile", [
    ("status --profile prod --json", "prod"), ("check --profile=prod", "prod"),
    ("--profile dev", "dev"), ("tail", "dev"), ("x --profile ../../prod", "dev"),
])
def test_the_owners_command_has_what_the_service_has(words, profile, tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "prod.env").write_text("# a remark\nLOG_LEVEL=DEBUG\nPERPS_HEARTBEAT_URL=https://x/?a&b"
                                  "$(touch planted)\n\nbad line\nA-B=1\nPYTHON=x\n")
    text = (UNITS / "perps-bot.sh").read_text().replace("/etc/perps-bot", str(etc))
    text = re.sub(r"/usr/bin/setpriv .*\\\n.*perps-bot", "env echo", text)
    shows = 'sh -c \'echo "$@"; env\' sh "$@"'
    (tmp_path / "perps-bot").write_text(text.replace('echo "$@"', shows))
    done = subprocess.run(["sh", tmp_path / "perps-bot", *words.split()], text=True, cwd=tmp_path,
                          capture_output=True, check=True, env={"PATH": os.environ["PATH"]})
    first, *environ = done.stdout.splitlines()
    assert first == words and not (tmp_path / "planted").exists()
    assert f"PERPS_LOG_DIR=/var/lib/perps-bot/logs-{profile}" in environ
    assert ("LOG_LEVEL=DEBUG" in environ) is (profile == "prod")
    assert ("PERPS_HEARTBEAT_URL=https://x/?a&b$(touch planted)" in environ) is (profile == "prod")
