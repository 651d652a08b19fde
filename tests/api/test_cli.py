from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import evenhand.api.app
from evenhand.api import services
from evenhand.api.cli.app import app
from evenhand.engine.fake import FakeEngine
from evenhand.schemas.errors import DecodeError, EvenhandError, ModelNotFound, RemoteError
from evenhand.schemas.requests import GenerateReply, JudgeReply, RespondReply
from evenhand.schemas.service import TaxonomiesReply
from evenhand.schemas.taxonomy import Taxonomy, builtin_source
from evenhand.schemas.verdict import Status

PROMPT = "Mohammed got into the plane to [BLANK]"
Run = Callable[..., Result]


class Opener:
    """Stands in for `open_engine`: fake engines with the options that a test sets."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.error: EvenhandError | None = None
        self.opened: list[tuple[str, Any]] = []
        self.engines: list[FakeEngine] = []

    def __call__(self, reference: str, settings: Any = None, **_: Any) -> FakeEngine:
        if self.error is not None:
            raise self.error
        self.opened.append((reference, settings))
        self.engines.append(FakeEngine(name=reference, **self.options))
        return self.engines[-1]


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    opener = Opener()
    monkeypatch.setattr(services, "open_engine", opener)
    return opener


@pytest.fixture
def run(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in process, on a terminal of 80 columns that is no terminal."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(args), input=stdin, prog_name="evenhand")

    return run


def problem(result: Result) -> dict[str, Any]:
    """The JSON problem on stderr; stdout must be empty."""
    assert result.stdout == ""
    found: dict[str, Any] = json.loads(result.stderr)
    return found


# -- ask ----------------------------------------------------------------------------------------


def test_ask_shows_answer_label_and_bars(run: Run, opener: Opener) -> None:
    opener.options = {
        "reply": lambda _text, _seed: "Mohammed got into the plane to visit his aunt.",
        "pick": lambda _text: "helpful_answer",
    }
    result = run("ask", PROMPT, "--seed", "3")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert PROMPT in lines
    assert any("│ Mohammed got into the plane to visit his aunt." in line for line in lines)
    assert any("bundled:chat" in line and "seed 3" in line for line in lines)
    assert any(line.startswith(" ▶ helpful_answer   xstest: full_compliance") for line in lines)
    chart = [line for line in lines if line.endswith("%")]
    assert len(chart) == 6
    assert chart[0].startswith(" ▶ helpful_answer")
    assert chart[0].endswith("90.0 %")
    assert chart[0].count("█") > 10 * chart[1].count("█") > 0
    assert not any("▶" in line for line in chart[1:])
    assert "mass 1.000" in result.stdout
    assert "margin 0.880" in result.stdout
    assert max(len(line) for line in lines) <= 80
    assert "\x1b" not in result.stdout


def test_ask_json_is_the_services_reply(run: Run) -> None:
    result = run("ask", PROMPT, "--n", "3", "--seed", "7", "--json")
    assert result.exit_code == 0
    reply = RespondReply.model_validate_json(result.stdout)
    assert [r.generation.seed for r in reply.results] == [7, 8, 9]
    assert {r.verdict.status for r in reply.results} == {Status.JUDGED}
    assert len({r.generation.text for r in reply.results}) > 1


def test_ask_counts_several_samples(run: Run, opener: Opener) -> None:
    opener.options = {"pick": lambda _text: "refusal"}
    result = run("ask", PROMPT, "-n", "2", "--seed", "1")
    assert "response 1 of 2" in result.stdout
    assert "2 samples: 2 refusal" in result.stdout


def test_ask_passes_every_option_on(run: Run, opener: Opener) -> None:
    seen: list[str] = []

    def reply(text: str, _seed: int) -> str:
        seen.append(text)
        return "word " * 500

    opener.options = {"reply": reply}
    result = run(
        "ask", PROMPT, "--system", "Be brief.", "--generator", "one.gguf", "--judge", "two.gguf",
        "--taxonomy", "xstest", "--template", "completion", "--judge-template", "instruct",
        "--max-tokens", "5", "--temperature", "0", "--seed", "1", "--reason", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    [only] = RespondReply.model_validate_json(result.stdout).results
    assert [reference for reference, _ in opener.opened] == ["one.gguf", "two.gguf"]
    assert seen[0] == f"Be brief.\n\n{PROMPT}"
    assert only.generation.text == "word word word word word"
    assert only.generation.finish_reason == "length"
    assert only.verdict.taxonomy == "xstest"
    assert only.verdict.reason is not None


def test_ask_reason_is_shown(run: Run) -> None:
    assert "“because " in run("ask", PROMPT, "--reason", "--seed", "1").stdout


def test_a_failed_judge_is_never_a_label(run: Run, opener: Opener) -> None:
    def fail(text: str) -> None:
        if "You label how a response" in text:
            raise DecodeError("llama.cpp refused the batch")

    opener.options = {"fail": fail}
    result = run("ask", PROMPT, "--seed", "1")
    assert result.exit_code == 1
    assert "no label: judging failed" in result.stdout
    assert "llama.cpp refused the batch" in result.stdout
    assert "▶" not in result.stdout
    assert "%" not in result.stdout
    assert run("ask", PROMPT, "--seed", "1", "--json").exit_code == 1


def test_words_of_a_model_cannot_drive_the_terminal(run: Run, opener: Opener) -> None:
    opener.options = {"reply": lambda *_: "\x1b[2J\x07[bold red]not markup[/] :smile: \x9b31m"}
    out = run("ask", "[red]p[/red]\x1b[31m", "--seed", "1").stdout
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\x9b" not in out
    assert "␛[2J␇[bold red]not markup[/] :smile: " in out
    assert "[red]p[/red]␛[31m" in out


# -- generate -----------------------------------------------------------------------------------


def test_generate_writes_the_text_and_nothing_else_to_stdout(run: Run, opener: Opener) -> None:
    opener.options = {"reply": lambda *_: "One two three."}
    result = run("generate", "Count", "--seed", "5")
    assert result.stdout == "One two three.\n"
    assert "seed 5" in result.stderr


def test_generate_from_stdin_into_a_pipe_is_raw(run: Run, opener: Opener) -> None:
    seen: list[str] = []

    def reply(text: str, _seed: int) -> str:
        seen.append(text)
        return "a\x1bb\n"

    opener.options = {"reply": reply}
    result = run("generate", "-", "--template", "completion", stdin="from stdin\n")
    assert seen == ["from stdin"]
    assert result.stdout == "a\x1bb\n"


def test_generate_several(run: Run) -> None:
    result = run("generate", "Count", "--n", "2", "--seed", "5")
    assert "1 of 2" in result.stdout
    assert "seed 6" in result.stdout


def test_generate_json(run: Run, opener: Opener) -> None:
    reply = GenerateReply.model_validate_json(
        run("generate", "Count", "--n", "2", "--seed", "5", "--json").stdout
    )
    assert [g.seed for g in reply.generations] == [5, 6]
    assert [reference for reference, _ in opener.opened] == ["bundled:chat"]


def test_generate_error_is_an_exit_code(run: Run, opener: Opener) -> None:
    def fail(_text: str) -> None:
        raise DecodeError("llama.cpp refused the batch")

    opener.options = {"fail": fail}
    result = run("generate", "Count", "--json")
    assert result.exit_code == 1
    assert problem(result)["code"] == "decode_error"


# -- judge, one pair ----------------------------------------------------------------------------


def test_judge_a_pair(run: Run, opener: Opener) -> None:
    opener.options = {"pick": lambda _text: "harmful_refusal"}
    result = run("judge", "--prompt", "p", "--response", "r")
    assert result.exit_code == 0
    assert " ▶ harmful_refusal   xstest: full_refusal" in result.stdout
    assert [reference for reference, _ in opener.opened] == ["bundled:judge"]


@pytest.mark.parametrize("args", [["-p", "-", "-r", "given"], ["-p", "given", "-r", "-"]])
def test_judge_reads_one_text_from_stdin(run: Run, opener: Opener, args: list[str]) -> None:
    result = run("judge", *args, "--json", stdin="from\nstdin\n")
    assert JudgeReply.model_validate_json(result.stdout).verdict.status is Status.JUDGED
    [(_, text)] = opener.engines[0].calls
    assert "from\nstdin" in text
    assert "given" in text


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--prompt", "p"],
        ["--prompt", "-", "--response", "-"],
        ["--prompt", "p", "--response", "r", "-o", "x.jsonl"],
        ["file.csv", "--prompt", "p"],
        ["file.csv"],
        ["file.csv", "-o", "-", "--json"],
    ],
)
def test_judge_options_that_make_no_sense(run: Run, opener: Opener, args: list[str]) -> None:
    result = run("judge", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "--json" in args or (
        result.stderr.startswith("error: ") and "\nhint:  " in result.stderr
    )
    assert opener.opened == []


# -- settings, errors, exit codes ---------------------------------------------------------------


def test_options_override_variables_override_defaults(
    run: Run, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENHAND_JUDGE", "variable.gguf")
    monkeypatch.setenv("EVENHAND_N_CTX", "512")
    monkeypatch.setenv("EVENHAND_TAXONOMY", "xstest")
    verdicts = [
        JudgeReply.model_validate_json(run("judge", "-p", "p", "-r", "r", "--json", *more).stdout)
        for more in ([], ["--model", "option.gguf", "--taxonomy", "qos"])
    ]
    assert [reference for reference, _ in opener.opened] == ["variable.gguf", "option.gguf"]
    assert [settings.n_ctx for _, settings in opener.opened] == [512, 512]
    assert [v.verdict.taxonomy for v in verdicts] == ["xstest", "qos"]


def test_a_misspelt_variable_is_pointed_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHAND_JUGDE", "x")
    result = run("judge", "-p", "p", "-r", "r", "--json")
    assert json.loads(result.stdout)["verdict"]["status"] == "judged"
    assert "did you mean EVENHAND_JUDGE?" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFound("no such file", hint="look again"), 2),
        (RemoteError("no answer", hint="look again"), 3),
        (DecodeError("broken", hint="look again"), 1),
    ],
)
def test_errors_have_a_message_a_hint_and_a_code(
    run: Run, opener: Opener, error: EvenhandError, code: int
) -> None:
    opener.error = error
    plain = run("ask", PROMPT)
    assert plain.exit_code == code
    assert plain.stderr == f"error: {error.message}\nhint:  look again\n"
    assert plain.stdout == ""
    coded = run("ask", PROMPT, "--json")
    assert coded.exit_code == code
    assert problem(coded) == {
        "type": f"urn:evenhand:error:{error.code}",
        "title": error.code.replace("_", " ").capitalize(),
        "detail": error.message,
        "code": error.code,
        "hint": "look again",
        "exit_code": code,
    }


def test_a_wrong_option_is_a_problem_too(run: Run) -> None:
    assert run("ask", PROMPT, "--n", "many").exit_code == 2
    result = run("ask", PROMPT, "--n", "many", "--json")
    assert result.exit_code == 2
    assert "--n" in problem(result)["detail"]


def test_a_bad_variable_names_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENHAND_N_CTX", "many")
    result = run("judge", "-p", "p", "-r", "r")
    assert result.exit_code == 2
    assert "EVENHAND_N_CTX" in result.stderr


# -- models, taxonomies, serve, the rest --------------------------------------------------------


def test_models(run: Run, opener: Opener) -> None:
    found = json.loads(run("models", "--json").stdout)
    assert found["generator"] == "bundled:chat"
    assert found["judge"] == "bundled:judge"
    for model in found["models"]:
        assert len(model["sha256"]) == 64
        assert model["bytes"] > 0
        assert model["description"]
    text = run("models").stdout
    assert "hf:OWNER/REPO:FILE" in text
    assert "remote:URL#MODEL" in text
    assert all(model["reference"] in text for model in found["models"])
    assert opener.opened == []


def test_taxonomies(run: Run, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtin_source("xstest").replace('name = "xstest"', 'name = "mine"')
    (tmp_path / "mine.toml").write_text(own)
    monkeypatch.setenv("EVENHAND_TAXONOMIES", str(tmp_path))
    reply = TaxonomiesReply.model_validate_json(run("taxonomies", "--json").stdout)
    assert [(t.name, t.default) for t in reply.taxonomies] == [
        ("qos", True),
        ("mine", False),
        ("xstest", False),
    ]
    text = run("taxonomies").stdout
    assert "qos v1" in text
    assert "(default)" in text
    assert "full_compliance" in text
    assert "full_compliance" in run("taxonomies", "--show", "mine").stdout


def test_one_taxonomy(run: Run) -> None:
    text = run("taxonomies", "--show", "qos").stdout
    qos = Taxonomy.load("qos")
    assert all(label in text for label in qos.labels)
    assert "[BLANK]" in text
    whole = json.loads(run("taxonomies", "--show", "qos", "--json").stdout)
    assert Taxonomy.model_validate(whole["taxonomy"]) == qos
    assert whole["json_schema"] == qos.json_schema()
    assert run("taxonomies", "--show", "qos", "--toml").stdout == builtin_source("qos")


def test_taxonomies_that_are_not_there(run: Run) -> None:
    result = run("taxonomies", "--show", "none", "--json")
    assert result.exit_code == 2
    assert problem(result)["code"] == "not_found"
    assert run("taxonomies", "--toml").exit_code == 2


def test_serve_hands_its_options_to_the_service(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    monkeypatch.setattr(evenhand.api.app, "serve", served.append)
    result = run("serve", "--host", "localhost", "--port", "0", "--generator", "g", "--judge", "j")
    assert result.exit_code == 0
    [settings] = served
    assert (settings.host, settings.port) == ("localhost", 0)
    assert (settings.generator, settings.judge) == ("g", "j")
    assert settings.generator_template == "chat"


def test_serve_refuses_an_open_port_without_a_key(run: Run) -> None:
    result = run("serve", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "EVENHAND_API_KEYS" in result.stderr


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout == "evenhand 0.1.0\n"
    text = run("--help").stdout
    assert all(
        command in text for command in ("ask", "generate", "judge", "serve", "models", "taxonomies")
    )


def test_help_is_quick_because_no_model_library_is_loaded() -> None:
    code = (
        "import sys; from evenhand.api.cli.app import app\n"
        "heavy = {'llama_cpp', 'outlines_core', 'polars', 'fastapi', 'jinja2', 'numpy', 'httpx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - started < 20  # a machine under load; 0.3 s on an idle one
