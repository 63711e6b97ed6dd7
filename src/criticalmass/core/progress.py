"""Progress on stderr: bars on a terminal, lines elsewhere, nothing outside of `display`."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text


@dataclass
class _Display:
    """What this process shows: the open tasks, the outermost first, and the bars of a terminal."""

    is_on: bool = False
    tasks: list[Progress] = field(default_factory=list)
    bars: RichProgress | None = None

    def console(self) -> Console:
        """Return the console that has the bars, or a new one: notebooks replace sys.stderr."""
        if self.bars is not None:
            return self.bars.console
        return Console(file=sys.stderr, soft_wrap=True, highlight=False)


_display = _Display()


@contextlib.contextmanager
def display() -> Iterator[None]:
    """Show progress while the block runs, as the command line does without ``--quiet``."""
    before, _display.is_on = _display.is_on, True
    try:
        yield
    finally:
        _display.is_on = before


def write_line(line: str) -> None:
    """Write one line to stderr if progress is shown."""
    if _display.is_on:
        _display.console().print(line, markup=False)


def warn_user(line: str) -> None:
    """Write one line to stderr if progress is shown; otherwise issue a ``UserWarning``."""
    if _display.is_on:
        write_line(line)
    else:
        warnings.warn(line, UserWarning, stacklevel=3)


def format_duration(seconds: float) -> str:
    """Format seconds: 42 s, 3 min 05 s, 2 h 07 min."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


class _PaceColumn(ProgressColumn):
    """Shows the current rate in units per second and the time left, or the text of the task."""

    def render(self, task: Task) -> Text:
        """Return the pace of a task."""
        speed, left = task.finished_speed or task.speed, task.time_remaining
        if task.fields["pace"] is not None or speed is None:
            return Text("" if task.finished else task.fields["pace"] or "")
        rate = f"{speed:,.0f} {task.fields['unit']}/s"
        return Text(rate if not left else f"{rate}, {format_duration(left)} left")


class Progress:
    """The progress of one task, as a context manager; a task inside another has its own bar.

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
        self._bar: TaskID | None = None
        self._started = 0.0

    def __enter__(self) -> Progress:
        """Draw the bar on a terminal; elsewhere write an opening line, if no task is around."""
        self._started = time.perf_counter()
        _display.tasks.append(self)
        if not _display.is_on:
            return self
        console = _display.console()
        if console.is_terminal:
            if _display.bars is None:
                name = TextColumn("{task.description}", markup=False)
                columns = (name, BarColumn(), MofNCompleteColumn(), _PaceColumn())
                _display.bars = RichProgress(*columns, console=console)
                _display.bars.start()
            self._bar = _display.bars.add_task(
                self.label, total=self.total, unit=self.unit, pace=None
            )
        elif _display.tasks[0] is self:
            write_line(f"{self.label}: {self.total:,} {self.unit}")
        return self

    def advance(self, units: int = 1) -> None:
        """Add completed units."""
        self.done += units
        if _display.bars is not None and self._bar is not None:
            _display.bars.advance(self._bar, units)

    def begin(self, step: str, left: float | None = None) -> None:
        """Name the unit that begins.

        Parameters
        ----------
        step: what it does.
        left: estimate of the seconds that the rest of the task will take.
        """
        pace = "" if left is None else f"about {format_duration(left)} left"
        if _display.bars is not None and self._bar is not None:
            _display.bars.update(self._bar, description=step, pace=pace)
        else:
            count = f"{self.label} {self.done + 1}/{self.total}"
            write_line(f"{count}: {step}{f', {pace}' if pace else ''}")

    def __exit__(self, *error: object) -> None:
        """Close the bar, or write a closing line with the rate."""
        _display.tasks.remove(self)
        bars = _display.bars
        if bars is None:
            if not _display.tasks:
                seconds = time.perf_counter() - self._started
                rate = self.done / seconds if seconds > 0 else 0.0
                elapsed = f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)
                pace = f" ({rate:,.0f} {self.unit}/s)" if rate >= 0.5 else ""
                write_line(
                    f"{self.label}: {self.done:,} of {self.total:,} {self.unit} in {elapsed}{pace}"
                )
        elif not _display.tasks:
            bars.stop()
            _display.bars = None
        elif self._bar is not None:
            bars.remove_task(self._bar)
