"""Text to measure with: common words, which most vocabularies hold as one token each."""

from __future__ import annotations

import random

_WORDS = """
the a of to and in is was for on that with as at by from this have not are but had his they you were
her all she there would their we him been has when who will more no if out so said what up its about
into than them can only other new some could time these two may then do
""".split()  # noqa: SIM905 (a list of words reads better as prose)


def words(n: int, seed: int) -> str:
    """n words, the same for the same seed."""
    return " ".join(random.Random(seed).choices(_WORDS, k=n))
