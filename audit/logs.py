"""Reads the sample logs of other evaluations as rows of responses: lm-evaluation-harness, Inspect.

Knows their layouts: `--log_samples` of lm-eval (JSON Lines, a line for each document and filter)
and Inspect's logs (`.json`, or `.eval`, a zip with one JSON file a sample). Each response becomes a
`Row` with `id`, `sample`, `prompt` and `response`, `system` and `model` where the log has them, and
the log's own fields beside them (`doc`, `target`, `metadata`, `scores`) for paths such as
`metadata.group`. A sample without a response is a row with a problem, and reading goes on. Logs are
streamed; transcripts and events are stepped over and never held.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from evenhand.audit.datasets import SAMPLE, JsonLines, Rows, open_rows
from evenhand.audit.rows import Row, kind
from evenhand.audit.scan import CHUNK, Broken, Scan
from evenhand.schemas.audit import Format
from evenhand.schemas.errors import DatasetError

# What is kept of an Inspect sample. Messages, events and stores can be a thousand times as long.
_FIELDS = ("id", "epoch", "input", "target", "output", "metadata", "scores", "error")
_SAMPLE_FILE = re.compile(r"samples/(?:[^/]+\.json|.+/sample\.json)")
_LM_EVAL = ("doc_id", "arguments", "resps")
_ROW_HINT = "Drop the sample from the log, or leave it: it will count as one without a verdict."
_ZSTD_HINT = (
    "Install backports.zstd, use Python 3.14, or convert the log: "
    "`inspect log convert LOG --to json --output-dir FOLDER`."
)


def open_responses(
    path: str | Path, format: Format | None = None, needs: Sequence[str] = ()
) -> Rows:
    """Open a table or a log of responses, and check that it has the columns that are needed.

    Without `format` the file tells. Raises `DatasetError` for what is wrong with it as a whole.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if format is None:
        format = "inspect" if suffix in (".eval", ".json") else "table"
        if suffix in (".jsonl", ".ndjson") and _is_lm_eval(path):
            format = "lm-eval"
    if format == "table":
        return open_rows(path, needs)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DatasetError(f"the file {str(path)!r} {what}", hint="Check the path.")
    inspect = EvalLog if suffix == ".eval" else JsonLog
    try:
        return LmEvalLog(path, needs) if format == "lm-eval" else inspect(path, needs)
    except OSError as exc:
        raise DatasetError(
            f"{path.name!r} cannot be read: {exc.strerror or exc}", hint="Check its permissions."
        ) from exc


def _is_lm_eval(path: Path) -> bool:
    with open_rows(path) as rows:
        first = next((row for row in rows if row.problem is None), None)
    return first is not None and all(key in first.data for key in _LM_EVAL)


class _Log(Rows):
    """A log, read anew on each iteration, so that a look at its first rows costs nothing."""

    def __init__(self, path: Path, needs: Sequence[str]):
        self.path = path
        sample = list(itertools.islice(self, SAMPLE))
        if not sample:
            raise DatasetError(f"{path.name!r} has no samples", hint="Check what wrote it.")
        good = [row for row in sample if row.problem is None]
        for column in needs:
            if good and not any(row.has(column) for row in good):
                keys = dict.fromkeys(key for row in good for key in row.data)
                raise DatasetError(
                    f"{path.name!r} has no column {column!r}; its rows have: {', '.join(keys)}",
                    hint="Name one of these in the plan's columns, or a path into one.",
                )

    @abstractmethod
    def __iter__(self) -> Iterator[Row]: ...


# -- lm-evaluation-harness ------------------------------------------------------------------------


class LmEvalLog(_Log):
    """The file that `--log_samples` writes for one task. Responses are read before any filter."""

    def __init__(self, path: Path, needs: Sequence[str] = ()):
        with JsonLines(path, _LM_EVAL) as lines:
            self.total = lines.total
        super().__init__(path, needs)

    def __iter__(self) -> Iterator[Row]:
        kept: list[object] = []
        with JsonLines(self.path, _LM_EVAL) as lines:
            for row in lines:
                if row.problem is not None:
                    yield row
                    continue
                # A task with several filters logs every document once for each, with the same
                # responses: the first filter's lines stand for all.
                kept = kept or [row.data.get("filter")]
                if row.data.get("filter") == kept[0]:
                    yield from _lm_eval_rows(row)


