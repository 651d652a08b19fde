"""The judge card: what is known of a judge in five sections, and by name what is not.

The five are those of "LLJ Cards: Best Practices for the Use of LLMs as Judges" (arXiv 2609.24516;
an LLJ is a large language model as a judge): Context, Evaluation Criteria, LLJ Pipeline, LLJ
Evaluation, LLJ Prototyping. The paper's text was not at hand: what belongs into each is our
reading.

Knows facts and records and puts them in order; it measures, opens and draws nothing. What is
missing becomes a `NamedGap` with a name that stays the same, and nothing else takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evenhand.judge.calibration import Calibration
from evenhand.judge.evidence import Record
from evenhand.judge.facts import About, Facts
from evenhand.judge.probes.run import PROBES

Source = Literal["computed", "measured", "stated"]

CITATION = "LLJ Cards (arXiv 2609.24516)"
_AXES = ("model", "group")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Figure(_Part):
    """A figure with its 95% interval; null where it cannot be known."""

    value: float | None
    low: float | None = None
    high: float | None = None


Cell = Figure | int | float | str | None


class Table(_Part):
    """Rows of cells under columns. Shares are from 0 to 1."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Entry(_Part):
    """One thing that is known.

    `source` tells how: computed from the judge itself, measured, or stated by its makers; `since`
    is when it was measured (seconds since 1970). `verbatim` is text to be shown as it is.
    """

    name: str
    title: str
    source: Source
    since: float | None = None
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    verbatim: str | None = None


class NamedGap(_Part):
    """One thing that is not known: its name, what that means, and how to close it."""

    name: str
    means: str
    hint: str


