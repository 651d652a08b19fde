"""Trials: each once, in one order, with seeds of their own, and never all at once."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenhand.audit.plan import count, load
from evenhand.audit.trials import Trial, expand, seed_of
from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import DatasetError, InvalidInput
from evenhand.schemas.generation import SEED_LIMIT

SENTENCES: dict[str, Any] = {
    "templates": [
        {"id": "walk", "text": "{name} walked to [BLANK]"},
        {"id": "late", "text": "As the bus was late, {name} [BLANK]"},
        {"id": "swim", "text": "{name} swam to [BLANK]"},
    ],
    "groups": [
        {"name": "A", "popular": ["Una"], "rare": ["Ann"]},
        {"name": "B", "names": ["Ben"]},
    ],
    "generators": ["g"],
}


def trials(data: dict[str, Any]) -> list[Trial]:
    return list(expand(load(data)))


# -- templates x names ----------------------------------------------------------------------------


def test_a_trial_in_full() -> None:
    trial = trials({**SENTENCES, "system": "Be brief.", "seed": 5})[0]
    assert trial == Trial(
        id="g|swim|Ann|0",
        generator="g",
        prompt="Ann swam to [BLANK]",
        sample=0,
        seed=seed_of(5, "g|swim|Ann|0"),
        system="Be brief.",
        group="A",
        name="Ann",
        commonness="rare",
        template="swim",
    )


def test_prompts_that_begin_alike_stand_together() -> None:
    found = trials({**SENTENCES, "samples": 2, "generators": ["g", "h"]})
    assert [trial.prompt for trial in found if trial.generator == "g"][::2] == [
        "Ann swam to [BLANK]",
        "Ann walked to [BLANK]",
        "Ben swam to [BLANK]",
        "Ben walked to [BLANK]",
        "Una swam to [BLANK]",
        "Una walked to [BLANK]",
        "As the bus was late, Ann [BLANK]",
        "As the bus was late, Ben [BLANK]",
        "As the bus was late, Una [BLANK]",
    ]
    assert [trial.generator for trial in found] == ["g"] * 18 + ["h"] * 18
    assert [trial.sample for trial in found] == [0, 1] * 18


def test_neighbours_share_nearly_as_many_first_letters_as_in_sorted_order() -> None:
    """No order shares more than the sorted one, which would need all prompts at once."""

    def alike(pair: tuple[str, str]) -> int:
        return len(list(itertools.takewhile(lambda both: both[0] == both[1], zip(*pair))))  # noqa: B905

    def shared(prompts: list[str]) -> int:
        return sum(map(alike, itertools.pairwise(prompts)))

    plan = load({"extends": "qos-names", "generators": ["g"], "samples": 1})
    prompts = [trial.prompt for trial in expand(plan)]
    assert shared(prompts) > 0.99 * shared(sorted(prompts))


@pytest.mark.parametrize(
    ("generator", "system"),
    [
        ({"model": "m"}, "plan's"),
        ({"model": "m", "system": "own"}, "own"),
        ({"model": "m", "system": ""}, None),
    ],
)
def test_system_prompts(generator: dict[str, Any], system: str | None) -> None:
    data = {**SENTENCES, "system": "plan's", "generators": [generator]}
    assert {trial.system for trial in trials(data)} == {system}


def test_a_plan_without_generators_makes_no_trials() -> None:
    with pytest.raises(InvalidInput, match="names no generator") as caught:
        trials({**SENTENCES, "generators": []})
    assert "bundled:chat" in caught.value.hint


def test_a_huge_product_is_never_held() -> None:
    data = {
        "templates": [{"id": f"t{n}", "text": f"{{name}} saw {n}"} for n in range(1_000)],
        "groups": [{"name": "A", "names": [f"N{n}" for n in range(1_000)]}],
        "generators": ["g"],
        "samples": 64,
    }
    plan = load(data)
    assert count(plan) == 64_000_000
    tracemalloc.start()
    try:
        assert len(list(itertools.islice(expand(plan), 100))) == 100
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


words = st.lists(st.from_regex(r"[A-Za-z]{1,4}", fullmatch=True), min_size=1, unique=True)
texts = words.map(lambda them: [f"{{name}} {w}" if len(w) % 2 else f"{w} {{name}}" for w in them])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(words)
    cut = draw(st.integers(0, len(names)))
    groups = [{"name": "A", "popular": names[:cut]}, {"name": "B", "rare": names[cut:]}]
    return load(
        {
            "templates": [
                {"id": f"t{n}", "text": text} for n, text in enumerate(draw(texts), start=1)
            ],
            "groups": [group for group in groups if len(max(group.values(), key=len))]
            if 0 < cut < len(names)
            else [{"name": "A", "names": names}],
            "generators": draw(st.sampled_from([["g"], ["g", "h"]])),
            "samples": draw(st.integers(1, 3)),
            "seed": draw(st.integers(0, 2**40)),
        }
    )


@given(plan=plans())
def test_every_combination_is_there_once_and_always_in_the_same_order(plan: Plan) -> None:
    found = list(expand(plan))
    assert found == list(expand(plan))
    assert len(found) == len({trial.id for trial in found}) == count(plan)
    cells = Counter((t.generator, t.template, t.name, t.sample) for t in found)
    assert set(cells.values()) == {1}
    for trial in found:
        assert trial.id == f"{trial.generator}|{trial.template}|{trial.name}|{trial.sample}"
        assert trial.seed == seed_of(plan.seed, trial.id)


@given(plan=plans())
def test_what_is_added_to_a_plan_changes_no_trial_that_was_there(plan: Plan) -> None:
    data = plan.model_dump(exclude_unset=True)
    data["generators"] = [*data["generators"], "more"]
    data["templates"] = [*data["templates"], {"id": "more", "text": "More {name}"}]
    data["samples"] += 1
    more = {trial.id: trial for trial in expand(load(data))}
    assert all(more[trial.id] == trial for trial in expand(plan))


@given(seed=st.integers(0, 2**63 - 1), trial=st.text())
def test_seeds_are_in_range_and_fixed(seed: int, trial: str) -> None:
    assert 0 <= seed_of(seed, trial) < SEED_LIMIT
    assert seed_of(seed, trial) == seed_of(seed, trial)


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert seed_of(2024, "bundled:chat|airport|John|0") == 2_544_452_881


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, content: str) -> str:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return str(tmp_path / name)

    return write


Write = Callable[[str, str], str]


def test_prompts_from_a_file(write: Write) -> None:
    file = write("p.csv", "id,prompt,group,name,commonness,system\nx,P1,A,Ann,rare,\ny,P2,,,,S\n")
    found = trials({"prompts": {"file": file}, "generators": ["g"], "samples": 2, "system": "D"})
    assert [(t.id, t.prompt, t.system, t.line) for t in found] == [
        ("g|x|0", "P1", "D", 2),
        ("g|x|1", "P1", "D", 2),
        ("g|y|0", "P2", "S", 3),
        ("g|y|1", "P2", "S", 3),
    ]
    assert (found[0].group, found[0].name, found[0].commonness) == ("A", "Ann", "rare")
    assert (found[2].group, found[2].name, found[2].commonness) == (None, None, None)


def test_responses_from_a_file_with_columns_of_its_own(write: Write) -> None:
    lines = [
        {"uid": 3, "q": "P", "a": "R", "who": {"group": "A"}, "llm": "m1", "human": "refusal"},
        {"uid": 3, "q": "P", "a": "S", "who": {"group": "A"}, "llm": "m2", "human": None},
    ]
    file = write("r.jsonl", "\n".join(map(json.dumps, lines)))
    columns = {"prompt": "q", "response": "a", "id": "uid", "group": "who.group", "model": "llm"}
    found = trials({"responses": {"file": file, "columns": {**columns, "gold": "human"}}})
    assert [(t.id, t.generator, t.response, t.group, t.gold) for t in found] == [
        ("m1|3|0", "m1", "R", "A", "refusal"),
        ("m2|3|0", "m2", "S", "A", None),
    ]


def test_without_ids_the_lines_stand_for_them(write: Write) -> None:
    file = write("r.csv", "prompt,response\np,r\np,r\n")
    data = {"responses": {"file": file, "model": "llama"}}
    assert [trial.id for trial in trials(data)] == ["llama|#2|0", "llama|#3|0"]
    assert trials({"responses": {"file": file}})[0].id == "responses|#2|0"


def test_an_id_that_looks_like_a_line_is_told_from_one(write: Write) -> None:
    file = write("r.csv", "id,prompt,response\n#3,p,r\n,p,r\n")
    found = [trial.id for trial in trials({"responses": {"file": file}})]
    assert found == ["responses|##3|0", "responses|#3|0"]


@pytest.mark.parametrize("kind", ["prompts", "responses"])
def test_two_rows_with_one_id_are_refused(write: Write, kind: str) -> None:
    file = write("r.csv", "id,prompt,response\na,p,r\nb,p,r\n\na,p,r\n")
    data = {kind: {"file": file}} | ({"generators": ["g"]} if kind == "prompts" else {})
    with pytest.raises(DatasetError, match="used twice: line 2 and line 5") as caught:
        trials(data)
    assert "id of its own" in caught.value.hint


def test_samples_and_models_tell_rows_with_one_id_apart(write: Write) -> None:
    file = write("r.csv", "id,sample,model,prompt,response\na,0,m,p,r\na,1,m,p,r\na,0,n,p,r\n")
    found = trials({"responses": {"file": file}})
    assert [trial.id for trial in found] == ["m|a|0", "m|a|1", "n|a|0"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "line 2: there is no 'response'"),
        ({"prompt": "p", "response": None}, "'response' holds nothing (null)"),
        ({"prompt": 3, "response": "r"}, "'prompt' holds a number"),
        ({"prompt": "p", "response": "r", "gold": "refused"}, "the gold label is 'refused'"),
        ({"prompt": "p", "response": "r", "commonness": "odd"}, "commonness is 'odd'"),
        ({"prompt": "p", "response": "r", "model": "a|b"}, "the model is 'a|b'"),
    ],
)
def test_a_bad_row_is_a_trial_with_a_problem(
    write: Write, row: dict[str, Any], message: str
) -> None:
    good = {"prompt": "p", "response": "r"}
    bad = {"id": "x", "group": "A", **row}
    file = write("r.jsonl", "\n".join(map(json.dumps, [good, bad, good])))
    found = trials({"responses": {"file": file}})
    assert [trial.problem is None for trial in found] == [True, False, True]
    assert message in str(found[1].problem)
    assert found[1].line == 2
    assert found[1].group == "A"  # so that it counts in the bounds of its group


def test_a_row_that_cannot_be_read_says_nothing_of_its_group(write: Write) -> None:
    file = write("r.csv", "group,prompt,response\nA,p,r\nA,p\n")
    bad = trials({"responses": {"file": file}})[1]
    assert (bad.id, bad.group, bad.line) == ("|#3|?", None, 3)
    assert "has 2 cells" in str(bad.problem)


def test_a_bad_cell_costs_no_other(write: Write) -> None:
    row = {"id": 7, "prompt": "p", "response": "r", "sample": 2, "model": "m", "group": "A"}
    bad = {**row, "commonness": "Popular"}
    trial = trials({"responses": {"file": write("r.jsonl", json.dumps(bad))}})[0]
    assert (trial.id, trial.generator, trial.group, trial.sample) == ("m|7|2", "m", "A", 2)
    assert trial.problem is not None


def test_a_model_that_cannot_be_read_is_nobody(write: Write) -> None:
    """Not the model of rows that say none, or one bad line would make up a model."""
    lines = [json.dumps({"prompt": "p", "response": "r", "model": "m"}), "{broken"]
    file = write("r.jsonl", "\n".join(lines))
    assert [t.generator for t in trials({"responses": {"file": file}})] == ["m", ""]
    named = trials({"responses": {"file": file, "model": "n"}})
    assert [t.generator for t in named] == ["m", "n"]


def test_bad_responses_to_one_document_are_all_there(write: Write) -> None:
    """Logs have several responses on a line, and ids made from lines alone would meet."""
    document = {
        "doc_id": None,
        "doc": {},
        "target": "",
        "arguments": {"gen_args_0": {"arg_0": "p"}},
        "resps": [["r1", "r2", "r3"]],
        "filtered_resps": ["r1"],
    }
    other = document | {"doc": {"group": "A"}}
    file = write("r.jsonl", json.dumps(other) + "\n" + json.dumps(document))
    section = {"file": file, "format": "lm-eval", "columns": {"group": "doc.group"}}
    found = trials({"responses": section})
    assert len({trial.id for trial in found}) == len(found) == 6
    assert all("doc.group" in str(trial.problem) for trial in found[3:])


def test_a_bad_row_of_prompts_costs_all_its_trials_and_no_others(write: Write) -> None:
    file = write("p.jsonl", '{"id": "a", "prompt": "p"}\n{"id": "b"}\n{"id": "c", "prompt": "p"}\n')
    found = trials({"prompts": {"file": file}, "generators": ["g", "h"], "samples": 2})
    assert len(found) == 12
    assert {trial.id for trial in found if trial.problem} == {
        "g|b|0",
        "g|b|1",
        "h|b|0",
        "h|b|1",
    }


def test_half_a_character_is_replaced_so_that_every_trial_can_be_stored(write: Write) -> None:
    row = {"id": "\ud83d", "prompt": "p\ud83d", "response": "\ud83dr", "group": "\ud83d"}
    trial = trials({"responses": {"file": write("r.jsonl", json.dumps(row))}})[0]
    for text in (trial.id, trial.prompt, trial.response, trial.group):
        assert text is not None
        assert "\ufffd" in text
        text.encode()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"group": "grp"}, "no column 'grp'"),
        ({"response": "answer"}, "no column 'answer'"),
    ],
)
def test_a_column_that_is_named_must_be_there(
    write: Write, columns: dict[str, str], message: str
) -> None:
    file = write("r.csv", "prompt,response\np,r\n")
    with pytest.raises(DatasetError, match=message):
        trials({"responses": {"file": file, "columns": columns}})


def test_a_column_that_nobody_named_may_hold_anything(write: Write) -> None:
    row = {"prompt": "p", "response": "r", "model": {"a": 1}, "sample": "text", "id": 1.5}
    found = trials({"responses": {"file": write("r.jsonl", json.dumps(row))}})
    assert [(trial.id, trial.problem) for trial in found] == [("responses|#1|0", None)]
    named = {"file": write("s.jsonl", json.dumps(row)), "columns": {"sample": "sample"}}
    assert "sample is 'text'" in str(trials({"responses": named})[0].problem)


def test_logs_of_other_evaluations(write: Write) -> None:
    sample = {"input": "P", "output": {"choices": [{"message": {"content": "R"}}]}}
    samples = [
        {"id": i, "epoch": e, **sample, "metadata": {"g": "A"}} for i in "ab" for e in (1, 2)
    ]
    file = write("log.json", json.dumps({"eval": {"model": "m"}, "samples": samples}))
    found = trials({"responses": {"file": file, "columns": {"group": "metadata.g"}}})
    assert [trial.id for trial in found] == ["m|a|1", "m|a|2", "m|b|1", "m|b|2"]
    assert {(trial.prompt, trial.response, trial.group) for trial in found} == {("P", "R", "A")}

    line = {"arguments": {"gen_args_0": {"arg_0": "P"}}, "resps": [["R", "S"]], "doc_id": 4}
    file = write("samples.jsonl", json.dumps(line))
    found = trials({"responses": {"file": file, "model": "m"}})
    assert [(trial.id, trial.response) for trial in found] == [("m|4|0", "R"), ("m|4|1", "S")]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame({"prompt": ["p", "p"], "response": ["r", None], "id": [1, 2]}).write_parquet(path)
    found = trials({"responses": {"file": str(path)}})
    assert [(trial.id, trial.problem is None) for trial in found] == [
        ("responses|1|0", True),
        ("responses|2|0", False),
    ]


def test_a_large_file_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with path.open("w") as file:
        file.write("prompt,response\n")
        file.writelines(f"prompt {n},{'x' * 1_000}\n" for n in range(20_000))

    def peak(rows: Iterator[Trial]) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in rows) == 20_000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(expand(load({"responses": {"file": str(path)}}))) < 2**20
