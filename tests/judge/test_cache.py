"""The verdict cache: keys, size, copies, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from evenhand.judge import MajorityJudge, VerdictCache
from evenhand.schemas.errors import DecodeError, InputTooLong

VERDICT = MajorityJudge().judge("p", "r")


def test_keys_do_not_run_together() -> None:
    cache = VerdictCache()
    keys = [
        ("f", "a", "b", False),
        ("f", "a", "b", True),
        ("f", "ab", "", False),
        ("f", "", "ab", False),
        ("g", "a", "b", False),
        ("f", 'a","b', "", False),
        ("f", "\ud800", "", False),
        ("f", "\ufffd", "", False),
    ]
    for key in keys:
        assert cache.get(key) is None
        cache.put(key, VERDICT)
    assert len(cache) == len(keys)


def test_the_least_recently_used_goes_first() -> None:
    cache = VerdictCache(size=2)
    one, two, three = (("f", str(i), "", False) for i in range(3))
    cache.put(one, VERDICT)
    cache.put(two, VERDICT)
    cache.get(one)
    cache.put(three, VERDICT)
    assert cache.get(two) is None
    assert cache.get(one) is not None
    assert len(cache) == 2
    empty = VerdictCache(size=0)
    empty.put(one, VERDICT)
    assert empty.get(one) is None


def test_only_labels_are_kept() -> None:
    cache = VerdictCache()
    judge = MajorityJudge()
    for error in (InputTooLong("too long"), DecodeError("once")):
        cache.put(("f", "p", "r", False), judge.failed(error))
    assert len(cache) == 0


def test_what_a_caller_does_to_a_verdict_stays_with_the_caller() -> None:
    cache = VerdictCache()
    key = ("f", "p", "r", False)
    cache.put(key, VERDICT)
    first = cache.get(key)
    assert first is not None
    first.crosswalk["xstest"] = "changed"
    again = cache.get(key)
    assert again is not None
    assert again.crosswalk == {"xstest": "full_compliance"}


def test_many_threads() -> None:
    cache = VerdictCache(size=50)

    def work(n: int) -> None:
        for i in range(200):
            key = ("f", str((n * i) % 80), "", False)
            cache.put(key, VERDICT)
            cache.get(key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(cache) == 50
