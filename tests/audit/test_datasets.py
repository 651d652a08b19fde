from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evenhand.audit import datasets
from evenhand.audit.datasets import open_rows
from evenhand.audit.rows import Row
from evenhand.schemas.errors import DatasetError

NEEDS = ("prompt", "response")
GOOD = '{"prompt": "p", "response": "r"}'


def read(path: Path, needs: tuple[str, ...] = NEEDS) -> list[Row]:
    with open_rows(path, needs) as rows:
        return list(rows)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


# -- the file as a whole ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("a.jsonl", b"", "is empty (0 bytes)", "wrote it"),
        ("a.csv", b"", "is empty (0 bytes)", "wrote it"),
        ("a.parquet", b"", "is empty (0 bytes)", "wrote it"),
        ("a.jsonl", b"\n \n\n", "has no rows", "wrote it"),
        ("a.csv", b"\n\n", "has no header", "columns"),
        ("a.csv", b"prompt,response\n\n", "has a header and no rows", "wrote it"),
        ("a.json", b"[]", "extension '.json'", "jq"),
        ("a.xlsx", b"PK", "extension '.xlsx'", "CSV"),
        ("a.jsonl.gz", b"x", "extension '.gz'", "gunzip"),
        ("a.txt", b"x", "extension '.txt'", ".parquet"),
        ("a", b"x", "has none", ".jsonl"),
        ("a.csv", "prompt,response\né,b\n".encode("cp1252"), "line 2 has the byte 0xE9", "iconv"),
        ("a.jsonl", GOOD.encode("utf-16"), "is UTF-16", "UTF-16"),
        ("a.csv", "prompt,response".encode("utf-32"), "is UTF-32", "UTF-32"),
        ("a.csv", "prompt,response".encode("utf-16-le"), "NUL bytes", "iconv"),
        ("a.jsonl", gzip.compress(b"x"), "compressed with gzip", "gunzip"),
        ("a.csv", b"PK\x03\x04xx", "zip archive or a spreadsheet", "CSV"),
        ("a.csv", b"PAR1xxxx", "a Parquet file", "Rename"),
        ("a.parquet", b"prompt,response\n", "is not a Parquet file", "extension"),
        ("a.parquet", b"PAR1" + b"x" * 100, "damaged Parquet file", "again"),
        ("a.jsonl", b'[\n{"prompt": "p"}\n]', "is not JSON Lines", "jq"),
        ("a.jsonl", b'{\n"prompt": "p"\n}', "is not JSON Lines", "jq"),
        ("a.jsonl", b"hello\nworld", "is not JSON Lines: line 1", "one JSON object"),
        ("a.jsonl", b'{"q": "p", "response": "r"}', "no column 'prompt'", "--prompt-column"),
        ("a.csv", b"q,response\na,b\n", "the header has: q, response", "--prompt-column"),
        ("a.csv", b"prompt,response,prompt\na,b,c\n", "two columns called 'prompt'", "Rename"),
        ("a.csv", b'prompt,"response\na,b\n', "header of 'a.csv' is not CSV", "RFC 4180"),
        ("a.csv", b"prompt\r" * 20_000, "end in CR alone", "tr "),
    ],
)
def test_a_bad_file_is_refused_with_a_hint(
    write: Any, name: str, content: bytes, message: str, hint: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        open_rows(write(name, content), NEEDS)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        open_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DatasetError, match="is a folder"):
        open_rows(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"prompt": [1], "response": ["r"]}), "holds Int64, not text"),
        (pl.DataFrame({"prompt": [["p"]], "response": ["r"]}), "holds List(String), not text"),
        (pl.DataFrame({"prompt": [None], "response": ["r"]}), "holds Null, not text"),
        (pl.DataFrame({"prompt": [b"p"], "response": ["r"]}), "holds Binary, not text"),
        (pl.DataFrame({"question": ["p"], "response": ["r"]}), "schema has: question, response"),
        (pl.DataFrame({"prompt": [], "response": []}, schema=dict.fromkeys(NEEDS, pl.String)),
         "has no rows"),
    ],
)  # fmt: skip
def test_parquet_of_other_types_is_refused(
    tmp_path: Path, frame: pl.DataFrame, message: str
) -> None:
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DatasetError) as caught:
        open_rows(tmp_path / "a.parquet", NEEDS)
    assert message in str(caught.value)
    assert caught.value.hint


