"""What was measured about a judge, kept as files under its fingerprint.

Knows the form and the place of a record. It does not know how anything is measured, nor what is
made of it: validations and probes write here, the judge card reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evenhand.schemas.errors import InvalidInput, NotFound, StoreError

# What was measured, what the judge is made of (`facts.py`), and what its makers say of it.
Kind = Literal["validation", "probes", "cost", "facts", "about"]

_FOLDER = re.compile(r"[0-9a-f]{16}")
_UNSAFE = re.compile(r"[^a-z0-9_.-]+")
_LONGEST = 80


class Record(BaseModel):
    """One measurement. `created` is in seconds since 1970, `evenhand` the version that measured.

    `name` tells what was measured on: a data set, a set of probes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: Annotated[str, Field(min_length=1)]
    created: float
    evenhand: str
    document: dict[str, Any]

    @property
    def id(self) -> str:
        """What the record is found by: `FINGERPRINT.NAME`, in letters that files and URLs take."""
        return record_id(self.fingerprint, self.name)


class Evidence:
    """The records of all judges in a folder, which the first one saved makes.

    A record is `<fingerprint[:16]>/<kind>-<name>.json`; one of the same kind and name replaces the
    one before it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def save(self, kind: Kind, fingerprint: str, name: str, document: Mapping[str, Any]) -> Path:
        """Keep a document of plain JSON values; the file is there whole or not at all.

        NaN and infinities become null. Raises `InvalidInput` for a fingerprint that is none or a
        document that JSON cannot hold, `StoreError` where the folder takes no file.
        """
        try:
            record = Record(
                kind=kind,
                fingerprint=fingerprint,
                name=name,
                created=time.time(),
                evenhand=version("evenhand"),
                document=dict(document),
            )
            text = record.model_dump_json(indent=1)
        except ValueError as exc:  # pydantic's own errors are among them
            raise InvalidInput(
                f"this is no record of a judge: {exc}", hint="Give its fingerprint and plain JSON."
            ) from exc
        path = self._path(record)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, suffix=".tmp", encoding="utf-8", delete=False
            ) as file:
                try:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).replace(path)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as exc:
            raise StoreError(
                f"the record cannot be kept in {str(path.parent)!r}: {exc.strerror or exc}",
                hint="Make room, or name another data folder (EVENHAND_DATA_DIR).",
            ) from exc
        return path

    def load(self, fingerprint: str) -> list[Record]:
        """The records of one judge, by kind and name; none where nothing was measured.

        Raises `StoreError` for a file that is no record.
        """
        return [r for r in self._read(fingerprint[:16]) if r.fingerprint == fingerprint]

    def all(self) -> list[Record]:
        """The records of every judge, the newest first. Raises as `load`."""
        try:
            folders = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise _unreadable(self.folder, exc) from exc
        found = [record for folder in sorted(folders) for record in self._read(folder)]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def get(self, kind: Kind, id: str) -> Record:
        """The record of an id. Raises `NotFound`."""
        folder, _, _ = id.partition(".")
        for record in self._read(folder):
            if (record.kind, record.id) == (kind, id):
                return record
        raise NotFound(f"there is no {kind} {id!r}", hint="Ask for the list of them.")

    def _read(self, folder: str) -> Iterator[Record]:
        if not _FOLDER.fullmatch(folder):  # a word of a caller's must not lead elsewhere
            return
        for path in sorted((self.folder / folder).glob("*.json")):
            try:
                yield Record.model_validate_json(path.read_text(encoding="utf-8"))
            except OSError as exc:
                raise _unreadable(path, exc) from exc
            except (ValidationError, UnicodeDecodeError) as exc:
                raise StoreError(
                    f"{str(path)!r} is not a record of a judge", hint="Move it elsewhere."
                ) from exc

    def _path(self, record: Record) -> Path:
        name = f"{record.kind}-{_slug(record.name)}.json"
        return self.folder / record.fingerprint[:16] / name


def kept_in(data_dir: str | Path) -> Evidence:
    """The evidence of a data folder, which stands beside its audits."""
    return Evidence(Path(data_dir) / "judges")


def known(data_dir: str | Path) -> list[Record]:
    """All that was measured: what ships, and what is kept in a data folder. Raises as `load`."""
    return [*shipped(), *kept_in(data_dir).all()]


def shipped() -> list[Record]:
    """What was measured of the bundled judge before it was shipped (`make evidence`)."""
    folder = resources.files("evenhand.judge") / "measured"
    return [
        Record.model_validate_json(entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".json")
    ]


def record_id(fingerprint: str, name: str) -> str:
    """The `Record.id` of what is saved under these."""
    return f"{fingerprint[:16]}.{_slug(name)}"


def _slug(name: str) -> str:
    """A name for a file: another for every name, whatever letters it is written in."""
    slug = _UNSAFE.sub("-", name.lower()).strip("-.")[:_LONGEST]
    if slug == name:
        return slug
    return f"{slug}-{hashlib.sha256(json.dumps(name).encode()).hexdigest()[:8]}".lstrip("-")


def _unreadable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{str(path)!r} cannot be read: {error.strerror or error}", hint="Check its permissions."
    )
