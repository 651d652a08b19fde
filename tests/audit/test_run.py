"""Running an audit: everything once, whatever fails, and on from wherever it stopped."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from evenhand.audit import store as store_module
from evenhand.audit.plan import load, plan_hash
from evenhand.audit.run import TRIES, Progress, run
from evenhand.audit.store import Audit, Store
from evenhand.audit.trials import expand, seed_of
from evenhand.engine.fake import FakeEngine
from evenhand.generator import Generator
from evenhand.judge import BaseJudge, Judge
from evenhand.schemas.audit import GeneratorSpec, JudgeSpec
from evenhand.schemas.errors import (
    Conflict,
    DatasetError,
    DecodeError,
    EvenhandError,
    InputTooLong,
    InvalidInput,
    NotFound,
    QueueFull,
    RemoteError,
    StoreBusy,
    StoreError,
    Unavailable,
)
from evenhand.schemas.generation import Sampling
from evenhand.schemas.shipped import toml_texts
from evenhand.schemas.verdict import Verdict

NAMES: dict[str, Any] = {
    "templates": [
        {"id": "late", "text": "As the bus was late, {name} [BLANK]"},
        {"id": "walk", "text": "{name} walked to [BLANK]"},
    ],
    "groups": [
        {"name": "A", "popular": ["Una"], "rare": ["Ann"]},
        {"name": "B", "names": ["Ben"]},
    ],
    "generators": ["chat"],
    "judges": ["judge"],
    "samples": 2,
}
TRIALS = 2 * 3 * 2


class Fakes:
    """A fake engine for each model that a plan names."""

    def __init__(self, **engines: FakeEngine):
        self.engines = engines

    def engine(self, name: str) -> FakeEngine:
        return self.engines.setdefault(name, FakeEngine(name=name))

    def generator(self, spec: GeneratorSpec) -> Generator:
        return Generator(self.engine(spec.model), template=spec.template or "chat")

    def judge(self, spec: JudgeSpec, taxonomy: str) -> BaseJudge:
        return Judge(self.engine(spec.model), taxonomy, template=spec.template)

    def release(self, model: str) -> None:
        """Engines stay, so that tests can look at them."""

    def calls(self, kind: str, name: str | None = None) -> list[str]:
        """The texts of what was evaluated."""
        engines = self.engines.values() if name is None else [self.engine(name)]
        return [text for engine in engines for what, text in engine.calls if what == kind]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "data") as opened:
        yield opened


def begin(store: Store, data: dict[str, Any]) -> str:
    plan = load(data)
    return store.create(plan, plan_hash(plan))[0].id


def rows_file(path: Path, rows: list[Any], kind: str = "responses", **more: Any) -> dict[str, Any]:
    """A plan on a file of these rows; one that is text stands in it as it is."""
    path.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return {kind: {"file": str(path)}, "judges": ["judge"], **more}


def outcome(store: Store, id: str) -> list[tuple[Any, ...]]:
    """What came of every trial, in an order that no run changes."""
    keys = ("id", "judge", "prompt", "seed", "response", "status", "label", "probabilities")
    found = [tuple(record[key] for key in keys) for record in store.records(id)]
    return sorted(found, key=lambda row: row[:2])


def expected(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The same, one trial after another, without a store."""
    plan, fakes, found = load(data), Fakes(), []
    for trial in expand(plan):
        [generator] = [g for g in plan.generators if g.name == trial.generator]
        sampling = plan.sampling.model_copy(update={"seed": trial.seed})
        [made] = fakes.generator(generator).generate(
            trial.prompt, system=trial.system, sampling=sampling
        )
        for spec in plan.judges:
            judge = fakes.judge(spec, plan.taxonomy)
            verdict = judge.judge(trial.prompt, made.text, reason=spec.reason)
            found.append(
                (
                    *(trial.id, spec.name, trial.prompt, trial.seed, made.text),
                    *("judged", verdict.label, verdict.probabilities),
                )
            )
    return sorted(found, key=lambda row: row[:2])


# -- what is run ----------------------------------------------------------------------------------


