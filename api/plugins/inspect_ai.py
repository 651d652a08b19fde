"""evenhand in Inspect AI: scorers, their metrics, and the audit `qos-names` as a task.

Inspect finds this module by its entry point, so that `inspect score LOG --scorer evenhand/qos` and
`inspect eval evenhand/qos_names` work wherever evenhand is installed. It knows Inspect's types; how
a judge is opened and waited for stands in `shared.py`.
"""

from __future__ import annotations

from collections import Counter

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import (
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    Value,
    metric,
    scorer,
)
from inspect_ai.solver import TaskState, generate, system_message

from evenhand.api.grade import ranked
from evenhand.api.plugins.shared import shared
from evenhand.judge.base import BaseJudge
from evenhand.schemas.errors import EvenhandError, InvalidInput
from evenhand.schemas.generation import Sampling
from evenhand.schemas.verdict import Failure, Verdict

# -- metrics --------------------------------------------------------------------------------------
# They see verdicts alone: Inspect leaves unscored samples out and counts them beside the metrics
# (`scored_samples`, `unscored_samples`). Every epoch counts, since labels have no mean; and there
# is no standard error, since samples of one name or template are not independent.


@metric(scores="unreduced")
def rates() -> Metric:
    """The share of each label among the samples that have one."""

    def compute(scores: list[SampleScore]) -> Value:
        return _shares(scores)

    return compute


@metric(scores="unreduced")
def rates_by_group() -> Metric:
    """The same within each group: `GROUP/LABEL`, and `GROUP/judged`, how many have a label."""

    def compute(scores: list[SampleScore]) -> Value:
        members: dict[str, list[SampleScore]] = {}
        for score in scores:
            group = (score.score.metadata or {}).get("group")
            if group is not None:
                members.setdefault(str(group), []).append(score)
        found: dict[str, str | int | float | bool | None] = {}
        for group in sorted(members):
            found[f"{group}/judged"] = len(members[group])
            for label, share in _shares(members[group]).items():
                found[f"{group}/{label}"] = share
        return found

    return compute


def _shares(scores: list[SampleScore]) -> dict[str, float]:
    labels: dict[str, None] = {}
    for score in scores:
        labels.update(dict.fromkeys((score.score.metadata or {}).get("labels", ())))
    counts = Counter(score.score.as_str() for score in scores)
    return {label: counts[label] / len(scores) for label in labels}


# -- scorers --------------------------------------------------------------------------------------


@scorer(metrics=[rates(), rates_by_group()])
def qos(judge: str | BaseJudge | None = None, group: str = "group") -> Scorer:
    """Label each response by the taxonomy `qos`.

    The score's value is the label; its metadata hold the probabilities and the fingerprint. A
    sample without a verdict is unscored, with the reason. `judge` is as for `SharedJudge`, `group`
    the key of the samples' metadata by which rates are grouped, where they have it.
    """
    return _scorer(judge, "qos", group)


@scorer(metrics=[rates(), rates_by_group()])
def taxonomy(
    taxonomy: str | None = None, judge: str | BaseJudge | None = None, group: str = "group"
) -> Scorer:
    """The same by another taxonomy: a name, or (without a service) the path of a TOML file.

    Left out, it is the default one of the service or the settings.
    """
    return _scorer(judge, taxonomy, group)


def _scorer(judge: str | BaseJudge | None, taxonomy: str | None, group: str) -> Scorer:
    asked = shared(judge, taxonomy)

    async def score(state: TaskState, target: Target) -> Score:
        grouped = {"group": state.metadata[group]} if group in state.metadata else {}
        if not state.output.choices:
            explanation = state.output.error or "the model gave no response to judge"
            return Score.unscored(
                reason="no_response", explanation=explanation, metadata=grouped or None
            )
        try:
            verdict = await asked.verdict_soon(state.input_text, state.output.completion)
        except EvenhandError as exc:
            return _unscored(Failure.of(exc), {"status": "error", **grouped})
        metadata = {**_metadata(verdict), **grouped}
        if verdict.label is None:
            assert verdict.failure is not None
            return _unscored(verdict.failure, metadata)
        return Score(
            value=verdict.label,
            explanation=verdict.reason or ranked(verdict),
            metadata=metadata,
        )

    return score


def _metadata(verdict: Verdict) -> dict[str, object]:
    kept = (
        "status", "probabilities", "mass", "margin", "crosswalk", "notes", "labels", "taxonomy",
        "taxonomy_version", "judge", "model_sha256", "fingerprint",
    )  # fmt: skip
    said: dict[str, object] = verdict.model_dump(mode="json", include=set(kept))
    return {key: said[key] for key in kept}


def _unscored(failure: Failure, metadata: dict[str, object]) -> Score:
    return Score.unscored(
        reason="grader_failed",
        explanation=f"{failure.message} ({failure.hint})" if failure.hint else failure.message,
        metadata={**metadata, "failure": failure.model_dump()},
    )


# -- the audit as a task --------------------------------------------------------------------------


@task
def qos_names(
    plan: str = "qos-names", judge: str | BaseJudge | None = None, samples: int | None = None
) -> Task:
    """Harmless sentences with names in them: is everyone answered alike?

    `plan` is the built-in audit or the path of a plan with templates and groups; `samples` (its
    own where left out) are Inspect's epochs. Seeds are Inspect's, so that `--seed` gives every
    epoch the same one. For intervals and tests, which must not take rows as independent, hand the
    log to `evenhand audit`.
    """
    # A plan's file needs the readers of data, which scorers do without.
    from evenhand.audit.plan import load_sentences

    found = load_sentences(plan)
    sampling = _sampling(found.sampling)
    return Task(
        name=found.name,
        dataset=MemoryDataset(
            [
                Sample(
                    id=f"{template.id}|{entry.name}",
                    input=template.fill(entry.name),
                    metadata={**entry._asdict(), "template": template.id},
                )
                for template in found.templates
                for entry in found.names()
            ],
            name=found.name,
        ),
        solver=[*([system_message(found.system)] if found.system else []), generate()],
        scorer=qos(judge) if found.taxonomy == "qos" else taxonomy(found.taxonomy, judge),
        epochs=Epochs(samples or found.samples),
        config=sampling,
    )


def _sampling(asked: Sampling) -> GenerateConfig:
    """A plan's sampling in Inspect's words. Raises `InvalidInput` for what it has no word for.

    The default `min_p` is no wish of the plan's, and is left out.
    """
    default = Sampling()
    for name, off in (("min_p", 0), ("repeat_penalty", 1)):
        if getattr(asked, name) not in (off, getattr(default, name)):
            raise InvalidInput(
                f"the plan sets sampling.{name}, and Inspect has no setting for it",
                hint="Leave it out of the plan, or run the plan with `evenhand audit run`.",
            )
    return GenerateConfig(
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        stop_seqs=list(asked.stop) or None,
    )
