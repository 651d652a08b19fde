"""evenhand in promptfoo: a model to test, a classifier and an assertion, over a running service.

promptfoo takes these functions by their names from a file that imports them:

    from evenhand.api.plugins.promptfoo import call_api, call_classification_api, get_assert

and hands over the `config` beside it: `url` (left out, port 8000 of this machine), `taxonomy` and
`retries`. The service's key is EVENHAND_JUDGE_API_KEY: promptfoo writes `config` into its results.
What is no verdict is raised. Of a provider or a classifier promptfoo reports
that as an error, but of a Python assertion as a failed test, which docs/examples/promptfoo avoids
with an assertion of its own. Knows promptfoo's contracts; it opens no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evenhand.api.client import Client
from evenhand.api.grade import grade
from evenhand.api.settings import Settings
from evenhand.schemas.errors import EvenhandError, InvalidInput
from evenhand.schemas.requests import GenerateRequest

Json = dict[str, Any]

_SAMPLING = set(GenerateRequest.model_fields) - {"prompt", "n", "stream"}


def call_api(prompt: str, options: Json, _context: Json) -> Json:
    """A response of the service's generator: `output` and `tokenUsage`.

    `config` may also hold `system` and what `POST /v1/generate` takes for sampling.
    """
    config = options.get("config") or {}
    with _client(config) as client:
        sampling = {name: config[name] for name in _SAMPLING & set(config)}
        (found,) = client.generate(prompt, **sampling)
    usage: Json = {"numRequests": 1}
    if found.prompt_tokens is not None and found.completion_tokens is not None:
        asked, said = found.prompt_tokens, found.completion_tokens
        usage |= {"prompt": asked, "completion": said, "total": asked + said}
    return {"output": found.text, "tokenUsage": usage}


def call_classification_api(prompt: str, options: Json) -> Json:
    """The probability of each label, for promptfoo's `classifier` assertion.

    promptfoo gives a classifier the output alone, and a judge reads what was asked as well: the
    assertion's `transform` has to make both into the JSON `{"prompt": ..., "response": ...}`.
    """
    config = options.get("config") or {}
    with _client(config) as client:
        verdict = client.judge(*_pair(prompt), taxonomy=config.get("taxonomy"))
        grade(verdict, verdict.labels)  # raises where there is no label
        if verdict.probabilities is None:
            raise InvalidInput(
                f"the judge {verdict.judge} gives no probabilities",
                hint="Use an assertion that reads the label.",
            )
    return {"classification": verdict.probabilities}


def get_assert(output: Any, context: Json) -> Json:
    """A grade of one output: passed where its label is among `pass` of the assertion's `config`.

    `config` may name the variable that holds what was asked (`prompt`); left out, the whole
    prompt is. An output that is not text is judged as its JSON.
    """
    config = context.get("config") or {}
    with _client(config) as client:
        variable = config.get("prompt")
        asked = context.get("prompt") if variable is None else context["vars"].get(variable)
        if output is None:
            raise InvalidInput("the output is null", hint="Nothing was said to be judged.")
        said = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        if not isinstance(asked, str):
            raise InvalidInput("there is no text of what was asked", hint="Set `prompt` in config.")
        verdict = client.judge(asked, said, taxonomy=config.get("taxonomy"))
        wanted = config.get("pass") or ()
        found = grade(verdict, [wanted] if isinstance(wanted, str) else wanted)
    return {
        "pass": found.passed,
        "score": found.score,
        "reason": found.reason,
        "namedScores": verdict.probabilities or {},
        "metadata": {"verdict": verdict.model_dump(mode="json")},
    }


@contextmanager
def _client(config: Json) -> Iterator[Client]:
    """A client as `config` says; its errors tell the hint as well, which promptfoo would drop."""
    try:
        key = Settings.load().judge_api_key
        with Client(
            config.get("url") or "http://127.0.0.1:8000",
            api_key=key.get_secret_value() if key else None,
            retries=config.get("retries", 6),
        ) as client:
            yield client
    except EvenhandError as exc:
        raise RuntimeError(f"no verdict: {exc} ({exc.code}). {exc.hint}") from None


def _pair(text: str) -> tuple[str, str]:
    try:
        found = json.loads(text)
        prompt, response = found["prompt"], found["response"]
    except (ValueError, TypeError, KeyError):
        raise InvalidInput(
            "the output is not the JSON of a prompt and a response",
            hint="Give the classifier assertion `transform: 'JSON.stringify({prompt: "
            "context.prompt.label, response: output})'`.",
        ) from None
    return prompt, response
