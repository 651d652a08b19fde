"""Remembers verdicts by fingerprint and input, so that identical work is done once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict

from evenhand.schemas.verdict import Status, Verdict

Key = tuple[str, str, str, bool]


class VerdictCache:
    """The last `size` verdicts with a label, least recently used out first. Thread-safe.

    Keys are hashed, so that long texts are not kept. Failures are not kept: the next attempt may
    succeed.
    """

    def __init__(self, size: int = 4_096):
        self._size = size
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def get(self, key: Key) -> Verdict | None:
        """The verdict for (fingerprint, prompt, response, reason), marked as cached."""
        digest = _digest(key)
        with self._lock:
            verdict = self._verdicts.get(digest)
            if verdict is None:
                return None
            self._verdicts.move_to_end(digest)
        # Validating the copy builds dicts of its own: a caller who edits them does not edit ours.
        return verdict.model_copy(update={"cached": True, "seconds": 0.0})

    def put(self, key: Key, verdict: Verdict) -> None:
        """Keep a verdict that has a label."""
        if verdict.status is not Status.JUDGED:
            return
        digest = _digest(key)
        with self._lock:
            self._verdicts[digest] = verdict.model_copy(deep=True)
            self._verdicts.move_to_end(digest)
            while len(self._verdicts) > self._size:
                self._verdicts.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            return len(self._verdicts)


def _digest(key: Key) -> bytes:
    # JSON marks where one text ends and the next begins, and takes half characters.
    return hashlib.sha256(json.dumps(key).encode()).digest()
