"""What the README shows works: its Python blocks and its curl session, on the bundled models."""

from __future__ import annotations

import json
import re
import shlex
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from evenhand.api.app import server
from evenhand.api.cli.app import app
from evenhand.api.settings import Settings

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"

pytestmark = pytest.mark.engine


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A service on the bundled models, on a free port."""
    runner = server(Settings(port=0, log_level="error", n_threads=2))
    thread = threading.Thread(target=runner.run)
    thread.start()
    while not runner.started:
        time.sleep(0.01)
    port = runner.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    while httpx.get(f"{url}/readyz").status_code != 200:
        time.sleep(0.05)
    yield url
    runner.should_exit = True
    thread.join(30)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: b.split("\n")[0])
def test_python_blocks_run(block: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.replace(ADDRESS, address), "README.md", "exec"), {})
    assert re.search(r"\b\w+_(answer|refusal)\b|\brefusal\b", capsys.readouterr().out)


def test_the_curl_session_answers_as_it_says(address: str) -> None:
    (session,) = blocks("console")
    seen = []
    for call in session.split("$ ")[1:]:
        # What it prints begins at the first line that opens a bracket at the margin.
        command, shown = re.split(r"\n(?=[\[{])", call, maxsplit=1)
        words = shlex.split(command.replace("\\\n", " ").split("|")[0])
        url = next(w for w in words if w.startswith(ADDRESS))
        body = json.loads(words[words.index("-d") + 1])
        reply = httpx.post(url.replace(ADDRESS, address), json=body)
        assert reply.status_code == 200, reply.text
        seen.append(url.removeprefix(ADDRESS))
        # Where the session ends in a jq filter, the shown line is part of the reply.
        labels = re.findall(r'"(\w+_answer|\w*refusal)"', shown)
        assert labels, shown
        assert labels[0] in reply.text
    assert seen == ["/v1/respond", "/v1/judge", "/v1/judge/batch"]


def test_every_command_that_it_names_exists() -> None:
    named = {
        shlex.split(line)[1]
        for block in blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("evenhand ")
    }
    assert {"ask", "judge", "generate", "serve", "taxonomies", "models"} <= named
    for verb in named:
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb
