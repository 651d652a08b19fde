"""The vocabulary: text to token ids and back, and every token as bytes.

Text is tokenized in pieces. A piece that is not a template's never yields a control token.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import cached_property

from outlines_core import Vocabulary

from evenhand.engine.native import Model

# SentencePiece puts a space before a text that begins a sequence. After a newline, which is a
# token of its own that joins nothing, it does not; so pieces are tokenized behind one.
_ANCHOR = b"\n"


class Tokenizer:
    """Tokenizes with the vocabulary of a loaded model. Thread-safe: it only reads."""

    def __init__(self, model: Model):
        self._model = model
        self._anchor: list[int] = []
        if model.is_sentencepiece:
            self._anchor = model.tokenize(_ANCHOR, special=False)

    @property
    def bos(self) -> int | None:
        """The token that begins every sequence, where the model wants one."""
        return self._model.bos if self._model.add_bos and self._model.bos >= 0 else None

    def encode(self, text: str, control: bool = False) -> list[int]:
        """Token ids of one piece of text, as it stands in the middle of a sequence.

        `control` lets control tokens be spelled. Lone surrogates become U+FFFD.
        """
        data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
        if self._anchor:
            n = len(self._anchor)
            ids = self._model.tokenize(_ANCHOR + data, special=control)
            if ids[:n] == self._anchor:
                return ids[n:]
        return self._model.tokenize(data, special=control)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids; control tokens are left out, broken UTF-8 becomes U+FFFD."""
        return b"".join(self.pieces[t] for t in tokens).decode("utf-8", "replace")

    @cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of each token; control tokens are empty."""
        return [self._model.piece(token) for token in range(self._model.n_vocab)]

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end a generation."""
        return frozenset(t for t in range(self._model.n_vocab) if self._model.is_end(t))

    def vocabulary(self) -> Vocabulary:
        """The vocabulary as outlines_core wants it: bytes to ids, control tokens left out."""
        ids: dict[bytes, list[int]] = {}
        for token, piece in enumerate(self.pieces):
            if not piece or token == self.end or token in self.ends:
                continue
            if not self._model.is_control(token):
                ids.setdefault(piece, []).append(token)
        return Vocabulary(self.end, ids)

    @property
    def end(self) -> int:
        """The token that stands for the end in constraints."""
        return self._model.eos if self._model.eos >= 0 else min(self.ends, default=0)


class TextStream:
    """Turns tokens into text as they come, holding back what is not final yet.

    Held back are the bytes of an unfinished character and any tail that may turn out to begin a
    stop string. When a stop string is complete, the text before it is final and nothing follows.
    """

    def __init__(self, stops: Sequence[str] = ()):
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, piece: bytes, *, final: bool = False) -> str:
        """Add a token's bytes and return the text that became final.

        `final` flushes everything, because no more tokens come.
        """
        if self.stopped:
            return ""
        pending = self._held + self._decoder.decode(piece, final)
        # The stop that ends first counts, as if the text had come character by character.
        found = [(at + len(s), at) for s in self._stops if (at := pending.find(s)) >= 0]
        if found:
            self.stopped = True
            ready, self._held = pending[: min(found)[1]], ""
        else:
            keep = 0 if final else self._overlap(pending)
            ready, self._held = pending[: len(pending) - keep], pending[len(pending) - keep :]
        self.text += ready
        return ready

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        return max(
            (
                n
                for stop in self._stops
                for n in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:n])
            ),
            default=0,
        )
