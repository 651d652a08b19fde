"""Error rates of the audit's statistics, on simulated audits whose truth is known.

Names and templates are drawn anew for each audit, and so is what goes unjudged; groups differ by
what the scenario says. The tables of docs/statistics.md, in half an hour on one core:

    python -m benchmarks.simulations
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import special, stats  # type: ignore[import-untyped]

from evenhand.audit.statistics import (
    Counts,
    Estimate,
    Population,
    Rate,
    analyse_counts,
    detectable,
    holm,
    intervals,
)

Floats = npt.NDArray[np.float64]
WIDE = Population(name=1.0, template=1.0, cell=0.5)
NODES, WEIGHTS = special.roots_hermitenorm(48)


@dataclass(frozen=True)
class Scenario:
    """A design and a truth. The first group is the reference; three metrics are independent."""

    title: str
    rate: float
    effects: tuple[float, ...] = ()  # what the last groups' rates have more, as fractions
    population: Population = field(default_factory=Population)
    names: tuple[int, ...] = (8,) * 8
    templates: int = 28
    samples: int = 3
    unjudged: float = 0.05
    metrics: int = 3
    restless: float = 1.0  # the last group's names vary so many times as much

    @property
    def rates(self) -> Floats:
        """The true rate of each group."""
        out = np.full(len(self.names), self.rate)
        if self.effects:
            out[-len(self.effects) :] += self.effects
        return out


SCENARIOS = (
    Scenario("rate 1%", 0.01),
    Scenario("rate 1%, wide", 0.01, population=WIDE),
    Scenario("rate 5%", 0.05),
    Scenario("rate 20%", 0.20),
    Scenario("rate 20%, wide, 20% unjudged", 0.20, population=WIDE, unjudged=0.20),
    Scenario("rate 50%", 0.50),
    Scenario("rate 50%, wide", 0.50, population=WIDE),
    Scenario("rate 50%, names vary only", 0.50, population=Population(1.0, 0.1, 0.1)),
    Scenario("rate 20%, nothing varies", 0.20, population=Population(0.0, 0.0, 0.0)),
    Scenario("rate 10%, one group +10", 0.10, (0.10,)),
    Scenario("rate 5%, two groups +5, +15, wide", 0.05, (0.05, 0.15), population=WIDE),
    Scenario("rate 20%, three groups -10, +10, +20", 0.20, (-0.10, 0.10, 0.20)),
    Scenario("rate 20%, 5 groups x 5 names x 10 templates", 0.20, names=(5,) * 5, templates=10),
    Scenario("rate 20%, groups of 4 to 16 names", 0.20, names=(8, 4, 6, 8, 12, 16)),
    Scenario("rate 20%, one group's names vary thrice", 0.20, restless=3.0),
)


def simulate(
    scenario: Scenario, rng: np.random.Generator
) -> tuple[Counts, dict[str, dict[str, Floats]]]:
    """An audit, and the true rate of each metric for each group, name and template."""
    sizes = np.array(scenario.names)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    shape = (len(group_of), scenario.templates)
    hits, truth = [], {}
    # Some names meet a judge or a limit more often than others.
    lost = rng.uniform(0, 2 * scenario.unjudged, (shape[0], 1))
    judged = rng.binomial(scenario.samples, np.broadcast_to(1 - lost, shape))
    for m in range(scenario.metrics):
        spreads = np.full(len(sizes), scenario.population.name)
        spreads[-1] *= scenario.restless
        populations = [
            Population(float(s), scenario.population.template, scenario.population.cell)
            for s in spreads
        ]
        at = np.array([p.log_odds(r) for p, r in zip(populations, scenario.rates, strict=True)])
        of_name = rng.normal(0, spreads[group_of])
        of_template = rng.normal(0, scenario.population.template, scenario.templates)
        of_cell = rng.normal(0, scenario.population.cell, shape)
        centre = at[group_of] + of_name
        hits.append(rng.binomial(judged, special.expit(centre[:, None] + of_template + of_cell)))
        cell, template = scenario.population.cell, scenario.population.template
        truth[f"metric {m}"] = {
            "group": scenario.rates,
            "name": _averaged(centre, math.hypot(template, cell)),
            "template": sum(
                _averaged(a + of_template, math.hypot(s, cell)) * n / sizes.sum()
                for a, s, n in zip(at, spreads, sizes, strict=True)
            ),
        }
    counts = Counts(
        metrics=tuple(truth),
        groups=tuple(f"group {g:02}" for g in range(len(sizes))),
        names=tuple(f"name {i:03}" for i in range(shape[0])),
        templates=tuple(f"template {j:03}" for j in range(shape[1])),
        group_of=group_of,
        hits=np.stack(hits),
        judged=judged,
        rows=np.full(shape, scenario.samples),
    )
    return counts, truth


def _averaged(log_odds: Floats, deviation: float) -> Floats:
    """The chance of a hit over normal variation of the log odds."""
    out: Floats = special.expit(log_odds[..., None] + deviation * NODES) @ WEIGHTS / WEIGHTS.sum()
    return out


class Tally:
    """Shares, by name: how often what was looked at held."""

    def __init__(self) -> None:
        self.held: dict[str, list[float]] = {}

    def add(self, what: str, held: bool | np.bool_) -> None:
        """Count one look."""
        self.held.setdefault(what, []).append(float(held))

    def share(self, what: str) -> float:
        """NaN where nothing was looked at."""
        return float(np.mean(self.held.get(what, [math.nan])))


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval covers the truth, rounding aside."""
    return bool(estimate.low - 1e-9 <= truth <= estimate.high + 1e-9)


