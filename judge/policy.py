"""When a judge that has probabilities says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evenhand.schemas.errors import SettingsError
from evenhand.schemas.verdict import Failure


@dataclass(frozen=True, slots=True)
class Policy:
    """The least probability of the best label, and the least in-taxonomy mass, for a verdict."""

    abstain_below: float = 0.0
    mass_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("abstain_below", "mass_floor"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise SettingsError(f"{name} is {value}", hint="Give a number from 0 to 1.")

    def objection(
        self, probabilities: Mapping[str, float] | None, mass: float | None
    ) -> Failure | None:
        """Why to abstain, or None. Confidence that cannot be known is not taken for enough."""
        if mass is not None and mass < self.mass_floor:
            return Failure(
                code="low_mass",
                message=f"the labels hold {mass:.2g} of the model's probability, "
                f"less than {self.mass_floor:.2g}",
                hint="Use a judge template or a model that answers in the taxonomy's terms.",
            )
        if self.abstain_below == 0.0:
            return None
        if probabilities is None:
            return Failure(
                code="unknown_confidence",
                message="abstain_below is set, and there are no label probabilities to compare",
                hint="Use a judge that gives probabilities, or set abstain_below to 0.",
            )
        best = max(probabilities.values())
        if best < self.abstain_below:
            return Failure(
                code="low_confidence",
                message=f"the best label has probability {best:.3f}, "
                f"less than {self.abstain_below:.3f}",
                hint="Have a person look at it, or lower abstain_below.",
            )
        return None
