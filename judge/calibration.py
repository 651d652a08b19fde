"""Post-hoc calibration of label probabilities: pure functions and one small value.

Temperature and vector scaling after Guo et al., "On Calibration of Modern Neural Networks"
(ICML 2017, section 4.2): probabilities become softmax(scale * log p + bias). Identity by default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evenhand.schemas.errors import InvalidInput
from evenhand.schemas.taxonomy import describe

Method = Literal["identity", "temperature", "vector"]


class Calibration(BaseModel):
    """Per label: a scale on its log-probability (over the set) and a bias in nats."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "identity"
    scale: dict[str, Annotated[float, Field(gt=0)]] = {}
    bias: dict[str, float] = {}
    fitted_on: str = ""
    rows: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if set(self.scale) != set(self.bias):
            raise ValueError("scale and bias name the same labels")
        if (self.method == "identity") != (not self.scale):
            raise ValueError("every method but identity has a scale and a bias for each label")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a calibration file (JSON). Raises `InvalidInput`."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(
                f"calibration file {str(path)!r} cannot be read: {exc}", hint="Check the path."
            ) from exc
        except ValidationError as exc:
            raise InvalidInput(
                f"calibration file {str(path)!r}: {describe(exc)}", hint="Fit it again."
            ) from exc

    def apply(self, log_probs: Mapping[str, float]) -> dict[str, float]:
        """Calibrated probabilities of each label from its log-probability; they sum to 1.

        Raises `InvalidInput` when fitted for other labels.
        """
        labels = list(log_probs)
        if self.scale and set(self.scale) != set(labels):
            raise InvalidInput(
                "the calibration was fitted for other labels",
                hint=f"Fit it for {', '.join(labels)}.",
            )
        logits = np.array([log_probs[label] for label in labels], dtype=np.float64)
        # The largest finite value stands in for an impossible label, so that scaling keeps it last.
        logits = np.maximum(logits - logits.max(), -1e6)
        if self.scale:
            logits = logits * [self.scale[label] for label in labels]
            logits = logits + [self.bias[label] for label in labels]
        weights = np.exp(logits - logits.max())
        return dict(zip(labels, (weights / weights.sum()).tolist(), strict=True))

    def digest_text(self) -> str:
        """Canonical JSON of what changes a probability, for fingerprints."""
        return json.dumps({"scale": self.scale, "bias": self.bias}, sort_keys=True)


IDENTITY = Calibration()


def fit(
    log_probs: np.ndarray,
    gold: Sequence[int],
    labels: Sequence[str],
    *,
    method: Method = "temperature",
    ridge: float = 1e-2,
    fitted_on: str = "",
) -> Calibration:
    """Fit by maximum likelihood with Newton steps on a convex objective.

    `log_probs` is (rows, labels), in nats, in the order of `labels`; `gold` holds label indices.
    `ridge` pulls scales towards 1 and biases towards 0 (a Gaussian prior, so that a label without
    gold rows stays put). Raises `InvalidInput` for shapes that do not match or fewer than 2 rows.
    """
    x = np.asarray(log_probs, dtype=np.float64)
    y = np.asarray(gold, dtype=np.int64)
    if x.ndim != 2 or x.shape != (len(y), len(labels)) or len(y) < 2:
        raise InvalidInput(
            f"log_probs has shape {x.shape} for {len(y)} gold labels and {len(labels)} labels",
            hint="Give one row per gold label and one column per label, two rows at least.",
        )
    if method == "identity":
        return IDENTITY
    x = np.maximum(x - x.max(axis=1, keepdims=True), -1e3)
    k = len(labels)
    # Features per label: its own scaled logit and, for vector scaling, an intercept.
    size = 1 if method == "temperature" else 2 * k
    theta = np.ones(1) if method == "temperature" else np.concatenate([np.ones(k), np.zeros(k)])
    prior = theta.copy()

    def expand(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if method == "temperature":
            return np.full(k, values[0]), np.zeros(k)
        return values[:k], values[k:]

    def features(row: np.ndarray) -> np.ndarray:
        """d logits / d theta, (labels, parameters)."""
        if method == "temperature":
            return row[:, None]
        return np.hstack([np.diag(row), np.eye(k)])

    design = np.stack([features(row) for row in x])  # (rows, labels, parameters)
    onehot = np.eye(k)[y]

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = expand(values)
        logits = x * scale + bias
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-300)).sum()
        return float(loss + 0.5 * ridge * ((values - prior) ** 2).sum()), p

    loss, p = objective(theta)
    for _ in range(100):
        gradient = np.einsum("nl,nlp->p", p - onehot, design) + ridge * (theta - prior)
        spread = np.einsum("nl,nlp->nlp", p, design)
        mean = spread.sum(axis=1)
        hessian = np.einsum("nlp,nlq->pq", spread, design) - mean.T @ mean
        step = np.linalg.solve(hessian + ridge * np.eye(size), gradient)
        rate = 1.0
        while rate > 1e-8:
            candidate = theta - rate * step
            if expand(candidate)[0].min() > 1e-3:  # a scale must stay positive
                new_loss, new_p = objective(candidate)
                if new_loss <= loss:
                    break
            rate /= 2
        else:
            break
        moved = float(np.abs(candidate - theta).max())
        theta, loss, p = candidate, new_loss, new_p
        if moved < 1e-9:
            break
    scale, bias = expand(theta)
    return Calibration(
        method=method,
        scale=dict(zip(labels, scale.tolist(), strict=True)),
        bias=dict(zip(labels, (bias - bias.mean()).tolist(), strict=True)),
        fitted_on=fitted_on,
        rows=len(y),
    )
