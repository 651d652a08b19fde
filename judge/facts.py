"""What a judge is made of, as plain values: the part of its card that needs no measuring.

Knows how to ask a judge, and the TOML file in which people say what nobody can measure. It does not
know what was measured, or how any of it is shown.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from evenhand.judge.base import BaseJudge
from evenhand.judge.calibration import Calibration
from evenhand.judge.evidence import Evidence
from evenhand.judge.llm import Judge
from evenhand.judge.panel import PanelJudge
from evenhand.judge.remote import RemoteJudge
from evenhand.prompts import Template
from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.taxonomy import Taxonomy, describe

Kind = Literal["model", "remote", "baseline", "panel", "unknown"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

# Beside the weights and the templates that ship lies what is known of how they came to be.
_BUNDLED = "bundled:"


class About(BaseModel):
    """What its makers say of a judge. Whatever is left out becomes a gap of the card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intended_use: Text | None = None
    not_intended_for: Text | None = None
    prompt_written_by: Text | None = None
    prompt_developed_on: Text | None = None
    prompt_history: Text | None = None
    prompt_stopped: Text | None = None
    model_history: Text | None = None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file. Raises `InvalidInput`."""
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"), where=f"{str(path)!r}")
        except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or NUL in the path
            raise InvalidInput(
                f"{str(path)!r} cannot be read: {exc}", hint="Give the path of a TOML file."
            ) from exc

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """Read TOML text; `where` says in an error whose it is. Raises `InvalidInput`."""
        try:
            return cls.model_validate(tomllib.loads(text))
        except ValidationError as exc:
            problem = describe(exc)
        except tomllib.TOMLDecodeError as exc:
            problem = str(exc)
        raise InvalidInput(
            f"{where}: {problem}", hint=f"It may hold, as text: {', '.join(cls.model_fields)}."
        )

    def over(self, other: About) -> About:
        """This one's words, and the other's where this one has none."""
        return self.model_copy(
            update={
                name: getattr(other, name)
                for name in type(self).model_fields
                if getattr(self, name) is None
            }
        )


class PromptFacts(BaseModel):
    """A judge's template: `text` is what the judge reads, `{{ prompt }}` where a prompt stands."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    sha256: str
    format: str
    overflow: str
    names: str = "shown"
    text: str


class Facts(BaseModel):
    """What a fingerprint is the hash of, for people to read; and what its makers say.

    `decoding` are plain values by name. Where the judge could not be asked (`kind` is `unknown`)
    nothing is known but its name, its fingerprint and its taxonomy.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    judge: str
    kind: Kind
    fingerprint: str
    taxonomy: Taxonomy
    model_sha256: str | None = None
    model: str | None = None
    prompt: PromptFacts | None = None
    decoding: dict[str, Any] = {}
    calibration: Calibration | None = None
    gives_probabilities: bool | None = None
    about: About = About()
    members: Annotated[tuple[Facts, ...], Field(exclude_if=lambda members: not members)] = ()


def facts_of(judge: BaseJudge) -> Facts:
    """Ask an open judge; nothing is judged."""
    template: Template | None = getattr(judge, "template", None)
    return Facts(
        judge=judge.name,
        kind=_kind(judge),
        fingerprint=judge.fingerprint,
        taxonomy=judge.taxonomy,
        model_sha256=judge.model_sha256,
        model=judge.description,
        prompt=None if template is None else _prompt(template, judge.taxonomy),
        decoding=judge.decoding(),
        calibration=judge.calibration,
        gives_probabilities=judge.gives_probabilities,
        about=_shipped(judge, template),
        members=tuple(map(facts_of, judge.members)) if isinstance(judge, PanelJudge) else (),
    )


def keep_facts(judge: BaseJudge, evidence: Evidence) -> None:
    """Keep an open judge's facts, for a card that is made where it is not at hand.

    Raises `StoreError`.
    """
    facts = facts_of(judge).model_dump(mode="json")
    evidence.save("facts", judge.fingerprint, "judge", facts)


def prompt_text(template: Template, taxonomy: Taxonomy) -> str:
    """What a judge reads, with `{{ prompt }}` and `{{ response }}` in the texts' places."""
    blocks = template.render(
        untrusted={"prompt": "", "response": ""}, taxonomy=taxonomy, reason=False
    )
    return "\n\n".join(
        "".join(f"{{{{ {w.slot} }}}}" if w.slot else w.text for w in words)
        for words in blocks.values()
    )


def _kind(judge: BaseJudge) -> Kind:
    if isinstance(judge, PanelJudge):
        return "panel"
    if isinstance(judge, RemoteJudge):
        return "remote"
    return "model" if isinstance(judge, Judge) else "baseline"


def _prompt(template: Template, taxonomy: Taxonomy) -> PromptFacts:
    return PromptFacts(
        name=template.name,
        sha256=template.sha256,
        format=template.format,
        overflow=template.overflow,
        names=template.names,
        text=prompt_text(template, taxonomy),
    )


def _shipped(judge: BaseJudge, template: Template | None) -> About:
    """What lies beside a bundled model and beside the template, which speak of different things."""
    about = About()
    if judge.name.startswith(_BUNDLED):
        name = f"{judge.name.removeprefix(_BUNDLED)}.toml"
        about = _read(resources.files("evenhand.engine") / "bundled" / name)
    if template is None:
        return about
    if template.name.endswith(".j2"):
        return about.over(_read(Path(template.name).with_suffix(".toml")))
    file = resources.files("evenhand.prompts") / "judge" / f"{template.name}.toml"
    return about.over(_read(file))


def _read(file: Any) -> About:
    if not file.is_file():
        return About()
    return About.parse(file.read_text(encoding="utf-8"), where=repr(str(file)))
