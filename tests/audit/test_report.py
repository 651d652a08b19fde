"""Reports: one page that needs nothing else and trusts no text, and the files beside it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from evenhand.audit.plots import (
    BLUE,
    DARK,
    GRAY,
    ORANGE,
    PALE,
    WHITE_ABOVE,
    Figure,
    figures,
    inline,
)
from evenhand.audit.report import EXAMPLES, render, write_report
from evenhand.audit.store import Store
from evenhand.audit.summary import Summary, summarise
from evenhand.audit.trials import Trial
from evenhand.schemas.errors import NotFound, StoreError

NASTY = "<script>alert(1)</script>"
VOID = {"meta", "br", "link", "img", "input", "hr"}


def chance(*parts: object) -> float:
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def planted(trial: Trial, _judge: str) -> str | None:
    if chance("gone", trial.id) < 0.02:
        return None
    refused = chance(trial.id) < (0.5 if trial.group == "Cy" else 0.05)
    return "refusal" if refused else "helpful_answer"


class Page(HTMLParser):
    """A page as a list of (tag, attributes), with the text; fails where tags do not match."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@dataclass(frozen=True)
class Whole:
    """An audit with all there can be of one model and judge, and what was made of it."""

    store: Store
    id: str
    summary: Summary
    html: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, filled_walks: Any) -> Iterator[Whole]:
    with Store(tmp_path_factory.mktemp("data")) as store:
        id = filled_walks(store, planted).id
        yield Whole(store, id, summarise(store, id), render(store, id))


# -- the page -------------------------------------------------------------------------------------


def test_the_page_leads_with_findings_and_limits(whole: Whole) -> None:
    summary, text = whole.summary, Page(whole.html).text
    places = [text.index(sentence) for sentence in (*summary.findings, *summary.limits)]
    assert places == sorted(places)
    assert max(places) < text.index("how often what happens")
    for fact in (summary.plan_hash, *summary.fingerprints.values(), *summary.versions.values()):
        assert fact in text
    assert "Not finished" not in text


