"""Progress on stderr: a bar with rate and time left. Off by default."""

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

_state = {"on": False}


def enable(on: bool = True) -> None:
    """Switch progress on, as the command line does, or off, the default."""
    _state["on"] = on


def is_enabled() -> bool:
    """Return whether progress is on."""
    return _state["on"]


def _console() -> Console:
    # Not cached: pytest and notebooks replace sys.stderr.
    return Console(file=sys.stderr, soft_wrap=True, highlight=False)


def write_line(line: str) -> None:
    """Write one line to stderr if progress is on."""
    if is_enabled():
        _console().print(line, markup=False)


def warn_user(line: str) -> None:
    """Write one line to stderr if progress is on; otherwise issue a ``UserWarning``."""
    if is_enabled():
        write_line(line)
    else:
        warnings.warn(line, UserWarning, stacklevel=3)


class _RateColumn(ProgressColumn):
    """Shows the current rate in units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Return the rate of a task as text."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s")


class Progress:
    """The progress of one task, as a context manager.

    ``with Progress("features", 70000, "images") as bar: bar.advance(32)``

    Parameters
    ----------
    label: name of the task.
    total: number of units.
    unit: plural name of the unit, e.g. ``"images"``.
    """

    def __init__(self, label: str, total: int, unit: str = "items") -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._bar: RichProgress | None = None
        self._started = 0.0

    def __enter__(self) -> Progress:
        """Draw the bar on a terminal; write an opening line elsewhere."""
        self._started = time.perf_counter()
        if not is_enabled():
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
            write_line(f"{self.label}: {self.total:,} {self.unit}")
        return self

    def advance(self, units: int = 1) -> None:
        """Add completed units."""
        self.done += units
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], units)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, or write a closing line with the rate."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif is_enabled():
            seconds = time.perf_counter() - self._started
            rate = self.done / seconds if seconds > 0 else 0.0
            write_line(
                f"{self.label}: {self.done:,} of {self.total:,} {self.unit} "
                f"in {seconds:.1f} s ({rate:,.0f} {self.unit}/s)"
            )
