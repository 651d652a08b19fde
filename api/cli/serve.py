"""`evenhand serve`: the REST service."""

from __future__ import annotations

from typing import Annotated

import typer

from evenhand.api.cli import options


def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; 127.0.0.1 unless set.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Port; 8000 unless set, 0 takes a free one.", show_default=False
        ),
    ] = None,
    generator: options.Generator = None,
    judge: options.Judge = None,
    taxonomy: options.Taxonomy = None,
    template: options.Template = None,
    judge_template: options.JudgeTemplate = None,
) -> None:
    """Serve the REST API until Ctrl-C.

    `/docs` describes it; `/readyz` says when the models are loaded.
    """
    from evenhand.api.app import serve as run
    from evenhand.api.settings import Settings

    run(
        Settings.load(
            host=host,
            port=port,
            generator=generator,
            judge=judge,
            taxonomy=taxonomy,
            generator_template=template,
            judge_template=judge_template,
        )
    )
