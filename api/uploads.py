"""A plan and its file in one multipart body: the plan is held, the file goes to disk as it comes.

Knows the form and the folder. It does not know what a plan may say (`api/plans.py`), nor how large
a body may be (`api/guard.py` refuses one while it arrives).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from evenhand.schemas.audit import Plan
from evenhand.schemas.errors import InvalidInput, StoreError

FOLDER = "uploads"
STALE = 24 * 3600.0  # seconds after which a file that no audit uses was left by a crash

_UNSAFE = re.compile(r"[^\w.-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came with a plan. `name` is what the sender calls it, without folders."""

    name: str
    path: Path
    sha256: str


class Form:
    """A multipart body with the parts `plan` and `file`, fed in pieces; it blocks on the disk.

    After `finish`, `plan` is the plan's text, `toml` says how it is written, and `upload` is the
    file, if there was one. `part` is another name for the plan, which may then be left out. Raises
    `InvalidInput`, and `StoreError` where the disk takes no more. Call `discard` whenever the form
    leads to nothing.
    """

    def __init__(self, content_type: str, data_dir: Path, *, plan_limit: int, part: str = "plan"):
        self._text_part = part
        self._hint = f"curl -F {part}=@{part}.json -F file=@rows.csv sends what is wanted."
        self.plan = b""
        self.toml = False
        self.upload: Upload | None = None
        self._folder = data_dir / FOLDER / uuid.uuid4().hex
        self._plan_limit = plan_limit
        self._seen: set[str] = set()
        self._headers: dict[str, bytes] = {}
        self._field = self._value = b""
        self._part, self._name = "", ""
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._complete = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise InvalidInput("the multipart body names no boundary", hint=self._hint)
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_field,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._open,
                    "on_part_data": self._on_data,
                    "on_part_end": self._close,
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise InvalidInput(f"the body is not a form: {exc}", hint=self._hint) from exc

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise InvalidInput(f"the body is not a form: {exc}", hint=self._hint) from exc
        except OSError as exc:
            raise _no_room(exc) from exc

    def finish(self) -> None:
        """Check that everything came."""
        if not self._complete:
            raise InvalidInput("the multipart body breaks off", hint="Send it again.")
        if self._text_part == "plan" and "plan" not in self._seen:
            raise InvalidInput("the form has no part `plan`", hint=self._hint)

    def discard(self) -> None:
        """Close and remove the file."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- part by part -------------------------------------------------------------------------

    def _begin(self) -> None:
        self._headers = {}

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value
        self._field = self._value = b""

    def _open(self) -> None:
        """The headers of a part are there: see which it is."""
        options = parse_options_header(self._headers.get("content-disposition", b""))[1]
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._part not in (self._text_part, "file") or self._part in self._seen:
            what = "comes twice" if self._part in self._seen else "is not wanted"
            raise InvalidInput(f"the part {self._part[:80]!r} of the form {what}", hint=self._hint)
        self._seen.add(self._part)
        if self._part == self._text_part:
            kind = self._headers.get("content-type", b"").partition(b";")[0].strip().lower()
            self.toml = kind == b"application/toml" or filename.lower().endswith(".toml")
            return
        self._name = filename.replace("\\", "/").rpartition("/")[2]
        if not self._name:
            raise InvalidInput("the part `file` has no file name", hint=self._hint)
        data_dir = self._folder.parent.parent
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)  # as the store makes it
        self._folder.mkdir(parents=True)
        self._file = (self._folder / _safe(self._name)).open("xb")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._file is not None:
            self._digest.update(piece)
            self._file.write(piece)
        elif len(self.plan) + len(piece) > self._plan_limit:
            raise InvalidInput(
                f"the part {self._text_part!r} is larger than {self._plan_limit:,} bytes",
                hint="Put prompts into a file, or raise EVENHAND_MAX_BODY (bytes).",
            )
        else:
            self.plan += piece

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            path = Path(self._file.name)
            self.upload, self._file = Upload(self._name, path, self._digest.hexdigest()), None

    def _end(self) -> None:
        self._complete = True


def discard(path: Path) -> None:
    """Remove the file of an upload, with the folder that is its own."""
    shutil.rmtree(path.parent, ignore_errors=True)


def of_plan(plan: Plan, data_dir: Path) -> Iterator[Path]:
    """The file that came with a plan, if one did: none that the command line named."""
    uploads = (data_dir / FOLDER).resolve()  # the folder may be reached by a link by now
    for section in (plan.prompts, plan.responses):
        if section is not None and Path(section.file).parent.parent.resolve() == uploads:
            yield Path(section.file)


def discard_stale(data_dir: Path, used: Iterable[Path]) -> None:
    """Remove what a service that was killed left behind: old, and of no audit."""
    kept = {path.parent.name for path in used}  # each has a name of its own, wherever it is found
    for folder in (data_dir / FOLDER).glob("*"):
        if folder.name not in kept and _age(folder) > STALE:
            shutil.rmtree(folder, ignore_errors=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0


def _safe(name: str) -> str:
    """A file name that means nothing to the file system, with the suffix that tells the format."""
    path = PurePath(_UNSAFE.sub("_", name).lstrip(".") or "file")
    return f"{path.stem[:100]}{path.suffix[:20]}"


def _no_room(error: OSError) -> StoreError:
    return StoreError(
        f"the file cannot be kept: {error.strerror or error}",
        hint="Make room on the service's disk, or check the rights of EVENHAND_DATA_DIR.",
    )