def _lm_eval_rows(row: Row) -> Iterator[Row]:
    """A row for each response to each request that the document led to."""
    document = row.data
    shared = {key: document[key] for key in ("doc", "target") if key in document}
    if document.get("doc_id") is not None:
        shared["id"] = str(document["doc_id"])
    arguments, responses = document.get("arguments"), document.get("resps")
    if isinstance(arguments, Mapping):  # {"gen_args_0": {"arg_0": prompt, "arg_1": settings}}
        arguments = [arguments[key] for key in arguments]
    if not (isinstance(arguments, list) and isinstance(responses, list)) or (
        not responses or len(arguments) != len(responses)
    ):
        yield _bad(row, shared, "has no requests with a response each")
        return
    number = 0
    for request, answers in zip(arguments, responses, strict=True):
        prompt = _argument(request)
        for answer in answers if isinstance(answers, list) and answers else [answers]:
            data = {**shared, "sample": number}
            number += 1
            if prompt is None:
                yield _bad(row, data, "has a request without a prompt")
            elif not isinstance(answer, str):
                yield _bad(
                    row, data, f"holds {kind(answer)} for a response: does this task generate?"
                )
            else:
                told = _conversation(_chat(prompt))
                yield Row(row.line, row.where, row.at, {**data, **told, "response": answer})


def _argument(request: object) -> str | None:
    """A request's prompt: its first argument, which older versions put in a list."""
    if isinstance(request, Mapping):
        request = request.get("arg_0")
    while isinstance(request, list) and request:  # chat APIs wrap the prompt once more
        request = request[0]
    return request if isinstance(request, str) else None


def _chat(prompt: str) -> object:
    """The messages in a prompt for a chat API, which is logged as their JSON."""
    if prompt.startswith('[{"role"'):
        try:
            return json.loads(prompt)
        except (ValueError, RecursionError):
            pass
    return prompt


# -- Inspect --------------------------------------------------------------------------------------


class JsonLog(_Log):
    """An Inspect log in one JSON document."""

    def __init__(self, path: Path, needs: Sequence[str] = ()):
        self.total = path.stat().st_size
        super().__init__(path, needs)

    def __iter__(self) -> Iterator[Row]:
        number = 0  # of the sample that is being read, from 1
        with self.path.open("rb") as file:
            scan = Scan(file)
            try:
                if self.total == 0 or scan.peek() != b"{":
                    raise Broken("it does not begin with {")
                model: object = None
                for key in scan.members():
                    if key == "eval":
                        model = _model(scan)
                    elif key == "samples":
                        number = 1
                        for _ in scan.items():
                            yield _sample_row(scan, number, model)
                            number += 1
                        return  # nothing that follows is needed
                    else:
                        scan.skip()
            except (Broken, ValueError) as exc:
                if number == 0:
                    raise DatasetError(
                        f"{self.path.name!r} is not an Inspect log: {exc}",
                        hint="Give a log that Inspect wrote. Rows in a JSON array are split by "
                        "`jq -c '.[]' OLD.json > NEW.jsonl`.",
                    ) from exc
                where = f"sample {number}"
                problem = DatasetError(
                    f"{where}: the log breaks off here: {exc}", hint="Copy the log again."
                )
                yield Row(number, where, scan.at, {}, raw="", problem=problem)


class EvalLog(_Log):
    """An Inspect log in a zip. A sample that was written twice is read as it was last."""

    unit = "rows"

    def __init__(self, path: Path, needs: Sequence[str] = ()):
        self.path = path
        self._zip = _zip_module()
        with self._open() as archive:
            self.total = len(_sample_files(archive))
        super().__init__(path, needs)

    def __iter__(self) -> Iterator[Row]:
        with self._open() as archive:
            model = self._model(archive)
            for number, name in enumerate(_sample_files(archive), 1):
                yield self._row(archive, number, name, model)

    def _row(self, archive: zipfile.ZipFile, number: int, name: str, model: object) -> Row:
        where = f"sample {number}"
        try:
            with closing(archive.open(name)) as file:
                row = _sample_row(Scan(file), number, model, at=number)
                while file.read(CHUNK):
                    pass  # the checksum is compared at the end of the file
                return row
        except NotImplementedError as exc:
            raise self._unreadable(exc) from exc
        except Exception as exc:  # each method of compression has errors of its own
            problem = DatasetError(f"{where} ({name}): {exc}", hint=_ROW_HINT)
            return Row(number, where, number, {}, raw="", problem=problem)

    def _open(self) -> zipfile.ZipFile:
        try:
            archive: zipfile.ZipFile = self._zip.ZipFile(self.path)
        except (self._zip.BadZipFile, OSError) as exc:
            raise DatasetError(
                f"{self.path.name!r} is not an Inspect log: {exc}", hint="Copy the log again."
            ) from exc
        return archive

    def _model(self, archive: zipfile.ZipFile) -> object:
        """What responded. A log whose run was cut off has no header, but says it at its start."""
        names = archive.namelist()
        for name in ("header.json", "_journal/start.json"):
            if name not in names:
                continue
            try:
                with closing(archive.open(name)) as file:
                    scan = Scan(file)
                    for key in scan.members():
                        if key == "eval":
                            return _model(scan)
                        scan.skip()
            except NotImplementedError as exc:
                raise self._unreadable(exc) from exc
            except Exception:  # the samples may be sound; rows without a model take the plan's
                return None
        return None

    def _unreadable(self, cause: NotImplementedError) -> DatasetError:
        return DatasetError(
            f"{self.path.name!r} is compressed in a way that this Python cannot read ({cause})",
            hint=_ZSTD_HINT,
        )


