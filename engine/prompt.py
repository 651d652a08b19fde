"""A prompt on its way to the model: pieces of text with their provenance, then token ids.

Knows which text may hold control tokens (templates) and which may not (everything a user or a
model wrote). It does not know templates or models; a tokenizer is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from evenhand.schemas.errors import InputTooLong

OMISSION = " […] "


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text.

    `control`: the text is a template's, so `<|im_start|>` and its like mean what they say. Text of
    unknown origin always has `control=False`: whatever it spells, it stays text.
    `constant`: the same in every prompt of this kind; leading constant segments form the prefix
    that the engine evaluates once and keeps.
    `cut`: where all does not fit, tokens may be taken from the middle of this segment.
    `neutralised` counts turn markers that were broken up inside the text.
    """

    text: str
    control: bool = False
    constant: bool = False
    cut: bool = False
    neutralised: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; its content may mix a template's words with untrusted text."""

    role: str
    content: tuple[Segment, ...]

    @classmethod
    def text(cls, role: str, text: str, *, constant: bool = False) -> Message:
        """A turn of a single, untrusted piece."""
        return cls(role, (Segment(text, constant=constant),))


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids. The first `prefix` of them are constant; `omitted` tokens were cut out."""

    tokens: tuple[int, ...]
    prefix: int = 0
    omitted: int = 0
    neutralised: int = 0

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class _Piece:
    segment: Segment
    tokens: list[int] = field(default_factory=list)


def assemble(
    segments: Sequence[Segment],
    tokenize: Callable[[str, bool], list[int]],
    *,
    limit: int,
    bos: int | None = None,
) -> Prompt:
    """Tokenize each segment on its own and join the ids, so that no token spans two of them.

    `tokenize(text, control)` returns ids without beginning-of-text. Trailing spaces of a segment
    move into the next one, because vocabularies fold a space into the word that follows. `bos` is
    put first unless the template has already done so. More than `limit` tokens: the middle of the
    segments that allow it, longest first, gives way to ` […] `; where that is not enough, raises
    `InputTooLong`.
    """
    pieces = [
        _Piece(s, tokenize(s.text, s.control)) for s in _shift_spaces(segments) if s.text != ""
    ]
    if bos is not None and not (pieces and pieces[0].tokens[:1] == [bos]):
        pieces.insert(0, _Piece(Segment("", control=True, constant=True), [bos]))
    total = sum(len(p.tokens) for p in pieces)
    omitted = 0
    if total > limit:
        marker = tokenize(OMISSION, False)
        omitted = _cut(pieces, total, limit, marker)
    tokens: list[int] = []
    prefix = 0
    constant = True
    for piece in pieces:
        tokens += piece.tokens
        constant = constant and piece.segment.constant
        if constant:
            prefix = len(tokens)
    return Prompt(tuple(tokens), prefix, omitted, sum(s.neutralised for s in segments))


def _cut(pieces: list[_Piece], total: int, limit: int, marker: list[int]) -> int:
    """Shorten the cuttable pieces, longest first, until all fit; return how many tokens went."""
    removed = 0
    over = total - limit
    for piece in sorted(
        (p for p in pieces if p.segment.cut), key=lambda p: len(p.tokens), reverse=True
    ):
        if over <= 0 or len(piece.tokens) <= len(marker):  # cutting would gain nothing
            break
        take = min(over + len(marker), len(piece.tokens))
        keep = len(piece.tokens) - take
        head = (keep + 1) // 2
        piece.tokens = [*piece.tokens[:head], *marker, *piece.tokens[head + take :]]
        removed += take
        over -= take - len(marker)
    if over > 0:
        raise InputTooLong(f"the text is {total} tokens long, and at most {limit} fit")
    return removed


def _shift_spaces(segments: Sequence[Segment]) -> list[Segment]:
    """Move spaces at a segment's end to the next one's start, where vocabularies have them."""
    shifted: list[Segment] = []
    carried = ""
    for index, segment in enumerate(segments):
        text = carried + segment.text
        carried = ""
        if index + 1 < len(segments) and segments[index + 1].text and text.endswith(" "):
            kept = text.rstrip(" ")
            carried = text[len(kept) :]
            text = kept
        shifted.append(replace(segment, text=text))
    return shifted
