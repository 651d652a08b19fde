"""A plan of an audit: read from where it is kept, hashed and counted.

Knows files, built-in plans and what of a plan can change a result. What a plan says is in
`schemas/audit.py`, and the trials that it makes are in `audit/trials.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from evenhand.audit.datasets import Parquet, open_rows
from evenhand.audit.rows import kind
from evenhand.prompts import Kind
from evenhand.prompts import load as load_template
from evenhand.schemas.audit import GeneratorSpec, JudgeSpec, Plan
from evenhand.schemas.errors import DatasetError, InvalidInput, NotFound
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.panel import PanelSpec, is_panel, rewritten
from evenhand.schemas.shipped import toml_texts
from evenhand.schemas.taxonomy import Taxonomy

_SCHEME = re.compile(r"[a-z]+:")

# -- reading --------------------------------------------------------------------------------------


def builtin_plans() -> list[str]:
    """Names of the plans that ship with evenhand, sorted."""
    return sorted(_builtin_files())


def builtin_source(name: str) -> str:
    """The TOML text of a built-in plan. Raises `NotFound`."""
    files = _builtin_files()
    if name not in files:
        raise NotFound(
            f"there is no built-in plan called {name!r}",
            hint=f"Use {', '.join(sorted(files))}, or a path that ends in .toml or .json.",
        )
    return files[name]


def load_sentences(source: str | Path) -> Plan:
    """A plan of templates and groups of names. Raises as `load`, and for a plan of another kind."""
    found = load(source)
    if not found.templates:
        raise InvalidInput(
            f"plan {found.name!r} has no templates",
            hint="Give a plan with templates and groups of names.",
        )
    return found


def load(source: str | Path | Mapping[str, Any] | Plan) -> Plan:
    """Return a plan from a built-in name, a TOML or JSON file, or plain data.

    `extends` is resolved, and file names, which are relative to the plan's own folder, are made
    absolute; models and templates of plain data, which has no folder, stay as they are. Raises
    `NotFound`, `InvalidInput` that names the key, or `TaxonomyError`.
    """
    if isinstance(source, Plan):
        return source
    folder, origin = Path.cwd(), "plan"
    if isinstance(source, Mapping):
        data = dict(source)
    elif Path(source).suffix.lower() in (".toml", ".json"):
        origin = str(source)
        folder = Path(source).absolute().parent
        data = _parse(_read(Path(source)), Path(source).suffix.lower(), origin)
        for key in ("generators", "judges"):
            if isinstance(data.get(key), list):
                data[key] = [_located(spec, folder) for spec in data[key]]
    else:
        data = tomllib.loads(builtin_source(str(source)))
    base = data.pop("extends", None)
    if base is not None:
        data = {**tomllib.loads(builtin_source(str(base))), **data}
    plan = Plan.parse(_absolute(data, folder), origin=origin)
    plan.metrics_for(Taxonomy.load(plan.taxonomy))
    return plan


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors put a BOM first
    except FileNotFoundError:
        raise NotFound(f"plan {str(path)!r} does not exist", hint="Check the path.") from None
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or NUL in the path
        raise InvalidInput(
            f"plan {str(path)!r} cannot be read: {exc}",
            hint="Save the file as UTF-8 that this user may read.",
        ) from exc


def _parse(text: str, suffix: str, origin: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(text) if suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(
            f"{origin}: not valid {suffix[1:].upper()}: {exc}",
            hint="Mend the line that the message names.",
        ) from exc
    if not isinstance(data, dict):
        raise InvalidInput(f"{origin}: a plan is an object, not {kind(data)}", hint="Use {...}.")
    return data


def _absolute(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The data with each file's path made absolute, so that a run can be resumed anywhere."""
    data = dict(data)
    for key in ("prompts", "responses"):
        section = data.get(key)
        if isinstance(section, Mapping) and isinstance(section.get("file"), str):
            data[key] = {**section, "file": str(folder / section["file"])}
    taxonomy = data.get("taxonomy")
    if isinstance(taxonomy, str) and taxonomy.endswith(".toml"):
        data["taxonomy"] = str(folder / taxonomy)
    return data


