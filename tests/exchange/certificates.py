"""Certificates: how does a loopback server prove who it is, or fail to?

Everything is made for one test in its own folder: an authority, and a certificate signed by it.
What a client may find wrong is an argument: the names, the days, the signature.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

HERE = ("127.0.0.1", "localhost")
A_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """Three files: `pair` is for the server, `authority` is what a client has to trust."""

    file: Path
    key: Path
    authority: Path

    @property
    def pair(self):
        return self.file, self.key


def a_certificate(folder, names=HERE, expired=False, self_signed=False):
    """Make a certificate for `names` (addresses too) in `folder`."""
    now = datetime.now(UTC)
    end = now - A_DAY if expired else now + A_DAY
    authority_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    authority_name, name = a_name("authority of a test"), a_name(names[0])
    authority = begun(authority_name, authority_name, authority_key, now + A_DAY, authority_key)
    authority = authority.add_extension(x509.BasicConstraints(True, 0), True).add_extension(
        usage(key_cert_sign=True, crl_sign=True), True).sign(authority_key, SHA256())
    issuer, signing = (name, key) if self_signed else (authority_name, authority_key)
    leaf = begun(name, issuer, key, end, signing).add_extension(
        x509.SubjectAlternativeName([alternative(one) for one in names]), False).add_extension(
        x509.BasicConstraints(False, None), True).add_extension(
        usage(digital_signature=True), True).sign(signing, SHA256())
    made = Certificate(*(Path(folder) / f"{part}.pem" for part in ("server", "key", "authority")))
    made.file.write_bytes(leaf.public_bytes(Encoding.PEM))
    made.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def a_name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def begun(subject, issuer, key, end, signing):
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), end - 3 * A_DAY, end,
    ).add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False)


def usage(**allowed):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: allowed.get(name, False) for name in names})


def alternative(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
