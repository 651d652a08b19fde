"""Progress of a long run on stderr: a bar, the rate, the time left, and the counts so far."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich import progress as rich_progress
from rich.console import Group
from rich.live import Live
from rich.text import Text

from evenhand.api.cli.console import stderr
from evenhand.api.cli.panels import BLUE, YELLOW, colour_of
from evenhand.schemas.verdict import Status

if TYPE_CHECKING:
    from evenhand.api.cli.judge_file import Tally
    from evenhand.schemas.taxonomy import Taxonomy

_LOG_EVERY = 30.0  # seconds between lines where stderr is a file


class Progress:
    """A live display on a terminal; in a log, a line now and then; nothing for short runs in one.

    `total` counts in whatever unit `show`'s `at` does.
    """

    def __init__(self, total: int, taxonomy: Taxonomy):
        self._taxonomy = taxonomy
        self._total = max(total, 1)
        self._console = stderr()
        self._started = self._said = time.monotonic()
        self._drawn = 0.0
        self._bar = rich_progress.Progress(
            rich_progress.BarColumn(bar_width=None, complete_style=BLUE, finished_style=BLUE),
            rich_progress.TaskProgressColumn(),
            rich_progress.TextColumn("{task.fields[rate]}"),
            rich_progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=self._total, rate="")
        self._counts = Text()
        # stdout may be carrying the rows: leave it alone.
        self._live = (
            Live(
                Group(self._bar, self._counts),
                console=self._console,
                refresh_per_second=8,
                redirect_stdout=False,
            )
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.update(Group(self._bar, self._counts), refresh=True)
            self._live.stop()

    def show(self, at: int, tally: Tally) -> None:
        """Tell how far the run is. Cheap: it draws a few times a second at most."""
        now = time.monotonic()
        if self._live is None:
            if now - self._said >= _LOG_EVERY:
                self._said = now
                share = f"{at / self._total:.0%}"
                print(f"{share}: {tally.rows} rows, {self._rate(tally, now)}", file=sys.stderr)  # noqa: T201
        elif now - self._drawn >= 0.1 or at >= self._total:
            self._drawn = now
            self._bar.update(self._task, completed=at, rate=self._rate(tally, now))
            self._counts = self._line(tally)
            self._live.update(Group(self._bar, self._counts))

    def _rate(self, tally: Tally, now: float) -> str:
        rate = tally.rows / max(now - self._started, 1e-9)
        return f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.2g} rows/s"

    def _line(self, tally: Tally) -> Text:
        line = Text(f"{tally.rows:,} rows", "bold")
        for label in self._taxonomy.labels:
            if tally.labels[label]:
                line.append(f"  {label} ", "")
                line.append(f"{tally.labels[label]:,}", colour_of(label, self._taxonomy))
        for status in Status:
            if status is not Status.JUDGED and tally.statuses[status.value]:
                line.append(f"  {status.value} {tally.statuses[status.value]:,}", YELLOW)
        return line
