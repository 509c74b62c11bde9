"""Who we are at Coinbase: where keys are found, what is refused, and what tokens say."""

import base64
import copy
import json
import os
import pickle
import traceback
from datetime import UTC, datetime
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat,
)

from perps_bot import keys
from perps_bot.errors import ConfigError
from perps_bot.keys import load_credentials
from perps_bot.settings import resolve

NAME = "organizations/4b1c8f5e-0d0a/apiKeys/77aa21c4-9f0e"
NOW = datetime(2026, 11, 23, 12, 0, 0, 900_000, tzinfo=UTC)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = Ed25519PrivateKey.generate()


def pem(key, form=PrivateFormat.PKCS8, lock=None):
    return key.private_bytes(Encoding.PEM, form, lock or NoEncryption()).decode()


def base64_of(*parts):
    return base64.b64encode(b"".join(parts)).decode()


SEED, PUBLIC = ED_KEY.private_bytes_raw(), ED_KEY.public_key().public_bytes_raw()
SEC1 = pem(EC_KEY, PrivateFormat.TraditionalOpenSSL)
DER = ED_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
PARAMETERS = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"

SECRETS = [
    # id,                  secret,                   key
    ("SEC1",               SEC1,                     EC_KEY),
    ("SEC1 of openssl",    PARAMETERS + SEC1,        EC_KEY),
    ("PKCS8 EC",           pem(EC_KEY),              EC_KEY),
    ("PKCS8 Ed25519",      pem(ED_KEY),              ED_KEY),
    ("seed",               base64_of(SEED),          ED_KEY),
    ("seed and public",    base64_of(SEED, PUBLIC),  ED_KEY),
    ("PKCS8 DER",          base64_of(DER),           ED_KEY),
]
COPIED = {
    "as it is": lambda text: text,
    "escaped newlines": lambda text: text.replace("\n", "\\n"),
    "escaped Windows line ends": lambda text: text.replace("\n", "\\r\\n"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "double quotes": lambda text: f'"{text}"',
    "single quotes and spaces": lambda text: f"  '{text}' \n",
    "one line": lambda text: text.replace("\n", " "),
}


def settings(**given):
    return SimpleNamespace(**{"api_key": None, "api_secret": None, "api_key_file": None} | given)


def signer(key=EC_KEY, name=NAME):
    return load_credentials(settings(api_key=name, api_secret=pem(key)), {})


def read(token, key):
    algorithm = "EdDSA" if key is ED_KEY else "ES256"
    claims = jwt.decode(token, key.public_key(), [algorithm],
                        options={"verify_exp": False, "verify_nbf": False})
    return jwt.get_unverified_header(token), claims


def key_file(folder, content, mode=0o600, name="key.json"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return path


# Secrets


@pytest.mark.parametrize("copied", COPIED.values(), ids=COPIED)
@pytest.mark.parametrize("secret, key", [row[1:] for row in SECRETS],
                         ids=[row[0] for row in SECRETS])
def test_every_form_of_secret_signs_as_its_key(secret, key, copied):
    found = load_credentials(settings(api_key=NAME, api_secret=copied(secret)), {})
    header, claims = read(found.websocket_token(NOW), key)
    assert header["kid"] == claims["sub"] == found.name == NAME


@pytest.mark.parametrize("secret", [
    pytest.param(pem(ec.generate_private_key(ec.SECP384R1())), id="P-384"),
    pytest.param(pem(ec.generate_private_key(ec.SECP256K1())), id="secp256k1"),
    pytest.param(pem(ec.generate_private_key(ec.SECP256K1()), PrivateFormat.TraditionalOpenSSL),
                 id="secp256k1 SEC1"),
    pytest.param(pem(rsa.generate_private_key(65537, 2048)), id="RSA"),
    pytest.param(pem(EC_KEY, lock=BestAvailableEncryption(b"x")), id="with a password"),
    pytest.param(pem(EC_KEY, lock=BestAvailableEncryption(b"x")).replace("ENCRYPTED ", ""),
                 id="with a password that nobody mentions"),
    pytest.param(SEC1[:-60], id="cut PEM"),
    pytest.param(SEC1.replace("M", "*", 2), id="damaged PEM"),
    pytest.param(SEC1.replace("PRIVATE", "PUBLIC"), id="public"),
    pytest.param(base64_of(os.urandom(64)), id="retired key"),
    pytest.param(base64_of(os.urandom(48)), id="48 bytes of nothing"),
    pytest.param(base64_of(EC_KEY.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption())), id="EC without PEM"),
    pytest.param(base64_of(SEED)[:-2], id="cut base64"),
    pytest.param(base64_of(SEED[:31]), id="31 bytes"),
    pytest.param("pässword", id="not ASCII"),
    pytest.param("-----BEGIN PRIVATE KEY-----", id="only a head"),
    pytest.param("''", id="empty quotes"),
])
def test_any_other_secret_is_refused_and_never_repeated(secret):
    with pytest.raises(ConfigError) as refused:
        load_credentials(settings(api_key=NAME, api_secret=secret), {})
    message = str(refused.value)
    assert "COINBASE_API_SECRET" in message and "copy" in message and "\n" not in message
    assert shows_nothing_of(secret, refused.value)


def shows_nothing_of(secret, error):
    """Nothing of six characters of the secret that is no word of PEM reaches the traceback."""
    shown = "".join(traceback.format_exception(error)).replace("-----BEGIN PRIVATE KEY-----", "")
    shown = "".join(line for line in shown.splitlines() if not line.startswith("  "))
    pieces = [line[start:start + 6] for line in secret.splitlines() if "-----" not in line
              for start in range(len(line) - 5)]
    return not any(piece in shown for piece in pieces)


@pytest.mark.parametrize("name", ["", " ", "two words", "x" * 201, "näme", SEC1, "\x1b[2J"])
def test_a_name_that_is_none_is_refused_and_never_repeated(name):
    with pytest.raises(ConfigError, match="^COINBASE_API_KEY") as refused:
        load_credentials(settings(api_key=name, api_secret=SEC1), {})
    assert len(name) < 2 or name[:12] not in str(refused.value)


@pytest.mark.parametrize("given, missing", [
    ({"api_key": NAME}, "COINBASE_API_SECRET"), ({"api_secret": SEC1}, "COINBASE_API_KEY"),
])
def test_half_a_pair_is_refused_even_beside_a_key_file(tmp_path, given, missing):
    given["api_key_file"] = key_file(tmp_path, {"name": NAME, "privateKey": SEC1})
    with pytest.raises(ConfigError, match=f"^{missing} is missing"):
        load_credentials(settings(**given), {})


def test_the_settings_of_a_run_are_understood():
    found = resolve({}, {"COINBASE_API_KEY": f" {NAME} ", "COINBASE_API_SECRET": SEC1})
    assert load_credentials(found, {}).name == NAME
    assert load_credentials(resolve({}, {}), {}) is None


# Places


def test_nothing_given_is_nobody(tmp_path):
    assert load_credentials(settings(), {}) is None
    assert load_credentials(settings(), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) is None


@pytest.mark.parametrize("content", [
    {"name": NAME, "privateKey": SEC1},
    {"id": NAME, "privateKey": SEC1},
    {"name": NAME, "privateKey": SEC1, "nickname": "bot", "scopes": ["rat#view"],
     "allowedIps": [], "keyType": 1, "enabled": True},
    b"\xef\xbb\xbf" + json.dumps({"name": NAME, "privateKey": SEC1}).encode(),
], ids=["name", "id", "more", "byte order mark"])
def test_the_file_that_coinbase_hands_out_is_read(tmp_path, content):
    found = load_credentials(settings(api_key_file=key_file(tmp_path, content)), {})
    assert read(found.websocket_token(NOW), EC_KEY)[1]["sub"] == NAME


def test_a_credential_of_systemd_is_found_and_comes_last(tmp_path):
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    key_file(tmp_path, {"name": "credential", "privateKey": SEC1}, 0o400, keys.CREDENTIAL)
    file = key_file(tmp_path, {"name": "file", "privateKey": SEC1})
    assert load_credentials(settings(), environ).name == "credential"
    assert load_credentials(settings(api_key_file=file), environ).name == "file"
    pair = settings(api_key="pair", api_secret=SEC1, api_key_file=file)
    assert load_credentials(pair, environ).name == "pair"


@pytest.mark.parametrize("content, what", [
    (b"", "not the JSON"), (b"{", "not the JSON"), (b"[]", "not the JSON"),
    (SEC1.encode(), "not the JSON"), (b"\xff\xfe{}", "not the JSON"),
    ({"privateKey": SEC1}, r"name \(or id\) is missing"),
    ({"name": 7, "privateKey": SEC1}, r"name \(or id\) is missing"),
    ({"name": NAME}, "privateKey is missing"), ({"name": NAME, "privateKey": None}, "privateKey"),
    ({"name": NAME, "privateKey": "abc"}, "privateKey: not a secret"),
    (b" " * (keys.KEY_FILE_BYTES_MAX + 1), "longer than 16384 bytes"),
])
def test_another_file_is_refused_in_one_line_that_names_it(tmp_path, content, what):
    path = key_file(tmp_path, content)
    with pytest.raises(ConfigError, match=what) as refused:
        load_credentials(settings(api_key_file=path), {})
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert shows_nothing_of(SEC1, refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o601, 0o777])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    path = key_file(tmp_path, {"name": NAME, "privateKey": SEC1}, mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_credentials(settings(api_key_file=path), {})


def a_link(path):
    target = key_file(path.parent, {"name": NAME, "privateKey": SEC1}, name="target")
    path.symlink_to(target)


@pytest.mark.parametrize("put, what", [
    (lambda path: None, "cannot be read"),
    (a_link, "no link"),
    (lambda path: path.mkdir(mode=0o700), "cannot be read|no ordinary file"),
    (lambda path: os.mkfifo(path, 0o600), "no ordinary file"),
], ids=["absent", "link", "folder", "pipe"])
@pytest.mark.parametrize("name", ["key.json", keys.CREDENTIAL])
def test_what_is_no_file_of_ours_is_refused(tmp_path, put, what, name):
    path = tmp_path / name
    put(path)
    with pytest.raises(ConfigError, match=what):
        load_credentials(settings(api_key_file=path), {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_link_in_the_place_of_a_credential_is_refused_and_not_overlooked(tmp_path):
    (tmp_path / keys.CREDENTIAL).symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match="no link"):
        load_credentials(settings(), {"CREDENTIALS_DIRECTORY": str(tmp_path)})


@pytest.mark.parametrize("owner, mode, as_file, as_credential", [
    # systemd may leave a credential to root, with a list that shows in the group bits
    ("us",      0o400, True,  True),
    ("root",    0o400, False, True),
    ("root",    0o440, False, True),
    ("root",    0o444, False, False),
    ("root",    0o460, False, False),
    ("another", 0o400, False, False),
])
def test_who_may_own_a_key(monkeypatch, owner, mode, as_file, as_credential):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = SimpleNamespace(st_mode=0o100000 | mode,
                            st_uid={"us": 1000, "root": 0, "another": 1001}[owner])
    assert (keys._trouble(found, is_credential=False) == "") is as_file
    assert (keys._trouble(found, is_credential=True) == "") is as_credential


# Tokens


@pytest.mark.parametrize("key, algorithm", [(EC_KEY, "ES256"), (ED_KEY, "EdDSA")])
def test_a_token_says_who_asks_for_what_and_how_long(key, algorithm):
    token = signer(key).rest_token("GET", "127.0.0.1:8080", "/api/v3/brokerage/orders", NOW)
    header, claims = read(token, key)
    assert header == {"alg": algorithm, "kid": NAME, "nonce": header["nonce"], "typ": "JWT"}
    assert len(bytes.fromhex(header["nonce"])) >= 16
    begin = int(NOW.timestamp()) - 5
    assert claims == {"sub": NAME, "iss": "cdp", "nbf": begin, "exp": begin + 120,
                      "uri": "GET 127.0.0.1:8080/api/v3/brokerage/orders"}


def test_the_token_of_a_subscription_names_no_uri():
    assert set(read(signer().websocket_token(NOW), EC_KEY)[1]) == {"sub", "iss", "nbf", "exp"}


def test_no_token_comes_twice():
    ours = signer()
    nonces = {read(ours.websocket_token(NOW), EC_KEY)[0]["nonce"] for _ in range(20)}
    assert len(nonces) == 20


@pytest.mark.parametrize("key", [EC_KEY, ED_KEY])
def test_the_signer_never_shows_its_key(key):
    ours = signer(key)
    shown = f"{ours!r} {ours} {[ours]} %s" % ours
    assert "PRIVATE" not in shown and NAME not in shown and "object at" not in shown
    assert not hasattr(ours, "__dict__")
    for write_down in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not written down"):
            write_down(ours)
