"""Text that can leave as UTF-8, whatever it came from."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with each lone surrogate (half a character) replaced by U+FFFD.

    Python strings may hold halves that a model escaped (`\\ud83d`) or a file smuggled in; JSON and
    UTF-8 may not, and a record that cannot be written would lose its batch.
    """
    return _LONE_SURROGATE.sub("\ufffd", text)


CleanText = Annotated[str, AfterValidator(clean)]
