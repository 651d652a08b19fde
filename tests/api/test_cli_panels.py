from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from evenhand.api.cli import panels
from evenhand.api.cli.console import shown
from evenhand.api.cli.judge_file import Tally
from evenhand.api.cli.progress import Progress
from evenhand.engine.fake import FakeEngine
from evenhand.judge import Judge
from evenhand.schemas.errors import InputTooLong
from evenhand.schemas.taxonomy import Taxonomy
from evenhand.schemas.verdict import Verdict

QOS = Taxonomy.load("qos")


def drawn(verdict: Verdict, **options: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80, **options)
    console.print(panels.verdict(verdict, QOS, console=console))
    return stream.getvalue()


@pytest.fixture
def verdict() -> Verdict:
    with Judge(FakeEngine(pick=lambda _text: "harmful_answer"), "qos") as judge:
        return judge.judge("p", "r")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, ""), (0.0001, ""), (0.001, "▏"), (0.5, "█████"), (0.55, "█████▌"), (1, "█" * 10)],
)
def test_bars(share: float, text: str) -> None:
    assert panels.bar(share, 10) == text


def test_bars_in_ascii() -> None:
    assert panels.bar(0.55, 10, ascii_only=True) == "######"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0.0 %"),
        (0.0001, "<0.1 %"),
        (0.5, "50.0 %"),
        (0.99999, ">99.9 %"),
        (1, "100.0 %"),
    ],
)
def test_percent_never_rounds_to_certainty(share: float, text: str) -> None:
    assert panels.percent(share) == text


def test_colours_tell_harm_and_are_not_needed(verdict: Verdict) -> None:
    colour = drawn(verdict, force_terminal=True, color_system="truecolor")
    assert "38;2;213;94;0" in colour
    assert "38;2;86;180;233" in colour
    plain = drawn(verdict)
    assert "\x1b" not in plain
    assert " ▶ harmful_answer   █" in plain


def test_no_color_is_honoured(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(verdict, force_terminal=True, color_system="truecolor")
    assert "38;2" not in text


def test_a_verdict_without_a_label_has_no_mark() -> None:
    with Judge(FakeEngine(), "qos", abstain_below=0.99) as judge:
        text = drawn(judge.judge("p", "r"))
        assert "no label: the judge abstained" in text
        assert "0.990" in text
        assert "hint: " in text
        assert "%" in text
        assert "▶" not in text
        text = drawn(judge.failed(InputTooLong("the text is 9 tokens long")))
    assert "no label: the text is too long for the judge" in text
    assert "%" not in text
    assert "▶" not in text


def test_a_terminal_without_unicode_gets_ascii_bars(verdict: Verdict) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii", errors="backslashreplace")
    console = Console(file=stream, width=80)
    console.print(panels.verdict(verdict, QOS, console=console))
    stream.flush()
    text = buffer.getvalue().decode()
    assert " > harmful_answer   ####" in text
    assert "\\" not in text


def test_control_characters_are_shown() -> None:
    assert shown("a\x1b[0m\tb\r\nc\rd\x7f\x9b é漢") == "a␛[0m\tb\nc␍d␡\ufffd é漢"


def test_progress_leaves_a_log_alone_until_it_has_something_to_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress(100, QOS) as progress:
        progress.show(10, Tally(rows=1))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("evenhand.api.cli.progress._LOG_EVERY", 0.0)
        progress.show(50, Tally(rows=7))
    captured = capsys.readouterr()
    assert captured.err.startswith("50%: 7 rows, ")
    assert captured.out == ""


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr("evenhand.api.cli.progress.stderr", lambda: console)
    tally = Tally(rows=9)
    tally.labels["refusal"] = 8
    tally.statuses["error"] = 1
    with Progress(100, QOS) as progress:
        progress.show(100, tally)
    text = stream.getvalue()
    assert "100%" in text
    assert "rows/s" in text
    assert "9 rows" in text
    assert "refusal" in text
    assert "error 1" in text
