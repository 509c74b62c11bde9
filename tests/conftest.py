"""No test talks to another machine: names and addresses that are not this one's are refused."""

import logging
import os
import socket
import threading
from ipaddress import ip_address

import pytest

from perps_bot import secret

# Where several processes run the tests, each of these files stays in one of them: its tests share
# what is dear to make, or start so many processes that others of its kind beside it are too much.
TOGETHER = ("test_docs.py", "test_exchange_official.py", "test_faq.py", "test_notebook.py",
            "test_packaging.py", "test_proc.py", "test_recorded.py", "test_report.py",
            "test_watch.py")
# What takes longest is begun first, so that no process works on alone in the end.
LONGEST = ("test_proc.py", "test_sim.py::test_no_schedule", "test_packaging.py", "test_docs.py",
           "test_sim.py::test_no_single", "test_sim.py::test_one_seed", "test_live_day.py",
           "test_intents.py::test_a_hundred", "test_crash_points.py", "test_notebook.py",
           "test_report.py", "test_recorded.py", "test_emergency.py", "test_live_trading.py",
           "test_teeth.py", "test_watch.py")

_connect, _resolve = socket.socket.connect, socket.getaddrinfo


def is_this_machine(host):
    try:
        return host in (None, "", "localhost") or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def connect_here(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not is_this_machine(address[0]):
        raise AssertionError(f"a test tried to reach {address[0]}")
    return _connect(self, address)


def resolve_here(host, *arguments, **more):
    if not is_this_machine(host.decode() if isinstance(host, bytes) else host):
        raise socket.gaierror(socket.EAI_NONAME, f"a test asked for {host}")
    return _resolve(host, *arguments, **more)


socket.socket.connect, socket.getaddrinfo = connect_here, resolve_here


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: next(
        (n for n, name in enumerate(LONGEST) if f"/{name}" in f"/{item.nodeid}"), len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of its groups, which it writes into a test's id, xdist 3.8 keeps none under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return file if file.endswith(TOGETHER) else nodeid

    return ByFile(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def the_diary_as_it_was():
    """A command sends the log where a run sends it; the next test begins as Python does."""
    log = logging.getLogger("perps_bot")
    kept = log.level, log.handlers, log.propagate, logging.raiseExceptions
    yield
    log.handlers, log.propagate = kept[1], kept[2]
    log.setLevel(kept[0])
    logging.raiseExceptions = kept[3]


@pytest.fixture(autouse=True)
def no_secret_of_another_test():
    """What one test has concealed could be a number that another one writes."""
    kept = list(secret._pieces)
    yield
    secret._pieces.clear()
    secret._pieces.extend(kept)


@pytest.fixture(autouse=True)
def no_feed_goes_on():
    """One that nobody stopped connects for ever, and draws from the dice of a later test."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("feed-") and (target := getattr(thread, "_target", None)):
            target.__self__.stopping.set()


@pytest.fixture
def no_settings_of_the_tester(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("PERPS_", "COINBASE_", "EVENT_STORE"))]:
        monkeypatch.delenv(name)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    """What a test logged travels from its process to ours as UTF-8, half a character too."""
    report = (yield).get_result()
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode())
                       for name, text in report.sections]
