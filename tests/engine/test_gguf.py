"""A bad model file is refused from its header, before llama.cpp (which may abort) sees it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import gguf as reference
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenhand.engine.gguf import BLOCKS, check
from evenhand.schemas.errors import ModelFileError

Tensor = tuple[bytes, tuple[int, ...], int, int]  # name, shape, type, offset


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + values


def build(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    keys: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (),
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
    data: int | None = None,
) -> bytes:
    """A GGUF file, byte by byte; `data` bytes of tensors (as many as they need, if None)."""
    n_tensors, n_keys = counts or (len(tensors), len(keys))
    head = magic + struct.pack("<IQQ", version, n_tensors, n_keys) + b"".join(keys)
    end = 0
    for name, shape, kind, offset in tensors:
        head += string(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)
        elements = 1
        for extent in shape:
            elements *= extent
        block, size = BLOCKS.get(kind, (1, 1))
        end = max(end, offset + elements // block * size)
    if tensors or data:
        head += b"\0" * (-len(head) % alignment)
        head += b"\0" * (end if data is None else data)
    return head


KEYS = (
    key(b"general.architecture", 8, string(b"llama")),
    *(key(b"k%d" % kind, kind, b"\1" * size) for kind, size in
      zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), (1, 1, 2, 2, 4, 4, 4, 1, 8, 8, 8), strict=True)),
    key(b"words", 9, array(8, 3, string(b"a") + string(b"") + string("ü".encode()))),
    key(b"numbers", 9, array(5, 4, struct.pack("<4i", 1, 2, 3, 4))),
    key(b"nested", 9, array(9, 2, array(4, 1, b"\0\0\0\1") + array(8, 1, string(b"x")))),
)  # fmt: skip
TENSORS: tuple[Tensor, ...] = ((b"a", (32, 2), 8, 0), (b"b", (5, 3), 0, 96))
GOOD = build(keys=KEYS, tensors=TENSORS)


def refusal(path: Path, content: bytes) -> ModelFileError:
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        check(path)
    assert caught.value.hint
    assert path.name in str(caught.value)
    return caught.value


def test_block_sizes_are_those_of_ggml() -> None:
    sizes = {int(kind): size for kind, size in reference.GGML_QUANT_SIZES.items()}
    # The gguf package counts a 4-byte scale and sum in Q8_1; ggml has halved both since.
    del sizes[9]
    assert {kind: BLOCKS.get(kind) for kind in sizes} == sizes


def test_a_good_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(GOOD)
    header = check(path)
    assert (header.version, header.tensors, header.keys) == (3, 2, len(KEYS))
    assert header.needed == len(GOOD)


def test_a_file_written_by_the_gguf_package_passes(tiny: Path) -> None:
    header = check(tiny)
    assert header.tensors == 3 + 2 * 9
    assert tiny.stat().st_size - 32 < header.needed <= tiny.stat().st_size


def test_a_vocabulary_without_tensors_passes(tmp_path: Path) -> None:
    path = tmp_path / "vocab.gguf"
    path.write_bytes(build(keys=KEYS))
    assert check(path).tensors == 0


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for length in range(len(GOOD)):
        refusal(path, GOOD[:length])


def test_the_alignment_of_the_file_counts(tmp_path: Path) -> None:
    aligned = (key(b"general.alignment", 4, struct.pack("<I", 4096)),)
    whole = build(keys=aligned, tensors=[(b"a", (4,), 0, 0)], alignment=4096)
    path = tmp_path / "aligned.gguf"
    path.write_bytes(whole)
    assert check(path).needed == len(whole) == 4096 + 16
    refusal(path, whole[:-1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK\3\4" + bytes(100), "is not a GGUF file"),
        (b"GG", "is not a GGUF file"),
        (b"<!DOCTYPE html>", "is not a GGUF file"),
        (build(version=1), "version 1"),
        (build(version=4), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (build(counts=(2**40, 0)), "claims"),
        (build(counts=(0, 2**63)), "claims"),
        (build(counts=(1, 0)), "cut short"),
        (build(tensors=TENSORS, data=10), "cut short"),
        (build(tensors=[(b"a", (2**62, 2**62), 0, 0)], data=64), "cut short"),
        (build(tensors=[(b"a", (4,), 0, 2**60)], data=64), "cut short"),
        (build(tensors=[(b"a", (4,), 0, 7)]), "unaligned offset 7"),
        (build(tensors=[(b"a", (4,), 4, 0)]), "unknown type 4"),
        (build(tensors=[(b"\xff", (4,), 999, 0)]), "unknown type 999"),
        (build(tensors=[(b"a", (), 0, 0)], data=8), "0 dimensions"),
        (build(tensors=[(b"a", (1,) * 5, 0, 0)]), "5 dimensions"),
        (build(tensors=[(b"a", (0, 3), 0, 0)]), "impossible shape"),
        (build(tensors=[(b"a", (33,), 8, 0)]), "impossible shape"),
        (build(keys=[key(b"general.alignment", 4, struct.pack("<I", 0))]), "alignment of 0"),
        (build(keys=[key(b"general.alignment", 4, struct.pack("<I", 33))]), "alignment of 33"),
        (build(keys=[string(b"k") + struct.pack("<I", 77)]), "unknown type 77"),
        (build(keys=[struct.pack("<Q", 2**63)]), "string of"),
        (build(keys=[struct.pack("<Q", 1000) + b"short"]), "cut short"),
        (build(keys=[key(b"k", 9, array(0, 2**63, b""))]), "cut short"),
        (build(keys=[key(b"k", 9, array(8, 2**63, b""))]), "array of"),
        (build(keys=[key(b"k", 9, array(9, 2**40, b""))]), "array of"),
        (build(keys=[key(b"k", 9, array(9, 1, b"") * 9)]), "unknown type 9"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in str(refusal(tmp_path / "bad.gguf", content))


def test_a_long_array_of_strings_does_not_read_the_whole_file(tmp_path: Path) -> None:
    """Zeros of tensor data would pass for billions of empty strings."""
    path = tmp_path / "long.gguf"
    head = build(keys=[key(b"k", 9, array(8, 2**31, b""))])
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**35)  # sparse
    with pytest.raises(ModelFileError, match="array of"):
        check(path)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_pass_or_are_refused(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for at, value in flips:
        content[at] = value
    path = tmp_path / "flipped.gguf"
    path.write_bytes(content)
    try:
        header = check(path)
    except ModelFileError:
        return
    assert header.needed <= len(content)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_noise_after_the_magic_passes_or_is_refused(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + noise)
    try:
        header = check(path)
    except ModelFileError:
        return
    assert header.needed <= 8 + len(noise)