def is_path(reference: str) -> bool:
    """Whether a model or a template is a file of one's own, and not one that others have."""
    return reference.endswith((".gguf", ".j2")) and not _SCHEME.match(reference)


def located(reference: str, folder: Path) -> str:
    """A model or a template so that it is found from anywhere: a relative path made absolute.

    In a panel, those of its members. Raises `InvalidInput` for a panel that cannot be read.
    """

    def place(one: str) -> str:
        return str(folder / one) if is_path(one) and not one.startswith("~") else one

    return rewritten(reference, place)


def _located(spec: object, folder: Path) -> object:
    if isinstance(spec, str):
        return located(spec, folder)
    if not isinstance(spec, Mapping):
        return spec  # `Plan` says what is wrong with it
    found = {key: spec[key] for key in ("model", "template") if isinstance(spec.get(key), str)}
    return {**spec, **{key: located(reference, folder) for key, reference in found.items()}}


def _builtin_files() -> dict[str, str]:
    return toml_texts("evenhand.prompts", "audits")


# -- what a plan amounts to -----------------------------------------------------------------------


def plan_hash(plan: Plan) -> str:
    """SHA-256 (hex) of everything in a plan that can change a result or a figure made of results.

    Titles, notes, sources and the order of templates and names are left out; files, taxonomy and
    prompt templates count by their content and not by their path. Raises `DatasetError` for a file
    that cannot be read, `TaxonomyError`, `TemplateError`.
    """
    taxonomy = Taxonomy.load(plan.taxonomy)
    told_apart = {"name", "title", "description", "taxonomy", "templates", "groups", "metrics"}
    data = plan.model_dump(mode="json", exclude={*told_apart, "generators", "judges"})
    for key in ("prompts", "responses"):
        if data[key] is not None:
            data[key]["file"] = _sha256(Path(data[key]["file"]))
    return fingerprint_of(
        **data,
        taxonomy=taxonomy.digest_text(),
        templates=sorted((template.id, template.text) for template in plan.templates),
        names=sorted((n.name, n.group, n.commonness or "") for n in plan.names()),
        generators=[_model("respond", spec) for spec in plan.generators],
        judges=[_model("judge", spec) for spec in plan.judges],
        metrics={name: sorted(labels) for name, labels in plan.metrics_for(taxonomy).items()},
    )


def _model(what: Kind, spec: GeneratorSpec | JudgeSpec) -> dict[str, Any]:
    data = spec.model_dump(mode="json")
    if is_panel(spec.model):
        panel = PanelSpec.parse(spec.model)
        data["model"] = [panel.rule] + [
            [_without_folder(m.model), m.template and load_template(what, m.template).sha256]
            for m in panel.members
        ]
    else:
        data["model"] = _without_folder(spec.model)
    if spec.template is not None:
        data["template"] = load_template(what, spec.template).sha256
    return data


def _without_folder(reference: str) -> str:
    """A file's name alone: its content is in the fingerprint."""
    return PurePath(reference).name if is_path(reference) else reference


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise DatasetError(
            f"{path.name!r} cannot be read: {exc.strerror or exc}", hint="Check the path."
        ) from exc


def count(plan: Plan) -> int | None:
    """How many trials the plan makes; None where only reading its whole file would tell.

    A plan without generators is counted as if it had one. Raises `DatasetError`.
    """
    runs = max(len(plan.generators), 1) * plan.samples
    if plan.templates:
        return len(plan.templates) * sum(1 for _ in plan.names()) * runs
    section = plan.prompts or plan.responses
    if section is None or not section.file.lower().endswith(".parquet"):
        return None
    with open_rows(section.file, section.columns.needed()) as rows:
        return rows.total * runs if isinstance(rows, Parquet) else None
