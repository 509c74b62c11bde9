"""Tokens: who is asking?

Signature, issuer, key name, life, address and nonce are checked as the venue does, against venue
time.  The answer is the reason for a refusal, "" where there is none: the caller is only ever told
`Unauthorized`, the reason is for the log of the test.
"""

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

LIFE_SECONDS_MAX = 120
EARLY_SECONDS_MAX = 5
NONCE_CHARACTERS_MIN = 16
CHECKED_HERE = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub")}


class TokenCheck:
    """The one key that this exchange knows, and the nonces already used."""

    def __init__(self, key_name="", public_key_pem=""):
        self._name = key_name
        self._key = load_pem_public_key(public_key_pem.encode()) if public_key_pem else None
        elliptic = isinstance(self._key, ec.EllipticCurvePublicKey)
        self._algorithm = "ES256" if elliptic else "EdDSA"
        self._nonces = set()

    def refusal(self, token, now, uris=None):
        """Return why `token` is refused at `now`; `uris` are the ones allowed, None for none."""
        if self._key is None:
            return "this exchange has no key"
        try:
            decoded = jwt.api_jwt.decode_complete(
                token, self._key, algorithms=[self._algorithm], options=CHECKED_HERE)
        except jwt.InvalidTokenError as error:
            return f"token: {error}"
        return self._wrong(decoded["header"], decoded["payload"], now.timestamp(), uris)

    def _wrong(self, header, claims, now, uris):
        begin, end = claims.get("nbf"), claims.get("exp")
        if not all(isinstance(moment, int | float) for moment in (begin, end)):
            return f"nbf {begin!r} and exp {end!r} must be numbers"
        nonce = header.get("nonce")
        checks = (
            (header.get("kid") == claims.get("sub") == self._name, "kid and sub name the key"),
            (claims.get("iss") == "cdp", "iss is cdp"),
            (begin <= now + EARLY_SECONDS_MAX, f"nbf {begin} has come at {now}"),
            (end - begin <= LIFE_SECONDS_MAX, f"lives {LIFE_SECONDS_MAX} s at most"),
            (now < end, f"exp {end} is still to come at {now}"),
            (isinstance(nonce, str) and len(nonce) >= NONCE_CHARACTERS_MIN, "has a nonce"),
            (nonce not in self._nonces, "the nonce is new"),
            (claims.get("uri") in (uris or (None,)), f"uri {claims.get('uri')!r} is in {uris}"),
        )
        self._nonces.add(nonce)
        return "; ".join(f"not so: {what}" for holds, what in checks if not holds)