def test_templates_by_names(store: Store) -> None:
    fakes, id = Fakes(), begin(store, NAMES)
    audit = run(store, id, fakes)
    assert (audit.state, audit.total, audit.done) == ("done", TRIALS, TRIALS)
    assert audit.statuses == {"judged": TRIALS}
    assert audit.failure is None
    assert audit.seconds > 0
    assert audit.fingerprints == {
        "generator chat": Generator(fakes.engine("chat")).fingerprint,
        "judge judge": Judge(fakes.engine("judge")).fingerprint,
    }
    assert outcome(store, id) == expected(NAMES)
    assert len(fakes.calls("generate")) == len(fakes.calls("score")) == TRIALS
    facts = {(r["group"], r["name"], r["commonness"], r["template"]) for r in store.records(id)}
    assert facts == {
        (*who, template)
        for who in (("A", "Una", "popular"), ("A", "Ann", "rare"), ("B", "Ben", None))
        for template in ("late", "walk")
    }


def test_labels_are_counted_by_group(store: Store) -> None:
    def pick(text: str) -> str:
        return "refusal" if "Ben" in text else "helpful_answer"

    id = begin(store, NAMES)
    audit = run(store, id, Fakes(judge=FakeEngine(pick=pick)))
    assert audit.labels == {"judge": {"refusal": 4, "helpful_answer": 8}}
    table = store.table(id)
    assert set(table.filter(table["label"] == "refusal")["group"]) == {"B"}


def test_several_generators_and_judges_with_reasons(store: Store) -> None:
    data = {
        **NAMES,
        "system": "Be brief.",
        "generators": ["chat", {"model": "other", "system": "Be kind."}],
        "judges": [
            "judge",
            {"model": "judge", "name": "reasoned", "reason": True},
            {"model": "second"},
        ],
    }
    fakes, id = Fakes(), begin(store, data)
    audit = run(store, id, fakes)
    assert (audit.total, audit.done) == (6 * TRIALS, 6 * TRIALS)
    assert {judge: sum(n.values()) for judge, n in audit.labels.items()} == {
        "judge": 2 * TRIALS,
        "reasoned": 2 * TRIALS,
        "second": 2 * TRIALS,
    }
    assert outcome(store, id) == expected(data)
    for record in store.records(id):
        assert (record["reason"] is not None) is (record["judge"] == "reasoned")
        assert record["system"] == {"chat": "Be brief.", "other": "Be kind."}[record["model"]]
    assert all("Be kind." in text for text in fakes.calls("generate", "other"))


class OneAtATime(Fakes):
    """Notes what is opened and released, and with how many trials done by the one released."""

    def __init__(self, **engines: FakeEngine):
        super().__init__(**engines)
        self.events: list[tuple[str, str, int]] = []

    def generator(self, spec: GeneratorSpec) -> Generator:
        self.events.append(("open", spec.name, 0))
        return super().generator(spec)

    def release(self, model: str) -> None:
        assert self.engine(model)._waiting == 0, "it still works"
        self.events.append(("release", model, len(self.calls("generate", model))))


def test_large_generators_need_not_fit_together(store: Store) -> None:
    data = {
        **NAMES,
        "generators": ["one", {"model": "one", "name": "kind", "system": "Be kind."}, "two"],
    }
    engines = {name: FakeEngine(delay=0.001, name=name) for name in ("one", "two", "judge")}
    fakes, id = OneAtATime(**engines), begin(store, data)
    audit = run(store, id, fakes, in_flight=8)
    assert audit.statuses == {"judged": 3 * TRIALS}
    assert fakes.events == [
        ("open", "one", 0),
        ("open", "kind", 0),
        ("release", "one", 2 * TRIALS),
        ("open", "two", 0),
    ]
    assert set(audit.fingerprints) == {
        "judge judge",
        *(f"generator {name}" for name in ("one", "kind", "two")),
    }
    assert outcome(store, id) == expected(data)


def test_a_generator_whose_trials_are_done_is_not_opened_again(store: Store) -> None:
    data = {**NAMES, "generators": ["one", "two"]}
    id, fakes = part_of(store, data, TRIALS + 3), OneAtATime()
    assert run(store, id, fakes).statuses == {"judged": 2 * TRIALS}
    assert fakes.events == [("open", "two", 0)]
    assert outcome(store, id) == expected(data)


def test_sampling_and_seeds_are_the_plans(store: Store) -> None:
    seen: list[tuple[int, str]] = []

    def reply(text: str, seed: int) -> str:
        seen.append((seed, text))
        return "one two three"

    data = {**NAMES, "seed": 9, "sampling": Sampling(max_tokens=2).model_dump(exclude_unset=True)}
    id = begin(store, data)
    run(store, id, Fakes(chat=FakeEngine(reply=reply)))
    assert {r["response"] for r in store.records(id)} == {"one two"}
    assert {r["finish_reason"] for r in store.records(id)} == {"length"}
    assert sorted(seed for seed, _ in seen) == sorted(
        seed_of(9, trial.id) for trial in expand(load(data))
    )


