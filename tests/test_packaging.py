"""The launchers and the locks: the first start installs exactly what is pinned, later ones nothing.

No test touches a network: the checkouts here pin one tiny wheel that lies beside them.
"""

import configparser
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ["requirements.lock", "requirements-test.lock"]
TOOLS = ["sh", "cmp", "cp", "mv", "rm", "find", "dirname", "readlink"]
PATIENCE_SECONDS = 300

PROGRAM = """
import json, os, sys, tiny
print(json.dumps([sys.argv[1:], os.getcwd(), sys.stdin.read(), sys.path, __debug__]))
"""


# The scripts


@pytest.mark.parametrize("script", [
    "bin/perps-bot", "bin/test", "bin/venv.sh", ".ci/run", "systemd/install.sh",
    "systemd/perps-bot.sh"])
@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_a_script_parses(shell, script):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", ROOT / script], check=True)


@pytest.mark.parametrize("script", ["bin/perps-bot", "bin/test", ".ci/run", "systemd/install.sh"])
def test_a_script_may_be_run(script):
    assert os.access(ROOT / script, os.X_OK)


# The locks


def pinned(*locks):
    """Return {name: (version, number of hashes)} of the locks' lines, which have no other form."""
    pins = {}
    for lock in locks:
        text = (ROOT / lock).read_text("utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if not line.startswith("#"):
                found = re.fullmatch(r"([a-z0-9-]+)==([0-9.]+)((?: +--hash=sha256:[0-9a-f]{64})*)",
                                     line.rstrip())
                assert found, line
                assert found[1] not in pins, f"{found[1]} is pinned twice"
                pins[found[1]] = found[2], found[3].count("--hash")
    return pins


def test_every_pin_has_hashes():
    assert [name for name, (_, hashes) in pinned(*LOCKS).items() if not hashes] == []


@pytest.mark.parametrize("section, option, locks", [
    ("options",                "install_requires", LOCKS[:1]),
    ("options.extras_require", "test",             LOCKS),
    ("options.extras_require", "report",           LOCKS),
])
def test_the_locks_pin_what_setup_cfg_asks_for(section, option, locks):
    config, pins = configparser.ConfigParser(), pinned(*locks)
    config.read(ROOT / "setup.cfg")
    for line in config[section][option].split("\n"):
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            assert pins[wanted.name.lower()][0] in wanted.specifier


def test_what_stands_beside_the_rooms_is_installed_with_them():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    beside = {path.name for path in (ROOT / "perps_bot").iterdir()
              if path.is_file() and path.suffix != ".py"}
    assert beside == set(config["options.package_data"]["perps_bot"].split())


def test_who_runs_the_bot_installs_no_charts():
    assert not {"plotly", "narwhals"} & pinned(LOCKS[0]).keys()


def test_every_pin_has_its_row_in_the_dependencies():
    rows = (ROOT / "docs" / "DEPENDENCIES.md").read_text("utf-8").lower()
    assert [(name, version) for name, (version, _) in pinned(*LOCKS).items()
            if name not in rows or version not in rows] == []


# The first start, and the second


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with one wheel, `tiny 1.0`."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA",
                       "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL",
                       "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def checkout(tmp_path, wheels):
    """A checkout with our launcher, a program that says what it sees, and the lock of `tiny`."""
    return a_checkout(tmp_path / "a checkout", wheels)


@pytest.fixture(scope="module")
def started(tmp_path_factory, wheels):
    """A checkout whose first start is over, and what that start said."""
    made = a_checkout(tmp_path_factory.mktemp("started") / "bot", wheels)
    return made, start(made, wheels)


def a_checkout(place, wheels):
    (place / "perps_bot").mkdir(parents=True)
    shutil.copytree(ROOT / "bin", place / "bin")
    (place / "perps_bot" / "__main__.py").write_text(PROGRAM)
    digest = hashlib.sha256(next(wheels.iterdir()).read_bytes()).hexdigest()
    (place / "requirements.lock").write_text(f"tiny==1.0 --hash=sha256:{digest}\n")
    return place


def start(place, wheels=None, *arguments, program="bin/perps-bot", **changes):
    """Start the bot in `place`; without `wheels`, where no package can be had."""
    return subprocess.run([place / program, *arguments], env=environment(wheels, **changes),
                          input="typed", capture_output=True, text=True,
                          timeout=PATIENCE_SECONDS, check=False)


def environment(wheels, **changes):
    source = {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1"} if wheels else {
        "PIP_INDEX_URL": "https://nowhere.invalid/", "PIP_RETRIES": "0"}
    return {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull,
            **source, **changes}


def seen(run):
    """Return the program's own account: arguments, folder, standard input, sys.path, assertions."""
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def changed_byte(wheel):
    body = bytearray(wheel.read_bytes())
    body[len(body) // 2] ^= 1
    wheel.write_bytes(body)


def more_inside(wheel):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("sitecustomize.py", "raise SystemExit('taken over')")


def of_another_build(wheel):
    wheel.rename(wheel.with_name("tiny-1.0-1-py3-none-any.whl"))
    more_inside(wheel.with_name("tiny-1.0-1-py3-none-any.whl"))


def newer(wheel):
    wheel.rename(wheel.with_name("tiny-1.1-py3-none-any.whl"))


def sources_only(wheel):
    wheel.unlink()
    wheel.with_name("tiny-1.0.tar.gz").write_bytes(b"setup.py would be run by whoever installs it")


def wants_more(wheel):
    """The same pin, made anew by its owner, with a dependency that no lock names."""
    kept = {}
    with zipfile.ZipFile(wheel) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    kept["tiny-1.0.dist-info/METADATA"] += b"Requires-Dist: stranger\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, body in kept.items():
            archive.writestr(name, body)
    stranger = wheel.with_name("stranger-1.0-py3-none-any.whl")
    with zipfile.ZipFile(stranger, "w") as archive:
        archive.writestr("stranger.py", "")
        for name in ("METADATA", "WHEEL", "RECORD"):
            archive.writestr(f"stranger-1.0.dist-info/{name}", kept[
                f"tiny-1.0.dist-info/{name}"].replace(b"tiny", b"stranger"))


def installs(lock, served, into):
    """Install as bin/venv.sh does, from a folder; None, or what pip said."""
    flags = re.search(r'-m pip install (.+?) "\$@"', (ROOT / "bin/venv.sh").read_text(), re.S)
    (into / "lock").write_text(lock)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags[1].replace("\\\n", " ").split(), "--target",
         into / "site", "-r", into / "lock"], env=environment(served), text=True,
        capture_output=True, timeout=PATIENCE_SECONDS, check=False)
    return done.stderr if done.returncode else None