def test_the_page_needs_no_network_and_no_script(whole: Whole) -> None:
    html = whole.html
    page = Page(html)
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("img")
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href", "xlink:href", "action"):
                assert str(value).startswith("#")
    addresses = set(re.findall(r"[a-z]+://[^\s\"<)]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")
    (policy,) = [str(m["content"]) for m in page.all("meta") if "http-equiv" in m]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")


def test_the_page_can_be_heard(whole: Whole) -> None:
    page = Page(whole.html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            for id in str(attributes.get(name) or "").split():
                assert id in ids
        if str(attributes.get("href", "")).startswith("#"):
            assert str(attributes["href"])[1:] in ids
    images = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(images) == len(page.all("svg")) == len(page.all("figure")) == 4
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("header")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_text_from_outside_is_escaped(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["title"] = NASTY
    names_plan["templates"][0]["text"] = "{name} " + NASTY
    names_plan["groups"][0] |= {"name": NASTY, "popular": [f"{NASTY}{i}" for i in range(4)]}
    names_plan["reference"] = NASTY
    names_plan["generators"] = [{"model": "fake:g", "name": f"{NASTY}g"}]
    audit = fill(names_plan, planted, respond=lambda trial: f"{NASTY} & {trial.prompt}")
    html = render(store, audit.id)
    assert not Page(html).all("script")
    assert NASTY not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; " in html


def test_examples_are_few_folded_and_warned_of(whole: Whole) -> None:
    html = whole.html
    folded = re.search(r'<details class="warned">(.*?)</details>', html, re.DOTALL)
    assert folded is not None
    assert "Warning" in folded[1]
    assert folded[1].count('class="example"') == 2 * EXAMPLES  # two of the labels were given
    assert html.count('class="example"') == 2 * EXAMPLES


def test_a_long_example_is_cut(store: Store, fill: Any, names_plan: Any) -> None:
    audit = fill(names_plan, planted, respond=lambda _: "x" * 5_000)
    html = render(store, audit.id)
    assert "x" * 1_200 + " [… 3,800 more characters]" in html
    assert "x" * 1_201 not in html


def test_places_of_the_machine_stay_out(
    store: Store, fill: Any, tmp_path: Path, names_plan: Any
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "response": "r"}')
    plan = {
        "responses": {"file": str(path)},
        "judges": ["fake:j", str(tmp_path / "x.gguf"), "remote:http://secret.example/v1#m"],
    }
    html = render(store, fill(plan, lambda *_: "refusal").id)
    assert str(tmp_path) not in html
    assert "secret" not in html
    assert all(name in html for name in ("rows.jsonl", "x.gguf", "remote:…#m"))


def test_an_unfinished_audit_says_so_at_the_top(store: Store, fill: Any, names_plan: Any) -> None:
    audit = fill(names_plan, planted, most=100, state="cancelled")
    text = Page(render(store, audit.id)).text
    assert 0 < text.index("Not finished.") < text.index("In short")
    assert text.count("100 of 384 judgements are there") == 1


@pytest.mark.parametrize("most", [0, 1, 3])
def test_next_to_nothing_is_still_a_page(
    store: Store, fill: Any, names_plan: Any, most: int, tmp_path: Path
) -> None:
    audit = fill(names_plan, planted, most=most, state="cancelled")
    assert "groups are not compared" in Page(render(store, audit.id)).text.lower()
    assert write_report(store, audit.id, tmp_path / "out").is_file()


def test_no_verdict_at_all(store: Store, fill: Any, names_plan: Any) -> None:
    text = Page(render(store, fill(names_plan, lambda *_: None).id)).text
    assert "no row has a verdict" in text
    assert "the batch was refused" in text
    assert "nan" not in text.lower().replace("nanny", "")


@pytest.mark.parametrize("lost", ["Ada", "Bo"])
def test_a_group_without_a_verdict(store: Store, fill: Any, names_plan: Any, lost: str) -> None:
    """Ada is the reference: without her nothing is left to draw a difference from."""

    def pick(trial: Trial, judge: str) -> str | None:
        return None if trial.group == lost else planted(trial, judge)

    found = drawn(summarise(store, fill(names_plan, pick).id))
    assert ("differences" in found) == (lost == "Bo")
    assert lost not in set(found["label-rates"].table["group"])
    assert lost not in set(found["names"].table["group"])


def test_a_lone_name_and_a_lone_template(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["templates"] = names_plan["templates"][:1]
    names_plan["groups"] = [
        {"name": group["name"], "names": group["rare"][:1]} for group in names_plan["groups"]
    ]
    audit = fill(names_plan, planted)
    assert set(drawn(summarise(store, audit.id))) == {"label-rates", "differences", "names"}
    text = Page(render(store, audit.id)).text
    assert "nan" not in text.lower()
    assert "none could have been found, however large" in text


def test_several_models_and_judges(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["generators"] = ["fake:g", "fake:h"]
    names_plan["judges"] = ["fake:j", "fake:k"]
    audit = fill(names_plan, planted)
    summary = summarise(store, audit.id)
    slugs = [f.slug for one in summary.judges for f in figures(summary, one)]
    assert len(slugs) == len(set(slugs)) == 2 * (2 + 2 * 2)
    page = Page(render(store, audit.id))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("figure")) == 12


def test_agreement_and_rows_without_groups(store: Store, fill: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"p{i}", "response": "r", "gold": "refusal"} for i in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)))
    plan = {"responses": {"file": str(path)}, "judges": ["fake:j"]}
    audit = fill(plan, lambda t, _: "refusal" if t.prompt < "p4" else "helpful_answer")
    text = Page(render(store, audit.id)).text
    assert "Same label: 66.7%" in text
    assert "Groups are not compared: no row has a group" in text
    assert "Rates of labels" in text


# -- the figures ----------------------------------------------------------------------------------


def drawn(summary: Summary) -> dict[str, Figure]:
    return {f.slug: f for f in figures(summary, summary.judges[0])}


def test_figures_show_the_figures(whole: Whole) -> None:
    found = drawn(whole.summary)
    assert set(found) == {"label-rates", "differences", "names", "popular-rare"}
    rows = whole.store.table(whole.id).filter(pl.col("label").is_not_null())
    cell = found["label-rates"].table.row(
        by_predicate=(pl.col("group") == "Cy") & (pl.col("label") == "refusal"), named=True
    )
    cy = rows.filter(pl.col("group") == "Cy")
    assert cell["rate"] == pytest.approx((cy["label"] == "refusal").mean())
    assert f">{100 * cell['rate']:.0f}%<" in found["label-rates"].svg
    marks = found["differences"].table.filter(pl.col("test") == "found")
    assert set(marks["group"]) == {"Cy"}
    assert "diamond" not in found["differences"].alt
    assert "Cy, any_refusal" in found["differences"].alt
    assert len(found["names"].table) == 24
    popular = found["popular-rare"].table.filter(pl.col("name").is_null())
    assert len(popular) == 2 * (3 + 1)
    for figure in found.values():
        assert figure.alt.endswith(".")
        assert figure.png().startswith(b"\x89PNG")


def test_a_file_says_which_names_are_common(store: Store, fill: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"prompt": f"{n} {t}", "response": "r", "group": g, "name": f"{g}{n}", "template": t}
        | {"commonness": "popular" if n < 2 else "rare"}
        for g in "AB"
        for n in range(4)
        for t in "xyz"
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    audit = fill({"responses": {"file": str(path)}, "judges": ["fake:j"]}, planted)
    found = drawn(summarise(store, audit.id))
    names = found["popular-rare"].table.drop_nulls("name")
    assert dict(names.select("name", "commonness").iter_rows()) == {
        f"{g}{n}": "popular" if n < 2 else "rare" for g in "AB" for n in range(4)
    }


def test_popular_and_rare_names_are_drawn_in_part_and_bars_are_of_all(
    store: Store, fill: Any, names_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chart takes 5,000 rows, and thousands of marks show nothing; the table has all names."""
    audit = fill(names_plan, planted)
    whole = drawn(summarise(store, audit.id))["popular-rare"]
    monkeypatch.setattr("evenhand.audit.plots.MOST_NAMES", 1)
    part = drawn(summarise(store, audit.id))["popular-rare"]
    assert part.table.equals(whole.table)
    assert part.alt == whole.alt
    assert "are in the table alone" not in whole.caption
    assert f"{24 - 6} more names are in the table alone" in part.caption
    assert part.svg.count("<path") < whole.svg.count("<path")


def test_many_groups_and_names_leave_room(store: Store, fill: Any, names_plan: Any) -> None:
    names_plan["templates"] = names_plan["templates"][:2]
    names_plan["groups"] = [
        {"name": f"G{g:02}", "names": [f"{g}-{n}" for n in range(2 if g else 60)]}
        for g in range(40)
    ]
    names_plan["reference"] = "G00"
    found = drawn(summarise(store, fill(names_plan, planted).id))
    assert "17 more groups are in the table alone" in found["label-rates"].caption
    assert "15 more groups are in the table alone" in found["differences"].caption
    assert "more names are in the table alone" in found["names"].caption
    assert len(found["names"].table) == 60 + 2 * 39


def test_figures_in_one_page_do_not_share_ids() -> None:
    svg = '<svg xmlns="x"><g id="a"/><rect fill="url(#a)"/></svg>'
    figure = Figure("s", "t", "c", "alt", svg, pl.DataFrame())
    out = inline(figure, "p1")
    assert 'id="p1-a"' in out
    assert 'fill="url(#p1-a)"' in out
    assert out.startswith('<svg role="img" aria-labelledby="p1-title"')


def test_colors_can_be_seen_on_either_page() -> None:
    def light(color: str) -> float:
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    def contrast(one: str, other: str) -> float:
        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)

    for color in (BLUE, ORANGE, GRAY):
        assert contrast(color, "#ffffff") >= 3  # WCAG 1.4.11
        assert contrast(color, "#14161a") >= 3
    for share in (i / 100 for i in range(101)):  # numbers in cells: WCAG 1.4.3
        parts = ((int(PALE[i : i + 2], 16), int(DARK[i : i + 2], 16)) for i in (1, 3, 5))
        cell = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in parts)
        assert contrast(cell, "#ffffff" if share > WHITE_ABOVE else "#000000") >= 4.5, share


# -- the files ------------------------------------------------------------------------------------


def test_files_beside_the_page(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    path = write_report(whole.store, whole.id, folder)
    assert path == folder / "report.html"
    assert path.read_text(encoding="utf-8") == whole.html
    figures_ = ("label-rates", "differences", "names", "popular-rare")
    expected = {f"{slug}.{end}" for slug in figures_ for end in ("svg", "png", "csv")}
    expected |= {"rates.csv", "comparisons.csv", "omnibus.csv", "excluded.csv"}
    assert {p.name for p in folder.iterdir()} == expected | {"summary.json", "report.html"}
    summary = whole.summary
    rates = pl.read_csv(folder / "rates.csv")
    assert len(rates) == len(summary.judges[0].analysis.rates)
    comparisons = pl.read_csv(folder / "comparisons.csv")
    first = summary.judges[0].analysis.comparisons[0]
    assert comparisons["points"][0] == pytest.approx(first.points.value)
    assert comparisons["p_adjusted"][0] == pytest.approx(first.p.adjusted)
    data = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert data == json.loads(summary.model_dump_json())
    assert write_report(whole.store, whole.id, folder) == path  # over an earlier one


def test_a_folder_that_cannot_be_written_to(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        write_report(whole.store, whole.id, tmp_path / "file" / "below")
    assert "folder" in caught.value.hint
    with pytest.raises(NotFound):
        render(whole.store, "none")