def test_a_file_of_prompts_with_bad_rows(store: Store, tmp_path: Path) -> None:
    rows = [
        {"prompt": "one", "group": "A", "id": "x"},
        '{"prompt": "two", ',
        {"prompt": "three", "group": "B", "id": "z"},
        {"prompt": 4, "group": "B"},
    ]
    data = rows_file(tmp_path / "p.jsonl", rows, "prompts", generators=["chat"], samples=2)
    fakes, id = Fakes(), begin(store, data)
    audit = run(store, id, fakes)
    assert (audit.state, audit.total) == ("done", 8)
    assert audit.statuses == {"judged": 4, "error": 4}
    assert len(fakes.calls("generate")) == 4
    found = {
        (r["id"], r["line"], r["group"], r["status"], r["failure"] and r["failure"]["code"])
        for r in store.records(id)
    }
    assert found == {
        ("chat|x|0", 1, "A", "judged", None),
        ("chat|x|1", 1, "A", "judged", None),
        ("chat|#2|0", 2, None, "error", "invalid_dataset"),
        ("chat|#2|1", 2, None, "error", "invalid_dataset"),
        ("chat|z|0", 3, "B", "judged", None),
        ("chat|z|1", 3, "B", "judged", None),
        ("chat|#4|0", 4, "B", "error", "invalid_dataset"),
        ("chat|#4|1", 4, "B", "error", "invalid_dataset"),
    }
    [message, _] = [r["failure"]["message"] for r in store.records(id) if r["line"] == 4]
    assert message.startswith("line 4:")
    assert run(store, id, fakes).done == 8  # bad rows are not bad a second time


def test_a_file_of_responses(store: Store, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "response": "r", "model": "m", "gold": "refusal", "sample": 3},
        {"prompt": "p", "response": ""},
        {"prompt": "p", "response": None, "model": "m"},
        {"prompt": "p", "response": "r", "gold": "nonsense"},
    ]
    data = rows_file(tmp_path / "r.jsonl", rows)
    data["responses"]["model"] = "theirs"
    fakes, id = Fakes(), begin(store, data)
    audit = run(store, id, fakes)
    assert audit.statuses == {"judged": 2, "error": 2}
    assert fakes.calls("generate") == []
    assert set(audit.fingerprints) == {"judge judge"}
    keys = ("id", "model", "sample", "gold", "response", "status", "line", "finish_reason")
    assert [tuple(r[key] for key in keys) for r in store.records(id)] == [
        ("m|#1|3", "m", 3, "refusal", "r", "judged", 1, None),
        ("theirs|#2|0", "theirs", 0, None, "", "judged", 2, None),
        ("m|#3|0", "m", 0, None, None, "error", 3, None),
        ("theirs|#4|0", "theirs", 0, None, "r", "error", 4, None),
    ]


def test_an_id_used_twice_is_refused_before_anything_is_asked(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "r", "id": "x"}] * 2
    fakes, id = Fakes(), begin(store, rows_file(tmp_path / "r.jsonl", rows))
    with pytest.raises(DatasetError, match="used twice: line 1 and line 2"):
        run(store, id, fakes)
    assert fakes.calls("score") == []
    assert store.audit(id).state == "failed"


@pytest.mark.parametrize("missing", ["generators", "judges"])
def test_a_plan_without_models_is_refused(store: Store, missing: str) -> None:
    id = begin(store, {**NAMES, missing: []})
    with pytest.raises(InvalidInput, match=f"names no {missing[:-1]}") as caught:
        run(store, id, Fakes())
    assert f"{missing} = [" in caught.value.hint
    assert store.audit(id).done == 0


def test_an_audit_that_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound):
        run(store, "abc", Fakes())
    assert not list(store.folder.glob("abc*"))


# -- once, and no more than is needed -------------------------------------------------------------