def locked(wheel):
    return f"tiny==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("tamper, words", [
    (lambda wheel: None, None),
    (changed_byte,       "DO NOT MATCH THE HASHES"),
    (more_inside,        "DO NOT MATCH THE HASHES"),
    (of_another_build,   "DO NOT MATCH THE HASHES"),
    (newer,              "No matching distribution found"),
    (sources_only,       "No matching distribution found"),
])
def test_k1_what_is_not_what_the_lock_pins_is_not_installed(tamper, words, wheels, tmp_path):
    """Something else is served under the name of the package."""
    served = shutil.copytree(wheels, tmp_path / "served")
    lock = locked(next(served.iterdir()))
    tamper(next(served.iterdir()))
    said = installs(lock, served, tmp_path)
    assert (tmp_path / "site" / "tiny.py").exists() is (said is None)
    assert said is None if words is None else words in said


def test_k1_a_package_that_no_lock_names_is_not_brought_along(wheels, tmp_path):
    served = shutil.copytree(wheels, tmp_path / "served")
    wants_more(served / "tiny-1.0-py3-none-any.whl")
    said = installs(locked(served / "tiny-1.0-py3-none-any.whl"), served, tmp_path)
    assert "must have their versions pinned with ==" in said and "stranger" in said
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("lock", ["tiny==1.0\n", "tiny\n", "tiny>=1.0 --hash=sha256:{digest}\n"])
def test_k1_a_lock_without_versions_or_hashes_installs_nothing(lock, wheels, tmp_path):
    digest = hashlib.sha256(next(wheels.iterdir()).read_bytes()).hexdigest()
    assert "--require-hashes" in installs(lock.format(digest=digest), wheels, tmp_path)
    assert not (tmp_path / "site").exists()


def test_the_first_start_installs_and_says_so_in_one_line(started):
    place, first = started
    assert seen(first)[2] == "typed"
    (line,) = first.stderr.splitlines()
    assert f"making {place}/.venv from requirements.lock" in line
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == [".venv"]


def test_a_later_start_is_silent_and_needs_no_network(started):
    later = start(started[0], None, "--profile", "a b", "")
    assert later.stderr == ""
    assert seen(later)[0] == ["--profile", "a b", ""]


def test_it_starts_through_a_symlink_and_imports_nothing_from_where_it_is(started, tmp_path):
    for name in ("tiny.py", "json.py", "perps_bot.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')")
    (tmp_path / "hop").symlink_to(started[0] / "bin" / "perps-bot")
    (tmp_path / "bot").symlink_to("hop")
    run = subprocess.run(["./bot"], cwd=tmp_path, capture_output=True, text=True, input="",
                         env=environment(None, PYTHONPATH=str(tmp_path), PYTHONOPTIMIZE="1"),
                         check=False)
    _, folder, _, path, assertions = seen(run)
    assert folder == str(tmp_path) and str(tmp_path) not in path and assertions
    assert path[-1] == str(started[0])


