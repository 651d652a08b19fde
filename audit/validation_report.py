"""The report of a validation: one HTML page that needs no network, and its figures as files.

Knows the page and the files. What it says comes from `judge/validation.py`, what it shows from
`audit/validation_plots.py`; it looks as an audit's report does. Text by people and files is
escaped, and the page holds no script and forbids itself any.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

from markupsafe import Markup

from evenhand.audit.page import environment, style
from evenhand.audit.plots import inline
from evenhand.audit.validation_plots import figures
from evenhand.judge.agreement import Estimate
from evenhand.judge.validation import Validation


def render(document: Validation) -> str:
    """The report as one page of HTML."""
    templates = environment()
    templates.filters.update(estimate=_estimate, p_value=_p_value, day=_day, cell=_cell)
    return templates.get_template("validation.html.j2").render(
        document=document,
        judge=document.raters[0],
        figures=list(figures(document)),
        inline=lambda figure, prefix: Markup(inline(figure, prefix)),  # Vega escapes what it draws
        **style(),
    )


def write_figures(document: Validation, folder: Path) -> None:
    """Each figure as SVG, PNG and CSV, into a folder that is made if need be. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures(document):
        figure.write(folder)


def _estimate(of: Estimate) -> str:
    if math.isnan(of.value):
        return "unknown"
    ends = "" if math.isnan(of.low) else f" ({of.low:.3f} to {of.high:.3f})"
    return f"{of.value:.3f}{ends}".replace("-", "−")


def _p_value(p: float) -> str:
    if math.isnan(p):
        return "unknown"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
