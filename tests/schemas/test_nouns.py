"""Small nouns: sampling settings, requests, fingerprints, the error tree."""

from __future__ import annotations

import inspect
import math

import pytest
from pydantic import ValidationError

from evenhand.schemas import Sampling, errors
from evenhand.schemas.fingerprint import fingerprint_of
from evenhand.schemas.generation import SEED_LIMIT
from evenhand.schemas.requests import GenerateRequest


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": math.nan},
        {"temperature": -0.1},
        {"top_p": 0},
        {"top_p": math.nan},
        {"min_p": 1.1},
        {"max_tokens": 0},
        {"seed": -1},
        {"seed": SEED_LIMIT},
        {"stop": [""]},
        {"stop": ["x"] * 17},
        {"repeat_penalty": 0},
        {"unknown": 1},
    ],
)
def test_sampling_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sampling.model_validate(settings)


def test_a_request_lays_its_fields_over_the_defaults() -> None:
    defaults = Sampling(top_k=7, repeat_last_n=5)
    request = GenerateRequest(prompt="p", temperature=0.0, stop=["X"], n=3)
    assert request.sampling(defaults) == Sampling(
        top_k=7, repeat_last_n=5, temperature=0.0, stop=("X",)
    )


def test_fingerprints_depend_on_names_and_values_not_on_order() -> None:
    assert fingerprint_of(a=1, b=2) == fingerprint_of(b=2, a=1)
    assert len({fingerprint_of(a=1), fingerprint_of(a="1"), fingerprint_of(b=1)}) == 3
    assert len(fingerprint_of(a="\ud800")) == 64
    with pytest.raises(ValueError, match="JSON"):
        fingerprint_of(a=math.nan)


def test_every_error_has_a_code_of_its_own_and_a_place_in_the_tree() -> None:
    classes = [
        c
        for _, c in inspect.getmembers(errors, inspect.isclass)
        if issubclass(c, errors.EvenhandError)
    ]
    assert len({c.code for c in classes}) == len(classes)
    for c in classes:
        assert c.__name__ in (errors.__doc__ or "")
        if c is not errors.EvenhandError:
            assert issubclass(c, errors.RequestError | errors.RetryableError | errors.InternalError)
        assert c("m").message == "m"
        assert c("m", hint="h").hint == "h"
