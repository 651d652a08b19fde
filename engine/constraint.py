"""Constraints: JSON schema -> regular expression -> outlines' index over the vocabulary as bytes.

One index says which tokens may follow (for free text such as a reason) and which token sequences
are whole answers (for scoring). Nothing here runs inside a callback: whatever fails, raises.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from outlines_core import Guide, Index
from outlines_core.json_schema import build_regex_from_schema

from evenhand.engine.native import FloatRow
from evenhand.engine.supported import faithful, refuse_large
from evenhand.engine.tokens import Tokenizer
from evenhand.schemas.errors import ConstraintError, UnsupportedSchema

_KEPT = 64  # compiled schemas in memory


class Constraint:
    """A compiled schema. `start()` gives a cursor that follows one sequence."""

    def __init__(self, index: Index, n_vocab: int):
        self._index = index
        self._n_vocab = n_vocab

    def start(self) -> Cursor:
        """A cursor at the beginning of the text."""
        return Cursor(Guide(self._index), self._n_vocab)

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether the tokens are, from first to last, a whole text of the schema."""
        guide = Guide(self._index)
        if not guide.accepts_tokens(list(tokens)):
            return False
        for token in tokens:
            guide.advance(token, return_tokens=False)
        return bool(guide.is_finished())


class Cursor:
    """Follows one sequence through a constraint."""

    def __init__(self, guide: Guide, n_vocab: int):
        self._guide = guide
        self._mask = np.zeros((n_vocab + 31) // 32, np.int32)
        self._n_vocab = n_vocab

    @property
    def complete(self) -> bool:
        """Whether the text is whole and nothing but its end may follow."""
        return bool(self._guide.is_finished()) and len(self._guide.get_tokens()) <= 1

    def mask(self, logits: FloatRow) -> None:
        """Set the logits of tokens that may not follow to minus infinity, in place.

        Raises `ConstraintError` when none may.
        """
        try:
            self._guide.write_mask_into(
                self._mask.ctypes.data, self._mask.size, self._mask.itemsize
            )
        except Exception as exc:
            raise ConstraintError(f"outlines could not say which tokens may follow: {exc}") from exc
        allowed = self._bits()
        if not allowed.any():
            raise ConstraintError("no token may follow, and the text is not finished")
        logits[~allowed] = -np.inf

    def advance(self, token: int) -> None:
        """Take a token. Raises `ConstraintError` for one that may not follow."""
        try:
            self._guide.advance(token, return_tokens=False)
        except Exception as exc:
            raise ConstraintError(f"token {token} may not follow: {exc}") from exc

    def _bits(self) -> npt.NDArray[np.bool_]:
        raw = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        return raw[: self._n_vocab].astype(bool)


class Compiler:
    """Compiles schemas for one vocabulary, and keeps them in memory and on disk."""

    def __init__(
        self, tokenizer: Tokenizer, *, n_vocab: int, vocab_hash: str, cache_dir: Path | None
    ):
        self._tokenizer = tokenizer
        self._n_vocab = n_vocab
        self._vocab_hash = vocab_hash
        self._cache_dir = cache_dir
        self._lock = threading.Lock()
        self._constraints: OrderedDict[str, Future[Constraint]] = OrderedDict()

    def compile(self, schema: Mapping[str, Any]) -> Constraint:
        """The constraint of a JSON schema. Raises `UnsupportedSchema`.

        Each schema is compiled once, by the first thread that asks; only those that ask for the
        same one wait for it.
        """
        text = json.dumps(schema)
        with self._lock:
            known = self._constraints.get(text)
            found = self._constraints.setdefault(text, Future())
            self._constraints.move_to_end(text)
            while len(self._constraints) > _KEPT:
                self._constraints.popitem(last=False)
        if known is None:
            try:
                found.set_result(Constraint(self._index(schema), self._n_vocab))
            except BaseException as exc:
                with self._lock:
                    if self._constraints.get(text) is found:
                        del self._constraints[text]
                found.set_exception(exc)
        return found.result()

    def _index(self, schema: Mapping[str, Any]) -> Index:
        text = json.dumps(faithful(schema))
        try:
            # The default white space pattern would add a branch at every gap.
            regex = build_regex_from_schema(text, whitespace_pattern="")
        except Exception as exc:
            raise UnsupportedSchema(
                f"outlines cannot compile this JSON schema: {exc}",
                hint="Use objects, enums, strings, numbers, booleans and arrays of these.",
            ) from exc
        refuse_large(regex, n_vocab=self._n_vocab)
        key = hashlib.sha256(
            "\n".join((regex, self._vocab_hash, version("outlines_core"))).encode()
        ).hexdigest()
        file = None if self._cache_dir is None else self._cache_dir / "index" / f"{key}.pickle"
        if file is not None and (index := _read(file)) is not None:
            return index
        vocabulary = self._tokenizer.vocabulary()
        try:
            index = Index(regex, vocabulary)
        except Exception as exc:
            raise UnsupportedSchema(
                f"outlines cannot index this JSON schema over the model's vocabulary: {exc}",
                hint="Use a smaller schema, without maxLength on free text.",
            ) from exc
        if file is not None:
            _write(file, index)
        return index


# A cached index is its sha256, then its pickle: one flipped bit would be another grammar.
_DIGEST = 32


def _read(file: Path) -> Index | None:
    """An index from the cache. Only files that this user alone could have written are unpickled."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return None
            content = opened.read()
        digest, data = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            return None
        index = pickle.loads(data)
    except Exception:  # absent, cut short, or of another version: compile again
        return None
    return index if isinstance(index, Index) else None


def _write(file: Path, index: Index) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        data = pickle.dumps(index)
        temporary.write_bytes(hashlib.sha256(data).digest() + data)
        temporary.chmod(0o600)
        temporary.replace(file)
    except OSError:
        pass  # a read-only cache only costs time


@dataclass(frozen=True, slots=True)
class Node:
    """A token of the answer trie. `depth` counts from 0 after the prompt; `leaves` are answers."""

    token: int
    parent: int
    depth: int
    leaves: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trie:
    """The accepted answers as a trie of tokens, depth first.

    `head` is what all answers begin with. `nodes` hold the tokens after it that must be evaluated,
    that is all but the last token of each answer. `steps[i]` are the (node, token) pairs whose
    log-probabilities add up to that of answer i given the head; node -1 stands for the end of the
    head.
    """

    head: tuple[int, ...]
    nodes: tuple[Node, ...]
    steps: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def tokens(self) -> int:
        """How many tokens are evaluated, the head included."""
        return len(self.head) + len(self.nodes)


def build_trie(paths: Sequence[Sequence[int]]) -> Trie:
    """The trie of token paths, none of which may be a prefix of another.

    Raises `ConstraintError` for fewer than two paths, equal ones or prefixes.
    """
    if len(paths) < 2:
        raise ConstraintError("scoring needs at least two answers")
    ordered = sorted(tuple(p) for p in paths)
    for a, b in itertools.pairwise(ordered):
        if b[: len(a)] == a:
            raise ConstraintError(
                "an answer is the beginning of another; close answers with a quote"
            )
    shared = 0
    while len({p[shared] for p in paths}) == 1:
        shared += 1
    head = tuple(paths[0][:shared])
    nodes: list[Node] = []
    steps: list[list[tuple[int, int]]] = [[] for _ in paths]

    def grow(parent: int, depth: int, leaves: Sequence[int]) -> None:
        by_token: dict[int, list[int]] = {}
        for leaf in leaves:
            token = paths[leaf][depth]
            steps[leaf].append((parent, token))
            if len(paths[leaf]) > depth + 1:
                by_token.setdefault(token, []).append(leaf)
        for token, below in by_token.items():
            nodes.append(Node(token, parent, depth, tuple(below)))
            grow(len(nodes) - 1, depth + 1, below)

    grow(-1, shared, range(len(paths)))
    return Trie(head, tuple(nodes), tuple(tuple(s) for s in steps))


def answer_trie(
    answers: Sequence[str], constraint: Constraint, encode: Callable[[str], list[int]]
) -> Trie:
    """The trie of whole answers, each checked against the constraint.

    Raises `ConstraintError` for an answer that the grammar does not accept.
    """
    paths = [encode(answer) for answer in answers]
    for answer, path in zip(answers, paths, strict=True):
        if not constraint.accepts(path):
            raise ConstraintError(f"the grammar does not accept the answer {answer!r}")
    return build_trie(paths)