def one_audit(
    scenario: Scenario,
    seed: int,
    tally: Tally,
    draws: int,
    permutations: int,
    odds_ratios: bool,
) -> None:
    """Simulate, analyse, compare with the truth."""
    counts, truth = simulate(scenario, np.random.default_rng(seed))
    found = analyse_counts(
        {"model": counts},
        counts.metrics,
        reference=counts.groups[0],
        draws=draws,
        permutations=permutations,
        seed=seed,
        odds_ratios=odds_ratios,
    )
    index = {
        "group": {g: i for i, g in enumerate(counts.groups)},
        "name": {n: i for i, n in enumerate(counts.names)},
        "template": {t: i for i, t in enumerate(counts.templates)},
    }
    totals: dict[tuple[str, str], Rate] = {}
    for rate in found.rates:
        if rate.by in index:
            true = float(truth[rate.metric][rate.by][index[rate.by][rate.key]])
            tally.add(f"rate of a {rate.by}", holds(rate.share, true))
            if rate.by == "group":
                totals[rate.metric, rate.key] = rate
                tally.add("rows: rate", holds(_wald(rate), true))
    false, naive = [], []
    rates = scenario.rates
    for c in found.comparisons:
        g = index["group"][c.group]
        if c.against is None:
            others = np.arange(len(rates)) != g
            base = float(np.average(rates[others], weights=np.array(scenario.names)[others]))
        else:
            base = float(rates[0])
        tally.add("difference", holds(c.points, 100 * (rates[g] - base)))
        tally.add("ratio", holds(c.ratio, rates[g] / base))
        if not math.isnan(c.odds_ratio.value):
            odds = rates[g] / (1 - rates[g]) / (base / (1 - base))
            tally.add("odds ratio", holds(c.odds_ratio, odds))
        # Against a rest that is a mixture of rates, no group is exchangeable.
        null = rates[g] == base if c.against else not scenario.effects
        if null:
            tally.add("test: reference" if c.against else "test: rest", c.p.raw <= 0.05)
            false.append(c.p.adjusted <= 0.05)
        if c.against:
            p, interval = _as_rows(totals[c.metric, c.group], totals[c.metric, c.against])
            tally.add("rows: difference", holds(interval, 100 * (rates[g] - base)))
            if null:
                tally.add("rows: test", p <= 0.05)
                naive.append(p)
        if rates[g] != base:
            tally.add("found" if c.against else "found: rest", c.p.adjusted <= 0.05)
    if not scenario.effects:
        for o in found.omnibus:
            tally.add("test: omnibus", o.p.raw <= 0.05)
            false.append(o.p.adjusted <= 0.05)
    tally.add("family", any(false))
    tally.add("rows: family", bool(np.any(holm(naive) <= 0.05)))


def _wald(rate: Rate) -> Estimate:
    """What one would get if rows were independent."""
    p, n = rate.hits / rate.judged, rate.judged
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    return Estimate(p, p - half, p + half)


