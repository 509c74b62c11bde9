"""A WebSocket server on loopback that does as the test tells it, byte by byte.

It knows RFC 6455 and nothing of the bot.  `Server.peer()` waits for the next client; the test then
speaks through that `Peer`.  Every wait has a generous deadline, and nothing here sleeps.
"""

import base64
import datetime
import hashlib
import ipaddress
import json
import queue
import socket
import ssl
import struct
import threading
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 60
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(payload=b"", opcode=TEXT, fin=True, length=None, rsv=0):
    """One unmasked frame; `length` may claim what is not true."""
    length = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if length < 126:
        return head + bytes([length]) + payload
    if length < 2**16:
        return head + bytes([126]) + struct.pack("!H", length) + payload
    return head + bytes([127]) + struct.pack("!Q", length) + payload


def greeting(key, more=""):
    accept = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()
    return ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n{more}\r\n").encode()


class Server:
    """Listens until closed.  `greet(key)` returns the bytes of the answer to the upgrade.

    context  for TLS, else plain
    """

    def __init__(self, greet=greeting, context=None):
        self.greet, self._context = greet, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'wss' if context else 'ws'}://127.0.0.1:{self.port}"
        self.accepted = 0
        self._peers, self._all = queue.Queue(), []
        threading.Thread(target=self._accept, daemon=True).start()

    def peer(self, patience=PATIENCE):
        """Wait for the next client that was greeted."""
        return self._peers.get(timeout=patience)

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in self._all:
            with suppress(OSError):
                line.close()

    def _accept(self):
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            threading.Thread(target=self._welcome, args=(line,), daemon=True).start()

    def _welcome(self, line):
        try:
            if self._context:
                line = self._context.wrap_socket(line, server_side=True)
            self._all.append(line)
            head = b""
            while b"\r\n\r\n" not in head:
                got = line.recv(1)
                if not got:
                    return
                head += got
            words = dict(row.split(": ", 1) for row in head.decode().split("\r\n")[1:] if row)
            peer = Peer(line, words)
            line.sendall(self.greet(words["Sec-WebSocket-Key"]))
            threading.Thread(target=peer.listen, daemon=True).start()
            self._peers.put(peer)
        except OSError:
            line.close()


class Peer:
    """The server's end of one connection.

    headers   what the client said with its upgrade
    sequence  of the next message; a test may set it
    pongs     payloads of the pongs that came
    gone      set once the client has closed
    """

    def __init__(self, line, headers):
        self._line, self.headers, self.sequence = line, headers, 0
        self.heard, self.pongs, self.gone = queue.Queue(), queue.Queue(), threading.Event()
        self._writing = threading.Lock()

    def raw(self, data):
        """Send bytes; False once the client is gone."""
        try:
            with self._writing:
                self._line.sendall(data)
        except OSError:
            return False
        return True

    def say(self, channel, *events, at, sequence=None, **more):
        """Send one envelope with the next number, or with `sequence` (the next one follows it)."""
        with self._writing:
            self.sequence = self.sequence if sequence is None else sequence
            body = {"channel": channel, "client_id": "", "timestamp": at,
                    "sequence_num": self.sequence, "events": list(events), **more}
            self.sequence += 1
            with suppress(OSError):
                self._line.sendall(frame(json.dumps(body).encode()))

    def said(self, patience=PATIENCE):
        """Wait for the client's next message, decoded."""
        return json.loads(self.heard.get(timeout=patience))

    def close(self):
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()

    def reset(self):
        """End it with a RST instead of a goodbye."""
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._line.shutdown(socket.SHUT_RD)  # so that no reader holds the socket open
        self.gone.wait(PATIENCE)
        self._line.close()

    def listen(self):
        with suppress(OSError):
            while got := self._read_frame():
                opcode, payload = got
                if opcode == CLOSE:
                    break
                (self.pongs if opcode == PONG else self.heard).put(payload)
        self.gone.set()

    def _read_frame(self):
        head = self._exactly(2)
        if not head:
            return None
        length = head[1] & 127
        if length > 125:
            size = 2 if length == 126 else 8
            length = int.from_bytes(self._exactly(size), "big")
        mask, payload = self._exactly(4), self._exactly(length)
        return head[0] & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(payload))

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            got = self._line.recv(count - len(data))
            if not got:
                return b""
            data += got
        return data


# Certificates


class Authority:
    """Makes certificates in a folder; `path` is the one to trust."""

    def __init__(self, folder):
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        self._certificate = self._signed(self._name, self._key, days=1, is_authority=True)
        self.path = folder / "authority.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, host="127.0.0.1", days=1, self_signed=False, version=None):
        """Return a server's TLS; `days` below zero: expired; `version`: the only one spoken."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._signed(name, key, host, days, self_signed=self_signed)
        path = self._folder / f"{host}{days}{self_signed}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if version:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = version
        context.load_cert_chain(path)
        return context

    def _signed(self, name, key, host="", days=1, is_authority=False, self_signed=False):
        now = datetime.datetime.now(datetime.UTC)
        own = is_authority or self_signed
        try:
            names = [x509.IPAddress(ipaddress.ip_address(host))]
        except ValueError:
            names = [x509.DNSName(host)]
        builder = (
            x509.CertificateBuilder().subject_name(name)
            .issuer_name(name if own else self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if not is_authority:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(key if own else self._key, hashes.SHA256())
