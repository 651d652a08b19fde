"""How often a model does what to whom, and how sure that is: pure functions of a table of verdicts.

`analyse` is the whole of it: a table and a taxonomy in; rates, comparisons and tests out.
`detectable` says beforehand what a design could find. Rows are added up to counts of names by
templates at once, and nothing sees a row again: responses to one name, or to one template,
resemble each other, so a row is not a unit of evidence. Names are, and templates are.

Knows nothing of files, stores or reports. docs/statistics.md has the methods, their sources, and a
simulation that shows their error rates.
"""

from evenhand.audit.statistics.analysis import (
    Analysis,
    Axis,
    Comparison,
    Omnibus,
    Rate,
    analyse,
    analyse_counts,
)
from evenhand.audit.statistics.counts import Counts, Metric, composites, count
from evenhand.audit.statistics.intervals import Estimate
from evenhand.audit.statistics.permutation import PValue, holm
from evenhand.audit.statistics.power import Detectable, Population, detectable

__all__ = [
    "Analysis",
    "Axis",
    "Comparison",
    "Counts",
    "Detectable",
    "Estimate",
    "Metric",
    "Omnibus",
    "PValue",
    "Population",
    "Rate",
    "analyse",
    "analyse_counts",
    "composites",
    "count",
    "detectable",
    "holm",
]
