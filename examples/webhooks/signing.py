"""Signatures that let a receiver trust a webhook: HMAC-SHA256 over the time of sending and the body.

The header reads `t=1718089083,v1=<hex digest>`. The time is signed too, so that a recorded request cannot be
sent again later.
"""

from __future__ import annotations

import hashlib
import hmac
import os

HEADER = "Webhook-Signature"
MAX_AGE = 300
"""Seconds after which a signature is no longer accepted."""


def shared_secret() -> bytes:
    """The key that both sides share, from `WEBHOOKS_SECRET`; the default is for this example only."""
    return os.environ.get("WEBHOOKS_SECRET", "example-only-not-a-secret").encode()


def sign(secret: bytes, body: bytes, *, sent_at: int) -> str:
    """Return the value of the signature header for a body sent at `sent_at`, in seconds since the epoch."""
    return f"t={sent_at},v1={_digest(secret, body, sent_at)}"


def is_valid(signature: str, secret: bytes, body: bytes, *, now: float) -> bool:
    """Whether `signature` was made with `secret` for this very body, at most `MAX_AGE` seconds ago."""
    try:
        fields = dict(field.split("=", 1) for field in signature.split(","))
        sent_at, digest = int(fields["t"]), fields["v1"]
    except (KeyError, ValueError):
        return False
    expected = _digest(secret, body, sent_at)
    return abs(now - sent_at) <= MAX_AGE and hmac.compare_digest(digest.encode(), expected.encode())


def _digest(secret: bytes, body: bytes, sent_at: int) -> str:
    return hmac.new(secret, b"%d." % sent_at + body, hashlib.sha256).hexdigest()
