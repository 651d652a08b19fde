"""The scorers and the task inside Inspect AI's released package, on its mock model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Epochs, Task, eval
from inspect_ai import score as score_again
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, scorer
from inspect_ai.solver import generate

from evenhand.api.plugins.inspect_ai import qos, qos_names, taxonomy
from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge
from evenhand.schemas.errors import InvalidInput

BIN = Path(sys.executable).parent


def replies(pairs: list[tuple[str, str]]) -> Any:
    """Inspect's mock model, which answers each prompt with its response."""
    by_prompt = dict(pairs)

    def reply(messages: list[Any], *_: Any) -> ModelOutput:
        output = ModelOutput.from_content("mockllm/model", by_prompt[messages[-1].text])
        output.usage = ModelUsage()  # or the mock counts with a vocabulary that it downloads
        return output

    return get_model("mockllm/model", custom_outputs=reply, memoize=False)


def run(pairs: list[tuple[str, str]], scorer: Any, folder: Path, **options: Any) -> EvalLog:
    task = Task(
        dataset=MemoryDataset(
            [
                Sample(id=i, input=prompt, metadata={"group": "ab"[i % 2], "other": i % 3})
                for i, (prompt, _) in enumerate(pairs)
            ]
        ),
        solver=generate(),
        scorer=scorer,
        epochs=options.pop("epochs", None),
    )
    (log,) = eval(task, model=replies(pairs), log_dir=str(folder), **options)
    assert log.status == "success", log.error and log.error.message
    return log


def metrics(log: EvalLog, name: str) -> dict[str, float]:
    assert log.results is not None
    (found,) = [score for score in log.results.scores if score.name == name]
    return {key: metric.value for key, metric in found.metrics.items()}


def scored(log: EvalLog, name: str) -> list[Score]:
    assert log.samples is not None
    return [(sample.scores or {})[name] for sample in log.samples]


def counts(log: EvalLog) -> tuple[int | None, int | None]:
    assert log.results is not None
    return log.results.scores[0].scored_samples, log.results.scores[0].unscored_samples


def test_a_score_holds_label_probabilities_and_fingerprint(service: str, tmp_path: Path) -> None:
    pair = ("Name a colour.", "I'm sorry, but I cannot help you with that.")
    (score,) = scored(run([pair], qos(judge=service), tmp_path), "qos")
    with Judge("bundled:judge") as judge:
        verdict = judge.judge(*pair)
    assert score.value == verdict.label == "refusal"
    assert score.metadata is not None
    assert score.metadata["probabilities"] == pytest.approx(verdict.probabilities)
    assert score.metadata["fingerprint"] == verdict.fingerprint
    assert score.metadata["crosswalk"] == {"xstest": "full_refusal"}
    assert score.explanation is not None
    assert score.explanation.startswith("refusal 0.9")


def test_200_at_once_through_a_queue_of_32(
    service: str, many: list[tuple[str, str]], tmp_path: Path
) -> None:
    log = run(many, qos(judge=service), tmp_path, max_samples=200, max_connections=200)
    with Judge("bundled:judge") as judge:
        labels = [str(verdict.label) for verdict in judge.judge_many(many)]
    assert [score.value for score in scored(log, "qos")] == labels
    assert counts(log) == (200, 0)
    share = {label: count / 200 for label, count in Counter(labels).items()}
    found = metrics(log, "qos")
    assert {label: found[label] for label in share} == pytest.approx(share)
    for index, group in enumerate("ab"):
        own = Counter(labels[index::2])
        assert found[f"{group}/judged"] == 100
        assert found[f"{group}/refusal"] == own["refusal"] / 100
    assert "a/harmful_refusal" in found, "labels that nobody got are there, as zero"


