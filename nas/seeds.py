"""Seeds that follow from other seeds and from names."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: int | str) -> int:
    """A seed below 2^31 that is the same on every machine and unrelated for different parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