def test_a_moved_checkout_is_found_where_it_is_now(started, tmp_path):
    moved = shutil.copytree(started[0], tmp_path / "elsewhere", symlinks=True)
    run = start(moved)
    assert seen(run)[3][-1] == str(moved) and run.stderr == ""


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_the_program_replaces_the_launcher(started):
    place = started[0]
    with subprocess.Popen([place / "bin/perps-bot", "run"], env=environment(None), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bot:
        command = f"{place}/.venv/bin/python\0-I\0-m\0perps_bot\0run\0"
        assert eventually(lambda: Path(f"/proc/{bot.pid}/cmdline").read_text() == command)
        bot.send_signal(signal.SIGTERM)
        assert bot.wait(PATIENCE_SECONDS) == -signal.SIGTERM


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_package_that_is_not_the_pinned_one_is_refused_and_nothing_stays(checkout, wheels):
    (checkout / "requirements.lock").write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    run = start(checkout, wheels)
    assert run.returncode == 2 and run.stdout == ""
    assert "DO NOT MATCH THE HASHES" in run.stderr
    assert "could not be made" in run.stderr.splitlines()[-1]
    assert list(checkout.glob(".venv*")) == []


def test_a_new_lock_is_installed_and_the_old_packages_stay_until_it_is(started, wheels, tmp_path):
    place = shutil.copytree(started[0], tmp_path / "bot", symlinks=True)
    before = (place / "requirements.lock").read_text()
    (place / "requirements.lock").write_text("# newer\n" + before)
    assert start(place).returncode == 2
    (place / "requirements.lock").write_text(before)
    assert start(place).stderr == ""
    (place / "requirements.lock").write_text("# newer\n" + before)
    assert "making" in start(place, wheels).stderr
    assert start(place).stderr == ""


def test_two_first_starts_take_turns_and_a_killed_one_is_made_again(checkout, wheels):
    def begin():
        return subprocess.Popen([checkout / "bin/perps-bot"], env=environment(wheels), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)

    killed = begin()
    assert eventually((checkout / ".venv.new" / "lib").exists)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (checkout / ".venv").exists()
    both = [begin(), begin()]
    said = [bot.communicate(timeout=PATIENCE_SECONDS)[1] for bot in both]
    assert [bot.returncode for bot in both] == [0, 0]
    assert sum("making" in words for words in said) == 1
    assert [path.name for path in checkout.glob(".venv*")] == [".venv"]


@pytest.mark.parametrize("python, complaint", [
    ("import sys; sys.version_info = (3, 9, 2)",   "python3 is Python 3.9"),
    ("import sys; sys.modules['ensurepip'] = None", "python3 is without venv"),
    (None,                                         "needs Python 3.11"),
])
def test_without_a_python_that_will_do_it_names_the_way_out(checkout, tmp_path, python, complaint):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    if python:
        fake = tools / "python3"
        disguised = f"{python}; exec(sys.argv[1])"
        fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{disguised}" "$2"\n')
        fake.chmod(0o755)
    run = subprocess.run([checkout / "bin/perps-bot"], env={"PATH": str(tools)}, text=True,
                         capture_output=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert complaint in line and "apt install python3 python3-venv" in line
    assert not (checkout / ".venv").exists()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A checkout of the real program; this test run's packages stand in for an installed .venv."""
    place = tmp_path_factory.mktemp("real") / "a bot"
    for folder in ("bin", "perps_bot"):
        shutil.copytree(ROOT / folder, place / folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)
    for folder in (place, place / ".venv"):
        shutil.copy(ROOT / "requirements.lock", folder)
    (site,) = place.glob(".venv/lib/python3*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return place


def test_the_real_program_starts_without_a_network(real):
    run = start(real, None, "--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert re.search(r"\d+\.\d+", run.stdout)


PLANTED = ("requests", "jwt", "json", "decimal", "perps_bot", "usercustomize", "sitecustomize")


@pytest.mark.parametrize("way", ["folder", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONSTARTUP",
                                 "PYTHONOPTIMIZE", "PYTHONHOME", "PYTHONPYCACHEPREFIX",
                                 "PYTHONINSPECT", "PYTHONWARNINGS"])
def test_k2_no_module_is_taken_from_where_it_is_started_or_from_the_environment(
    way, real, tmp_path
):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    user_site = tmp_path / "lib" / version / "site-packages"
    user_site.mkdir(parents=True)
    for name in PLANTED:
        for folder in (tmp_path, user_site):
            (folder / f"{name}.py").write_text("import os; os._exit(66)")
    (user_site / "planted.pth").write_text("import os; os._exit(66)")
    variables = {"folder": {}, "PYTHONSTARTUP": {way: str(tmp_path / "json.py")},
                 "PYTHONOPTIMIZE": {way: "2"}, "PYTHONINSPECT": {way: "1"},
                 "PYTHONWARNINGS": {way: "error"}}.get(way, {way: str(tmp_path)})
    run = subprocess.run([real / "bin/perps-bot", "--dev-fast"], cwd=tmp_path, text=True,
                         env=environment(None, **variables), capture_output=True, input="",
                         timeout=PATIENCE_SECONDS, check=False)
    assert run.returncode == 0, run.stderr
    assert "one cycle done" in run.stdout
