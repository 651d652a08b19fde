"""From a line of text to a judge: the one place where judge specs are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evenhand.engine import open_engine
from evenhand.engine.base import Engine
from evenhand.engine.remote import REMOTE_SCHEME, RemoteAddress
from evenhand.judge.base import BaseJudge
from evenhand.judge.baselines import MajorityJudge, StringMatchJudge
from evenhand.judge.cache import VerdictCache
from evenhand.judge.calibration import IDENTITY, Calibration
from evenhand.judge.llm import Judge
from evenhand.judge.remote import RemoteJudge
from evenhand.prompts import Template
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.taxonomy import Taxonomy

_BASELINE = "baseline:"


def open_judge(
    spec: str,
    taxonomy: str | Path | Taxonomy = "qos",
    *,
    engine_opener: Callable[[str], Engine] = open_engine,
    share_engine: bool = False,
    template: str | Template | None = None,
    calibration: str | Path | Calibration | None = None,
    cache: VerdictCache | None = None,
    abstain_below: float = 0.0,
    api_key: str | None = None,
    timeout: float = 120.0,
) -> BaseJudge:
    """Open the judge that `spec` names.

    `spec` is one of:

    - a model reference (`bundled:judge`, a path, `hf:OWNER/REPO:FILE[@REVISION]`), which goes to
      `engine_opener`;
    - `remote:http://HOST:PORT/v1#MODEL`, an OpenAI-compatible server;
    - `baseline:majority[=LABEL]` or `baseline:string-match`.

    The judge closes the engine that it was given by the opener, unless `share_engine` says that
    others use it too. `calibration` is a value or the path of its file;
    left out, a model file that carries one brings its own. `api_key` and `timeout`
    (seconds for one answer) are for remote servers. Baselines take none of the options.
    """
    taxonomy = Taxonomy.load(taxonomy)
    if spec.startswith(_BASELINE):
        return _open_baseline(spec.removeprefix(_BASELINE), taxonomy)
    if isinstance(calibration, str | Path):
        calibration = Calibration.load(calibration)
    if spec.startswith(REMOTE_SCHEME):
        address = RemoteAddress.parse(spec)
        return RemoteJudge(
            address.base_url,
            address.model,
            taxonomy,
            api_key=api_key,
            template=template or "instruct",
            calibration=calibration or IDENTITY,
            cache=cache,
            abstain_below=abstain_below,
            timeout=timeout,
        )
    engine = engine_opener(spec)
    try:
        return Judge(
            engine,
            taxonomy,
            template=template,
            calibration=calibration,
            cache=cache,
            abstain_below=abstain_below,
            owns_engine=not share_engine,
        )
    except BaseException:
        if not share_engine:
            engine.close()
        raise


def _open_baseline(rest: str, taxonomy: Taxonomy) -> BaseJudge:
    name, _, label = rest.partition("=")
    if name == "majority":
        return MajorityJudge(label or None, taxonomy)
    if rest == "string-match":
        return StringMatchJudge(taxonomy)
    raise InvalidInput(
        f"there is no baseline judge called {rest!r}",
        hint="Use baseline:majority, baseline:majority=LABEL or baseline:string-match.",
    )