def _as_rows(one: Rate, other: Rate) -> tuple[float, Estimate]:
    """The same for a difference: the z test of two proportions, and its interval."""
    (p, n), (q, m) = ((r.hits / r.judged, r.judged) for r in (one, other))
    pooled = (one.hits + other.hits) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    half = 1.96 * math.sqrt(p * (1 - p) / n + q * (1 - q) / m)
    z = abs(p - q) / error if error else 0.0
    gap = 100 * (p - q)
    return 2 * float(stats.norm.sf(z)), Estimate(gap, gap - 100 * half, gap + 100 * half)


def run(
    scenario: Scenario,
    audits: int,
    *,
    draws: int = 1_000,
    permutations: int = 1_000,
    odds_ratios: bool = False,
) -> Tally:
    """Many audits of one scenario."""
    tally = Tally()
    for seed in range(audits):
        one_audit(scenario, seed, tally, draws, permutations, odds_ratios)
    return tally


# -- which intervals cover ------------------------------------------------------------------------


def variants(scenario: Scenario, audits: int, seed: int = 0) -> dict[str, list[float]]:
    """Coverage of a group's rate and of a difference, and their mean widths in points, by method.

    Everything on the first metric: the second group's rate, and its difference from the first's.
    """
    looks: dict[str, list[list[float]]] = {}
    for i in range(audits):
        counts, _ = simulate(scenario, np.random.default_rng(seed + i))
        truths = scenario.rates[1], scenario.rates[1] - scenario.rates[0]
        resampled = intervals.resample(counts, 1_000, np.random.default_rng(seed + i))
        sides = np.eye(len(counts.groups), dtype=bool)
        one, base = resampled.groups[0, 1], resampled.groups[0, 0]
        for figure, draws, of, truth in (
            (0, one, (sides[1],), truths[0]),
            (1, one - base, (sides[1], sides[0]), truths[1]),
        ):
            value, scores, rows = _scores(counts, figure)
            names, templates = (float((scores.sum(axis) ** 2).sum()) for axis in (1, 0))
            n, t = min(scenario.names[:2]), scenario.templates
            of_names = names * n / (n - 1)
            both = of_names + templates * t / (t - 1) - float((scores**2).sum())
            quantile = float(stats.t.ppf(0.975, min(n, t) - 1))
            spans = {
                "rows independent": 1.96 * math.sqrt(rows),
                "names as clusters, Student's t": quantile * math.sqrt(of_names),
                "two-way sandwich, Student's t": quantile * math.sqrt(max(both, 0.0)),
            }
            found = {what: (value - half, value + half) for what, half in spans.items()}
            for what, reach in (
                ("pigeonhole bootstrap, plain percentiles", 1.96),
                ("pigeonhole bootstrap, stretched (evenhand)", intervals.reach(counts, of, 0.95)),
            ):
                low, high = intervals.ends(draws, np.asarray(value), reach, (-1.0, 1.0))
                found[what] = (float(low), float(high))
            for what, (low, high) in found.items():
                held = float(low - 1e-12 <= truth <= high + 1e-12)
                looks.setdefault(what, [[], [], [], []])[2 * figure].append(held)
                looks[what][2 * figure + 1].append(100 * (high - low))
    return {what: [float(np.mean(x)) for x in columns] for what, columns in looks.items()}


def _scores(counts: Counts, figure: int) -> tuple[float, Floats, float]:
    """A rate (0) or difference (1), what each cell adds to its error (Cameron et al. 2011), and its
    variance were rows independent.
    """
    value, scores, variance = 0.0, np.zeros(counts.judged.shape), 0.0
    for g, sign in ((1, 1.0), (0, -1.0))[: figure + 1]:
        of = counts.group_of == g
        hits, judged = counts.hits[0, of], counts.judged[of]
        rate = float(hits.sum() / judged.sum())
        value += sign * rate
        scores[of] = sign * (hits - rate * judged) / judged.sum()
        variance += rate * (1 - rate) / float(judged.sum())
    return value, scores, variance


# -- the tables -----------------------------------------------------------------------------------