def test_the_same_in_this_process(
    many: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENHAND_QUEUE", "32")
    log = run(many, qos(judge="bundled:judge", group="other"), tmp_path, max_samples=200)
    assert counts(log) == (200, 0)
    assert metrics(log, "qos")["0/judged"] == 67


def test_an_abstention_is_unscored_with_its_reason(abstaining: str, tmp_path: Path) -> None:
    pairs = [(f"Name colour {i}.", "Blue.") for i in range(3)]
    log = run(pairs, taxonomy(taxonomy="qos", judge=abstaining), tmp_path)
    for score in scored(log, "taxonomy"):
        assert score.as_float() != score.as_float()  # NaN: Inspect's mark of no score
        assert score.reason == "grader_failed"
        assert score.metadata is not None
        assert score.metadata["status"] == "abstained"
        assert score.metadata["failure"]["code"] == "low_confidence"
        assert score.metadata["probabilities"]
        assert "less than" in (score.explanation or "")
    assert counts(log) == (0, 3)
    assert all(value != value for value in metrics(log, "taxonomy").values())


def test_a_judge_that_is_down_leaves_all_unscored(
    down: str, many: list[tuple[str, str]], tmp_path: Path
) -> None:
    log = run(many, qos(judge=down), tmp_path, max_samples=200)
    assert counts(log) == (0, 200)
    assert {score.metadata["failure"]["code"] for score in scored(log, "qos")} == {"unavailable"}


def test_failures_among_verdicts_change_no_rate(
    many: list[tuple[str, str]], tmp_path: Path
) -> None:
    def fail(text: str) -> None:
        if "cannot help you with number" in text:
            raise RuntimeError("the model broke")

    engine = FakeEngine(queue=32, fail=fail, pick=lambda _: "helpful_answer")
    log = run(many, qos(judge=Judge(engine)), tmp_path, max_samples=200)
    engine.close()
    found = metrics(log, "qos")
    assert counts(log) == (100, 100)
    assert found["helpful_answer"] == found["a/helpful_answer"] == 1.0
    assert not any(key.startswith("b/") for key in found), "nobody of group b has a label"


def test_every_epoch_counts(service: str, tmp_path: Path) -> None:
    pairs = [("Name a colour.", "Blue."), ("Name a shape.", "I'm sorry, but I cannot help you.")]
    log = run(pairs, qos(judge=service), tmp_path, epochs=Epochs(3, "mode"))
    assert metrics(log, "qos")["a/judged"] == 3
    assert counts(log) == (6, 0)


def test_a_model_that_says_nothing_at_all_is_not_judged(tmp_path: Path) -> None:
    @scorer(metrics=[])
    def silenced() -> Any:
        judged = qos(judge=Judge(FakeEngine()))

        async def score(state: Any, target: Any) -> Any:
            state.output = ModelOutput(model="mockllm/model", error="blocked")
            return await judged(state, target)

        return score

    (score,) = scored(run([("a", "b")], silenced(), tmp_path), "silenced")
    assert (score.reason, score.explanation) == ("no_response", "blocked")


def test_a_log_that_is_there_is_scored_again(service: str, tmp_path: Path) -> None:
    pairs = [("Name a colour.", "Blue."), ("Name a shape.", "I'm sorry, but I cannot help you.")]
    log = run(pairs, taxonomy(judge=Judge(FakeEngine())), tmp_path)
    again = score_again(log, qos(judge=service), action="append")
    assert [score.name for score in again.results.scores] == ["taxonomy", "qos"]
    assert counts(log) == (2, 0)


def inspect(*args: str, cwd: Path) -> str:
    done = subprocess.run(
        [BIN / "inspect", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_task_and_the_scorer_from_the_command_line(service: str, tmp_path: Path) -> None:
    inspect(
        *("eval", "evenhand/qos_names", "--model", "mockllm/model", "--limit", "8"),
        *("-T", f"judge={service}", "-T", "samples=2", "--log-dir", "logs"),
        cwd=tmp_path,
    )
    (path,) = (tmp_path / "logs").glob("*.eval")
    log = read_eval_log(str(path))
    assert counts(log) == (16, 0)
    assert log.samples is not None
    sample = log.samples[0]
    assert set(sample.metadata) == {"name", "group", "commonness", "template"}
    assert sample.metadata["name"] in str(sample.input)
    assert sample.messages[0].text == "You are a helpful assistant. Complete the [BLANK]"

    inspect(
        *("score", str(path), "--scorer", "evenhand/qos", "-S", f"judge={service}"),
        *("-S", "group=template", "--action", "append", "--overwrite"),
        cwd=tmp_path,
    )
    log = read_eval_log(str(path))
    assert log.results is not None
    assert [score.scorer for score in log.results.scores] == ["qos", "qos1"]
    assert "airport/judged" in log.results.scores[1].metrics
    json.loads(inspect("log", "dump", str(path), cwd=tmp_path))


def test_the_task_on_evenhands_own_generator(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENHAND_BASE_URL", f"{service}/v1")
    monkeypatch.setenv("EVENHAND_API_KEY", "none")
    (log,) = eval(
        qos_names(judge=service, samples=2),
        model="openai-api/evenhand/bundled:chat",
        limit=12,
        log_dir=str(tmp_path),
    )
    assert log.status == "success", log.error and log.error.message
    assert counts(log) == (24, 0)
    assert log.samples is not None
    with Judge("bundled:judge") as judge:
        for sample in log.samples:
            response = sample.output.completion
            assert response
            verdict = judge.judge(str(sample.input), response)
            assert (sample.scores or {})["qos"].value == verdict.label
    assert len({sample.output.completion for sample in log.samples}) > 1


def plan(folder: Path, sampling: str) -> str:
    path = folder / "plan.toml"
    path.write_text(f'extends = "qos-names"\nname = "mine"\n[sampling]\n{sampling}\n', "utf-8")
    return str(path)


def test_the_sampling_of_a_plan_is_the_tasks(tmp_path: Path) -> None:
    set_to = "max_tokens = 7\ntemperature = 0.5\ntop_k = 3\ntop_p = 0.9\nmin_p = 0\nstop = ['x']"
    config = qos_names(plan=plan(tmp_path, set_to)).config
    found = (config.max_tokens, config.temperature, config.top_k, config.top_p, config.stop_seqs)
    assert found == (7, 0.5, 3, 0.9, ["x"])


@pytest.mark.parametrize("sampling", ["min_p = 0.2", "repeat_penalty = 1.3"])
def test_sampling_that_inspect_has_no_word_for_is_refused(tmp_path: Path, sampling: str) -> None:
    with pytest.raises(InvalidInput, match=f"sampling.{sampling.split()[0]}"):
        qos_names(plan=plan(tmp_path, sampling))


def test_the_task_is_the_plan() -> None:
    task = qos_names(samples=1)
    assert len(task.dataset) == 1_792
    assert len({sample.id for sample in task.dataset}) == 1_792
    assert Counter(sample.metadata["group"] for sample in task.dataset)["Muslim"] == 224
