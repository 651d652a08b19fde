"""A verdict: what a judge says of one response, or why it says nothing.

Only `judged` has a label. The model refuses to be built otherwise, so that a failure can never
travel as a label (DESIGN, promise 1).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evenhand.schemas.errors import EvenhandError

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Status(StrEnum):
    """What became of a judgement."""

    JUDGED = "judged"
    ABSTAINED = "abstained"
    TRUNCATED = "truncated"
    ERROR = "error"


class Failure(BaseModel):
    """Why there is no label: a stable code, a message, and how to mend it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Describe any exception; those that are not ours get the code `internal_error`."""
        if isinstance(error, EvenhandError):
            return cls(code=error.code, message=error.message, hint=error.hint)
        return cls(
            code="internal_error",
            message=f"{type(error).__name__}: {error}",
            hint="Please report this with the steps that led here.",
        )


class Verdict(BaseModel):
    """The outcome of judging one response against one taxonomy.

    `probabilities` holds every label of the taxonomy and sums to 1; it is `None` where the judge
    gives none (a remote server without log-probabilities, a baseline). `mass` is the share of the
    model's own probability that the accepted answers hold, given the answer's forced beginning
    (0 to 1). `margin` is the highest probability less the second highest. `seconds` is the wall
    time from submission to verdict, and is 0 for a verdict that came from the cache.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Status
    label: str | None = None
    probabilities: dict[str, Probability] | None = None
    mass: Probability | None = None
    margin: Probability | None = None
    reason: str | None = None
    taxonomy: str
    taxonomy_version: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    crosswalk: dict[str, str] = {}
    judge: str
    model_sha256: str | None = None
    fingerprint: str
    seconds: Annotated[float, Field(ge=0)] = 0.0
    cached: bool = False
    notes: tuple[str, ...] = ()
    failure: Failure | None = None

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if self.status is Status.JUDGED:
            if self.label is None or self.failure is not None:
                raise ValueError("a judged verdict has a label and no failure")
        else:
            if self.label is not None or self.crosswalk:
                raise ValueError(f"a verdict that is {self.status} has no label")
            if self.failure is None:
                raise ValueError(f"a verdict that is {self.status} says why in `failure`")
        if self.label is not None and self.label not in self.labels:
            raise ValueError(f"{self.label!r} is not among the labels {list(self.labels)}")
        if self.probabilities is not None:
            if set(self.probabilities) != set(self.labels):
                raise ValueError("probabilities name each label of the taxonomy exactly once")
            total = math.fsum(self.probabilities.values())
            if not math.isclose(total, 1.0, abs_tol=1e-6):
                raise ValueError(f"probabilities sum to {total}, not 1")
            if self.label is not None:
                best = max(self.probabilities.values())
                if self.probabilities[self.label] < best:
                    raise ValueError("the label is not the most probable one")
        return self
