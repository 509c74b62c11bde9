"""Transport: did a byte leave, and when does this end?

One HTTP exchange at a time, over a connection of its own: no redirect, no proxy, no cookie, no
retry, nothing from the environment.  It ends at its deadline whatever the server, the network or
the resolver does, and says as a fact whether a byte of the request may have left.  What the
answer means is not asked here.
"""

import queue
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from ipaddress import ip_address
from time import monotonic, sleep

# The owner's choice of package, which stands: HTTP is not spoken by hand here.
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.certs import where
from requests.exceptions import BaseHTTPError

from perps_bot.errors import ConfigError

HOSTS = ("api.coinbase.com", "api-sandbox.coinbase.com")
PORTS = {"https": 443, "http": 80}
ORIGIN = re.compile(r"(https?)://([a-z0-9.-]+|\[::1\])(?::([0-9]{1,5}))?")

SLICE_SECONDS = 0.05
RESOLVE_SECONDS_MAX, CONNECT_SECONDS_MAX = 1.5, 2.5
ADDRESSES_MAX = 8
BODY_BYTES_MAX, CHUNK_BYTES = 1024 * 1024, 64 * 1024
WORKERS_MAX = 4  # abandoned ones of one lane that still live
CAUSES_MAX = 8
TEXT_LENGTH_MAX = 200


class Until:
    """How long one call may still take: to its deadline, or `grace` seconds after a signal.

    interrupted  whether a signal waits
    opens        whether it is about an order that opens a position
    why          what to say when the time is over
    """

    def __init__(self, seconds: float, interrupted: Callable[[], bool] = lambda: False,
                 grace: float = 0, opens: bool = False):
        self._end, self._interrupted, self._grace = monotonic() + seconds, interrupted, grace
        self._opens = opens
        self._is_cut, self.why = False, f"no answer within {seconds:.3g} seconds"

    def part(self, seconds: float) -> "Until":
        """Return the same, but at most `seconds` from now."""
        return Until(min(seconds, max(self.left(), 0)), self._interrupted, self._grace)

    def forbids_to_begin(self) -> bool:
        """Whether a signal waits, after which nothing that opens a position is begun."""
        return self._opens and self._interrupted()

    def left(self) -> float:
        if not self._is_cut and self._interrupted():
            self._is_cut, self.why = True, "interrupted by a signal"
            self._end = min(self._end, monotonic() + self._grace)
        return self._end - monotonic()

    def wait(self, seconds: float) -> bool:
        """Wait; return False, as soon as that is known, where the time ends before."""
        over = monotonic() + seconds
        while (more := over - monotonic()) > 0:
            if self.left() < more:
                return False
            sleep(min(more, SLICE_SECONDS))
        return self.left() > 0


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as it goes out.

    target   path and query, encoded
    headers  all but the host and the length of the body
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = None


@dataclass(slots=True)
class Answer:
    """What came of one exchange.

    status       0 where no whole answer came; `trouble` then says why, in one line
    was_sent     a byte of the request may have left
    retry_after  seconds that the server asked us to wait; None where it named none
    """

    status: int = 0
    body: bytes = b""
    retry_after: int | None = None
    trouble: str = ""
    was_sent: bool = True
    seconds: float = 0


class Origin:
    """The one server that we talk to: where it is, and how it proves that it is itself.

    url      scheme, host and port: Coinbase's own or a loopback address
    ca_file  certificates to trust in place of the usual ones
    hosts    who may be asked; None: whom the owner named for alerts, never with a token
    host     host and port as a token names them
    good     the address that worked last
    """

    def __init__(self, url: str, ca_file: str | None = None,
                 hosts: tuple[str, ...] | None = HOSTS):
        found = ORIGIN.fullmatch(url)
        scheme, host, port = found.groups() if found else ("", "", "")
        is_known = scheme == "https" and (hosts is None or host in hosts)
        if not (_is_loopback(host) or is_known):
            raise ConfigError(f"COINBASE_API_URL: must be https://{HOSTS[0]} or a loopback address")
        self.url, self.host, self.context = url, url.partition("://")[2], None
        if scheme == "https":
            self.context = _context(ca_file)
        self._name, self._port = host.strip("[]"), int(port or PORTS[scheme])
        self._known, self.good, self._asking = [], None, None

    def addresses(self) -> list[tuple]:
        """Return what the resolver says now, or said last; the one that worked comes first.

        They are kept because a resolver may die while we hold a position.  Raises OSError.
        """
        hangs = self._asking is not None and self._asking.is_alive()
        if not hangs:
            self._asking = threading.Thread(target=self._ask, name="rest-resolver", daemon=True)
            self._asking.start()
        self._asking.join(0 if hangs and self._known else RESOLVE_SECONDS_MAX)
        if not self._known:
            raise OSError(f"no address for {self._name}; does the name server answer?")
        return sorted(self._known, key=lambda each: each[4] != self.good)[:ADDRESSES_MAX]

    def _ask(self) -> None:
        with suppress(OSError):  # the last answer stays
            self._known = socket.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)


