"""Regular expressions as trees: what they may match, and how many states they need.

Knows the part of the language that ECMA-262 and outlines share, and JSON's plain characters; not
schemas or vocabularies. Whatever else there is (look-around, back references, flags) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evenhand.schemas.errors import UnsupportedSchema

Range = tuple[int, int]  # code points, from first to last
_TOP = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_MOST_PIECES = 2**18  # of an automaton before it is made deterministic
_MOST_STEPS = 2**20  # of making it so: some seconds
_MOST_STATES = 2**15  # where it looks for the expression anywhere in a text
_NARROW = 1 / 32  # what a state costs that few tokens may follow, where one that all may costs 1


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a set, sorted and apart."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One part after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part `least` to `most` times; None is for ever."""

    part: Node
    least: int
    most: int | None


Node = Char | Row | Choice | Repeat


def parse(text: str) -> Node:
    """The tree of a regular expression for a whole text. Raises `UnsupportedSchema`.

    Anchors may stand at the ends of it and of its alternatives only, where they change nothing.
    """
    try:
        return _Parser(text).whole()
    except RecursionError as exc:
        raise _unread(text, "is nested too deeply") from exc


def plain(pattern: str) -> str:
    """A regular expression for the texts of a pattern that JSON spells as they are.

    Left out are quotes, backslashes and control characters. Raises `UnsupportedSchema` where
    nothing is left, and for what `parse` refuses.
    """
    try:
        if (kept := _restricted(parse(pattern))) is None:
            raise _unread(
                pattern, "matches nothing without a quote, backslash or control character"
            )
        return _shown(kept)
    except RecursionError as exc:
        raise _unread(pattern, "is nested too deeply") from exc


def places(regex: str, most: float) -> float:
    """The states of a regular expression's automaton, each by how much may follow it.

    A state that any character may follow counts 1, one that a single character may follow 1/32.
    Stops counting beyond `most`. Raises `UnsupportedSchema` where the counting itself is too long.
    """
    try:
        automaton = _Automaton()
        automaton.add(parse(regex), 0)
        return automaton.places(most)
    except RecursionError as exc:
        raise _unread(regex, "is nested too deeply") from exc


def _unread(text: str, why: str) -> UnsupportedSchema:
    shown = text if len(text) <= 60 else text[:60] + "..."
    return UnsupportedSchema(
        f"this JSON schema has the pattern {shown!r}, which {why}",
        hint="Use characters, classes, groups, alternatives and repeats; or leave the pattern out.",
    )


# -- sets of characters -------------------------------------------------------------------------


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def _others(ranges: Iterable[Range]) -> tuple[Range, ...]:
    found: list[Range] = []
    at = 0
    for low, high in _joined((*ranges, _SURROGATES)):
        if low > at:
            found.append((at, low - 1))
        at = high + 1
    if at <= _TOP:
        found.append((at, _TOP))
    return tuple(found)


def _both(a: Iterable[Range], b: Iterable[Range]) -> tuple[Range, ...]:
    return _others((*_others(a), *_others(b)))


def _one(character: str) -> Range:
    return ord(character), ord(character)


