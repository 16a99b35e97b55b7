"""Opaque names: keyed by the database's secret, so that nobody can compute them from what they stand for."""

import hashlib
import hmac


def opaque(secret: str, *parts: str) -> str:
    """Twenty-four hexadecimal digits, the same for the same secret and parts."""
    return hmac.new(secret.encode(), "\x1f".join(parts).encode(), hashlib.sha256).hexdigest()[:24]


def digest(text: str) -> str:
    """SHA-256 in hexadecimal: what is kept of tokens, and of names and addresses that were refused."""
    return hashlib.sha256(text.encode()).hexdigest()
