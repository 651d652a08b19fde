"""Data files that ship inside the package, by name."""

from __future__ import annotations

from importlib import resources


def toml_texts(package: str, folder: str) -> dict[str, str]:
    """The text of each `NAME.toml` in a folder of a package, by NAME."""
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in (resources.files(package) / folder).iterdir()
        if entry.name.endswith(".toml")
    }