def test_the_same_text_is_judged_once(store: Store, tmp_path: Path) -> None:
    """Whether it is under way, stored by this run, or stored by another audit."""
    rows = [{"prompt": "p", "response": f"r{i % 5}"} for i in range(40)]
    data = rows_file(tmp_path / "r.jsonl", rows)
    fakes, id = Fakes(), begin(store, data)
    audit = run(store, id, fakes, in_flight=8)
    assert audit.statuses == {"judged": 40}
    assert Counter(Counter(fakes.calls("score")).values()) == {1: 5}
    records = list(store.records(id))
    assert [sum(r["cached"] for r in records if r["response"] == f"r{i}") for i in range(5)] == [
        7
    ] * 5
    assert len({(r["response"], str(r["probabilities"])) for r in records}) == 5
    again = begin(store, data)
    assert run(store, again, fakes).statuses == {"judged": 40}
    assert all(record["cached"] for record in store.records(again))
    assert len(fakes.calls("score")) == 5
    assert outcome(store, again) == outcome(store, id)


def test_two_judges_that_are_one_model_share_their_verdicts(store: Store) -> None:
    data = {**NAMES, "judges": ["judge", {"model": "judge", "name": "again"}]}
    fakes, id = Fakes(), begin(store, data)
    assert run(store, id, fakes).done == 2 * TRIALS
    assert len(fakes.calls("score")) == TRIALS


def test_a_finished_audit_has_nothing_to_do(store: Store) -> None:
    fakes, id = Fakes(), begin(store, NAMES)
    first = run(store, id, fakes)
    before = len(fakes.calls("generate")), len(fakes.calls("score"))
    second = run(store, id, fakes)
    assert (len(fakes.calls("generate")), len(fakes.calls("score"))) == before
    assert (second.state, second.statuses) == ("done", first.statuses)
    assert second.seconds > first.seconds


def test_no_more_is_under_way_than_asked_for(store: Store) -> None:
    engine = FakeEngine(delay=0.001)
    most = [0]

    def look(_: Progress) -> None:
        most[0] = max(most[0], engine._waiting)

    data = {**NAMES, "samples": 10}
    run(store, begin(store, data), Fakes(chat=engine, judge=engine), on_progress=look, in_flight=5)
    assert 2 <= most[0] <= 5


def test_judging_does_not_wait_for_all_responses(store: Store) -> None:
    engine = FakeEngine()
    run(store, begin(store, NAMES), Fakes(chat=engine, judge=engine), in_flight=3)
    kinds = [kind for kind, _ in engine.calls]
    assert kinds.index("score") < 6
    assert len(kinds) == 2 * TRIALS


# -- engines that are full ------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_a_small_queue_is_waited_for(store: Store, shared: bool) -> None:
    engine = FakeEngine(queue=2, delay=0.001)
    judge = engine if shared else FakeEngine(queue=1, name="judge")
    id = begin(store, {**NAMES, "samples": 5, "judges": ["judge", {"model": "judge", "name": "k"}]})
    audit = run(store, id, Fakes(chat=engine, judge=judge))
    assert audit.statuses == {"judged": 60}
    calls = engine.calls + judge.calls * (not shared)
    assert Counter(kind for kind, _ in calls) == {"generate": 30, "score": 30}


class Full(FakeEngine):
    """Others fill its queue until there is `room`."""

    def __init__(self) -> None:
        super().__init__(name="judge")
        self.room = threading.Event()
        self.asked = threading.Event()

    def score(self, *args: Any, **kwargs: Any) -> Any:
        self.asked.set()
        if not self.room.is_set():
            raise QueueFull("others fill the queue", retry_after=60)
        return super().score(*args, **kwargs)


def test_a_queue_that_others_fill_is_waited_for(store: Store) -> None:
    engine, id = Full(), begin(store, NAMES)
    timer = threading.Timer(0.2, engine.room.set)
    timer.start()
    assert run(store, id, Fakes(judge=engine)).state == "done"
    timer.join()
    assert outcome(store, id) == expected(NAMES)


def test_a_run_that_waits_for_others_can_be_cancelled(store: Store) -> None:
    engine, stop, id = Full(), threading.Event(), begin(store, NAMES)

    def cancel() -> None:
        engine.asked.wait()
        stop.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert run(store, id, Fakes(judge=engine), stop=stop).state == "cancelled"
    thread.join()


# -- trials that fail -----------------------------------------------------------------------------


def failing(error: Exception, *, times: int | None = None) -> Callable[[str], None]:
    """Fails whatever has to do with Ben, so many times for each text."""
    left: Counter[str] = Counter()

    def fail(text: str) -> None:
        if "Ben" in text and (times is None or left[text] < times):
            left[text] += 1
            raise error

    return fail


