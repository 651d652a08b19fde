"""`evenhand generate`: a model answers, and its words appear as they are drawn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.api.cli import options

if TYPE_CHECKING:
    from evenhand.schemas.generation import Generation


def generate(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to ask; `-` reads it from stdin.")
    ],
    n: options.Samples = 1,
    system: options.System = None,
    generator: options.Generator = None,
    template: options.Template = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Answer a prompt: the text to stdout as it is drawn, what is known of it to stderr."""
    from evenhand.api.cli import console, wiring
    from evenhand.api.cli.streaming import generate_now
    from evenhand.schemas.requests import GenerateReply

    drawn = wiring.sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    prompt = options.read_dash(prompt)
    written: list[str] = []

    def on_text(_index: int, piece: str) -> None:
        if n == 1 and not json:  # several samples would run into each other
            _write(piece)
            written.append(piece)

    with wiring.opened("generator", generator=generator, generator_template=template) as services:
        generations = generate_now(
            services.generator, prompt, system=system, n=n, sampling=drawn, on_text=on_text
        )
    if json:
        console.emit(GenerateReply(generations=generations))
    elif n == 1:
        # A server may send no pieces, or keep the last ones to itself.
        _write(generations[0].text.removeprefix("".join(written)))
        _write("" if generations[0].text.endswith("\n") else "\n")
        console.stderr().print(_facts(generations[0]), style="dim")
    else:
        for number, generation in enumerate(generations, 1):
            console.stdout().rule(f"{number} of {n} · {_facts(generation)}", style="dim")
            _write(generation.text + "\n")


def _write(text: str) -> None:
    """On a terminal control characters are made visible; a file or pipe gets the text as it is."""
    from evenhand.api.cli.console import shown

    sys.stdout.write(shown(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _facts(generation: Generation) -> str:
    facts = [generation.generator]
    if generation.completion_tokens is not None:
        facts.append(f"{generation.completion_tokens} tokens")
    if generation.finish_reason == "length":
        facts.append("cut at the token limit")
    if generation.seed is not None:
        facts.append(f"seed {generation.seed}")
    return " · ".join([*facts, *generation.notes])
