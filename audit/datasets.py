"""Reads CSV, JSON Lines and Parquet as rows, one at a time, whatever the size of the file.

Parquet goes through polars. CSV and JSON Lines are read line by line with the standard library,
because polars' readers drop or fail on what must be kept here: a malformed line with its number, a
ragged row, an undecodable byte, a number longer than a float. What is wrong with the whole file
(another encoding, no such column, not the format that its name says) raises `DatasetError` before
the first row; what is wrong with one row is that row's `problem`, and reading goes on.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from evenhand.audit.rows import Row, kind
from evenhand.schemas.errors import DatasetError

if TYPE_CHECKING:
    import polars as pl

MAX_LINE = 64 * 2**20
SAMPLE = 20  # rows looked at before a file is taken for what its name says
BATCH = 256
DELIMITERS = (",", ";", "\t")

_HEAD = 2**16
_ROW_HINT = "Mend the row, or drop it."
_OPEN_QUOTE = "a quote is opened and never closed"
_UTF8_HINT = "Save the file as UTF-8, e.g. with `iconv -f CP1252 -t UTF-8 OLD > NEW`."
_COLUMN_HINT = "Name the right one with --prompt-column, --response-column or --id-column."


class Rows(ABC):
    """An open dataset. Iterate over it once; `total` counts in `unit`, as `Row.at` does."""

    unit: Literal["bytes", "rows"] = "bytes"
    total: int
    columns: tuple[str, ...] | None = None  # None: each row may have its own

    @abstractmethod
    def __iter__(self) -> Iterator[Row]:
        """The rows, in the file's order."""

    def close(self) -> None:  # noqa: B027 - most formats hold nothing open
        """Close the file. Safe to call twice."""

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_rows(path: str | Path, needs: Sequence[str] = ()) -> Rows:
    """Open a dataset by its extension and check that it has the columns that are needed.

    Raises `DatasetError` for anything that is wrong with the file as a whole.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise DatasetError(
            f"{path.name!r} has the extension {suffix!r}" if suffix else f"{path.name!r} has none",
            hint=_SUFFIX_HINTS.get(suffix, f"Give a file that ends in {', '.join(_READERS)}."),
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DatasetError(f"the file {str(path)!r} {what}", hint="Check the path.")
    if path.stat().st_size == 0:
        raise DatasetError(f"{path.name!r} is empty (0 bytes)", hint="Check what wrote it.")
    try:
        return reader(path, tuple(needs))
    except OSError as exc:
        raise DatasetError(
            f"{path.name!r} cannot be read: {exc.strerror or exc}", hint="Check its permissions."
        ) from exc


# -- lines of text ------------------------------------------------------------------------------


class _Line(NamedTuple):
    number: int
    text: str
    at: int
    fault: str | None


class _Lines:
    """Lines of a UTF-8 file, and those put back. `taken` collects what a record was made of."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._number = 0
        self._put_back: deque[_Line] = deque()
        self.at = 0
        self.taken: list[_Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._put_back.popleft() if self._put_back else self._read()
        if line is None:
            raise StopIteration
        self.taken.append(line)
        return line.text

    def put_back(self, lines: Sequence[_Line]) -> None:
        self._put_back.extendleft(reversed(lines))

    def _read(self) -> _Line | None:
        data = self._file.readline(MAX_LINE)
        if not data:
            return None
        self._number += 1
        self.at += len(data)
        if self._number == 1:
            data = data.removeprefix(codecs.BOM_UTF8)
        fault = None
        if len(data) >= MAX_LINE and not data.endswith(b"\n"):
            fault = f"is longer than {MAX_LINE // 2**20} MiB"
            data = data[:1_000]
            while (rest := self._file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                self.at += len(rest)
            self.at += len(rest)
        try:
            text = data.decode()
        except UnicodeDecodeError as exc:
            text = data.decode("utf-8", "backslashreplace")
            fault = fault or f"is not UTF-8 (byte 0x{data[exc.start]:02X})"
        return _Line(self._number, text, self.at, fault)


def _open_text(path: Path) -> BinaryIO:
    """Open a file after a look at its first 64 KiB: is it UTF-8 text at all?"""
    file = path.open("rb")
    try:
        head = file.read(_HEAD)
        file.seek(0)
        for magic, what, hint in _MAGIC:
            if head.startswith(magic):
                raise DatasetError(f"{path.name!r} is {what}, not UTF-8 text", hint=hint)
        if b"\0" in head:
            raise DatasetError(f"{path.name!r} holds NUL bytes, so it is no text", hint=_UTF8_HINT)
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head)
        except UnicodeDecodeError as exc:
            line = head.count(b"\n", 0, exc.start) + 1
            raise DatasetError(
                f"{path.name!r} is not UTF-8: line {line} has the byte 0x{head[exc.start]:02X}",
                hint=_UTF8_HINT,
            ) from exc
        if b"\r" in head and b"\n" not in head and len(head) == _HEAD:
            raise DatasetError(
                f"the lines of {path.name!r} end in CR alone",
                hint="Convert it, e.g. with `tr '\\r' '\\n' < OLD > NEW`.",
            )
    except BaseException:
        file.close()
        raise
    return file


class _TextRows(Rows):
    def __init__(self, path: Path, needs: tuple[str, ...]):
        self.path = path
        self.total = path.stat().st_size
        self._file = _open_text(path)
        try:
            self._check(needs)
            self._file.seek(0)
        except BaseException:
            self._file.close()
            raise

    @abstractmethod
    def _check(self, needs: tuple[str, ...]) -> None: ...

    def close(self) -> None:
        self._file.close()


# -- JSON Lines ---------------------------------------------------------------------------------


class JsonLines(_TextRows):
    """One JSON object a line. Blank lines are skipped, and counted in line numbers."""

    def _check(self, needs: tuple[str, ...]) -> None:
        sample = list(itertools.islice(self, SAMPLE))
        if not sample:
            raise DatasetError(f"{self.path.name!r} has no rows", hint="Check what wrote it.")
        good = [row for row in sample if row.problem is None]
        first = sample[0]
        if not good or first.raw in ("[", "{"):  # JSON, but spread over lines
            whole = (first.raw or "").startswith(("[", "{"))
            raise DatasetError(
                f"{self.path.name!r} is not JSON Lines: {first.problem}",
                hint="One object a line; an array is split by `jq -c '.[]' OLD.json > NEW.jsonl`."
                if whole
                else "Each line must be one JSON object.",
            )
        for column in needs:
            if not any(row.has(column) for row in good):
                keys = dict.fromkeys(key for row in good for key in row.data)
                raise _no_column(self.path, column, tuple(keys), "first rows have")

    def __iter__(self) -> Iterator[Row]:
        lines = _Lines(self._file)
        for text in lines:
            line = lines.taken.pop()
            stripped = text.strip(" \t\r\n")  # what JSON calls whitespace
            if stripped:
                yield _json_row(line, stripped)


def _json_row(line: _Line, text: str) -> Row:
    where = f"line {line.number}"
    fault = line.fault
    data: Any = {}
    if fault is None:
        try:
            data = json.loads(text, parse_constant=_refuse)
        except json.JSONDecodeError as exc:
            fault = f"is not JSON ({exc.msg}, column {exc.colno})"
        except (ValueError, RecursionError) as exc:
            fault = f"is not JSON that can be read ({exc})"
        else:
            if not isinstance(data, dict):
                fault = f"holds {kind(data)}, not an object"
    if fault is None:
        return Row(line.number, where, line.at, data, text=text)
    problem = DatasetError(f"{where} {fault}", hint=_ROW_HINT)
    return Row(line.number, where, line.at, {}, raw=text, problem=problem)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


# -- CSV ----------------------------------------------------------------------------------------


class Csv(_TextRows):
    """A header, then records as in RFC 4180. Every cell is text, as it stands.

    The delimiter is the first of comma, semicolon and tab under which the needed columns exist. A
    quote that is never closed costs its own line alone: the lines after it are read again.
    """

    columns: tuple[str, ...]

    def _check(self, needs: tuple[str, ...]) -> None:
        # The module's own limit of 128 KiB a cell is for the whole process; ours is the line's.
        csv.field_size_limit(MAX_LINE)
        delimiters = ("\t",) if self.path.suffix.lower() == ".tsv" else DELIMITERS
        headers: list[tuple[str, ...]] = []
        fault: csv.Error | None = None
        for delimiter in delimiters:
            try:
                headers.append(self._header(delimiter))
            except csv.Error as exc:
                # Quotes that make no sense under one delimiter may under the next.
                fault = fault or exc
                continue
            if set(needs) <= set(headers[-1]):
                self._delimiter, self.columns = delimiter, headers[-1]
                break
        else:
            header = max(headers, key=len, default=())
            if fault is not None and len(header) < 2:
                raise DatasetError(
                    f"the header of {self.path.name!r} is not CSV: {fault}",
                    hint="The first line must name the columns, quoted as RFC 4180 says.",
                )
            missing = next(column for column in needs if column not in header)
            raise _no_column(self.path, missing, header, "header has")
        twice = next((name for name in self.columns if self.columns.count(name) > 1), None)
        if twice is not None:
            raise DatasetError(
                f"{self.path.name!r} has two columns called {twice!r}", hint="Rename one of them."
            )
        self._file.seek(0)
        if next(iter(self), None) is None:
            raise DatasetError(
                f"{self.path.name!r} has a header and no rows", hint="Check what wrote it."
            )

    def _header(self, delimiter: str) -> tuple[str, ...]:
        self._file.seek(0)
        for cells in csv.reader(_Lines(self._file), delimiter=delimiter, strict=True):
            if cells:
                return tuple(cells)
        raise DatasetError(f"{self.path.name!r} has no header", hint="Name the columns in it.")

    def __iter__(self) -> Iterator[Row]:
        lines = _Lines(self._file)
        headed = False
        records = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            lines.taken.clear()
            fault = None
            cells: list[str] = []
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as exc:
                fault = f"is not CSV ({_OPEN_QUOTE if 'end of data' in str(exc) else exc})"
                lines.put_back(lines.taken[1:])
                del lines.taken[1:]
                records = csv.reader(lines, delimiter=self._delimiter, strict=True)
            if not cells and fault is None:
                continue  # a blank line
            if not headed:
                headed = True
                continue
            yield self._row(cells, lines.taken, fault)

    def _row(self, cells: list[str], taken: list[_Line], fault: str | None) -> Row:
        first, last = taken[0], taken[-1]
        where = (
            f"line {first.number}" if first is last else f"lines {first.number} to {last.number}"
        )
        fault = fault or next((line.fault for line in taken if line.fault), None)
        if fault is None and len(cells) != len(self.columns):
            fault = f"has {len(cells)} cells, and the header has {len(self.columns)}"
        data = dict(zip(self.columns, cells, strict=False))
        if fault is None:
            return Row(first.number, where, last.at, data)
        raw = "".join(line.text for line in taken).rstrip("\r\n")
        problem = DatasetError(f"{where} {fault}", hint=_ROW_HINT)
        return Row(first.number, where, last.at, data, raw=raw, problem=problem)


# -- Parquet ------------------------------------------------------------------------------------


class Parquet(Rows):
    """A Parquet file through polars, which decodes one row group after another."""

    unit = "rows"
    columns: tuple[str, ...]

    def __init__(self, path: Path, needs: tuple[str, ...]):
        # Imported here: it takes 0.2 s, and only Parquet needs it.
        import polars as pl

        self.path = path
        with path.open("rb") as file:
            magic = file.read(4)
        if magic != b"PAR1":
            raise DatasetError(f"{path.name!r} is not a Parquet file", hint="Check its extension.")
        self._frame = pl.scan_parquet(path, glob=False)
        try:
            self.schema = self._frame.collect_schema()
            self.total = int(self._frame.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as exc:
            raise DatasetError(
                f"{path.name!r} is a damaged Parquet file: {exc}", hint="Write or copy it again."
            ) from exc
        self.columns = tuple(self.schema)
        for column in needs:
            self._check(column)
        if self.total == 0:
            raise DatasetError(f"{path.name!r} has no rows", hint="Check what wrote it.")

    def _check(self, column: str) -> None:
        import polars as pl

        if column in self.schema:
            dtype = self.schema[column]
            if not isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
                raise DatasetError(
                    f"column {column!r} of {self.path.name!r} holds {dtype}, not text",
                    hint="Cast the column to String, or name another one.",
                )
        elif column.split(".")[0] not in self.schema or "." not in column:
            raise _no_column(self.path, column, self.columns, "schema has")

    def frames(self, size: int = BATCH) -> Iterator[pl.DataFrame]:
        """The rows as frames of about `size` rows, in order."""
        import polars as pl

        try:
            yield from self._frame.collect_batches(chunk_size=size, maintain_order=True)
        except pl.exceptions.PolarsError as exc:
            raise DatasetError(
                f"{self.path.name!r} is damaged inside: {exc}", hint="Write or copy it again."
            ) from exc

    def __iter__(self) -> Iterator[Row]:
        number = 0
        for frame in self.frames():
            for data in frame.iter_rows(named=True):
                number += 1
                yield Row(number, f"row {number}", number, data)


def _no_column(path: Path, column: str, has: tuple[str, ...], what: str) -> DatasetError:
    shown = ", ".join(has[:12]) + (", ..." if len(has) > 12 else "")
    return DatasetError(
        f"{path.name!r} has no column {column!r}; the {what}: {shown}", hint=_COLUMN_HINT
    )


_READERS: dict[str, type[JsonLines] | type[Csv] | type[Parquet]] = {
    ".csv": Csv,
    ".tsv": Csv,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": Parquet,
}

_SUFFIX_HINTS = {
    ".json": "Make it JSON Lines: `jq -c '.[]' OLD.json > NEW.jsonl`.",
    ".gz": "Unpack it first: `gunzip FILE`.",
    ".zst": "Unpack it first: `unzstd FILE`.",
    ".xlsx": "Save the sheet as CSV (UTF-8).",
    ".xls": "Save the sheet as CSV (UTF-8).",
}

_MAGIC = (
    (codecs.BOM_UTF32_LE, "UTF-32", _UTF8_HINT.replace("CP1252", "UTF-32")),
    (codecs.BOM_UTF16_LE, "UTF-16", _UTF8_HINT.replace("CP1252", "UTF-16")),
    (codecs.BOM_UTF16_BE, "UTF-16", _UTF8_HINT.replace("CP1252", "UTF-16")),
    (b"PAR1", "a Parquet file", "Rename it so that it ends in .parquet."),
    (b"\x1f\x8b", "compressed with gzip", _SUFFIX_HINTS[".gz"]),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", _SUFFIX_HINTS[".xlsx"]),
)