class Lane:
    """One connection and the thread that may block on it; both are replaced when they hang.

    used_at  monotonic time of the last exchange
    """

    def __init__(self, name: str, origin: Origin):
        self.used_at, self._name, self._origin = 0, name, origin
        self._worker: _Worker | None = None
        self._abandoned: list[_Worker] = []

    def ask(self, request: Request, until: Until, meanwhile: Callable | None = None) -> Answer:
        """Return what came of `request`; call `meanwhile` while the answer is awaited."""
        self._abandoned = [worker for worker in self._abandoned if worker.is_alive()]
        if len(self._abandoned) >= WORKERS_MAX:
            return Answer(trouble=f"{WORKERS_MAX} earlier requests still hang", was_sent=False)
        begun, answer = monotonic(), None
        worker = self._worker = self._worker or _Worker(self._name, self._origin)
        try:
            answer = worker.ask(request, until, meanwhile)
        finally:  # also when something was raised into the wait
            if answer is None:
                self._worker = None
                self._abandoned.append(worker)
                was_sent = worker.give_up()
        self.used_at = monotonic()
        answer = answer or Answer(trouble=until.why, was_sent=was_sent)
        answer.seconds = self.used_at - begun
        return answer

    def close(self) -> None:
        if self._worker is not None:
            self._worker.give_up()
            self._worker = None


def printable(text: str) -> str:
    """Return foreign text, fit for one line."""
    return "".join(each if each.isprintable() else "?" for each in text[:TEXT_LENGTH_MAX])


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, not an address
        return False


def _context(ca_file: str | None) -> ssl.SSLContext:
    # Made by hand: the helpers that make one read SSLKEYLOGFILE and SSL_CERT_FILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca_file or where())
    except OSError as error:
        raise ConfigError(f"the CA certificates cannot be read ({error.strerror})") from None
    return context


class _Worker(threading.Thread):
    """The thread, and what it and its owner know of its connection."""

    def __init__(self, name: str, origin: Origin):
        super().__init__(name=f"rest-{name}", daemon=True)
        self._jobs, self._lock = queue.SimpleQueue(), threading.Lock()
        self._was_sent = self._is_over = False
        self._connection = self._handle = self._until = None
        self._origin, self._adapter = origin, _Adapter(self, origin)
        self.start()

    def ask(self, request: Request, until: Until, meanwhile: Callable | None) -> Answer | None:
        """Return the answer; None when `until` comes first."""
        self._was_sent, self._until, answers = False, until, queue.SimpleQueue()
        self._jobs.put((request, max(until.left(), SLICE_SECONDS), answers))
        if meanwhile:
            meanwhile()
        while (left := until.left()) > 0:
            with suppress(queue.Empty):
                answer = answers.get(timeout=min(left, SLICE_SECONDS))
                if answer is None:
                    raise RuntimeError("the transport broke; its traceback is on stderr")
                return answer
        return None

    def give_up(self) -> bool:
        """End it; return whether a byte may have left.  From now on none does."""
        with self._lock:
            self._is_over = True
            if self._handle is not None:
                with suppress(OSError):  # not connected any more
                    self._handle.shutdown(socket.SHUT_RDWR)
            self._jobs.put(None)
            return self._was_sent

    # The rest is called in the thread

    def opened(self, connection: object) -> socket.socket:
        self._connection, link = connection, _connected(self._origin)
        with self._lock:
            self._drop_handle()
            # A second handle on the same socket: TLS and Connection: close hide the first.
            self._handle = link.dup()
            if self._is_over:
                self._handle.shutdown(socket.SHUT_RDWR)
        return link

    def sends(self) -> None:
        """Note that bytes are about to leave, or stop them.  Raises OSError."""
        with self._lock:
            if self._is_over:
                raise OSError("given up")
            if not self._was_sent and self._until.forbids_to_begin():
                raise OSError("not sent, a signal waits")
            self._was_sent = True

    def run(self) -> None:
        while (job := self._jobs.get()) is not None:
            request, seconds, answers = job
            answer = None  # a bug: the thread ends, and its owner hears it
            try:
                answer = self._exchanged(request, seconds)
            except (OSError, HTTPException, BaseHTTPError) as error:
                answer = Answer(trouble=_root(error), was_sent=self._was_sent)
            finally:
                if self._connection is not None and self._connection.sock is None:
                    self._drop_handle()
                answers.put(answer)
        self._adapter.close()
        with self._lock:
            self._drop_handle()

    def _exchanged(self, request: Request, seconds: float) -> Answer:
        with self._adapter.send(_prepared(request), timeout=seconds) as response:
            after = response.headers.get("Retry-After", "")
            named = int(after) if re.fullmatch("[0-9]{1,9}", after) else None
            return Answer(response.status, _body(response), named)

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def _prepared(request: Request) -> PreparedRequest:
    """The library's form of it, whose own preparing takes longer than all the rest.

    Raises OSError for what would not be one request.
    """
    texts = (request.method, request.target, *request.headers, *request.headers.values())
    if not all(text.isascii() and text.isprintable() for text in texts) or " " in request.target:
        raise OSError("not sent, the request has no form")
    made = PreparedRequest()
    made.method, made.url, made.body = request.method, request.target, request.body
    made.headers = dict(request.headers)
    if request.body is not None:
        made.headers["Content-Length"] = str(len(request.body))
    return made