def test_parquet_damaged_inside_is_found_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"{i}" * 200 for i in range(2_000)]
    pl.DataFrame({"prompt": texts, "response": texts}).write_parquet(path, row_group_size=500)
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 3, len(data) // 2):
        data[i] ^= 0x5A
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError, match="damaged"):
        read(path)


# -- JSON Lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', "line 2 is not JSON (Expecting value"),
        ("[1, 2]", "line 2 holds a list, not an object"),
        ('"text"', "line 2 holds a text, not an object"),
        ("null", "line 2 holds nothing (null)"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ("[" * 100_000, "line 2 is not JSON that can be read"),
        ('{"a": ' + "9" * 5_000 + "}", "line 2 is not JSON that can be read"),
    ],
)
def test_a_malformed_line_is_kept_and_reading_goes_on(write: Any, line: str, message: str) -> None:
    rows = read(write("a.jsonl", f"{GOOD}\n{line}\n{GOOD}\n"))
    assert [row.line for row in rows] == [1, 2, 3]
    assert [row.problem is None for row in rows] == [True, False, True]
    assert message in str(rows[1].problem)
    assert rows[1].raw == line.strip()


def test_blank_lines_count_and_crlf_and_bom_do_not_matter(write: Any) -> None:
    rows = read(write("a.jsonl", b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n  {GOOD}".encode()))
    assert [row.line for row in rows] == [1, 3]
    assert [row.text for row in rows] == [GOOD, GOOD]


def test_a_broken_byte_far_into_the_file_costs_its_own_line(write: Any) -> None:
    lines = [GOOD.encode()] * 5_000
    lines[4_000] = b'{"prompt": "\xff", "response": "r"}'
    rows = read(write("a.jsonl", b"\n".join(lines)))
    assert len(rows) == 5_000
    assert [row.line for row in rows if row.problem] == [4_001]
    assert "not UTF-8 (byte 0xFF)" in str(rows[4_000].problem)
    assert rows[4_000].raw == '{"prompt": "\\xff", "response": "r"}'


def test_unicode_line_separators_do_not_end_a_line(write: Any) -> None:
    text = json.dumps({"prompt": "a\u2028b\u0085c\x0bd", "response": "r"}, ensure_ascii=False)
    [row] = read(write("a.jsonl", text))
    assert row.data["prompt"] == "a\u2028b\u0085c\x0bd"


def test_a_line_of_unreasonable_length_costs_itself_alone(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "MAX_LINE", 2**20)
    path = write("a.jsonl", f'{GOOD}\n{{"prompt": "{"x" * 3 * 2**20}"}}\n{GOOD}\n')
    with open_rows(path, NEEDS) as rows:
        read_rows = list(rows)
        assert [row.problem is None for row in read_rows] == [True, False, True]
        assert [row.line for row in read_rows] == [1, 2, 3]
        assert "longer than 1 MiB" in str(read_rows[1].problem)
        assert len(read_rows[1].raw or "") <= 1_000
        assert read_rows[-1].at == rows.total == path.stat().st_size


def test_rows_may_have_different_columns(write: Any) -> None:
    path = write("a.jsonl", f'{{"prompt": "p"}}\n{GOOD}\n')
    rows = read(path)
    with pytest.raises(DatasetError, match="line 1: there is no 'response'"):
        rows[0].text_of("response")
    assert rows[1].text_of("response") == "r"


# -- CSV ----------------------------------------------------------------------------------------


def test_every_cell_is_text_as_it_stands(write: Any) -> None:
    content = 'id,prompt,response\r\n007,"a ""q"", b","two\r\nlines"\r\n1e3, x ,\r\n'
    rows = read(write("a.csv", content))
    assert [dict(row.data) for row in rows] == [
        {"id": "007", "prompt": 'a "q", b', "response": "two\r\nlines"},
        {"id": "1e3", "prompt": " x ", "response": ""},
    ]
    assert [row.line for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("record", "message", "data"),
    [
        ("p", "line 3 has 1 cells, and the header has 2", {"prompt": "p"}),
        ("p,r,x", "line 3 has 3 cells, and the header has 2", {"prompt": "p", "response": "r"}),
        ('"p"q,r', "line 3 is not CSV", {}),
        ('p,"r', "a quote is opened and never closed", {}),
    ],
)
def test_a_ragged_row_is_kept_and_reading_goes_on(
    write: Any, record: str, message: str, data: dict[str, str]
) -> None:
    rows = read(write("a.csv", f"prompt,response\np1,r1\n{record}\np3,r3\np4,r4\n"))
    assert [row.problem is None for row in rows] == [True, False, True, True]
    assert [row.line for row in rows] == [2, 3, 4, 5]
    assert message in str(rows[1].problem)
    assert rows[1].data == data
    assert rows[1].raw == record
    assert dict(rows[3].data) == {"prompt": "p4", "response": "r4"}


def test_several_open_quotes_and_rows_between_them(write: Any) -> None:
    rows = read(write("a.csv", 'prompt,response\n"a,b\nc,d\n"e,f\ng,h\n'))
    good = [dict(row.data) for row in rows if row.problem is None]
    assert good == [{"prompt": "c", "response": "d"}, {"prompt": "g", "response": "h"}]
    assert [row.line for row in rows] == [2, 3, 4, 5]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_found_by_the_columns(write: Any, delimiter: str) -> None:
    content = f'prompt{delimiter}response\nwords{delimiter}"a, b; c\td"\n'
    [row] = read(write("a.csv", content))
    assert dict(row.data) == {"prompt": "words", "response": "a, b; c\td"}


def test_tsv(write: Any) -> None:
    [row] = read(write("a.tsv", "prompt\tresponse\na, b\tc; d\n"))
    assert dict(row.data) == {"prompt": "a, b", "response": "c; d"}


def test_a_broken_byte_far_into_a_csv(write: Any) -> None:
    lines = [b"prompt,response", *([b"p,r"] * 40_000)]
    lines[30_000] = b"p,\xe9"
    rows = read(write("a.csv", b"\n".join(lines)))
    assert [row.line for row in rows if row.problem] == [30_001]
    assert len(rows) == 40_000


def test_a_cell_of_megabytes(write: Any) -> None:
    cell = 'x"\n,' * 500_000
    buffer = io.StringIO()
    csv.writer(buffer).writerows([NEEDS, (cell, "r")])
    [row] = read(write("a.csv", buffer.getvalue()))
    assert row.data["prompt"] == cell


# -- Parquet ------------------------------------------------------------------------------------


def test_parquet_rows_come_in_order_with_their_types(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "prompt": [f"p{i}" for i in range(1_000)],
            "response": pl.Series(["a", None] * 500, dtype=pl.Categorical),
            "n": range(1_000),
            "nested": [{"deep": f"d{i}"} for i in range(1_000)],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet", row_group_size=300)
    rows = read(tmp_path / "a.parquet", ("prompt", "response", "nested.deep"))
    assert [row.data["n"] for row in rows] == list(range(1_000))
    assert [row.at for row in rows] == list(range(1, 1_001))
    assert rows[4].text_of("nested.deep") == "d4"
    assert rows[4].text_of("response") == "a"
    with pytest.raises(DatasetError, match="row 6: 'response' holds nothing"):
        rows[5].text_of("response")


def test_a_file_name_with_wildcards_is_a_name(tmp_path: Path) -> None:
    for name in ("a*.parquet", "ab.parquet"):
        pl.DataFrame({"prompt": [name], "response": ["r"]}).write_parquet(tmp_path / name)
    assert [row.data["prompt"] for row in read(tmp_path / "a*.parquet")] == ["a*.parquet"]