# As ECMA-262 has them: digits and words are ASCII, white space is not.
_DIGIT = (_one("0")[0], _one("9")[0])
_CLASSES: dict[str, tuple[Range, ...]] = {
    "d": (_DIGIT,),
    "w": _joined((_DIGIT, (ord("A"), ord("Z")), (ord("a"), ord("z")), _one("_"))),
    "s": _joined([
        (9, 13), _one(" "), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
        (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
    ]),
}  # fmt: skip
_CLASSES |= {name.upper(): _others(ranges) for name, ranges in _CLASSES.items()}
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_ANY = _others([(10, 10), (13, 13), (0x2028, 0x2029)])
_PLAIN = _others([(0, 0x1F), (0x7F, 0x9F), _one('"'), _one("\\")])  # as outlines has strings


# -- from text to tree --------------------------------------------------------------------------

_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|[xu]\{([0-9a-fA-F]{1,6})\}")
_BOUNDS = re.compile(r"\{(\d{1,15})(,(\d{0,15}))?\}")


class _Parser:
    def __init__(self, text: str):
        self._text = text
        self._at = 0

    def whole(self) -> Node:
        node = self._choice(top=True)
        if self._at < len(self._text):
            raise self._wrong("has a bracket too many")
        return node

    def _wrong(self, why: str) -> UnsupportedSchema:
        return _unread(self._text, why)

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _choice(self, *, top: bool = False) -> Node:
        parts = [self._sequence(top)]
        while self._take("|"):
            parts.append(self._sequence(top))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self, top: bool) -> Node:
        parts: list[Node] = []
        if top:
            self._take("^")
        while (next_ := self._peek()) and next_ not in "|)":
            if top and next_ == "$" and self._peek(2) in ("$", "$|"):
                self._at += 1
                break
            parts.append(self._repeats(self._atom()))
        return parts[0] if len(parts) == 1 else Row(tuple(parts))

    def _repeats(self, node: Node) -> Node:
        if self._take("*"):
            node = Repeat(node, 0, None)
        elif self._take("+"):
            node = Repeat(node, 1, None)
        elif self._take("?"):
            node = Repeat(node, 0, 1)
        elif found := _BOUNDS.match(self._text, self._at):
            self._at = found.end()
            least = int(found[1])
            most = least if found[2] is None else int(found[3]) if found[3] else None
            if most is not None and most < least:
                raise self._wrong("repeats at least more often than at most")
            node = Repeat(node, least, most)
        else:
            return node
        self._take("?")  # lazy: the same texts
        return node

    def _atom(self) -> Node:
        character = self._peek()
        if self._take("("):
            if not self._take("?:") and self._peek() == "?":
                raise self._wrong(f"uses {self._text[self._at - 1 : self._at + 3]!r}")
            node = self._choice()
            if not self._take(")"):
                raise self._wrong("lacks a closing bracket")
            return node
        if self._take("["):
            return self._class()
        if character in "*+?{}^$]":
            raise self._wrong(f"has {character!r} where it cannot stand")
        if self._take("."):
            return Char(_ANY)
        return Char(self._character())

    def _character(self) -> tuple[Range, ...]:
        """One character, or what an escape stands for."""
        if not self._take("\\"):
            character = self._peek()
            self._at += 1
            return self._point(ord(character))
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            return self._point(int(next(filter(None, found.groups())), 16))
        name = self._peek()
        self._at += 1
        if name in _CLASSES:
            return _CLASSES[name]
        if name in _CONTROLS and not self._peek().isdigit():
            return self._point(_CONTROLS[name])
        if not name or name.isalnum():
            raise self._wrong(f"uses \\{name}")
        return self._point(ord(name))

    def _point(self, code: int) -> tuple[Range, ...]:
        if code > _TOP or _SURROGATES[0] <= code <= _SURROGATES[1]:
            raise self._wrong("has half a character (a surrogate)")
        return ((code, code),)

    def _class(self) -> Char:
        negated = self._take("^")
        ranges: list[Range] = []
        while not self._take("]"):
            if not self._peek():
                raise self._wrong("has a class without an end")
            low = self._character()
            if self._peek() == "-" and self._peek(2) != "-]":
                self._at += 1
                high = self._character() if self._peek() else ()
                ends = [*low, *high]
                if len(ends) != 2 or any(a != b for a, b in ends) or ends[0] > ends[1]:
                    raise self._wrong("has a class with a broken range")
                ranges.append((ends[0][0], ends[1][0]))
            else:
                ranges += low
        if not ranges:
            raise self._wrong("has an empty class")
        return Char(_others(ranges) if negated else _both(ranges, [(0, _TOP)]))


# -- from tree to text --------------------------------------------------------------------------


def _restricted(node: Node) -> Node | None:
    """The tree without characters that JSON escapes; None where nothing is left."""
    match node:
        case Char(ranges):
            kept = _both(ranges, _PLAIN)
            return Char(kept) if kept else None
        case Row(parts):
            every = [_restricted(p) for p in parts]
            return None if None in every else Row(tuple(p for p in every if p))
        case Choice(parts):
            some = tuple(p for p in map(_restricted, parts) if p is not None)
            return Choice(some) if some else None
        case Repeat(part, least, most):
            if (inner := _restricted(part)) is None:
                return None if least else Row(())
            return Repeat(inner, least, most)


def _shown(node: Node) -> str:
    match node:
        case Char(ranges):
            return f"[{''.join(_shown_range(*each) for each in ranges)}]"
        case Row(parts):
            return f"(?:{''.join(map(_shown, parts))})"
        case Choice(parts):
            return f"(?:{'|'.join(map(_shown, parts))})"
        case Repeat(part, least, most):
            bounds = f"{least},{'' if most is None else most}"
            return f"(?:{_shown(part)}){{{bounds}}}"


def _shown_range(low: int, high: int) -> str:
    ends = [
        chr(c) if chr(c).isascii() and chr(c).isalnum() else f"\\x{{{c:X}}}" for c in (low, high)
    ]
    return ends[0] if low == high else "-".join(ends)


# -- from tree to automaton ---------------------------------------------------------------------