class Section(_Part):
    """One of the five."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    gaps: tuple[NamedGap, ...]


class Card(_Part):
    """A judge's card. `members` are the cards of a panel's members."""

    judge: str
    fingerprint: str
    model_sha256: str | None
    taxonomy: str
    taxonomy_version: str
    evenhand: str
    sections: tuple[Section, ...]
    members: Annotated[tuple[Card, ...], Field(exclude_if=lambda members: not members)] = ()

    @property
    def gaps(self) -> tuple[NamedGap, ...]:
        """Those of all sections, in order."""
        return tuple(gap for section in self.sections for gap in section.gaps)


def make_card(facts: Facts, records: Iterable[Record]) -> Card:
    """The card of a judge from what it is made of and what was measured.

    Of `records` those with its fingerprint count (for a panel's members, with theirs); of two about
    the same thing the newer one. Records of the same model file under another fingerprint are only
    counted, in a gap.
    """
    records = list(records)
    own = _newest(record for record in records if record.fingerprint == facts.fingerprint)
    others = [
        record
        for record in records
        if record.fingerprint != facts.fingerprint
        and record.kind in ("validation", "probes", "cost")
        and facts.model_sha256 is not None
        and record.document.get("model_sha256") == facts.model_sha256
    ]
    return _Maker(facts, own, len(others)).card(
        tuple(make_card(member, records) for member in facts.members)
    )


def recorded_facts(judge: str, fingerprint: str, taxonomy: Any, records: Iterable[Record]) -> Facts:
    """The facts that were kept of a judge which is not at hand; none but these three without."""
    for record in records:
        if (record.kind, record.fingerprint) == ("facts", fingerprint):
            return Facts.model_validate(record.document)
    return Facts(judge=judge, kind="unknown", fingerprint=fingerprint, taxonomy=taxonomy)


def _newest(records: Iterable[Record]) -> list[Record]:
    found: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda record: record.created):
        found[record.kind, record.name] = record
    return sorted(found.values(), key=lambda record: (record.kind, record.name))


class _Maker:
    """Writes the sections of one judge's card, each as entries and gaps in a row."""

    def __init__(self, facts: Facts, records: Sequence[Record], others: int):
        self._facts, self._others = facts, others
        self._of = {
            kind: [record for record in records if record.kind == kind]
            for kind in ("validation", "probes", "cost", "about")
        }
        self._about = facts.about
        for record in self._of["about"]:
            self._about = About.model_validate(record.document).over(self._about)

    def card(self, members: tuple[Card, ...]) -> Card:
        """All of it."""
        facts = self._facts
        parts = {
            ("context", "Context"): self._context(),
            ("evaluation_criteria", "Evaluation Criteria"): self._criteria(),
            ("llj_pipeline", "LLJ Pipeline"): self._pipeline(),
            ("llj_evaluation", "LLJ Evaluation"): self._evaluation(),
            ("llj_prototyping", "LLJ Prototyping"): self._prototyping(),
        }
        sections = []
        for (name, title), found in parts.items():
            items = list(found)
            sections.append(
                Section(
                    name=name,
                    title=title,
                    entries=tuple(item for item in items if isinstance(item, Entry)),
                    gaps=tuple(item for item in items if isinstance(item, NamedGap)),
                )
            )
        return Card(
            judge=facts.judge,
            fingerprint=facts.fingerprint,
            model_sha256=facts.model_sha256,
            taxonomy=facts.taxonomy.name,
            taxonomy_version=facts.taxonomy.version,
            evenhand=version("evenhand"),
            sections=tuple(sections),
            members=members,
        )

    # -- the sections --------------------------------------------------------------------------

    def _context(self) -> Iterator[Entry | NamedGap]:
        taxonomy = self._facts.taxonomy
        yield Entry(
            name="construct",
            title="What is measured",
            source="computed",
            text=(
                f"{taxonomy.title}. Of each response it is asked: “{taxonomy.question}” The answer "
                f"is one of {len(taxonomy.labels)} labels.",
            ),
        )
        yield self._stated(
            "intended_use", "Intended use", "no_intended_use", "Nobody says what it is meant for."
        )
        yield self._stated(
            "not_intended_for",
            "Not intended for",
            "no_stated_limits",
            "Nobody says what it should not be used for.",
        )

    def _criteria(self) -> Iterator[Entry | NamedGap]:
        taxonomy = self._facts.taxonomy
        onto = [crosswalk.name for crosswalk in taxonomy.crosswalks]
        rows: list[tuple[Cell, ...]] = [
            (
                c.label,
                c.definition,
                c.is_not,
                c.helps and c.helps.replace("_", " "),
                c.harms,
                *(taxonomy.crosswalk(c.label).get(name) for name in onto),
            )
            for c in taxonomy.categories
        ]
        yield Entry(
            name="taxonomy",
            title=f"Taxonomy {taxonomy.name}, version {taxonomy.version}",
            source="computed",
            text=tuple(self._in_prompt()),
            tables=(
                Table(
                    caption="Labels",
                    columns=("Label", "Means", "And not", "Helps", "Harms", *onto),
                    rows=tuple(rows),
                ),
            ),
        )
        if not all(c.example for c in taxonomy.categories):
            yield NamedGap(
                name="no_examples",
                means="Not every label has an example.",
                hint="Add one to each category of the taxonomy's TOML file.",
            )

    def _in_prompt(self) -> Iterator[str]:
        prompt = self._facts.prompt
        if prompt is not None:
            told = sum(c.definition in prompt.text for c in self._facts.taxonomy.categories)
            yield (
                f"The judge's prompt holds {told or 'none'} of the "
                f"{len(self._facts.taxonomy.categories)} definitions."
            )

    def _pipeline(self) -> Iterator[Entry | NamedGap]:
        facts = self._facts
        yield from self._model()
        if facts.prompt is not None:
            prompt = facts.prompt
            name = PurePath(prompt.name).name if prompt.name.endswith(".j2") else prompt.name
            too_long = {"refuse": "refused", "middle": "cut in the middle, with a note"}
            blind = " Listed first names are hidden: the judge reads a stand-in."
            yield Entry(
                name="prompt",
                title="Prompt",
                source="computed",
                text=(
                    f"Template {name} ({prompt.format}), sha256 {prompt.sha256}. Text too long for "
                    f"the context is {too_long.get(prompt.overflow, prompt.overflow)}."
                    f"{blind if prompt.names == 'hidden' else ''}",
                ),
                verbatim=prompt.text,
            )
        elif facts.kind == "unknown":
            yield NamedGap(
                name="no_prompt_recorded",
                means="The prompt that the judge read was not recorded.",
                hint=_ASK_IT,
            )
        if facts.decoding:
            yield Entry(
                name="decoding",
                title="Decoding",
                source="computed",
                tables=(
                    Table(
                        caption="How a label comes about",
                        columns=("Setting", "Value"),
                        rows=tuple((name, _plain(v)) for name, v in facts.decoding.items()),
                    ),
                ),
            )
        if facts.kind in ("remote", "unknown"):
            yield NamedGap(
                name="decoding_unpinned",
                means="The server decodes; its version and settings are not known."
                if facts.kind == "remote"
                else "How its labels came about was not recorded.",
                hint="Run the model through evenhand's own engine (a path or hf:OWNER/REPO:FILE)."
                if facts.kind == "remote"
                else _ASK_IT,
            )
        if facts.kind in ("model", "remote"):
            yield from self._calibration(facts.calibration)

    def _model(self) -> Iterator[Entry | NamedGap]:
        facts = self._facts
        what = {
            "model": "a language model, run by evenhand's engine",
            "remote": "a language model behind a server",
            "baseline": "a rule without a model and without a prompt",
            "panel": f"a panel of {len(facts.members)} judges",
            "unknown": "a judge that is not at hand",
        }[facts.kind]
        lines = [f"{facts.judge}: {what}{f' ({facts.model})' if facts.model else ''}."]
        if facts.model_sha256 is not None:
            lines.append(f"Model file: sha256 {facts.model_sha256}.")
        lines.append(f"Fingerprint: {facts.fingerprint}.")
        tables: tuple[Table, ...] = ()
        if facts.members:
            tables = (
                Table(
                    caption="Members",
                    columns=("Member", "Template", "Model, sha256", "Fingerprint"),
                    rows=tuple(
                        (m.judge, m.prompt and m.prompt.name, m.model_sha256, m.fingerprint)
                        for m in facts.members
                    ),
                ),
            )
        yield Entry(name="model", title="Judge", source="computed", text=tuple(lines),
                    tables=tables)  # fmt: skip
        if facts.kind == "remote":
            yield NamedGap(
                name="model_unpinned",
                means="Which weights answer is the server's to say; they may change under the "
                "same name.",
                hint="Name the file itself (a path or hf:OWNER/REPO:FILE@REVISION).",
            )
        elif facts.kind == "unknown" and facts.model_sha256 is None:
            yield NamedGap(
                name="no_model_hash",
                means="Which model file judged was not recorded beside its fingerprint.",
                hint=_ASK_IT,
            )

    def _calibration(self, calibration: Calibration | None) -> Iterator[Entry | NamedGap]:
        if not self._facts.gives_probabilities:
            yield NamedGap(
                name="no_probabilities",
                means="It gives labels without probabilities: how sure it is cannot be told.",
                hint="Ask the server for logprobs, or use evenhand's own engine.",
            )
        elif calibration is None or calibration.method == "identity":
            yield NamedGap(
                name="uncalibrated_probabilities",
                means="Its probabilities are the model's own; nothing was fitted to make them "
                "agree with how often it is right.",
                hint="evenhand validate GOLD --fit temperature --save-calibration FILE, then "
                "--calibration FILE.",
            )
        else:
            on = f", fitted on {calibration.fitted_on}" if calibration.fitted_on else ""
            yield Entry(
                name="calibration",
                title="Calibration",
                source="computed",
                text=(f"{calibration.method.capitalize()} scaling{on} "
                      f"({calibration.rows:,} rows).",),
                tables=(
                    Table(
                        caption="Scale of a label's log-probability, and bias in nats",
                        columns=("Label", "Scale", "Bias"),
                        rows=tuple(
                            (label, scale, calibration.bias[label])
                            for label, scale in calibration.scale.items()
                        ),
                    ),
                ),
            )  # fmt: skip
            if not calibration.fitted_on:
                yield NamedGap(
                    name="calibration_data_unnamed",
                    means="What its calibration was fitted on is not recorded.",
                    hint="Fit it again (evenhand validate GOLD --fit ...), which records that.",
                )

    def _evaluation(self) -> Iterator[Entry | NamedGap]:
        validations = self._of["validation"]
        for record in validations:
            yield _agreement(record)
        if not validations:
            yield NamedGap(
                name="no_validity_evidence",
                means="Its labels were not compared with labels by people." + self._elsewhere(),
                hint="evenhand validate GOLD, with the same judge.",
            )
        else:
            yield from self._missing_in([record.document for record in validations])
        probes = self._of["probes"]
        if probes:
            yield _probes(probes)
        done = {record.document["report"]["kind"] for record in probes}
        missing = [kind for kind in PROBES if kind not in done]
        if missing:
            yield NamedGap(
                name="probes_not_run" if probes else "no_reliability_evidence",
                means=f"Not probed: {', '.join(missing)}."
                if probes
                else "It was not probed: whether its verdicts move where nothing that matters "
                "changed is not known." + ("" if validations else self._elsewhere()),
                hint=f"evenhand probe {' '.join(missing) if probes else ''}".strip()
                + ", with the same judge.",
            )
        yield self._cost()

    def _missing_in(self, documents: Sequence[Mapping[str, Any]]) -> Iterator[NamedGap]:
        taxonomy = self._facts.taxonomy
        if all(document["gold_taxonomy"] != taxonomy.name for document in documents):
            others = ", ".join(sorted({document["gold_taxonomy"] for document in documents}))
            yield NamedGap(
                name="labels_not_validated",
                means=f"No set of labels by people is of the taxonomy {taxonomy.name} itself, only "
                f"of {others}: labels that fold onto the same class were not told apart.",
                hint=f"Have people label responses with {taxonomy.name}, then evenhand validate.",
            )
        if all(len((document["people"] or {}).get("annotators", ())) < 2 for document in documents):
            yield NamedGap(
                name="no_human_agreement",
                means="How far people agree with each other was not measured, so there is nothing "
                "to hold its agreement against.",
                hint="Have two annotators or more label the same rows; validate finds their "
                "columns.",
            )
        for axis in _AXES:
            if not any(_subsets(document["raters"][0], axis) for document in documents):
                yield NamedGap(
                    name=f"no_agreement_by_{axis}",
                    means=f"Whether it errs more for one {axis} than for another is not known.",
                    hint=f"evenhand validate GOLD with a column that says the {axis} "
                    f"(--{axis}-column).",
                )

    def _elsewhere(self) -> str:
        if not self._others:
            return ""
        were = "record was" if self._others == 1 else "records were"
        return (
            f" {self._others} {were} made of the same model file under another fingerprint (other "
            "settings, versions or a GPU); they are not shown as this judge's."
        )

    def _cost(self) -> Entry | NamedGap:
        if not self._of["cost"]:
            return NamedGap(
                name="no_cost",
                means="How long 1,000 verdicts take was not measured.",
                hint="evenhand card --time, on the machine that matters.",
            )
        record = self._of["cost"][-1]
        cost = record.document
        rows = cost["rows"]
        each = f"{cost['tokens']:,.0f}" if cost["tokens"] is not None else "an unknown number of"
        gpu = " and a GPU" if self._facts.decoding.get("gpu") else ""
        load = cost.get("load")
        busy = "" if load is None else f", with {load:.1f} processes at work on them before"
        return Entry(
            name="cost",
            title="Cost per 1,000 verdicts",
            source="measured",
            since=record.created,
            text=(
                f"{1_000 * cost['seconds'] / rows:,.1f} seconds, from {rows:,} pairs that ship "
                f"with evenhand ({cost['judged']:,} of them got a label) on {cost['cores']} cores"
                f"{gpu}{busy}. The judge's prompt has {each} tokens on average there; longer "
                "responses cost more.",
            ),
        )

    def _prototyping(self) -> Iterator[Entry | NamedGap]:
        kind = self._facts.kind
        if kind == "baseline":
            return
        if kind == "panel":
            yield Entry(
                name="members",
                title="Of its members",
                source="computed",
                text=("Prompts and models are its members': see their cards.",),
            )
            return
        for name, (title, gap, means) in _STATED.items():
            yield self._stated(name, title, gap, means)

    def _stated(self, name: str, title: str, gap: str, means: str) -> Entry | NamedGap:
        text = getattr(self._about, name)
        if text is None:
            return NamedGap(
                name=gap,
                means=means,
                hint=f"evenhand card --about FILE.toml, which says {name} = ...",
            )
        return Entry(name=name, title=title, source="stated", text=(text,))


_ASK_IT = "evenhand card --judge ..., with the same settings and version, records it."

# What only its makers can say: the entry's title, the gap's name and what the gap means.
_STATED = {
    "prompt_written_by": (
        "Who wrote the prompt",
        "no_prompt_authors",
        "Nobody says who wrote the prompt.",
    ),
    "prompt_developed_on": (
        "Data that the prompt was developed on",
        "no_development_data",
        "Nobody says on which data the prompt was tried while it was written; agreement on that "
        "data would flatter it.",
    ),
    "prompt_history": (
        "How the prompt was developed",
        "no_prompt_history",
        "Nobody says how the prompt came to be: how many versions, compared by what.",
    ),
    "prompt_stopped": (
        "When that stopped",
        "no_prompt_freeze",
        "Nobody says when the prompt was last changed, and why then.",
    ),
    "model_history": (
        "How the model was made or chosen",
        "no_model_history",
        "Nobody says how the model was made or chosen, and what was looked at for it.",
    ),
}


# -- records as entries ------------------------------------------------------------------------


def _agreement(record: Record) -> Entry:
    document = record.document
    raters = document["raters"]
    judge = raters[0]
    folded = document["gold_taxonomy"] != document["taxonomy"]
    text = [
        f"People's labels are of the taxonomy {document['gold_taxonomy']}"
        f"{', onto which its own fold' if folded else ''}.",
        *document["findings"],
        *document["notes"],
    ]
    tables = [
        Table(
            caption="Agreement with people's labels",
            columns=("", "Labelled", "Kappa", "Alpha", "Accuracy", "Macro F1"),
            rows=tuple(
                (
                    f"{rater['name']} ({rater['kind']})",
                    rater["labelled"],
                    *(_figure(rater["agreement"][k]) for k in _AGREEMENT),
                )
                for rater in raters
            ),
        )
    ]
    for axis in _AXES:
        subsets = _subsets(judge, axis)
        if subsets:
            tables.append(
                Table(
                    caption=f"By {axis}",
                    columns=("", "Labelled", "Kappa", "Accuracy"),
                    rows=tuple(
                        (s["key"], s["labelled"], _figure(s["kappa"]), _figure(s["accuracy"]))
                        for s in subsets
                    ),
                )
            )
    errors = tuple(_error_rows(judge))
    if errors:
        tables.append(
            Table(
                caption="How often it finds what people see (sensitivity) and leaves alone what "
                "they do not (specificity); p: that all are alike",
                columns=("Metric", "Of", "Sensitivity", "Specificity", "p"),
                rows=errors,
            )
        )
    panel = document.get("panel")  # which older records do not have
    if panel is not None:
        known = panel["effective"]
        number = "an unknown number of" if known is None else f"{known:.1f}"
        tables.append(
            Table(
                caption=f"The members of the panel, two by two; by the correlation of their errors "
                f"they are {number} independent judges",
                columns=("", "", "Rows", "Kappa", "Accuracy"),
                rows=tuple(
                    (p["one"], p["other"], p["rows"], _figure(p["kappa"]), _figure(p["accuracy"]))
                    for p in panel["pairs"]
                ),
            )
        )
    if document["reliability"] is not None:
        scores = document["reliability"]["scores"]
        tables.append(
            Table(
                caption="Its probabilities (lower is better)",
                columns=("ECE", "Brier", "Log-loss"),
                rows=(tuple(_figure(scores[name]) for name in ("ece", "brier", "log_loss")),),
            )
        )
    return Entry(
        name="agreement",
        title=f"Agreement with people on {record.name}",
        source="measured",
        since=record.created,
        text=tuple(text),
        tables=tuple(tables),
    )


_AGREEMENT = ("kappa", "alpha", "accuracy", "macro_f1")


def _subsets(rater: Mapping[str, Any], axis: str) -> list[Mapping[str, Any]]:
    return [subset for subset in rater["subsets"] if subset["by"] == axis]


def _error_rows(rater: Mapping[str, Any]) -> Iterator[tuple[Cell, ...]]:
    for errors in rater["errors"]:
        metric = errors["metric"]
        yield metric, "all", _figure(errors["sensitivity"]), _figure(errors["specificity"]), None
        for axis in _AXES:
            found = errors[f"by_{axis}"]
            for i, group in enumerate(found["groups"] if found else ()):
                ends = _figure(group["sensitivity"]), _figure(group["specificity"])
                p = found["p"] if i == 0 else None
                yield metric, f"{axis} {group['group']}", *ends, _p(p)


def _probes(records: Sequence[Record]) -> Entry:
    rows: list[tuple[Cell, ...]] = []
    text = []
    for record in records:
        report = record.document["report"]
        source = record.document["source"]
        if report["why_not"] is not None or report["overall"] is None:
            why = report["why_not"] or "none of the pairs had a label"
            rows.append((record.name, source, "does not apply", None, None, why))
            continue
        overall = report["overall"]
        flips = overall["flips"]
        without = sum(overall["unjudged"].values()) + sum(report["originals_unjudged"].values())
        toward = overall["toward"]
        also = []
        if toward is not None and toward["value"] is not None:
            also.append(f"{toward['value']:.1%} toward the label that was asked for")
        if report["names"] is not None:
            also.append(f"drift between groups: p = {report['names']['p_value']:.3f}")
        changed = f"{flips['count']:,} of {flips['trials']:,}"
        rows.append((record.name, source, changed, _figure(flips), without, "; ".join(also)))
    since = max(record.created for record in records)
    text.append("How often its label changed where nothing that matters did. Lower is better.")
    return Entry(
        name="probes",
        title="Probes of reliability",
        source="measured",
        since=since,
        text=tuple(text),
        tables=(
            Table(
                caption="Flips",
                columns=("Probe", "Pairs", "Flips", "Rate", "Without a label", "Also"),
                rows=tuple(rows),
            ),
        ),
    )


def _figure(estimate: Mapping[str, Any]) -> Figure:
    return Figure(value=estimate["value"], low=estimate["low"], high=estimate["high"])


def _p(p: float | None) -> str | None:
    if p is None:
        return None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _plain(value: Any) -> str:
    """A setting for people to read."""
    return value if isinstance(value, str) else json.dumps(value)