class _Adapter(HTTPAdapter):
    """What of the library talks to one server, with our connections, verified by our context.

    Its session stays out, and with it environment, cookies, redirects and what they cost.
    """

    def __init__(self, worker: _Worker, origin: Origin):
        self._worker, self._context = worker, origin.context
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._pool = self.poolmanager.connection_from_url(origin.url)

    def init_poolmanager(self, *args, **kwargs) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, cert_reqs="CERT_REQUIRED",
                                 **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            scheme: type("Pool", (pool,), {"ConnectionCls": type(
                "Connection", (_Noted, pool.ConnectionCls), {"worker": self._worker})})
            for scheme, pool in self.poolmanager.pool_classes_by_scheme.items()
        }

    def get_connection_with_tls_context(self, *_request, **_settings):
        return self._pool

    def close(self) -> None:
        self._pool.close()  # the library's pools close what nobody refers to any more
        super().close()

    def cert_verify(self, *_settings) -> None:
        """Load no certificates beside those of the context."""

    def request_url(self, request: PreparedRequest, proxies: None) -> str:
        return request.url

    def build_response(self, req: PreparedRequest, resp):
        return resp  # as it is: what the library makes of it nobody reads


class _Noted:
    """What our connections do differently: the worker connects them, and hears what they send."""

    worker: _Worker

    def _new_conn(self) -> socket.socket:
        return self.worker.opened(self)

    def send(self, data) -> None:
        if self.sock is None:
            self.connect()
        self.worker.sends()
        super().send(data)


def _connected(origin: Origin) -> socket.socket:
    """Return a connection to one of the addresses; all of them share one deadline."""
    found, failure = origin.addresses(), None
    end = monotonic() + CONNECT_SECONDS_MAX
    for tried, (family, kind, protocol, _, address) in enumerate(found):
        link = socket.socket(family, kind, protocol)
        try:
            link.settimeout(max(end - monotonic(), SLICE_SECONDS) / (len(found) - tried))
            link.connect(address)
            link.settimeout(CONNECT_SECONDS_MAX)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            origin.good = address
            return link
        except OSError as error:
            link.close()
            failure = error
    raise failure


def _body(response) -> bytes:
    """Return the body as it came.  Raises OSError when it is none that we asked for."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise OSError("an encoded body, which was not asked for")
    body = bytearray()
    try:
        for chunk in response.stream(CHUNK_BYTES):
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise OSError(f"a body above {BODY_BYTES_MAX} bytes")
    except ValueError as error:  # what the library says to a chunk of less than nothing
        raise OSError(f"a body that has no form: {error}") from error
    return bytes(body)


def _root(error: BaseException) -> str:
    """Return what the innermost cause says: the outer ones repeat the whole address."""
    for _ in range(CAUSES_MAX):
        error = error.__cause__ or error.__context__ or error
    return printable(f"{type(error).__name__}: {error}")
