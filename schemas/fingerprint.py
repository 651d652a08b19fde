"""Fingerprints: one hash over everything that can change an outcome."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint_of(**parts: Any) -> str:
    """SHA-256 (hex) over canonical JSON of the parts."""
    # ASCII, so that no text (not even half a character) can fail to be hashed.
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
