"""GGUF headers: enough of the format to refuse a bad file before llama.cpp sees it.

llama.cpp aborts the whole process on some malformed files, so what the header promises is checked
against the file first: magic, version, counts, and that every tensor lies inside the file. Format:
ggml's `docs/gguf.md`, versions 2 and 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from evenhand.schemas.errors import ModelFileError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> bytes
_MAX_STRING = 64 * 2**20
_MAX_ITEMS = 2**22  # strings in an array; vocabularies hold up to 2**18
_MAX_DIMS = 4
_MAX_TENSORS = 2**20

# ggml_type -> (elements in a block, bytes in a block); as in ggml's type traits.
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
    15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18),
    21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
    39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. `needed` is the least file size in bytes."""

    version: int
    tensors: int
    keys: int
    needed: int


def check(path: Path) -> Header:
    """Read the header and compare it with the file's size.

    Raises `ModelFileError` for a file that is empty, no GGUF, of another version, cut short, or
    whose tensors would lie outside it.
    """
    size = path.stat().st_size
    if size == 0:
        raise ModelFileError(f"{path.name} is empty", hint="Download it again.")
    with path.open("rb") as file:
        reader = _Reader(file, path.name, size)
        magic = file.read(4)
        if magic != MAGIC:
            raise ModelFileError(
                f"{path.name} is not a GGUF file (it begins with {magic!r})",
                hint="Convert the model with llama.cpp's convert_hf_to_gguf.py.",
            )
        version = reader.number("<I")
        if version not in _VERSIONS:
            order = " (or a big-endian file)" if version > 2**16 else ""
            raise ModelFileError(
                f"{path.name} has GGUF version {version}{order}; versions 2 and 3 are read",
                hint="Convert the model again with a recent llama.cpp.",
            )
        tensors, keys = reader.number("<Q"), reader.number("<Q")
        if tensors > _MAX_TENSORS or keys > _MAX_TENSORS:
            raise reader.broken(f"claims {tensors} tensors and {keys} keys")
        alignment = 32
        for _ in range(keys):
            name = reader.string()
            kind = reader.number("<I")
            if name == b"general.alignment" and kind == 4:
                alignment = reader.number("<I")
                if alignment == 0 or alignment & (alignment - 1):
                    raise reader.broken(f"has an alignment of {alignment}")
            else:
                reader.skip(kind)
        end = 0
        for _ in range(tensors):
            end = max(end, _tensor_end(reader, alignment))
        here = file.tell()
    # Padding after the header matters only where tensor data follow.
    needed = -(-here // alignment) * alignment + end if tensors else here
    if needed > size:
        raise ModelFileError(
            f"{path.name} is cut short: it has {size} bytes, and its tensors end at {needed}",
            hint="The download did not finish; download it again.",
        )
    return Header(version, tensors, keys, needed)


def _tensor_end(reader: _Reader, alignment: int) -> int:
    name = reader.string().decode("utf-8", "replace")
    dims = reader.number("<I")
    if not 1 <= dims <= _MAX_DIMS:
        raise reader.broken(f"gives tensor {name!r} {dims} dimensions")
    shape = [reader.number("<Q") for _ in range(dims)]
    kind = reader.number("<I")
    offset = reader.number("<Q")
    if kind not in BLOCKS:
        raise reader.broken(f"gives tensor {name!r} the unknown type {kind}")
    block, block_bytes = BLOCKS[kind]
    elements = 1
    for extent in shape:
        elements *= extent
    if elements == 0 or shape[0] % block:
        raise reader.broken(f"gives tensor {name!r} the impossible shape {shape}")
    if offset % alignment:
        raise reader.broken(f"puts tensor {name!r} at the unaligned offset {offset}")
    return offset + elements // block * block_bytes


class _Reader:
    """Reads little-endian values, and says where a file ended too early."""

    def __init__(self, file: BinaryIO, name: str, size: int):
        self._file = file
        self._name = name
        self._size = size

    def broken(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._name} is corrupt: its header {what}")

    def take(self, n: int) -> bytes:
        if n > self._size - self._file.tell():
            raise ModelFileError(
                f"{self._name} is cut short: it ends inside its header",
                hint="The download did not finish; download it again.",
            )
        return self._file.read(n)

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def string(self) -> bytes:
        length = self.number("<Q")
        if length > _MAX_STRING:
            raise self.broken(f"holds a string of {length} bytes")
        return self.take(length)

    def skip(self, kind: int, depth: int = 0) -> None:
        """Pass over one value."""
        if kind in _SCALARS:
            self.take(_SCALARS[kind])
        elif kind == _STRING:
            self.string()
        elif kind == _ARRAY and depth < 4:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in _SCALARS:
                self.take(_SCALARS[inner] * count)
            else:
                if count > _MAX_ITEMS:  # tensor data read as empty strings would never end
                    raise self.broken(f"holds an array of {count} values")
                for _ in range(count):
                    self.skip(inner, depth + 1)
        else:
            raise self.broken(f"holds a value of unknown type {kind}")
