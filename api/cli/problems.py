"""Errors on the command line: a message and a hint on stderr, and an exit code that tells kinds."""

from __future__ import annotations

import json
import sys

from evenhand.api.problems import TYPE_PREFIX
from evenhand.schemas.errors import EvenhandError, RequestError, RetryableError

FAILED, BAD_REQUEST, TRY_AGAIN = 1, 2, 3


def exit_code(error: EvenhandError) -> int:
    """2: mend the request. 3: try again later. 1: anything else."""
    if isinstance(error, RequestError):
        return BAD_REQUEST
    return TRY_AGAIN if isinstance(error, RetryableError) else FAILED


def show_problem(error: Exception, *, as_json: bool) -> None:
    """Write an error to stderr, as JSON in the manner of RFC 9457 where that is wanted."""
    from rich.text import Text

    from evenhand.api.cli.console import shown, stderr

    if isinstance(error, EvenhandError):
        code, message, hint = error.code, error.message, error.hint
        status = exit_code(error)
    else:  # a wrong option, from the parser
        code, hint, status = "usage", "See --help.", BAD_REQUEST
        message = error.format_message() if hasattr(error, "format_message") else str(error)
    if as_json:
        problem = {
            "type": TYPE_PREFIX + code,
            "title": code.replace("_", " ").capitalize(),
            "detail": message,
            "code": code,
            "hint": hint,
            "exit_code": status,
        }
        sys.stderr.write(json.dumps(problem, ensure_ascii=False) + "\n")
        return
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), shown(message)), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("hint:  ", "bold"), shown(hint)), soft_wrap=True)
