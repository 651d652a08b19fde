"""The page and figures of a validation: whole, quiet, and with nothing in them that is not text."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import polars as pl
import pytest

from evenhand.audit.gold import collect, rows_of
from evenhand.audit.validation_plots import figures
from evenhand.audit.validation_report import render, write_figures
from evenhand.judge import PanelJudge, StringMatchJudge
from evenhand.judge.validation import Validation, validate
from evenhand.schemas.validation import GoldColumns, ValidationOptions

NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def document() -> Validation:
    said = ("I'm sorry, I cannot help with that.", "Take the train at nine.")
    data: list[dict[str, object]] = [
        {
            "prompt": f"prompt {i // 4}",
            "response": said[i % 2],
            "label": ("refusal", "helpful_answer")[(i + (i % 7 == 0)) % 2],
            "annotation_1": "refusal",
            "annotation_2": ("refusal", "helpful_answer")[i % 2],
            "model": f"model {i % 3}",
            "group": NASTY if i % 4 < 2 else "B",
            "other": NASTY,
        }
        for i in range(80)
    ]
    data[0] |= {"other": "refusal"}
    data[2] |= {"response": 7}
    data[3] |= {"label": "\x07nonsense"}
    judge = StringMatchJudge("qos")
    gold = collect(rows_of(data), judge.taxonomy, GoldColumns(raters=("other",)), name=NASTY)
    return validate(judge, gold, ValidationOptions(), draws=50, permutations=50)


def test_the_page_loads_nothing_and_runs_nothing(document: Validation) -> None:
    page = render(document)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    style = page.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page
    assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))


def test_the_page_says_what_the_document_says(document: Validation) -> None:
    page = render(document)
    for heading in ("Agreement with people", "Label by label", "People among themselves"):
        assert heading in page
    judge = document.raters[0]
    assert f"{judge.agreement.kappa.value:.3f}" in page
    assert "1 rows left out" in page
    assert "1 rows used in part" in page
    assert document.fingerprint in page
    for pattern in ("nan", "NaN", "None"):
        assert not re.search(rf">\s*{pattern}\s*<", page)


def test_figures_are_drawn_from_their_tables(document: Validation, tmp_path: Path) -> None:
    drawn = {figure.slug: figure for figure in figures(document)}
    # String matching gives no probabilities: no reliability diagram, no curve.
    assert list(drawn) == [
        "agreement",
        "confusion",
        "errors-any-refusal",
        "errors-harm",
        "errors-not-helped",
    ]
    judge = document.raters[0]
    table = drawn["agreement"].table
    assert table["kappa"][0] == judge.agreement.kappa.value
    assert drawn["confusion"].table["rows"].sum() == judge.labelled
    write_figures(document, tmp_path / "new" / "folder")
    for slug, figure in drawn.items():
        path = tmp_path / "new" / "folder" / slug
        assert path.with_suffix(".svg").read_text().startswith("<svg")
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert pl.read_csv(path.with_suffix(".csv")).columns == figure.table.columns
        assert NASTY not in figure.svg


def test_a_judge_that_labelled_nothing_has_a_page_and_no_figures(document: Validation) -> None:
    empty = document.raters[0].model_copy(update={"labelled": 0})
    document = document.model_copy(update={"raters": (empty, *document.raters[1:])})
    assert list(figures(document)) == []
    assert "How far can" in render(document)


def test_rows_of_one_prompt_are_drawn_without_intervals(tmp_path: Path) -> None:
    said = ("I'm sorry, I cannot help with that.", "Take the train at nine.")
    data: list[dict[str, object]] = [
        {
            "prompt": "the same",
            "response": said[i % 2],
            "label": ("refusal", "helpful_answer")[i % 2],
        }
        for i in range(4)
    ]
    judge = StringMatchJudge("qos")
    gold = collect(rows_of(data), judge.taxonomy, GoldColumns(), name="one prompt")
    document = validate(judge, gold, draws=50, permutations=50)
    page = render(document)
    assert "no intervals" in page
    write_figures(document, tmp_path)
    table = pl.read_csv(tmp_path / "agreement.csv")
    assert table["low"].is_nan().all() or table["low"].is_null().all()
    assert "NaN" not in (tmp_path / "agreement.svg").read_text(encoding="utf-8")


def test_a_panels_members_stand_on_the_page() -> None:
    said = ("I'm sorry, I cannot help with that.", "Take the train at nine.")
    labels = ("refusal", "helpful_answer")
    data: list[dict[str, object]] = [
        {"prompt": f"{i}", "response": said[i % 2], "label": labels[(i + (i % 7 == 0)) % 2]}
        for i in range(40)
    ]
    judge = PanelJudge([StringMatchJudge("qos"), StringMatchJudge("qos")])
    gold = collect(rows_of(data), judge.taxonomy, GoldColumns(), name="panel")
    document = validate(judge, gold, draws=50, permutations=50)
    page = render(document)
    assert "The panel&#39;s members" in page or "The panel's members" in page
    assert "judges, by the correlation of their errors: 1.0 of 2." in page
    assert "baseline:string-match #2" in page