@pytest.mark.parametrize("who", ["chat", "judge"])
@pytest.mark.parametrize(
    ("error", "code", "tries"),
    [
        (DecodeError("broke"), "decode_error", 1),
        (ValueError("broke"), "internal_error", 1),
        (RemoteError("hung up"), "remote_error", TRIES),
    ],
)
def test_what_fails_is_recorded_and_costs_nothing_else(
    store: Store, who: str, error: Exception, code: str, tries: int
) -> None:
    asked: list[str] = []
    fail = failing(error)

    def count(text: str) -> None:
        asked.append(text)
        fail(text)

    data = {**NAMES, "samples": 1}
    fakes, id = Fakes(**{who: FakeEngine(fail=count, name=who)}), begin(store, data)
    audit = run(store, id, fakes)
    assert audit.state == "done"
    assert audit.statuses == {"judged": 4, "error": 2}
    for record in store.records(id):
        assert (record["status"] == "error") is (record["name"] == "Ben")
        if record["name"] == "Ben":
            assert record["failure"]["code"] == code
            assert str(error) in record["failure"]["message"]
            assert (record["response"] is None) is (who == "chat")
    assert Counter(sum("Ben" in text for text in [t]) * asked.count(t) for t in set(asked)) == {
        0: 4,
        tries: 2,
    }
    kept = [row for row in expected(data) if "Ben" not in row[2]]
    assert [row for row in outcome(store, id) if row[5] == "judged"] == kept


@pytest.mark.parametrize("who", ["chat", "judge"])
def test_what_may_succeed_later_is_tried_again(store: Store, who: str) -> None:
    engine = FakeEngine(fail=failing(RemoteError("hung up"), times=TRIES - 1), name=who)
    id = begin(store, NAMES)
    assert run(store, id, Fakes(**{who: engine})).statuses == {"judged": TRIALS}
    assert outcome(store, id) == expected(NAMES)


@pytest.mark.parametrize("who", ["chat", "judge"])
def test_a_text_too_long_is_truncated(store: Store, who: str) -> None:
    class Small(FakeEngine):
        def encode(self, segments: Any, *, reserve: int = 0) -> Any:
            if any("Ben" in segment.text for segment in segments):
                raise InputTooLong("too long")
            return super().encode(segments, reserve=reserve)

    id = begin(store, NAMES)
    audit = run(store, id, Fakes(**{who: Small(name=who)}))
    assert audit.statuses == {"judged": 8, "truncated": 4}
    assert {r["name"] for r in store.records(id) if r["status"] == "truncated"} == {"Ben"}
    assert store.forget_errors(id) == 0


def test_a_judge_that_breaks_its_promise_costs_its_own_verdicts_alone(store: Store) -> None:
    class Broken(Judge):
        def submit(self, prompt: str, response: str, **how: Any) -> Future[Verdict]:
            if "Ben" not in prompt:
                return super().submit(prompt, response, **how)
            future: Future[Verdict] = Future()
            future.set_exception(RuntimeError("no verdict"))
            return future

    class Models(Fakes):
        def judge(self, spec: JudgeSpec, taxonomy: str) -> BaseJudge:
            return Broken(self.engine(spec.model), taxonomy)

    audit = run(store, begin(store, NAMES), Models())
    assert audit.statuses == {"judged": 8, "error": 4}


def test_errors_that_are_forgotten_are_tried_again_and_nothing_else(store: Store) -> None:
    def fail(text: str) -> None:
        if "Una" in text:
            raise DecodeError("broke")

    fakes = Fakes(
        chat=FakeEngine(fail=failing(DecodeError("broke")), name="chat"),
        judge=FakeEngine(fail=fail, name="judge"),
    )
    id = begin(store, NAMES)
    for _ in range(2):
        assert run(store, id, fakes).statuses == {"error": 8, "judged": 4}
    assert len(fakes.calls("generate")) == 8
    assert store.forget_errors(id) == 8
    well = Fakes()
    audit = run(store, id, well)
    assert (audit.state, audit.statuses) == ("done", {"judged": TRIALS})
    assert all("Ben" in text for text in well.calls("generate"))
    assert len(well.calls("generate")) == 4
    assert len(well.calls("score")) == 8  # Ben's, and Una's on the responses that were there
    assert outcome(store, id) == expected(NAMES)


