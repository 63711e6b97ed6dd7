"""Progress on stderr: a bar with rate and time left, silent until a caller switches it on."""

from __future__ import annotations

import sys
import time
import warnings
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

_switch = {"on": False}


def enable(on: bool = True) -> None:
    """Switch progress on (the command line does) or off (the default)."""
    _switch["on"] = on


def enabled() -> bool:
    """Tell whether progress is switched on."""
    return _switch["on"]


def _console() -> Console:
    # Made at each use: sys.stderr may have been replaced since (pytest, notebooks).
    return Console(file=sys.stderr, soft_wrap=True, highlight=False)


def say(line: str) -> None:
    """Write one line to stderr if progress is on."""
    if enabled():
        _console().print(line, markup=False)


def notice(line: str) -> None:
    """Tell the user something that must not pass unseen.

    With progress on it is a line on stderr; otherwise a ``UserWarning``, so that a caller of the
    library learns of it too.
    """
    if enabled():
        say(line)
    else:
        warnings.warn(line, UserWarning, stacklevel=3)


class _RateColumn(ProgressColumn):
    """Units a second over the last moments."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the rate of one task."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s")


class Progress:
    """One task's progress; use as a context manager.

    Parameters
    ----------
    label: what is being done.
    total: how many units there are.
    unit: the unit's plural name, e.g. ``"images"``.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._bar: RichProgress | None = None
        self._started = 0.0

    def __enter__(self) -> Progress:
        """Draw the bar (on a terminal) or the opening line (elsewhere)."""
        self._started = time.perf_counter()
        if not enabled():
            return self
        console = _console()
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _RateColumn(self.unit),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._bar.add_task(self.label, total=self.total)
        else:
            say(f"{self.label}: {self.total:,} {self.unit}")
        return self

    def advance(self, units: int = 1) -> None:
        """Count units as done."""
        self.done += units
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], units)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, or write the closing line with the rate."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif enabled():
            seconds = time.perf_counter() - self._started
            rate = self.done / seconds if seconds > 0 else 0.0
            say(
                f"{self.label}: {self.done:,} of {self.total:,} {self.unit} "
                f"in {seconds:.1f} s ({rate:,.0f} {self.unit}/s)"
            )


def track(label: str, total: int, unit: str = "items") -> Progress:
    """Make a task's progress: ``with track("features", 70000, "images") as bar: bar.advance(32)``.

    Parameters
    ----------
    label: what is being done.
    total: how many units there are.
    unit: the unit's plural name.
    """
    return Progress(label, total, unit)
