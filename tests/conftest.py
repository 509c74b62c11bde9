"""No test talks to another machine: names and addresses that are not this one's are refused."""

import logging
import os
import socket
from ipaddress import ip_address

import pytest

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


@pytest.fixture(autouse=True)
def the_diary_as_it_was():
    """A command sends the log where a run sends it; the next test begins as Python does."""
    log = logging.getLogger("perps_bot")
    kept = log.level, log.handlers, log.propagate, logging.raiseExceptions
    yield
    log.handlers, log.propagate = kept[1], kept[2]
    log.setLevel(kept[0])
    logging.raiseExceptions = kept[3]


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
