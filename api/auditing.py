"""What command line and service share of audits: a plan's models, and a way to be told to stop.

Knows settings, services and files beside the store. It runs nothing: `audit/run.py` does, with
what is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from evenhand.api.services import Services
from evenhand.api.settings import ROLES, Role
from evenhand.audit.plan import located
from evenhand.audit.store import Store
from evenhand.engine.base import Engine
from evenhand.engine.remote import REMOTE_SCHEME, RemoteAddress
from evenhand.engine.settings import EngineSettings
from evenhand.generator.base import BaseGenerator
from evenhand.generator.open import open_generator
from evenhand.judge.base import BaseJudge
from evenhand.judge.evidence import kept_in
from evenhand.judge.facts import keep_facts
from evenhand.judge.open import open_judge
from evenhand.schemas.audit import GeneratorSpec, JudgeSpec
from evenhand.schemas.errors import NotFound
from evenhand.schemas.panel import models_in
from evenhand.schemas.taxonomy import Taxonomy

_LOOK = 0.5  # seconds between looks at whether somebody asked to stop


class ServiceModels:
    """The models of plans (`audit.run.Models`) over those of a service.

    What the settings name is the service's own, and so are its engines under another template or
    taxonomy; every other model is opened once, with the settings of its role, until `release` or
    `close`. Safe to use from several threads.

    API keys go to the servers that the settings name and to no other, since whoever sends a plan
    could choose a server of his own; `trust_plan` sends them wherever the plan says.
    """

    def __init__(self, services: Services, *, trust_plan: bool = False):
        self._services, self._settings = services, services.settings
        self._trust_plan = trust_plan
        self._lock = threading.Lock()
        self._engines: dict[tuple[str, EngineSettings], Engine] = {}
        self._generators: dict[tuple[str, str], BaseGenerator] = {}
        self._judges: dict[tuple[str, str | None, str], BaseJudge] = {}

    def generator(self, spec: GeneratorSpec) -> BaseGenerator:
        """Who responds. Raises what opening a model raises."""
        template = spec.template or self._settings.generator_template
        key = _at(spec.model), _at(template)
        if key == (_at(self._settings.generator), _at(self._settings.generator_template)):
            self._services.load("generator")
            return self._services.generator
        with self._lock:
            if key not in self._generators:
                self._generators[key] = open_generator(
                    spec.model,
                    engine_opener=self._opener("generator"),
                    share_engine=True,
                    template=template,
                    api_key=self._key("generator", spec.model),
                    timeout=self._settings.request_timeout,
                )
            return self._generators[key]

    def judge(self, spec: JudgeSpec, taxonomy: str) -> BaseJudge:
        """Who judges by the taxonomy (a name or a path). Raises what opening a model raises.

        What it is made of is kept, for the judge's card in the report.
        """
        judge = self._judge(spec, taxonomy)
        keep_facts(judge, kept_in(self._settings.data_dir))
        return judge

    def _judge(self, spec: JudgeSpec, taxonomy: str) -> BaseJudge:
        wanted = Taxonomy.load(taxonomy)
        template = spec.template or self._settings.judge_template
        model, words = _at(spec.model), template and _at(template)
        own = self._settings.judge_template
        ours = _at(self._settings.judge), own and _at(own)
        if (model, words) == ours and self._serves(wanted):
            self._services.load("judge")
            return self._services.judge(wanted.name)
        with self._lock:
            key = model, words, wanted.digest_text()
            if key not in self._judges:
                self._judges[key] = open_judge(
                    spec.model,
                    wanted,
                    engine_opener=self._opener("judge"),
                    share_engine=True,
                    template=template,
                    abstain_below=self._settings.abstain_below,
                    api_key=lambda model: self._key("judge", model),
                    timeout=self._settings.request_timeout,
                )
            return self._judges[key]

    def release(self, model: str) -> None:
        """Close what was opened here for this reference as a generator, unless a judge uses it.

        What the service has stays open.
        """
        with self._lock:
            named = [key for key in self._generators if key[0] == _at(model)]
            gone = [self._generators.pop(key) for key in named]
            own = self._settings.engine("judge")
            judging = {(model, own) for key in self._judges for model in models_in(key[0])}
            key = (_at(model), self._settings.engine("generator"))
            engine = None if key in judging else self._engines.pop(key, None)
        if engine is not None:
            engine.close(drain=False)
        for generator in gone:
            generator.close()

    def close(self) -> None:
        """Close what was opened here, and drop what still runs on it. Safe to call twice."""
        with self._lock:
            engines = list(self._engines.values())
            generators, judges = list(self._generators.values()), list(self._judges.values())
            self._engines.clear()
            self._generators.clear()
            self._judges.clear()
        for engine in engines:
            engine.close(drain=False)
        for generator in generators:
            generator.close()
        for judge in judges:
            judge.close()

    def __enter__(self) -> ServiceModels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------

    def _serves(self, taxonomy: Taxonomy) -> bool:
        """Whether the service knows this very taxonomy."""
        try:
            return self._services.taxonomy(taxonomy.name) == taxonomy
        except NotFound:
            return False

    def _opener(self, role: Role) -> Callable[[str], Engine]:
        """Opens engines for a role; called with the lock held."""
        own = self._settings.engine(role)
        specs = {r: getattr(self._settings, r) for r in ROLES}
        named = {
            (_at(model), self._settings.engine(r)): model
            for r, spec in specs.items()
            for model in models_in(spec)
        }

        def open(reference: str) -> Engine:
            key = _at(reference), own
            if key in named:
                return self._services.engine(named[key], role)
            if key not in self._engines:
                self._engines[key] = self._services.open_apart(reference, role)
            return self._engines[key]

        return open

    def _key(self, role: Role, model: str) -> str | None:
        """The role's API key, where this model's server may have it."""
        secret: SecretStr | None = getattr(self._settings, f"{role}_api_key")
        if secret is None or not model.startswith(REMOTE_SCHEME):
            return None
        ours = [m for m in models_in(getattr(self._settings, role)) if m.startswith(REMOTE_SCHEME)]
        known = _server(model) in map(_server, ours)
        return secret.get_secret_value() if known or self._trust_plan else None


def _at(reference: str) -> str:
    """A model or template under one word, however its path is spelled."""
    return located(reference, Path.cwd())


def _server(reference: str) -> str:
    return RemoteAddress.parse(reference).base_url


# -- stopping an audit from another process -------------------------------------------------------


def ask_to_stop(store: Store, id: str) -> None:
    """Ask whoever runs the audit to cancel it; `stoppable` hears of it there."""
    store.wish(id).touch()


@contextmanager
def stoppable(store: Store, id: str) -> Iterator[threading.Event]:
    """An event for `audit.run.run`'s `stop`, set once any process asked to cancel the audit.

    Wishes from before are forgotten: they were about an earlier run.
    """
    mark = store.wish(id)
    if store.audit(id).state != "running":
        mark.unlink(missing_ok=True)
    stop, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK):
            if mark.exists():
                stop.set()
                return

    looking = threading.Thread(target=look, name="evenhand-stoppable", daemon=True)
    looking.start()
    try:
        yield stop
    finally:
        ended.set()
        looking.join()
        if stop.is_set():
            mark.unlink(missing_ok=True)
