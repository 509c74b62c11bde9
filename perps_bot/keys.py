"""Keys: who are we at Coinbase?

The key is found, read once, and after that only signs; nothing here asks the venue or reads the
clock.  No part of a secret reaches a message, a log, a file or the text of an object: a refusal
names the place where the secret stands, and what to do there.
"""

import base64
import os
import re
import secrets
import stat
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from perps_bot.errors import ConfigError
from perps_bot.secret import conceal, revealed
from perps_bot.wire import Malformed, decoded

CREDENTIAL = "coinbase_api_key.json"  # the name to use with systemd's LoadCredential=
KEY_FILE_BYTES_MAX = 16 * 1024
NAME_LENGTH_MAX = 200
TOKEN_LIFE = timedelta(seconds=120)
# The token starts in the past, because a clock that is a little fast would get a refusal.
STARTS_EARLY = timedelta(seconds=5)
NONCE_BYTES, SEED_BYTES, SEED_AND_PUBLIC_BYTES, PKCS8_BYTES = 16, 32, 64, 48

PEM = re.compile(r"-----BEGIN(?:EC)?PRIVATEKEY-----([A-Za-z0-9+/=]+)-----END(?:EC)?PRIVATEKEY-----")
# What copying adds to a secret: quotes, spaces, line ends, and line ends written out as \n.
ADDED = re.compile(r"\\[rn]|[\s'\"]")
NAME = re.compile(rf"[!-~]{{1,{NAME_LENGTH_MAX}}}")


class Signer:
    """Signs as the owner of one API key, `name` at Coinbase; it never shows the key."""

    __slots__ = ("name", "_key", "_algorithm")

    def __init__(self, name: str, key: EllipticCurvePrivateKey | Ed25519PrivateKey):
        self.name, self._key = name, key
        self._algorithm = "EdDSA" if isinstance(key, Ed25519PrivateKey) else "ES256"

    def __repr__(self) -> str:
        return "Signer(...)"

    def __reduce_ex__(self, protocol: int):
        raise TypeError("a key is not copied and not written down")

    def rest_token(self, method: str, host: str, path: str, now: datetime) -> str:
        """Return the token of one request; `host` with its port if it has one, no query."""
        return self._token(now, uri=f"{method} {host}{path}")

    def websocket_token(self, now: datetime) -> str:
        """Return the token of one subscription."""
        return self._token(now)

    def _token(self, now: datetime, **claims: str) -> str:
        begin = int((now - STARTS_EARLY).timestamp())
        end = begin + int(TOKEN_LIFE.total_seconds())
        claims |= {"sub": self.name, "iss": "cdp", "nbf": begin, "exp": end}
        header = {"kid": self.name, "nonce": secrets.token_hex(NONCE_BYTES)}
        return jwt.encode(claims, self._key, self._algorithm, header)


def load_credentials(settings: Any, environ: Mapping[str, str]) -> Signer | None:
    """Return our signer, or None where no key is given.  Raises ConfigError in one line.

    The pair in the settings comes first, then the key file that they name, then the credential
    that systemd handed over.
    """
    if settings.api_key or settings.api_secret:
        return _signer(settings.api_key, "COINBASE_API_KEY",
                       settings.api_secret, "COINBASE_API_SECRET")
    handed = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(handed) / CREDENTIAL if handed else None
    path = settings.api_key_file or credential
    if path is None or (settings.api_key_file is None and not os.path.lexists(path)):
        return None
    where = str(path) if str(path).isprintable() else ascii(str(path))
    fields = _fields(_private_bytes(path, where, is_credential=path == credential), where)
    return _signer(fields.get("name") or fields.get("id"), f"{where}: name (or id)",
                   fields.get("privateKey"), f"{where}: privateKey")


def _signer(name: object, name_place: str, secret: object, secret_place: str) -> Signer:
    name, secret = revealed(name), revealed(secret)
    for value, place in ((name, name_place), (secret, secret_place)):
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{place} is missing; a key is a name and a secret, give both")
    conceal(f"{name} {secret}")  # whichever way they came
    name = name.strip("\r\n\t '\"")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name_place}: not the name of a key; copy it from the Coinbase "
                          f"Developer Platform, organizations/.../apiKeys/... or a UUID")
    return Signer(name, _private_key(secret, secret_place))


def _private_key(secret: str, place: str) -> EllipticCurvePrivateKey | Ed25519PrivateKey:
    text = ADDED.sub("", secret)
    pem = PEM.search(text)
    try:
        body = base64.b64decode(pem[1] if pem else text, validate=True)
        key = load_der_private_key(body, None) if pem else _raw_key(body)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        key = None
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
    ):
        return key
    raise ConfigError(f"{place}: not a secret that Coinbase takes (an EC P-256 or Ed25519 private "
                      f"key as PEM, or Ed25519 as base64); copy the whole one of a Secret API key")


def _raw_key(body: bytes) -> object:
    """Return the Ed25519 key in base64 that is no PEM.  Raises ValueError."""
    if len(body) == PKCS8_BYTES:
        return load_der_private_key(body, None)
    if len(body) not in (SEED_BYTES, SEED_AND_PUBLIC_BYTES):
        raise ValueError("length")
    key = Ed25519PrivateKey.from_private_bytes(body[:SEED_BYTES])
    # Retired keys had secrets of 64 bytes too: a real one carries its own public half.
    if body[SEED_BYTES:] not in (b"", key.public_key().public_bytes_raw()):
        raise ValueError("public half")
    return key


def _private_bytes(path: Path, where: str, is_credential: bool) -> bytes:
    """Return what is in a file that nobody else can read."""
    try:
        # Without O_NONBLOCK, a pipe in the place of the file would hold up the start forever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            trouble = _trouble(os.fstat(handle), is_credential)
            body = b"" if trouble else file.read(KEY_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or "no such name"
        raise ConfigError(f"{where}: the key file cannot be read ({reason}); it must be a file of "
                          f"your own, no link") from None
    if len(body) > KEY_FILE_BYTES_MAX:
        trouble = f"is longer than {KEY_FILE_BYTES_MAX} bytes; is it the right file?"
    if trouble:
        raise ConfigError(f"{where}: the key file {trouble}")
    return body


def _trouble(found: os.stat_result, is_credential: bool) -> str:
    # systemd leaves a credential to root, and the group bits then show what its list allows us.
    owners, forbidden = {os.geteuid()}, 0o077
    if is_credential:
        owners, forbidden = owners | {0}, 0o037
    if not stat.S_ISREG(found.st_mode):
        return "is no ordinary file; put the JSON file of Coinbase there"
    if found.st_uid not in owners:
        return "belongs to another user; give it to the user that runs the bot"
    return "can be read by others; chmod 600" if found.st_mode & forbidden else ""


def _fields(body: bytes, where: str) -> dict:
    try:
        return decoded(body.removeprefix(b"\xef\xbb\xbf"))  # some editors begin files with it
    except Malformed:
        raise ConfigError(f"{where}: the key file is not the JSON that Coinbase hands out; "
                          f"download it again") from None
