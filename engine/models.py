"""From a model reference to a checked file with its sha256.

Knows `bundled:NAME`, paths, and `hf:OWNER/REPO:FILE[@REVISION]` (through huggingface_hub). It does
not load models.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from evenhand.engine import gguf
from evenhand.schemas.errors import ModelFileError, ModelNotFound, RemoteError

Progress = Callable[[str], None]

_HUB = re.compile(r"hf:(?P<repo>[^/:@\s]+/[^/:@\s]+):(?P<file>[^:@\s]+)(?:@(?P<revision>\S+))?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_HASH = re.compile(r"[0-9a-f]{64}")
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file whose header was checked. `reference` is what the user called it."""

    reference: str
    path: Path
    sha256: str
    revision: str | None = None


def bundled() -> dict[str, Path]:
    """The models that ship with evenhand, by name."""
    folder = Path(str(resources.files("evenhand.engine"))) / "bundled"
    return {path.stem: path for path in sorted(folder.glob("*.gguf"))}


def default_cache_dir() -> Path:
    """Where hashes and compiled constraints are kept: `~/.cache/evenhand`."""
    return Path.home() / ".cache" / "evenhand"


def resolve(
    reference: str,
    *,
    offline: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> ModelFile:
    """Find, check and hash the file behind a reference.

    Raises `ModelNotFound`, `ModelFileError`, and `RemoteError` where a download fails.
    """
    say = progress or (lambda _words: None)
    revision: str | None = None
    if reference.startswith("bundled:"):
        name = reference.removeprefix("bundled:")
        models = bundled()
        if name not in models:
            raise ModelNotFound(
                f"there is no bundled model called {name!r}",
                hint=f"Use one of {', '.join(f'bundled:{n}' for n in models)}.",
            )
        path = models[name]
    elif reference.startswith("hf:"):
        path, revision = _from_hub(reference, offline=offline, say=say)
    else:
        path = _local(reference)
    try:
        gguf.check(path)
        sha256 = _sha256(path, cache_dir or default_cache_dir(), say)
    except OSError as exc:
        raise ModelFileError(
            f"the model file {path.name} cannot be read: {exc.strerror}",
            hint="Check the file's permissions.",
        ) from exc
    return ModelFile(reference, path, sha256, revision)


def _local(reference: str) -> Path:
    try:
        path = Path(reference).expanduser()
        if path.is_file():
            return path
        what = "is a folder" if path.is_dir() else "does not exist"
    except (OSError, RuntimeError) as exc:  # a name too long, a folder closed to us, no such ~user
        what = f"cannot be reached: {exc}"
    raise ModelNotFound(f"the model file {reference!r} {what}")


def _from_hub(reference: str, *, offline: bool, say: Progress) -> tuple[Path, str]:
    """Download (or find in the hub's cache) and return the path and the commit it came from."""
    match = _HUB.fullmatch(reference)
    if match is None:
        raise ModelNotFound(
            f"{reference!r} is not a hub reference",
            hint="Write hf:OWNER/REPO:FILE.gguf or hf:OWNER/REPO:FILE.gguf@REVISION.",
        )
    if _SHARD.search(match["file"]):
        raise ModelNotFound(
            f"{match['file']} is one shard of a split model",
            hint="Choose a file that is whole, or merge the shards with llama-gguf-split.",
        )
    # Imported here: it is slow to import, and only hub references need it.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    say(f"fetching {match['file']} of {match['repo']}")
    try:
        path = Path(
            hf_hub_download(
                match["repo"],
                match["file"],
                revision=match["revision"],
                local_files_only=offline,
            )
        )
    except LocalEntryNotFoundError as exc:
        if offline:
            raise ModelNotFound(
                f"{reference} is not in the local cache, and downloads are switched off",
                hint="Unset EVENHAND_OFFLINE, or give the path of a local file.",
            ) from exc
        raise RemoteError(
            f"the hub cannot be reached for {reference}: {exc}",
            hint="Check the network, or give the path of a local file.",
        ) from exc
    except RepositoryNotFoundError as exc:
        raise ModelNotFound(
            f"the hub has no repository {match['repo']} that you may read",
            hint="Check the name; for a gated repository, log in with `hf auth login`.",
        ) from exc
    except (RevisionNotFoundError, EntryNotFoundError) as exc:
        raise ModelNotFound(
            f"{match['repo']} has no {match['file']} at revision {match['revision'] or 'main'}",
            hint="Look at the repository's list of files.",
        ) from exc
    except HFValidationError as exc:
        raise ModelNotFound(
            f"{reference!r} is not a hub reference: {exc}",
            hint="Check the owner's and the model's name.",
        ) from exc
    except Exception as exc:  # whichever HTTP client the hub's library uses has errors of its own
        raise RemoteError(f"downloading {reference} failed: {exc}") from exc
    # The hub's cache is laid out as snapshots/COMMIT/FILE.
    depth = len(Path(match["file"]).parts)
    return path, path.parts[-depth - 1]


def _sha256(path: Path, cache_dir: Path, say: Progress) -> str:
    """Hash of the file; remembered by path, size and time of change, since it takes seconds."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_dir / "sha256.json"
    known: dict[str, str] = {}
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if _HASH.fullmatch(found := known.get(key, "")):
            return found
    except (OSError, ValueError, AttributeError, TypeError):
        known = {}  # no memory, or a damaged one: hash again
    if stat.st_size > 2**28:
        say(f"hashing {path.name} ({stat.st_size / 2**30:.1f} GiB)")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    known[key] = digest.hexdigest()
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{id(digest)}.tmp")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(memory)
    except OSError:
        pass  # a read-only home only costs time
    return digest.hexdigest()
