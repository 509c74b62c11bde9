"""Server: HTTP, WebSocket and the tests' control channel on one loopback port.

It carries questions to the exchange and answers back; it decides nothing about orders or money.
One thread a connection, one lock around the exchange, one thread for what happens by the clock.
"""

import json
import socket
import ssl
import threading
import time
from datetime import datetime, timedelta

from .connection import BadRequest, Connection, encoded_json
from .faults import API, Faults, act, asks_first
from .sockets import Hub
from .tokens import TokenCheck
from .wirelog import WireLog

PUBLIC = (f"{API}/time", f"{API}/market/")
UNAUTHORIZED = (401, "Unauthorized")
STEERING = {"price", "path", "candles_from", "trade_by_owner", "order_by_owner", "deposit",
            "set_product", "set_session", "fault", "truth"}
STEERING_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
TICK_SECONDS = 0.2
HEARTBEAT_SECONDS = 1
HANDSHAKE_SECONDS_MAX = 5
STOP_SECONDS_MAX = 2
BACKLOG = 64


class Server:
    """One exchange on one port, from `start` to `stop`.

    scenario   key_name, public_key_pem, hosts (more names for the token's uri), and the two
               WebSocket limits subscribe_seconds and idle_seconds; tls_version for an old one;
               the rest is the exchange's
    clock      "real": the venue's time runs; "manual": it moves by the control call `advance`
    tls        (certificate file, key file), or None for plain http and ws
    """

    def __init__(self, exchange, scenario, log_file, clock="real", tls=None, port=0, control="c"):
        self.exchange, self.control, self.clock = exchange, control, clock
        self.lock, self.stopping = threading.RLock(), threading.Event()
        self.tokens = TokenCheck(scenario.get("key_name", ""), scenario.get("public_key_pem", ""))
        limits = {name: scenario[name] for name in ("subscribe_seconds", "idle_seconds")
                  if name in scenario}
        self.hub = Hub(exchange, self.lock, self.tokens, **limits)
        self.faults = Faults()
        self.log = WireLog(log_file, lambda: exchange.now)
        self._tls = tls_context(*tls, scenario.get("tls_version")) if tls else None
        # A second socket, at which nobody listens, keeps the port through an outage.
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._kept.bind(("127.0.0.1", port))
        self.port = self._kept.getsockname()[1]
        self._listener = self._listening()
        names = ["127.0.0.1", "localhost", *scenario.get("hosts", ())]
        self._hosts = [*names, *(f"{name}:{self.port}" for name in names)]
        self._connections, self._threads, self._count = set(), [], 0

    def start(self):
        self._epoch = (time.monotonic(), self.exchange.now)
        self._thread(self._accept, self._listener)
        self._thread(self._tick)
        return self

    def stop(self):
        """Close everything and wait for the threads."""
        self.stopping.set()
        self._refuse()
        self._kept.close()
        for connection in list(self._connections):
            connection.close()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        self.log.close()

    def _thread(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    # Time

    def _tick(self):
        beaten_at = time.monotonic()
        while not self.stopping.wait(TICK_SECONDS):
            with self.lock:
                self.hub.expire()
                if self.clock == "real":
                    self._follow_the_clock()
                    self.hub.publish(self.exchange.take_events())
                    if time.monotonic() - beaten_at >= HEARTBEAT_SECONDS:
                        beaten_at += HEARTBEAT_SECONDS
                        self.hub.beat()

    def _follow_the_clock(self):
        if self.clock == "real":
            began, venue_began = self._epoch
            self.exchange.advance(venue_began + timedelta(seconds=time.monotonic() - began))

    def advance(self, to):
        """Move the manual clock to `to` (ISO time, or seconds from now) and tell the sockets."""
        if self.clock == "real":
            raise ValueError("the clock of this server runs by itself")
        seconds = isinstance(to, int | float)
        moment = self.exchange.now + timedelta(seconds=to) if seconds else moment_of(to)
        self.exchange.advance(moment)
        self.hub.publish(self.exchange.take_events())
        self.hub.beat()
        return self.exchange.now.isoformat()

    # Connections

    def outage(self, on):
        """Refuse connections and cut those there are, save the tests' own; or end that."""
        if on:
            self._refuse()
            for connection in list(self._connections):
                if not connection.steers:
                    connection.reset()
        elif self._listener is None:
            self._listener = self._listening()
            self._thread(self._accept, self._listener)

    def _listening(self):
        return socket.create_server(("127.0.0.1", self.port), backlog=BACKLOG, reuse_port=True)

    def _refuse(self):
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener.close()
            self._listener = None

    def _accept(self, listener):
        while not self.stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # closed by _refuse
            self._count += 1
            self._thread(self._serve, sock, self._count)

    def _serve(self, sock, number):
        if self._tls is not None:
            try:
                sock.settimeout(HANDSHAKE_SECONDS_MAX)
                sock = self._tls.wrap_socket(sock, server_side=True)
            except OSError:
                self.log.record(number, "handshake failed")
                sock.close()
                return
        connection = Connection(sock, number, self.log, self.stopping)
        self._connections.add(connection)
        try:
            self._listen(connection)
        finally:
            connection.close()
            connection.note("close")
            self._connections.discard(connection)

    def _listen(self, connection):
        while True:
            try:
                request = connection.request()
            except BadRequest as error:
                connection.answer(400, str(error).encode(), "text/plain")
                return
            if request is None:
                return
            if request.headers.get("upgrade", "").lower() == "websocket":
                self.hub.serve(connection, request)
                return
            if not self._answer(connection, request):
                return
            connection.served += 1
            if request.headers.get("connection", "").lower() == "close":
                return

    def _answer(self, connection, request):
        if request.path.startswith("/control/"):
            return connection.answer(*self._controlled(request))
        row = self.faults.hitting(request, connection.served)
        if row is None or asks_first(row):
            status, body, kind = self._asked(connection, request, row)
        else:
            status, body, kind = None, b"", None
            self._note(connection, request, row, row.get("status"))
        if row is None:
            return connection.answer(status, body, kind)
        return act(row, connection, status, body, kind)

    # Requests

    def _asked(self, connection, request, row):
        """Ask the exchange; return status, body and content type of the answer."""
        refusal, authenticated = self._identified(request)
        if refusal:
            status, answer = UNAUTHORIZED
        else:
            status, answer = self._ask(request, authenticated)
        self._note(connection, request, row, status, refusal)
        if isinstance(answer, str):
            return status, answer.encode(), "text/plain; charset=utf-8"
        return status, encoded_json(answer), "application/json; charset=utf-8"

    def _identified(self, request):
        """Return why this request is refused ("" if it is not), and whether it has a token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            public = request.path.startswith(PUBLIC)
            return "" if public else "no token", False
        uris = [f"{request.method} {host}{request.path}" for host in self._hosts]
        with self.lock:
            self._follow_the_clock()
            now = self.exchange.now
        if scheme != "Bearer":
            return f"scheme {scheme!r}", False
        return self.tokens.refusal(token, now, uris), True

    def _ask(self, request, authenticated):
        body = None
        if request.method != "GET":
            try:
                body = json.loads(request.body or b"{}")
            except ValueError as error:
                return 400, proto_error(f"syntax error: {error}")
            if not isinstance(body, dict):
                return 400, proto_error("syntax error (line 1:1): unexpected token")
        with self.lock:
            self._follow_the_clock()
            answer = self.exchange.request(
                request.method, request.path, request.query, body, authenticated)
            self.hub.publish(self.exchange.take_events())
        return answer

    def _note(self, connection, request, row, status, refusal=""):
        try:
            body = json.loads(request.body) if request.body else None
        except ValueError:
            body = request.body.decode("latin-1")
        extra = {"refusal": refusal} if refusal else {}
        if row is not None:
            extra["fault"] = row["name"]
        self.log.record(connection.number, "request", method=request.method, path=request.path,
                        query=request.query, body=body, status=status, **extra)

    # Control

    def _controlled(self, request):
        """Carry out one call of a test; the answer is JSON."""
        if request.path != f"/control/{self.control}":
            return 403, b"{}"
        message = json.loads(request.body)
        try:
            with self.lock:
                result = self._steered(message["call"], message.get("args", {}))
        except STEERING_ERRORS as error:
            return 400, encoded_json({"error": f"{type(error).__name__}: {error}"})
        return 200, encoded_json({"result": result})

    def _steered(self, call, arguments):
        if call in STEERING:
            self._follow_the_clock()
            result = getattr(self.exchange, call)(**arguments)
            self.hub.publish(self.exchange.take_events())
            return result
        calls = {"advance": self.advance, "network": self._network, "log": self.log.counts,
                 "sockets": self.hub.picture, "now": lambda: self.exchange.now.isoformat()}
        if call not in calls:
            raise ValueError(f"no call {call!r}; there are {sorted(STEERING | set(calls))}")
        return calls[call](**arguments)

    def _network(self, name, **numbers):
        if name == "clear":
            self.hub.fault("ws_clear")
            self.outage(False)
        if name == "outage":
            return self.outage(True)
        side = self.hub.fault if name.startswith("ws_") else self.faults.add
        return side(name, **numbers)


def moment_of(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def proto_error(text):
    return {"error": "unknown", "error_details": f"proto: {text}", "message": f"proto: {text}"}


def tls_context(certificate, key, version=None):
    """Return a server's context; an old `version` ("TLSv1_1") is all that it then speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if version:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context