def _zip_module() -> ModuleType:
    """Python's own `zipfile`, or the one that reads Zstandard before Python 3.14, if it is here."""
    try:
        return importlib.import_module("backports.zstd.zipfile")
    except ImportError:
        return zipfile


def _sample_files(archive: zipfile.ZipFile) -> list[str]:
    """The samples, each once: one file each, or the outer one of a sample kept in pieces."""
    names = dict.fromkeys(archive.namelist())
    return [name for name in names if _SAMPLE_FILE.fullmatch(name)]


def _model(scan: Scan) -> object:
    """The model in the description of a run, which is all that is kept of it."""
    model = None
    for key in scan.members():
        if key == "model":
            model = scan.value()
        else:
            scan.skip()
    return model


def _sample_row(scan: Scan, number: int, model: object, at: int | None = None) -> Row:
    """One sample of an Inspect log, wherever it lies; `at` is told by the scan if not given.

    Raises `Broken`.
    """
    where = f"sample {number}"
    if scan.peek() != b"{":
        scan.skip()
        return _bad(Row(number, where, at or scan.at, {}), {}, "is not an object")
    sample: dict[str, Any] = {}
    fault: str | None = None
    for key in scan.members():
        if key not in _FIELDS:
            scan.skip()
            continue
        try:
            sample[key] = scan.value()
        except ValueError as exc:
            fault = f"has a value for {key!r} that cannot be read ({exc})"
    output = sample.get("output")
    model = model or (output.get("model") if isinstance(output, Mapping) else None)
    known = {
        "id": None if sample.get("id") is None else str(sample["id"]),
        "sample": sample.get("epoch"),
        "model": model if isinstance(model, str) and model else None,
        **{key: sample.get(key) for key in ("target", "metadata", "scores")},
    }
    data = {key: value for key, value in known.items() if value is not None}
    if fault is None and (error := sample.get("error")):
        message = error.get("message") if isinstance(error, Mapping) else error
        fault = f"ended with an error: {str(message)[:200]}"
    told = _conversation(sample.get("input"))
    response = _completion(output)
    if fault is None and "prompt" not in told:
        fault = "has no input text"
    if fault is None and response is None:
        fault = "has no response"
    if fault is None and "attachment://" in (told["prompt"][:13], str(response)[:13]):
        fault = "keeps its text as an attachment, which is not read"
    if fault is not None:
        return _bad(Row(number, where, at or scan.at, {}), data, fault)
    return Row(number, where, at or scan.at, {**data, **told, "response": response})


def _completion(output: object) -> str | None:
    """The text of the first choice. No choice is no response; an empty text is one."""
    if not isinstance(output, Mapping):
        return None
    choices = output.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    completion = output.get("completion")
    if isinstance(completion, str) and completion:
        return completion
    message = choices[0].get("message") if isinstance(choices[0], Mapping) else None
    return _text(message.get("content")) if isinstance(message, Mapping) else None


# -- what both have -------------------------------------------------------------------------------


def _conversation(said: object) -> dict[str, str]:
    """The `prompt`, and the `system` prompt where there is one, of a text or a list of messages.

    Of several turns each is kept, with the role of who spoke before it.
    """
    if isinstance(said, str):
        return {"prompt": said}
    system: list[str] = []
    turns: list[tuple[str, str]] = []
    for message in said if isinstance(said, list) else []:
        text = _text(message.get("content")) if isinstance(message, Mapping) else None
        if text is None:
            return {}
        role = str(message.get("role"))
        if role == "system":
            system.append(text)
        else:
            turns.append((role, text))
    if not turns:
        return {}
    several = len(turns) > 1
    found = {"prompt": "\n\n".join(f"{who}: {text}" if several else text for who, text in turns)}
    if system:
        found["system"] = "\n\n".join(system)
    return found


def _text(content: object) -> str | None:
    """The text of a message: itself, or the pieces of text in it. None for pictures alone."""
    if isinstance(content, str):
        return content
    pieces = [
        piece["text"]
        for piece in (content if isinstance(content, list) else [])
        if isinstance(piece, Mapping) and isinstance(piece.get("text"), str)
    ]
    return "\n".join(pieces) if pieces else None


def _bad(row: Row, data: Mapping[str, Any], fault: str) -> Row:
    """The row with what is known of it, which is sound, and what is wrong: there is no `raw`."""
    problem = DatasetError(f"{row.where} {fault}", hint=_ROW_HINT)
    return Row(row.line, row.where, row.at, data, problem=problem)
