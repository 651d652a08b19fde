"""Fences: what untrusted text may not spell, because it would end where the template says it does.

Two kinds. *Tags* are the template's own (`<response>`). *Control text* is what chat formats are
made of (`<|im_end|>`, `[INST]`, `</s>`): an engine of ours never reads it in untrusted text, but
a remote server tokenizes by itself and may. Knows nothing of templates or models.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

# Invisible or combining characters do not make a tag look less like one to a model:
# controls, spaces of all kinds, soft hyphen, zero-width and bidi marks, variation selectors.
_IGNORED = (
    r"[\s\x00-\x20\x7f-\xa0\xad\u034f\u0300-\u036f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"
    r"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
_BRACKET = "<\uff1c\ufe64"  # as typed, full width, small
_SLASH = r"/\\\u2044\u2215\uff0f\ufe68"
# Letters of other scripts that look the same.
_TWINS = {
    "a": "\u0430\u03b1",
    "c": "\u0441\u03f2",
    "d": "\u0501",
    "e": "\u0435\u0451",
    "h": "\u04bb",
    "i": "\u0456\u03b9\u0131",
    "j": "\u0458",
    "k": "\u043a\u03ba\u212a",
    "m": "\u043c",
    "n": "\u0578",
    "o": "\u043e\u03bf\u0585",
    "p": "\u0440\u03c1",
    "s": "\u0455\u017f",
    "t": "\u0442\u03c4",
    "u": "\u03c5\u057d",
    "v": "\u03bd\u0475",
    "x": "\u0445\u03c7",
    "y": "\u0443\u03b3",
}

# Beginnings of control text in the chat formats in use: ChatML and Llama 3 (`<|...|>`, also with
# full-width bars), Llama 2 and Mistral (`[INST]`, `<<SYS>>`), Gemma, sentence ends.
_CONTROL = re.compile(
    r"<(?=[|｜])|(?<=[|｜])>|<(?=/?s>)|<(?=</?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|"
    r"TOOL_CALLS|TOOL_RESULTS|IMG)\])|<(?=/?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|"
    r"end_of_text|endoftext|eot)>)",
    re.IGNORECASE,
)
_DEFANGED = {"<": "‹", ">": "›", "[": "⟦"}


def defang_tags(text: str, names: Iterable[str]) -> tuple[str, int]:
    """The text with the angle bracket of each look-alike of the tags `names` replaced.

    Returns the text and how many were replaced. Case, spaces, slashes, invisible characters and
    look-alike letters make no difference.
    """
    names = tuple(sorted(set(names)))
    return _tags(names).subn("‹", text) if names else (text, 0)


def defang_control(text: str) -> tuple[str, int]:
    """The text with control text of the known chat formats made plain, and how often."""
    return _CONTROL.subn(lambda match: _DEFANGED[match.group()], text)


@functools.lru_cache(maxsize=64)
def _tags(names: tuple[str, ...]) -> re.Pattern[str]:
    spelled = "|".join(_spelled(name) for name in names)
    return re.compile(
        f"[{_BRACKET}](?=(?:{_IGNORED}|[{_SLASH}])*(?:{spelled})(?![a-z0-9_]))", re.IGNORECASE
    )


def _spelled(name: str) -> str:
    """A pattern for one name, whatever lies invisibly between its letters."""
    return f"{_IGNORED}*".join(_letter(character) for character in name)


def _letter(character: str) -> str:
    wide = chr(ord(character) + 0xFEE0)  # full-width form of a printable ASCII character
    return f"[{re.escape(character)}{wide}{_TWINS.get(character, '')}]"
