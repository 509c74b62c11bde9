"""Harness: what a test needs to start the exchange, to steer it, and to read what it saw.

    with Simulator({"cash": "10000"}, folder=tmp_path) as simulator:
        simulator.call("price", product_id="BIP-20DEC30-CDE", bid="60000", ask="60005")
        ...
        assert simulator.requests("POST", "/orders") == []

It imports nothing from perps_bot: it is the judge's hand, not the bot's.  An exchange that broke
(a traceback in its own process) fails the test that used it.
"""

import base64
import http.client
import json
import select
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from .nursery import Exchange

API = "/api/v3/brokerage"
START_SECONDS_MAX = 90
STOP_SECONDS_MAX = 30
CALL_SECONDS_MAX = 60
WAIT_SECONDS_MAX = 90
POLL_SECONDS = 0.02


class SteeringFailed(AssertionError):
    """The exchange could not do what the test asked for."""


class Keys:
    """A key pair such as the venue hands out: `name`, `secret` for the bot, `public_pem` for us."""

    def __init__(self, kind="es256"):
        self.name = f"organizations/{uuid.uuid4()}/apiKeys/{uuid.uuid4()}"
        if kind == "es256":
            private = generate_private_key(SECP256R1())
            self.secret = private.private_bytes(
                Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        else:
            private = Ed25519PrivateKey.generate()
            seed = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
            public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.secret = base64.b64encode(seed + public).decode()
        self.public_pem = private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Simulator:
    """The exchange in a process of its own, from `with` to the end of it.

    clock    "real", or "manual": then venue time moves only by `advance`
    tls      (certificate file, key file) for https and wss
    keys     a Keys; an ES256 pair is made when none is given, `key="ed25519"` makes the other
    """

    def __init__(self, scenario=None, clock="real", folder=None, tls=None, keys=None, key="es256",
                 port=0):
        self.keys = keys or Keys(key)
        self._scratch = None if folder else tempfile.TemporaryDirectory()
        self.folder = Path(folder or self._scratch.name)
        self.log_file = self.folder / "wire.jsonl"
        self._errors = self.folder / "exchange.stderr"
        self._clock, self._tls, self._port = clock, tls, port
        self._scenario = {"key_name": self.keys.name, "public_key_pem": self.keys.public_pem,
                          **(scenario or {})}
        self.process = self._link = None

    # Life

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, error, trace):
        broken = self.stop()
        if broken and kind is None:
            raise AssertionError(f"the exchange broke:\n{broken}")
        sys.stderr.write(broken)  # the test failed already; this may be why

    def start(self):
        scenario = self.folder / "scenario.json"
        scenario.write_text(json.dumps(self._scenario), "utf-8")
        arguments = ["--until-eof", "--clock", self._clock, "--port", self._port,
                     "--scenario", scenario.resolve(), "--log", self.log_file.resolve()]
        arguments += ["--tls", *self._tls] if self._tls else []
        with open(self._errors, "ab") as errors:
            self.process = Exchange([str(part) for part in arguments], errors)
        readable, _, _ = select.select([self.process.stdout], [], [], START_SECONDS_MAX)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            raise AssertionError(f"the exchange did not start:\n{self.stop()}")
        said = json.loads(line)
        self.port, self._control = said["port"], said["control"]
        return self

    def stop(self):
        """End the process; return what it wrote about its own failures."""
        if self._link:
            self._link.close()
        if self.process and self.process.returncode is None:
            self.process.stdin.close()
            try:
                self.process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
        broken = self._errors.read_text("utf-8", "replace") if self._errors.exists() else ""
        if self._scratch:
            self._scratch.cleanup()
        return broken

    # Addresses

    @property
    def url(self):
        return f"http{'s' * bool(self._tls)}://127.0.0.1:{self.port}"

    @property
    def ws_url(self):
        return f"ws{'s' * bool(self._tls)}://127.0.0.1:{self.port}"

    @property
    def environment(self):
        """What a bot's process needs to trade here."""
        return {"COINBASE_API_URL": self.url, "COINBASE_WS_URL": self.ws_url,
                "COINBASE_WS_USER_URL": self.ws_url, "COINBASE_API_KEY": self.keys.name,
                "COINBASE_API_SECRET": self.keys.secret, "COINBASE_ENABLE_DERIVATIVES": "1"}

    # Steering

    def call(self, call, /, **arguments):
        """Carry out one steering method of the exchange, or of the server."""
        body = json.dumps({"call": call, "args": arguments}, default=str)
        self._link = self._link or self._linked()
        self._link.request("POST", f"/control/{self._control}", body)
        answer = json.loads(self._link.getresponse().read())
        if "error" in answer:
            raise SteeringFailed(f"{call}: {answer['error']}")
        return answer["result"]

    def _linked(self):
        if not self._tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=CALL_SECONDS_MAX)
        # Steering does not depend on how good the certificate is that the bot gets to see.
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        if version := self._scenario.get("tls_version"):
            trusting.set_ciphers("ALL:@SECLEVEL=0")
            trusting.minimum_version = ssl.TLSVersion[version]
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=CALL_SECONDS_MAX,
                                           context=trusting)

    def price(self, product_id, bid, ask, **more):
        return self.call("price", product_id=product_id, bid=str(bid), ask=str(ask), **more)

    def advance(self, to):
        """Move the manual clock: to a datetime or ISO text, or by a number of seconds."""
        return self.call("advance", to=to.isoformat() if hasattr(to, "isoformat") else to)

    def fault(self, name, /, **arguments):
        """Switch on a fault of the books (core.py), "clear" ends all."""
        return self.call("fault", name=name, **arguments)

    def network(self, name, /, **arguments):
        """Switch on a fault of the wire: of faults.py, of sockets.py, or "outage", which refuses
        every connection; "clear" ends all."""
        return self.call("network", name=name, **arguments)

    def truth(self):
        return self.call("truth")

    def sockets(self):
        return self.call("sockets")

    # What was seen

    def rows(self, *kinds):
        """Return the lines of the wire log, of these kinds or all, in order."""
        # Quotes inside a logged text are escaped, so these words stand only where they mean it.
        words = [f'"kind": "{kind}"' for kind in kinds] or [""]
        with open(self.log_file, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines
                    if line.endswith("\n") and any(word in line for word in words)]

    def requests(self, method=None, path=None):
        """Return the decoded requests, of this method and path ("/orders") when given."""
        paths = (path, f"{API}{path}")
        return [row for row in self.rows("request")
                if method in (None, row["method"]) and (path is None or row["path"] in paths)]

    def bytes_of(self, kind, connection=None):
        """Return all bytes that came "in" or went "out", of one connection or of all."""
        return b"".join(row["data"].encode("latin-1") for row in self.rows(kind)
                        if connection in (None, row["connection"]))


def wait_until(holds, what="it", seconds=WAIT_SECONDS_MAX):
    """Poll until `holds()` is true and return its value; fail when that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := holds():
            return value
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"{what} did not come within {seconds} s")