# The scenarios in which methods are compared: rare, usual, names alone, nothing.
COMPARED = (1, 3, 7, 8)
COLUMNS = (
    ("reference", "test: reference"),
    ("rest", "test: rest"),
    ("omnibus", "test: omnibus"),
    ("family", "family"),
    ("group", "rate of a group"),
    ("name", "rate of a name"),
    ("template", "rate of a template"),
    ("difference", "difference"),
    ("ratio", "ratio"),
    ("found", "found"),
    ("rows: test", "rows: test"),
    ("rows: family", "rows: family"),
    ("rows: rate", "rows: rate"),
    ("rows: difference", "rows: difference"),
)


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def percent(share: float) -> str:
    """As `4.9`; a dash where there was nothing to look at."""
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def head(*titles: str) -> None:
    """The first two lines of one."""
    print(line(titles))
    print("|---" * len(titles) + "|")


def print_intervals(audits: int) -> None:
    """Coverage and width by method."""
    chosen = [SCENARIOS[i] for i in COMPARED]
    found: Sequence[Mapping[str, list[float]]] = [variants(s, audits) for s in chosen]
    head("method", *(s.title for s in chosen))
    for what in found[0]:
        cells = (
            f"{percent(a)} ({b:.1f}), {percent(c)} ({d:.1f})"
            for a, b, c, d in (of_one[what] for of_one in found)
        )
        print(line([what, *cells]), flush=True)


def print_errors(audits: int, start: int) -> None:
    """Error rates and coverage by scenario."""
    head("scenario", *(title for title, _ in COLUMNS))
    for scenario in SCENARIOS[start:]:
        tally = run(scenario, audits)
        print(line([scenario.title, *(percent(tally.share(w)) for _, w in COLUMNS)]), flush=True)


def print_odds(audits: int) -> None:
    """Coverage of the odds ratio, which takes longer: one metric, fewer audits."""
    chosen = [replace(SCENARIOS[i], metrics=1) for i in COMPARED]
    head(*(s.title for s in chosen))
    tallies = (run(s, audits // 5, draws=100, odds_ratios=True) for s in chosen)
    print(line([percent(tally.share("odds ratio")) for tally in tallies]))


def print_power(audits: int) -> None:
    """What `qos-names` and designs around it detect."""
    rates, trials = (0.02, 0.10, 0.30), min(audits, 400)
    head("names a group", "templates", "samples", "tests", *(f"from {100 * r:.0f}%" for r in rates))
    for names, templates, samples, tests in (
        (8, 28, 3, 1),
        (8, 28, 3, 16),
        (8, 28, 3, 48),
        (8, 28, 12, 16),
        (8, 112, 3, 16),
        (16, 28, 3, 16),
        (32, 28, 3, 16),
    ):
        points = (
            detectable(
                rate, names=names, templates=templates, samples=samples, tests=tests, trials=trials
            ).points
            for rate in rates
        )
        cells = [*map(str, (names, templates, samples, tests)), *(f"{x:.1f}" for x in points)]
        print(line(cells), flush=True)


def print_speed() -> None:
    """Seconds for one model of `qos-names`: 64 names x 28 templates x 3 samples."""
    counts, _ = simulate(replace(SCENARIOS[2], metrics=9), np.random.default_rng(0))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        analyse_counts({"m": counts}, counts.metrics[:3], reference=counts.groups[0])
        seconds.append(time.perf_counter() - started)
    head("draws", "permutations", "median of five")
    print(line(["2,000", "10,000", f"{np.median(seconds[1:]):.2f} s"]))  # the first imports


def main() -> None:
    """Simulate and print."""
    tables = ["intervals", "errors", "odds", "power", "speed"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tables", nargs="*", choices=tables, help="all of them")
    parser.add_argument("--audits", type=int, default=1_000, help="simulated for each figure")
    parser.add_argument("--start", type=int, default=0, help="errors from this scenario on")
    arguments = parser.parse_args()
    for table in arguments.tables or tables:
        print(f"\n{table}\n")
        match table:
            case "intervals":
                print_intervals(arguments.audits)
            case "errors":
                print_errors(arguments.audits, arguments.start)
            case "odds":
                print_odds(arguments.audits)
            case "power":
                print_power(arguments.audits)
            case "speed":
                print_speed()


if __name__ == "__main__":
    main()
