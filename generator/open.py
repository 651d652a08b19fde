"""From a line of text to a generator: the one place where generator specs are read."""

from __future__ import annotations

from collections.abc import Callable

from evenhand.engine import open_engine
from evenhand.engine.base import Engine
from evenhand.engine.remote import REMOTE_SCHEME, RemoteAddress
from evenhand.generator.base import BaseGenerator
from evenhand.generator.local import Generator
from evenhand.generator.remote import RemoteGenerator
from evenhand.prompts import Template
from evenhand.schemas.generation import Sampling


def open_generator(
    spec: str,
    *,
    engine_opener: Callable[[str], Engine] = open_engine,
    share_engine: bool = False,
    template: str | Template = "chat",
    sampling: Sampling | None = None,
    api_key: str | None = None,
    timeout: float = 120.0,
) -> BaseGenerator:
    """Open the generator that `spec` names.

    `spec` is a model reference (`bundled:chat`, a path, `hf:OWNER/REPO:FILE[@REVISION]`), which
    goes to `engine_opener`, or `remote:http://HOST:PORT/v1#MODEL`. The generator closes the engine
    that it was given by the opener, unless `share_engine` says that others use it too. `api_key`
    and `timeout` (seconds for one answer) are for remote servers.
    """
    if spec.startswith(REMOTE_SCHEME):
        address = RemoteAddress.parse(spec)
        return RemoteGenerator(
            address.base_url,
            address.model,
            api_key=api_key,
            template=template,
            sampling=sampling,
            timeout=timeout,
        )
    engine = engine_opener(spec)
    try:
        return Generator(engine, template=template, sampling=sampling, owns_engine=not share_engine)
    except BaseException:
        if not share_engine:
            engine.close()
        raise
