"""`evenhand ask`: a model answers, a judge labels the answer, and both are shown."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from evenhand.schemas.requests import Result
    from evenhand.schemas.taxonomy import Taxonomy


def ask(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT", help="What to ask, e.g. a sentence with a [BLANK]; `-` reads stdin."
        ),
    ],
    n: options.Samples = 1,
    system: options.System = None,
    reason: options.Reason = False,
    generator: options.Generator = None,
    judge: options.Judge = None,
    taxonomy: options.Taxonomy = None,
    template: options.Template = None,
    judge_template: options.JudgeTemplate = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Answer a prompt and judge the answer.

    Exit code 1 when any sample got no verdict because judging failed.
    """
    from evenhand.api.cli import console, wiring
    from evenhand.api.cli.streaming import generate_now
    from evenhand.schemas.requests import RespondReply, Result
    from evenhand.schemas.verdict import Status

    drawn = wiring.sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    prompt = options.read_dash(prompt)
    with wiring.opened(
        "generator",
        "judge",
        generator=generator,
        judge=judge,
        taxonomy=taxonomy,
        generator_template=template,
        judge_template=judge_template,
    ) as services:
        used = services.judge()
        with console.status("writing") as say:
            newest: deque[str] = deque(maxlen=40)

            def on_text(index: int, piece: str) -> None:
                if index == 0:
                    newest.append(piece)
                    say("".join(newest))

            generations = generate_now(
                services.generator, prompt, system=system, n=n, sampling=drawn, on_text=on_text
            )
        with console.status("judging"):
            pairs = [(prompt, generation.text) for generation in generations]
            verdicts = list(used.judge_many(pairs, reason=reason))
        results = [
            Result(generation=generation, verdict=verdict)
            for generation, verdict in zip(generations, verdicts, strict=True)
        ]
    if json:
        console.emit(RespondReply(results=results))
    else:
        _show(prompt, results, used.taxonomy)
    if any(result.verdict.status is Status.ERROR for result in results):
        raise typer.Exit(1)


def _show(prompt: str, results: list[Result], taxonomy: Taxonomy) -> None:
    from rich.text import Text

    from evenhand.api.cli import panels
    from evenhand.api.cli.console import shown, stdout

    console = stdout()
    width = panels.fitting(console)
    console.print()
    console.print(Text(shown(prompt), "bold"), width=width)
    console.print()
    for number, result in enumerate(results, 1):
        title = "response" if len(results) == 1 else f"response {number} of {len(results)}"
        console.print(panels.answer(result.generation, title=title, width=width))
        console.print(panels.verdict(result.verdict, taxonomy, console=console), width=width)
        console.print()
    if len(results) > 1:
        console.print(panels.tally([r.verdict for r in results], taxonomy.labels), width=width)
        console.print()