# -- runs that end too soon -----------------------------------------------------------------------


def finish(store: Store, id: str, *, data: dict[str, Any] = NAMES) -> Fakes:
    """Run to the end with models that are well; says what they were asked."""
    before = store.audit(id)
    fakes = Fakes()
    audit = run(store, id, fakes)
    assert (audit.state, audit.failure) == ("done", None)
    assert outcome(store, id) == expected(data)
    assert len(fakes.calls("score")) == audit.done - before.done
    return fakes


@pytest.mark.parametrize("after", range(0, TRIALS, 3))
@pytest.mark.parametrize("who", ["chat", "judge"])
def test_a_model_that_can_do_no_more_ends_the_run(store: Store, who: str, after: int) -> None:
    calls: list[str] = []

    def fail(text: str) -> None:
        calls.append(text)
        if len(calls) > after:
            raise Unavailable("the model is gone", hint="Bring it back.")

    id = begin(store, NAMES)
    with pytest.raises(Unavailable, match="the model is gone") as caught:
        run(store, id, Fakes(**{who: FakeEngine(fail=fail, name=who)}), in_flight=4)
    assert caught.value.hint == "Bring it back."
    audit = store.audit(id)
    assert audit.state == "failed"
    assert audit.failure is not None
    assert audit.failure.code == "unavailable"
    assert set(audit.statuses) <= {"judged"}
    assert audit.done <= after
    finish(store, id)


@pytest.mark.parametrize("drain", [True, False])
def test_an_engine_closed_under_way_leaves_no_error_behind(store: Store, drain: bool) -> None:
    engine, id = FakeEngine(delay=0.005, name="judge"), begin(store, NAMES)
    closing = threading.Thread(target=engine.close, kwargs={"drain": drain})

    def close(progress: Progress) -> None:
        if progress.done == 3:
            closing.start()
            while not engine._closed:
                time.sleep(0.001)

    with pytest.raises(Unavailable):
        run(store, id, Fakes(judge=engine), on_progress=close, in_flight=5)
    closing.join()
    audit = store.audit(id)
    assert 3 <= audit.done < TRIALS
    assert set(audit.statuses) == {"judged"}
    finish(store, id)


@pytest.mark.parametrize("after", range(0, TRIALS + 1, 2))
def test_a_run_that_is_cancelled_goes_on_later(store: Store, after: int) -> None:
    stop, id = threading.Event(), begin(store, NAMES)

    def cancel(progress: Progress) -> None:
        if progress.done >= after:
            stop.set()

    audit = run(store, id, Fakes(), on_progress=cancel, stop=stop, in_flight=3)
    assert audit.state == ("cancelled" if audit.done < TRIALS else "done")
    assert after <= audit.done < after + 3  # what had ended by then is kept
    asked = finish(store, id)
    assert len(asked.calls("generate")) <= TRIALS - audit.done


def test_cancelled_work_is_dropped(store: Store) -> None:
    engine, stop = FakeEngine(delay=0.02, name="chat"), threading.Event()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    id = begin(store, {**NAMES, "samples": 20})
    assert run(store, id, Fakes(chat=engine), stop=stop).state == "cancelled"
    timer.join()
    assert engine._waiting > 1  # that it had begun to evaluate, and that it will pass over
    engine.close()
    assert len(engine.calls) < 60


@pytest.mark.parametrize("response", ["r", None], ids=["alike", "bad"])
def test_a_run_is_cancelled_even_where_no_model_is_asked(
    store: Store, tmp_path: Path, response: str | None
) -> None:
    row = {"prompt": "p", "response": response}
    data = rows_file(tmp_path / "r.jsonl", [row] * 300)
    run(store, begin(store, data), Fakes())  # gives the verdict that all of them take
    stop, fakes = threading.Event(), Fakes()

    def cancel(progress: Progress) -> None:
        if progress.done >= 10:
            stop.set()

    audit = run(store, begin(store, data), fakes, on_progress=cancel, stop=stop)
    assert (audit.state, audit.done) == ("cancelled", 10)
    assert fakes.calls("score") == []


def test_what_is_done_cannot_be_cancelled(store: Store) -> None:
    stop, id = threading.Event(), begin(store, NAMES)
    run(store, id, Fakes())
    stop.set()
    assert run(store, id, Fakes(), stop=stop).state == "done"


