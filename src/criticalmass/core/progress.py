"""Progress: bars on a terminal and in notebooks, lines elsewhere; nothing if it is not shown.

It is shown inside of `display`, as the command line does, in the kernel of a notebook, and after
`quiet(False)`. On a terminal it goes to stderr.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import sys
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_PACKAGE = __name__.partition(".")[0] + "."
# Characters that move the cursor of a terminal without starting a line.
_CONTROL_CODES = dict.fromkeys(map(ord, "\a\b\v\f\r"))


@dataclass
class _Display:
    """What this process shows: the open tasks, the outermost first, and their bars.

    ``is_on`` is None if the user has not chosen; then only the kernel of a notebook shows progress.
    """

    is_on: bool | None = None
    tasks: list[Progress] = field(default_factory=list)
    bars: RichProgress | None = None
    notebook: _NotebookBars | None = None

    @property
    def shows(self) -> bool:
        """Whether progress is shown."""
        return _in_notebook() if self.is_on is None else self.is_on


_display = _Display()


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython is not imported."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and getattr(get_shell(), "kernel", None) is not None


class _Restore(contextlib.AbstractContextManager[None]):
    """Restores at the end of a block what was shown before."""

    def __init__(self, before: bool | None) -> None:
        self._before = before

    def __exit__(self, *error: object) -> None:
        _display.is_on = self._before


def quiet(on: bool = True) -> contextlib.AbstractContextManager[None]:
    """Show no progress from now on or, as ``with quiet():``, while the block runs.

    Notebooks show progress and scripts do not. Without progress, warnings are ``UserWarning``.

    Parameters
    ----------
    on: False shows progress, also in scripts.
    """
    before, _display.is_on = _display.is_on, not on
    return _Restore(before)


def display() -> contextlib.AbstractContextManager[None]:
    """Show progress while the block runs, as the command line does without ``--quiet``."""
    return quiet(False)


def shows_progress() -> bool:
    """Return whether progress is shown."""
    return _display.shows


def write_line(line: str) -> None:
    """Write one line to stderr, in a notebook to its output, if progress is shown."""
    if _display.shows and _in_notebook():
        sys.stdout.write(f"{line}\n")
    elif _display.shows and _display.bars is not None:
        _display.bars.console.print(line, markup=False, emoji=False)
    elif _display.shows:
        sys.stderr.write(f"{line.translate(_CONTROL_CODES)}\n")


def warn_user(line: str) -> None:
    """Write one line to stderr if progress is shown; otherwise issue a ``UserWarning``."""
    if _display.shows and _in_notebook():
        sys.stderr.write(f"{line}\n")
    elif _display.shows:
        write_line(line)
    else:
        warnings.warn(line, UserWarning, stacklevel=_callers_level())


def _callers_level() -> int:
    """Return the level at which `warn_user` warns, so that the warning names the user's line."""
    frame, level = sys._getframe(2), 2
    while frame.f_back is not None and _is_own(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(_PACKAGE)


def format_duration(seconds: float) -> str:
    """Format seconds: 42 s, 3 min 05 s, 2 h 07 min."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def _make_bars() -> RichProgress | None:
    """Return new bars on stderr; None if it is no terminal."""
    # Here and not above, because tables need no bars and the command line starts sooner.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class PaceColumn(ProgressColumn):
        """Shows the current rate in units per second and the time left, or the task's text."""

        def render(self, task: Task) -> Text:
            speed, left = task.finished_speed or task.speed, task.time_remaining
            if task.fields["pace"] is not None or speed is None:
                return Text("" if task.finished else task.fields["pace"] or "")
            rate = f"{speed:,.0f} {task.fields['unit']}/s"
            return Text(rate if not left else f"{rate}, {format_duration(left)} left")

    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        return None
    name = TextColumn("{task.description}", markup=False)
    return RichProgress(name, BarColumn(), MofNCompleteColumn(), PaceColumn(), console=console)


class _NotebookBars:
    """The open tasks in one output of a notebook, which is replaced as they advance."""

    _SECONDS = 0.25

    def __init__(self) -> None:
        show: Any = importlib.import_module("IPython.display").display
        self._handle = show({"text/plain": ""}, raw=True, display_id=True)
        self._shown = 0.0

    def update(self, tasks: list[Progress]) -> None:
        """Show the open tasks, some times a second."""
        now = time.perf_counter()
        if now - self._shown >= self._SECONDS:
            self._shown = now
            self._replace([task.describe() for task in tasks], tasks)

    def finish(self, line: str) -> None:
        """Show one closing line."""
        self._replace([line], [])

    def _replace(self, lines: list[str], tasks: list[Progress]) -> None:
        bars = [
            f"<progress value='{task.done}' max='{max(1, task.total)}'></progress> "
            for task in tasks
        ] or [""] * len(lines)
        rows = [f"{bar}{html.escape(line)}" for bar, line in zip(bars, lines, strict=True)]
        content: dict[str, Any] = {"text/plain": "; ".join(lines), "text/html": "<br>".join(rows)}
        self._handle.update(content, raw=True)


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
        self.step = ""
        self._bar: TaskID | None = None
        self._started = 0.0

    def __enter__(self) -> Progress:
        """Draw the bar; where there are no bars write an opening line, if no task is around."""
        self._started = time.perf_counter()
        _display.tasks.append(self)
        if not _display.shows:
            return self
        if _in_notebook():
            if _display.notebook is None:
                _display.notebook = _NotebookBars()
            _display.notebook.update(_display.tasks)
            return self
        if _display.bars is None:
            _display.bars = _make_bars()
            if _display.bars is not None:
                _display.bars.start()
        if _display.bars is not None:
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
        elif _display.notebook is not None:
            _display.notebook.update(_display.tasks)

    def describe(self) -> str:
        """Return what is done, and the current step, in one line."""
        step = f": {self.step}" if self.step else ""
        return f"{self.label}{step} {self.done:,} of {self.total:,} {self.unit}"

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
        elif _display.notebook is not None:
            self.step = f"{step}, {pace}" if pace else step
            _display.notebook.update(_display.tasks)
        else:
            count = f"{self.label} {self.done + 1}/{self.total}"
            write_line(f"{count}: {step}{f', {pace}' if pace else ''}")

    def __exit__(self, *error: object) -> None:
        """Close the bar, or write a closing line with the rate."""
        _display.tasks.remove(self)
        bars = _display.bars
        if bars is None:
            if not _display.tasks:
                notebook, _display.notebook = _display.notebook, None
                (write_line if notebook is None else notebook.finish)(self._closing_line())
        elif not _display.tasks:
            bars.stop()
            _display.bars = None
        elif self._bar is not None:
            bars.remove_task(self._bar)

    def _closing_line(self) -> str:
        seconds = time.perf_counter() - self._started
        rate = self.done / seconds if seconds > 0 else 0.0
        elapsed = f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)
        pace = f" ({rate:,.0f} {self.unit}/s)" if rate >= 0.5 else ""
        return f"{self.label}: {self.done:,} of {self.total:,} {self.unit} in {elapsed}{pace}"
