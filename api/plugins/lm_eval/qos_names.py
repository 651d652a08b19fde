"""The functions behind `evenhand_qos_names.yaml`: documents, verdicts, rates.

Knows lm-eval's contracts. Documents are the sentences of an audit's plan. A filter, which sees the
responses of all documents at once, has them judged; the judge is what EVENHAND_JUDGE says, a
model or the address of a service. Rates are by label, over all and within each group, among the
responses that have a label; how many have none is a metric of its own. lm-eval's own standard
errors take documents as independent, which those of one name or template are not: these do not.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from lm_eval.api.task import ConfigurableTask
from lm_eval.filters import build_filter_ensemble

from evenhand.api.plugins.shared import shared
from evenhand.audit.plan import load_sentences
from evenhand.audit.statistics import Metric, composites
from evenhand.schemas.errors import EvenhandError
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Failure, Status

Doc = dict[str, Any]
# What a document adds to a rate: its name, its template, and how many of its responses count
# towards the metric, of how many that have a label.
Cell = tuple[str, str, int, int]

NO_VERDICT = "no_verdict"
_STDERR = "_stderr"  # how lm-eval calls the standard error of a metric


def documents(plan: str = "qos-names", **_: Any) -> dict[str, datasets.Dataset]:
    """The sentences of a plan with templates and groups: each of its templates with each name.

    lm-eval hands over all `metadata` of the task. Raises what `load_sentences` raises.
    """
    found = load_sentences(plan)
    rows = [
        {
            "prompt": template.fill(entry.name),
            "system": f"{found.system}\n\n" if found.system else "",
            "template": template.id,
            **entry._asdict(),
            "taxonomy": found.taxonomy,
        }
        for template in found.templates
        for entry in found.names()
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def judge(resps: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[list[str]]:
    """The verdicts on all responses to all documents, in the same nesting, each as its JSON.

    A judge that cannot be opened, or breaks, loses no response: what it did not judge has the
    status `error`, and lm-eval's log has the text.
    """
    pairs = [
        (doc["prompt"], text) for texts, doc in zip(resps, docs, strict=True) for text in texts
    ]
    verdicts = _verdicts(pairs, docs[0]["taxonomy"]) if docs else iter(())
    return [[next(verdicts) for _ in texts] for texts in resps]


def _verdicts(pairs: Sequence[tuple[str, str]], taxonomy: str) -> Iterator[str]:
    done = 0
    try:
        for verdict in shared(None, taxonomy).open().judge_many(pairs):
            done += 1
            yield verdict.model_dump_json()
    except EvenhandError as exc:
        failure = Failure.of(exc).model_dump()
        for _ in pairs[done:]:
            yield json.dumps({"status": Status.ERROR.value, "label": None, "failure": failure})


def results(doc: Doc, verdicts: Sequence[Sequence[str]]) -> dict[str, Cell | int]:
    """What one document adds to each metric, over all and in its group.

    lm-eval writes `N/A` beside a metric whose standard error it cannot tell, under `..._stderr`; a
    metric of that name, later in the same result, takes its place in the table and the file.
    """
    (said,) = verdicts
    labels = [label for verdict in said if (label := json.loads(verdict)["label"]) is not None]
    found: dict[str, Cell | int] = {}
    for where in (None, doc["group"]):
        for metric in _metrics(doc["taxonomy"]):
            hits = sum(label in metric.labels for label in labels)
            cell = (doc["name"], doc["template"], hits, len(labels))
            found[_called(metric.name, where)] = cell
            found[_called(metric.name, where) + _STDERR] = cell
        found[_called(NO_VERDICT, where)] = len(said) - len(labels)
    return found


class QosNames(ConfigurableTask):
    """The task, with its metrics: as many as a taxonomy has labels, and a plan groups."""

    def __init__(self, config: Doc):
        logging.getLogger("lm_eval.evaluator_utils").addFilter(_is_news)
        super().__init__(config={key: config[key] for key in config if key != "class"})
        docs = self.dataset["test"]
        self._ours = [
            _called(name, where)
            for where in (None, *sorted(set(docs["group"])))
            for name in (*(metric.name for metric in _metrics(docs[0]["taxonomy"])), NO_VERDICT)
        ]

    def override_metric(self, metric_name: str) -> None:
        """What `--predict_only` calls: nothing is scored, so nothing is judged."""
        super().override_metric(metric_name)
        self._filters = [build_filter_ensemble("none", [("take_first", None)])]

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """How each metric is made of what the documents add."""
        found: dict[str, Callable[..., float]] = dict(super().aggregation())
        for name in self._ours:
            counts = name.startswith(NO_VERDICT)
            found[name] = total if counts else rate
            found[name + _STDERR] = stderr
        return found

    def higher_is_better(self) -> dict[str, bool]:
        """Help is good; every other label is less."""
        ours = {name: name.startswith("helpful_answer") for name in self._ours}
        return {**super().higher_is_better(), **ours}


@cache
def _metrics(taxonomy: str) -> tuple[Metric, ...]:
    """Each label, and what labels make up together (`any_refusal`, ...)."""
    known = Taxonomy.load(taxonomy)
    return (*(Metric(label, frozenset([label])) for label in known.labels), *composites(known))


def _called(metric: str, group: str | None) -> str:
    return metric if group is None else f"{metric} ({group})"


def _is_news(record: logging.LogRecord) -> bool:
    """False for a warning of a page: metrics count different documents, since groups do."""
    message = record.getMessage()
    return f"{NO_VERDICT} (" not in message or "same number of documents" not in message


# -- aggregation ----------------------------------------------------------------------------------


def total(counts: Iterable[int]) -> int:
    """How many responses have no verdict."""
    return sum(counts)


def rate(cells: Sequence[Cell]) -> float:
    """Hits by judged responses; NaN where none was judged."""
    judged = sum(cell[3] for cell in cells)
    return sum(cell[2] for cell in cells) / judged if judged else math.nan


def stderr(cells: Sequence[Cell]) -> float:
    """The standard error of `rate`, clustered by names and by templates.

    The two-way variance of Cameron, Gelbach and Miller (2011): by name, plus by template, less by
    cell, each with its correction for few clusters, of the rate linearised as a ratio. Where that
    is negative, the larger one of the first two. NaN where it cannot be told: with a single name or
    template, or without both hits and misses, which does not mean that there is no error.
    """
    seen = [cell for cell in cells if cell[3]]
    if not 0 < rate(cells) < 1:
        return math.nan
    names, templates = ([str(cell[i]) for cell in seen] for i in (0, 1))
    hits, judged = (np.array([cell[i] for cell in seen], np.float64) for i in (2, 3))
    scores = (hits - rate(cells) * judged) / judged.sum()
    by_name, by_template = _variance(scores, names), _variance(scores, templates)
    if math.isnan(by_name + by_template):
        return math.nan
    both = by_name + by_template - _variance(scores, list(zip(names, templates, strict=True)))
    return math.sqrt(both if both > 0 else max(by_name, by_template))


def _variance(scores: npt.NDArray[np.float64], clusters: Sequence[object]) -> float:
    """The variance of the sum of scores that go together within clusters."""
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    if len(index) < 2:
        return math.nan
    sums = np.bincount([index[cluster] for cluster in clusters], scores)
    return float(len(index) / (len(index) - 1) * (sums**2).sum())