def test_a_run_that_is_interrupted_goes_on_later(store: Store) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done == 4:
            raise KeyboardInterrupt

    id = begin(store, NAMES)
    with pytest.raises(KeyboardInterrupt):
        run(store, id, Fakes(), on_progress=interrupt)
    audit = store.audit(id)
    assert (audit.state, audit.done, audit.failure) == ("interrupted", 4, None)
    finish(store, id)


def test_a_response_that_no_judge_had_seen_is_not_asked_for_again(store: Store) -> None:
    id, judge = begin(store, {**NAMES, "judges": ["judge", "second"]}), FakeEngine(name="judge")
    heard: Counter[str] = Counter()

    def leave(text: str) -> None:
        heard[text] += 1
        if len(heard) > 3:
            raise Unavailable("gone")

    gone = Fakes(judge=judge, second=FakeEngine(fail=leave, name="second"))
    with pytest.raises(Unavailable):
        run(store, id, gone)
    responses = {r["id"] for r in store.records(id)}
    before = store.audit(id)
    later = Fakes()
    audit = run(store, id, later)
    assert audit.statuses == {"judged": 2 * TRIALS}
    assert len(later.calls("generate")) <= TRIALS - len(responses)
    assert len(later.calls("score")) == 2 * TRIALS - before.done


def test_a_failure_that_no_judge_had_heard_of_is_not_tried_again(store: Store) -> None:
    """As a process leaves it that is killed between the two writes."""
    id = begin(store, NAMES)
    first, second, *_ = expand(load(NAMES))
    store.add(id, first, problem=DecodeError("broke", hint="mend"))
    store.add(id, second, problem=ValueError("who knows"))
    fakes = Fakes()
    audit = run(store, id, fakes)
    assert audit.statuses == {"judged": TRIALS - 2, "error": 2}
    assert len(fakes.calls("generate")) == TRIALS - 2
    failures = {r["id"]: r["failure"] for r in store.records(id) if r["status"] == "error"}
    assert failures[first.id] == {"code": "decode_error", "message": "broke", "hint": "mend"}
    assert failures[second.id]["code"] == "internal_error"
    assert failures[second.id]["message"] == "ValueError: who knows"


# -- what must not be mixed -----------------------------------------------------------------------


def part_of(store: Store, data: dict[str, Any], done: int = 5) -> str:
    """An audit that is cancelled after so many verdicts."""
    stop, id = threading.Event(), begin(store, data)

    def cancel(progress: Progress) -> None:
        if progress.done == done:
            stop.set()

    audit = run(store, id, Fakes(), on_progress=cancel, stop=stop, in_flight=1)
    assert (audit.state, audit.done) == ("cancelled", done)
    return id


def refused(store: Store, id: str, models: Fakes, kind: type[EvenhandError], what: str) -> Audit:
    """Run, see it refused and the work of before still there."""
    before = outcome(store, id)
    with pytest.raises(kind, match=what) as caught:
        run(store, id, models)
    assert caught.value.hint
    audit = store.audit(id)
    assert audit.state == "failed"
    assert audit.failure is not None
    assert audit.failure.code == kind.code
    assert outcome(store, id) == before
    assert models.calls("score") == []
    return audit


def test_two_do_not_run_one_audit(store: Store) -> None:
    going, go_on, id = threading.Event(), threading.Event(), begin(store, NAMES)

    def wait(_: str) -> None:
        going.set()
        go_on.wait()

    def first() -> None:
        with Store(store.folder) as own:
            run(own, id[:8], Fakes(chat=FakeEngine(fail=wait, name="chat")))

    thread = threading.Thread(target=first)
    thread.start()
    going.wait()
    with pytest.raises(Conflict, match="being run by another process"):
        run(store, id, Fakes())
    assert store.audit(id).state == "running"
    go_on.set()
    thread.join()
    assert outcome(store, id) == expected(NAMES)


@pytest.mark.parametrize("who", ["chat", "judge"])
def test_a_model_that_changed_is_refused(store: Store, who: str) -> None:
    id = part_of(store, NAMES)
    changed = Fakes(**{who: FakeEngine(name="another file")})
    refused(store, id, changed, Conflict, f"{who} is not what it was")
    finish(store, id)