class _Automaton:
    """Thompson's automaton of a tree, made deterministic state by state (Aho et al., 3.7)."""

    def __init__(self) -> None:
        self._free: list[list[int]] = [[]]  # where each state leads without a character
        self._moves: list[tuple[tuple[Range, ...], int] | None] = [None]
        self._steps = 0

    def add(self, node: Node, start: int) -> int:
        """Add a tree behind a state; the state at its end."""
        match node:
            case Char(ranges):
                end = self._state()
                before = self._state()
                self._free[start].append(before)
                self._moves[before] = (ranges, end)
                return end
            case Row(parts):
                for part in parts:
                    start = self.add(part, start)
                return start
            case Choice(parts):
                end = self._state()
                for part in parts:
                    begin = self._state()
                    self._free[start].append(begin)
                    self._free[self.add(part, begin)].append(end)
                return end
            case Repeat(part, least, most):
                for _ in range(least):
                    self._step()  # the part may be empty
                    start = self.add(part, start)
                if most is None:
                    begin, end = self._state(), self._state()
                    self._free[start].append(begin)
                    self._free[begin].append(end)
                    self._free[self.add(part, begin)].append(begin)
                    return end
                end = self._state()
                for _ in range(most - least):
                    self._free[start].append(end)
                    begin = self._state()
                    self._free[start].append(begin)
                    start = self.add(part, begin)
                self._free[start].append(end)
                return end

    def places(self, most: float) -> float:
        """See `places`: the sum over the deterministic states that are reached."""
        self._name_classes()
        total = 0.0
        for state in self._reached():
            blocks = self._blocks(state)
            total += max(_NARROW, sum(self._width(mask) for mask, _ in blocks))
            if total > most:
                return total
        # outlines also builds the automaton that finds the expression inside a longer text. Where a
        # text begins with a quote, each escaped quote in it may begin another, and the states of
        # that automaton may grow exponentially. Objects and lists begin with what strings lack.
        if not self._begins_with(ord('"')):
            return total
        for count, _ in enumerate(self._reached(anywhere=True)):
            if count > _MOST_STATES:
                raise _large()
        return total

    def _begins_with(self, code: int) -> bool:
        moves = [self._moves[piece] for piece in self._closure([0])]
        return any(low <= code <= high for move in moves if move for low, high in move[0])

    def _reached(self, *, anywhere: bool = False) -> Iterator[frozenset[int]]:
        """The deterministic states; `anywhere` lets a text begin again at each character."""
        first = self._closure([0])
        again = first if anywhere else frozenset()
        seen, waiting = {first}, [first]
        while waiting:
            state = waiting.pop()
            yield state
            for _, targets in self._blocks(state):
                if (after := self._closure(targets) | again) not in seen:
                    seen.add(after)
                    waiting.append(after)

    def _state(self) -> int:
        if len(self._free) >= _MOST_PIECES:
            raise _large()
        self._free.append([])
        self._moves.append(None)
        return len(self._free) - 1

    def _name_classes(self) -> None:
        """Cut the characters where any set begins or ends; a set is then the bits of an integer."""
        sets = {move[0] for move in self._moves if move is not None}
        cuts = sorted({c for ranges in sets for low, high in ranges for c in (low, high + 1)})
        at = {cut: i for i, cut in enumerate(cuts)}
        self._cuts: Sequence[int] = cuts
        self._masks = {
            ranges: sum((1 << at[high + 1]) - (1 << at[low]) for low, high in ranges)
            for ranges in sets
        }
        self._widths: dict[int, float] = {}

    def _width(self, mask: int) -> float:
        """The share of the printable ASCII characters in a set."""
        if (known := self._widths.get(mask)) is None:
            known = 0.0
            for i, (low, after) in enumerate(zip(self._cuts, self._cuts[1:], strict=False)):
                if mask >> i & 1:
                    known += max(0, min(after, 0x7F) - max(low, 0x20)) / 95
            self._widths[mask] = known
        return known

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _large()

    def _closure(self, states: Iterable[int]) -> frozenset[int]:
        """The states with a move that these lead to without a character."""
        seen, waiting = set(states), list(states)
        while waiting:
            self._step()
            for free in self._free[waiting.pop()]:
                if free not in seen:
                    seen.add(free)
                    waiting.append(free)
        return frozenset(s for s in seen if self._moves[s] is not None)

    def _blocks(self, state: frozenset[int]) -> list[tuple[int, frozenset[int]]]:
        """Sets of characters, apart, and where each leads."""
        by_target: dict[int, int] = {}
        for piece in state:
            ranges, target = self._moves[piece] or ((), 0)
            by_target[target] = by_target.get(target, 0) | self._masks[ranges]
        blocks: list[tuple[int, frozenset[int]]] = []
        for target, mask in by_target.items():
            cut: list[tuple[int, frozenset[int]]] = []
            for known, targets in blocks:
                self._step()
                if both := known & mask:
                    cut.append((both, targets | {target}))
                if rest := known & ~mask:
                    cut.append((rest, targets))
                mask &= ~known
            if mask:
                cut.append((mask, frozenset([target])))
            blocks = cut
        return blocks


def _large() -> UnsupportedSchema:
    return UnsupportedSchema(
        "this JSON schema needs an automaton with too many states",
        hint="Use shorter bounds, and patterns without long repeats behind one another.",
    )
