"""What a design can detect, before it is run: power of the permutation test by simulation.

Knows how responses might vary, but no data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from evenhand.audit.statistics import permutation
from evenhand.audit.statistics.counts import Floats


@dataclass(frozen=True, slots=True)
class Population:
    """How the chance of a hit varies at random: standard deviations on the scale of log odds.

    Between names of one group, between templates, and between the cells of both. A standard
    deviation of 0.5 takes a rate of 20% to 13% and 29%, one of 1 to 8% and 40%.
    """

    name: float = 0.5
    template: float = 0.7
    cell: float = 0.3

    def log_odds(self, rate: float) -> float:
        """The log odds of a typical cell where the rate over all cells is `rate`."""
        nodes, weights = special.roots_hermitenorm(64)
        scale = math.hypot(self.name, self.template, self.cell)

        def excess(at: float) -> float:
            return float(weights @ special.expit(at + scale * nodes) / weights.sum()) - rate

        return float(optimize.brentq(excess, -40.0, 40.0))


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest difference that a design finds with the wanted power, in percentage points.

    `rate` is that of one group, the other's is `points` higher (the harder direction below 50%);
    `power` is what was simulated there. `points` is NaN where no difference is found that often.
    """

    rate: float
    points: float
    power: float


def detectable(
    rate: float,
    *,
    names: int = 8,
    templates: int = 28,
    samples: int = 3,
    tests: int = 1,
    power: float = 0.8,
    alpha: float = 0.05,
    population: Population | None = None,
    trials: int = 400,
    seed: int = 0,
) -> Detectable:
    """The smallest difference between two groups of `names` that audits find with `power`.

    `tests` is the size of the family: a p must reach `alpha / tests`, what Holm asks of the
    smallest. Simulated audits share their random numbers between differences, so that power grows
    with the difference and a bisection finds the place (to a tenth of a point).
    """
    simulated = _Trials(
        rate, names, templates, samples, population or Population(), trials, alpha / tests, seed
    )
    low, high = 0.0, 0.999 - rate
    reached = simulated.power(high)
    if reached < power:
        return Detectable(rate, math.nan, reached)
    while high - low > 0.001:
        middle = (low + high) / 2
        found = simulated.power(middle)
        if found < power:
            low = middle
        else:
            high, reached = middle, found
    return Detectable(rate, 100 * high, reached)


class _Trials:
    """Simulated audits of two groups, of which everything is drawn but the difference."""

    def __init__(
        self,
        rate: float,
        names: int,
        templates: int,
        samples: int,
        population: Population,
        trials: int,
        alpha: float,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        cells = (trials, 2 * names, templates)
        self.rate, self.names, self.population, self.alpha = rate, names, population, alpha
        self.effects: Floats = (
            rng.normal(0, population.name, (trials, 2 * names, 1))
            + rng.normal(0, population.template, (trials, 1, templates))
            + rng.normal(0, population.cell, cells)
        )
        self.uniform = rng.random((samples, *cells))
        self.judged = np.full(2 * names, float(templates * samples))
        blocks, self.number, self.exact = permutation.assignments(
            (names, names), max(2_000, math.ceil(20 / alpha)), rng
        )
        step = max(1, permutation.BLOCK // (4 * trials))
        self.blocks = [b[i : i + step] == 0 for b in blocks for i in range(0, len(b), step)]

    def power(self, difference: float) -> float:
        """The share of audits in which this difference is significant."""
        at = np.repeat(
            [self.population.log_odds(self.rate + d) for d in (difference, 0.0)], self.names
        )
        chances = special.expit(self.effects + at[:, None])
        hits = (self.uniform < chances).sum((0, -1)).T.astype(np.float64)  # names, trials
        totals = permutation.Totals.of(hits, self.judged)
        total, here = totals.columns.sum(0), totals.columns[: self.names].sum(0)
        sizes = (self.names, self.names)
        observed = permutation.distance(totals, here, total - here, sizes)
        extreme = np.zeros(totals.metrics)
        for block in self.blocks:
            sums = block @ totals.columns
            away = permutation.distance(totals, sums, total - sums, sizes)
            extreme += permutation.as_far(away, observed)
        p = permutation.p_values(extreme, True, self.number, self.exact)
        return float(np.mean([x.raw <= self.alpha for x in p]))