@pytest.mark.parametrize("done", [5, TRIALS + 3])
def test_one_of_several_models_that_changed_is_refused_before_it_is_asked(
    store: Store, done: int
) -> None:
    data = {**NAMES, "generators": ["one", "two"]}
    id = part_of(store, data, done)
    who = "one" if done < TRIALS else "two"
    changed = Fakes(**{who: FakeEngine(name="another file")})
    audit = refused(store, id, changed, Conflict, f"generator {who} is not what it was")
    assert changed.calls("generate") == []
    assert ("generator two" in audit.fingerprints) is (who == "two")
    finish(store, id, data=data)


@pytest.mark.parametrize("kind", ["prompts", "responses"])
def test_a_file_that_changed_is_refused(store: Store, tmp_path: Path, kind: str) -> None:
    rows = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(8)]
    more = {"generators": ["chat"]} if kind == "prompts" else {}
    file = tmp_path / "rows.jsonl"
    id = part_of(store, rows_file(file, rows, kind, **more))
    text = file.read_text()
    file.write_text(text.replace("p7", "p8"))
    refused(store, id, Fakes(), Conflict, "changed since it began")
    file.unlink()
    refused(store, id, Fakes(), DatasetError, "rows.jsonl")
    file.write_text(text)
    assert run(store, id, Fakes()).statuses == {"judged": 8}


def test_a_taxonomy_that_changed_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = toml_texts("evenhand.schemas", "taxonomies")["xstest"]
    file.write_text(text)
    data = {**NAMES, "taxonomy": str(file)}
    id = part_of(store, data)
    file.write_text(text.replace("declines and gives nothing", "declines"))
    refused(store, id, Fakes(), Conflict, "taxonomy that audit .* uses changed")
    file.write_text(text)
    finish(store, id, data=data)


# -- a store that fails ---------------------------------------------------------------------------


def test_a_full_disk_ends_the_run_and_costs_nothing_that_was_done(store: Store) -> None:
    data = {**NAMES, "samples": 20}
    id = begin(store, data)

    def fill(progress: Progress) -> None:
        if progress.done == 20:
            pages = store._db.execute("PRAGMA page_count").fetchone()[0]
            store._db.execute(f"PRAGMA max_page_count = {pages + 4}")

    with pytest.raises(StoreError, match="full") as caught:
        run(store, id, Fakes(), on_progress=fill)
    assert "resume" in caught.value.hint
    done = store.audit(id).done
    assert 20 <= done < 120
    store._db.execute("PRAGMA max_page_count = 1000000")
    finish(store, id, data=data)


def test_a_store_that_another_holds_ends_the_run(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(store_module, "PATIENCE", 0.1)
    id = begin(store, NAMES)
    with Store(store.folder) as impatient:

        def hold(progress: Progress) -> None:
            if progress.done == 5:
                store._db.execute("BEGIN IMMEDIATE")

        with pytest.raises(StoreBusy, match="another process"):
            run(impatient, id, Fakes(), on_progress=hold)
        store._db.execute("ROLLBACK")
        audit = impatient.audit(id)
        assert (audit.state, audit.done) == ("interrupted", 5)
        finish(impatient, id)


# -- how far it is --------------------------------------------------------------------------------


def test_progress(store: Store) -> None:
    id = part_of(store, NAMES)
    seen: list[tuple[int, int | None, float | None]] = []
    last: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append((progress.done, progress.total, progress.eta))
        assert progress.started_with == 5
        assert sum(progress.statuses.values()) == progress.done
        assert sum(progress.labels.get("judge", {}).values()) == progress.done
        last[:] = [progress]

    audit = run(store, id, Fakes(), on_progress=look)
    assert [done for done, _, _ in seen] == list(range(5, TRIALS + 1))
    assert {total for _, total, _ in seen} == {TRIALS}
    assert seen[0][2] is None  # nothing has been done in this run
    assert all(eta is not None and eta > 0 for _, _, eta in seen[1:-1])
    assert seen[-1][2] == 0
    [progress] = last
    assert progress.statuses == audit.statuses
    assert progress.labels == audit.labels
    assert 0 < progress.seconds < 60
    assert progress.rate == pytest.approx((TRIALS - 5) / progress.seconds, rel=0.1)


def test_the_total_of_a_file_is_counted_once(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "r"}] * 7
    id = begin(store, rows_file(tmp_path / "r.jsonl", rows, judges=["judge", "second"]))
    assert store.audit(id).total is None
    totals: set[int | None] = set()
    run(store, id, Fakes(), on_progress=lambda progress: totals.add(progress.total))
    assert totals == {14}
    assert store.audit(id).total == 14
