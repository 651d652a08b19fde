"""The wiring: one engine for one model, one judge for one taxonomy, honest states."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenhand.api.services import Services
from evenhand.api.settings import Settings
from evenhand.engine.fake import FakeEngine
from evenhand.schemas.errors import ModelNotFound, NotFound, SettingsError, Unavailable
from evenhand.schemas.taxonomy import Taxonomy, builtin_source


class Opener:
    def __init__(self, error: Exception | None = None) -> None:
        self.engines: list[FakeEngine] = []
        self.error = error

    def __call__(self, reference: str, _settings: object) -> FakeEngine:
        if self.error is not None:
            raise self.error
        self.engines.append(FakeEngine(name=reference))
        return self.engines[-1]


def made(opener: Any = None, **settings: Any) -> Services:
    return Services(Settings(**settings), open_engine=opener or Opener())


def own_taxonomy(folder: Path, name: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(builtin_source("xstest").replace('name = "xstest"', f'name = "{name}"'))
    assert Taxonomy.load(path).name == name
    return path


def test_generator_and_judge_share_an_engine_where_they_name_one_model() -> None:
    opener = Opener()
    with made(opener, generator="m.gguf", judge="m.gguf") as services:
        services.load()
        assert len(opener.engines) == 1
        assert services.judge().judge("a", "b").label is not None
        assert services.generator.generate("a")[0].text
        assert {kind for kind, _ in opener.engines[0].calls} == {"score", "generate"}


def test_different_engine_settings_are_different_engines() -> None:
    opener = Opener()
    with made(opener, generator="m.gguf", judge="m.gguf", judge_n_ctx=512) as services:
        services.load()
        assert len(opener.engines) == 2


def test_one_judge_for_each_taxonomy_over_one_engine() -> None:
    opener = Opener()
    with made(opener) as services:
        services.load("judge")
        assert services.judge("qos") is services.judge()
        assert services.judge("xstest") is services.judge("xstest")
        assert services.judge("xstest").taxonomy.name == "xstest"
        assert len(opener.engines) == 1


def test_only_what_is_asked_for_is_loaded() -> None:
    opener = Opener()
    with made(opener) as services:
        services.load("judge")
        assert [e.info.name for e in opener.engines] == ["bundled:judge"]
        with pytest.raises(Unavailable, match="generator is not ready"):
            _ = services.generator


def test_verdicts_are_remembered_unless_switched_off() -> None:
    for size, calls in ((10, 1), (0, 2)):
        opener = Opener()
        with made(opener, verdict_cache=size) as services:
            services.load("judge")
            first, second = (services.judge().judge("a", "b") for _ in range(2))
            assert first.probabilities == second.probabilities
            assert second.cached == (size > 0)
            assert len(opener.engines[0].calls) == calls


def test_ones_own_taxonomies_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    own_taxonomy(tmp_path, "mine")
    own_taxonomy(tmp_path, "other")
    with made(taxonomies=(tmp_path,), taxonomy="mine") as services:
        services.load("judge")
        assert [t.name for t in services.taxonomies()] == ["mine", "other", "qos", "xstest"]
        assert services.default_taxonomy == "mine"
        assert services.judge().judge("a", "b").taxonomy == "mine"
        assert services.judge("other").judge("a", "b").taxonomy == "other"


def test_the_default_taxonomy_may_be_a_file(tmp_path: Path) -> None:
    with made(taxonomy=str(own_taxonomy(tmp_path, "mine"))) as services:
        assert services.default_taxonomy == "mine"


def test_a_second_taxonomy_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qos.toml"
    path.write_text(builtin_source("qos").replace('version = "1"', 'version = "2"'))
    with pytest.raises(SettingsError, match="another taxonomy called 'qos'"):
        made(taxonomies=(path,))
    path.write_text(builtin_source("qos"))
    assert made(taxonomies=(path,)).default_taxonomy == "qos"


def test_an_empty_folder_of_taxonomies_is_pointed_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"holds no \.toml file"):
        made(taxonomies=(tmp_path,))


def test_a_request_cannot_name_a_file(tmp_path: Path) -> None:
    path = own_taxonomy(tmp_path, "mine")
    with made() as services:
        services.load("judge")
        with pytest.raises(NotFound, match="there is no taxonomy called"):
            services.judge(str(path))


def test_a_calibration_for_other_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(
        json.dumps({"method": "temperature", "scale": {"a": 2, "b": 2}, "bias": {"a": 0, "b": 0}})
    )
    with pytest.raises(SettingsError, match="fitted for the labels a, b"):
        made(calibration=path)


def test_a_calibration_holds_for_the_default_taxonomy_alone(tmp_path: Path) -> None:
    labels = Taxonomy.load("qos").labels
    path = tmp_path / "calibration.json"
    flat = {"scale": dict.fromkeys(labels, 0.5), "bias": dict.fromkeys(labels, 0.0)}
    path.write_text(json.dumps({"method": "temperature", **flat}))
    with made() as plain, made(calibration=path) as calibrated:
        plain.load("judge")
        calibrated.load("judge")
        verdicts = [s.judge().judge("a", "b") for s in (plain, calibrated)]
        assert verdicts[0].margin is not None
        assert verdicts[1].margin is not None
        assert verdicts[1].margin < verdicts[0].margin
        assert verdicts[0].fingerprint != verdicts[1].fingerprint
        # A judge of another taxonomy would refuse this calibration.
        assert calibrated.judge("xstest").judge("a", "b").label is not None


def test_loading_in_the_background_ends_ready() -> None:
    with made() as services:
        assert services.state() == ("loading", "generator: not started")
        services.start()
        assert services.wait(5)
        assert services.state() == ("ready", "")


def test_a_failed_load_says_why_and_leaves_the_other_role_at_work() -> None:
    def opener(reference: str, _settings: object) -> FakeEngine:
        if reference == "gone.gguf":
            raise ModelNotFound("gone.gguf does not exist", hint="Check the path.")
        return FakeEngine(name=reference)

    with made(opener, generator="gone.gguf") as services:
        services.start()
        assert not services.wait(5)
        assert services.state() == ("failed", "generator: gone.gguf does not exist")
        with pytest.raises(Unavailable, match=r"failed to load: gone\.gguf") as caught:
            _ = services.generator
        assert caught.value.hint == "Check the path."
        assert services.judge().judge("a", "b").label is not None
        card = services.models()[0]
        assert (card.phase, card.problem) == ("failed", "gone.gguf does not exist")


def test_load_raises_what_is_wrong() -> None:
    services = made(Opener(ModelNotFound("no such file")))
    with pytest.raises(ModelNotFound, match="no such file"):
        services.load("judge")


def test_models_tell_what_is_loaded() -> None:
    with made() as services:
        assert [c.phase for c in services.models()] == ["loading", "loading"]
        services.load()
        generator, judge = services.models()
        assert (generator.id, generator.role) == ("bundled:chat", "generator")
        assert (judge.id, judge.role, judge.phase) == ("bundled:judge", "judge", "ready")
        assert judge.sha256 == services.judge().model_sha256
        assert judge.fingerprint == services.judge().fingerprint
        assert judge.context == 1_000_000
        assert judge.template == "instruct"
        assert judge.created > 0


def test_the_prompt_text_shows_labels_and_slots() -> None:
    text = made().prompt_text("qos")
    assert text is not None
    assert all(label in text for label in Taxonomy.load("qos").labels)
    assert "{{ prompt }}" in text
    assert "{{ response }}" in text
    assert made(judge="baseline:majority").prompt_text("qos") is None


def test_close_finishes_what_runs_and_refuses_the_rest() -> None:
    services = Services(Settings(), open_engine=lambda r, s: FakeEngine(name=r, delay=0.05))
    services.load()
    judge = services.judge()
    futures = [judge.submit("a", str(i)) for i in range(3)]
    services.close()
    assert [f.result(0).status for f in futures] == ["judged"] * 3
    assert services.state()[0] == "closed"
    with pytest.raises(Unavailable, match="shutting down"):
        services.judge()
    services.close()


def test_an_engine_that_opens_after_close_is_closed(wait_until: Callable[..., None]) -> None:
    opening, proceed = threading.Event(), threading.Event()
    engines: list[FakeEngine] = []

    def opener(reference: str, _settings: object) -> FakeEngine:
        opening.set()
        assert proceed.wait(10)
        engines.append(FakeEngine(name=reference))
        return engines[-1]

    services = made(opener)
    services.start()
    assert opening.wait(5)
    closing = threading.Thread(target=services.close)
    closing.start()
    wait_until(lambda: services.state()[0] == "closed")
    proceed.set()
    closing.join(10)
    assert len(engines) == 1, "the second model is not begun"
    with pytest.raises(Unavailable):
        engines[0].generate(engines[0].encode([]), None)  # type: ignore[arg-type]
