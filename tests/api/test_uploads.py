"""A form's file goes to disk as it comes, whatever is wrong with the form."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from evenhand.api import uploads
from evenhand.api.uploads import FOLDER, Form, discard, discard_stale, of_plan
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import InvalidInput, StoreError

TYPE = "multipart/form-data; boundary=XYZ"
PLAN = ('form-data; name="plan"', b'{"a": 1}')
ROWS = bytes(range(256)) * 40 + b"\r\n--XY\r\n--XZ\r\n-"


def body(*parts: tuple[str, bytes], end: bytes = b"--XYZ--\r\n") -> bytes:
    pieces = [
        b"--XYZ\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    ]
    return b"".join(pieces) + end


def file_part(name: str, data: bytes = ROWS) -> tuple[str, bytes]:
    return f'form-data; name="file"; filename="{name}"', data


def read(data: bytes, folder: Path, *, step: int = 65_536, limit: int = 1_000) -> Form:
    form = Form(TYPE, folder, plan_limit=limit)
    try:
        for start in range(0, len(data), step):
            form.feed(data[start : start + step])
        form.finish()
    except BaseException:
        form.discard()
        raise
    return form


@pytest.mark.parametrize("step", [1, 7, 4_096, 65_536])
@pytest.mark.parametrize("plan_first", [True, False])
def test_plan_and_file_are_taken_apart(tmp_path: Path, step: int, plan_first: bool) -> None:
    tmp_path = tmp_path / "deep" / "data"
    parts = [PLAN, file_part("rows.csv")]
    form = read(body(*(parts if plan_first else parts[::-1])), tmp_path, step=step)
    assert (form.plan, form.toml) == (PLAN[1], False)
    assert form.upload is not None
    assert form.upload.path.read_bytes() == ROWS
    assert form.upload.path.parent.parent == tmp_path / FOLDER
    assert form.upload.sha256 == hashlib.sha256(ROWS).hexdigest()
    assert tmp_path.stat().st_mode & 0o077 == 0, "nobody else looks into it"
    discard(form.upload.path)
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_plan_alone_needs_no_folder(tmp_path: Path) -> None:
    assert read(body(PLAN), tmp_path).upload is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "head",
    ['form-data; name="plan"; filename="P.TOML"',
     'form-data; name="plan"\r\nContent-Type: application/toml; charset=utf-8'],
)  # fmt: skip
def test_toml_is_told_by_its_name_or_type(tmp_path: Path, head: str) -> None:
    assert read(body((head, b"a = 1")), tmp_path).toml


@pytest.mark.parametrize(
    ("name", "said", "kept"),
    [
        ("rows.csv", "rows.csv", "rows.csv"),
        ("../../etc/passwd", "passwd", "passwd"),
        ("C:\\data\\my rows.jsonl", "my rows.jsonl", "my_rows.jsonl"),
        ("..", "..", "file"),
        (".parquet", ".parquet", "parquet"),
        ("täglich.csv", "täglich.csv", "t_glich.csv"),
        ("a" * 300 + ".eval", "a" * 300 + ".eval", "a" * 100 + ".eval"),
    ],
)
def test_a_name_means_nothing_to_the_file_system(
    tmp_path: Path, name: str, said: str, kept: str
) -> None:
    upload = read(body(PLAN, file_part(name)), tmp_path).upload
    assert upload is not None
    assert (upload.name, upload.path.name) == (said, kept)
    assert upload.path.resolve().is_relative_to(tmp_path / FOLDER)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (body(PLAN, file_part("a.csv"), end=b""), "breaks off"),
        (body(PLAN, file_part("a.csv"))[:-8], "breaks off"),
        (body(file_part("a.csv")), "no part `plan`"),
        (body(PLAN, PLAN), "'plan' of the form comes twice"),
        (body(file_part("a.csv"), file_part("b.csv")), "'file' of the form comes twice"),
        (body(PLAN, ('form-data; name="key"', b"x")), "'key' of the form is not wanted"),
        (body(PLAN, ('form-data; name="file"', b"x")), "no file name"),
        (body(PLAN, file_part("folder/")), "no file name"),
        (body(('form-data; name="plan"', b"x" * 1_001)), "larger than 1,000 bytes"),
        (b"no form at all", "not a form"),
        (b"", "breaks off"),
    ],
)
def test_a_bad_form_says_what_is_wrong_and_leaves_nothing(
    tmp_path: Path, data: bytes, what: str
) -> None:
    with pytest.raises(InvalidInput, match=what) as caught:
        read(data, tmp_path)
    assert caught.value.hint
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["multipart/form-data", f"{TYPE}{'x' * 300}"])
def test_a_form_needs_a_boundary_that_can_be_one(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidInput):
        Form(kind, tmp_path, plan_limit=1_000)


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot be kept") as caught:
        read(body(PLAN, file_part("a.csv")), tmp_path)
    assert caught.value.hint


def test_what_a_crash_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    made = {}
    for name in ("used", "fresh", "left"):
        upload = read(body(PLAN, file_part(f"{name}.csv")), tmp_path).upload
        assert upload is not None
        made[name] = upload.path
    for name in ("used", "left"):
        past = time.time() - uploads.STALE - 60
        os.utime(made[name].parent, (past, past))
    discard_stale(tmp_path, [made["used"]])
    assert {name for name, path in made.items() if path.exists()} == {"used", "fresh"}


def test_a_file_is_known_through_another_path_to_the_folder(tmp_path: Path) -> None:
    """A service that is started on a link to its folder does not take files for left behind."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    upload = read(body(PLAN, file_part("a.csv")), tmp_path / "real").upload
    assert upload is not None
    os.utime(upload.path.parent, (0, 0))
    plan = Plan.model_validate({"responses": {"file": str(upload.path)}, "judges": ["fake:j"]})
    for folder in ("real", "link"):
        assert list(of_plan(plan, tmp_path / folder)) == [upload.path]
        discard_stale(tmp_path / folder, of_plan(plan, tmp_path / folder))
        assert upload.path.exists()
    elsewhere = Plan.model_validate({"responses": {"file": "/a/b/c.csv"}, "judges": ["fake:j"]})
    assert list(of_plan(elsewhere, tmp_path / "real")) == []
