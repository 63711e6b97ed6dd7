"""The overall progress of a study: a bar, the current step, and the remaining time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from criticalmass.core import progress


def estimate_time_left(
    kinds: Sequence[str], seconds: Sequence[float], had_work: Sequence[bool]
) -> float | None:
    """Estimate the seconds that the remaining steps will take.

    A step takes the mean time of its kind so far, or the mean over all kinds. Steps that found
    their work already done are ignored.

    Parameters
    ----------
    kinds: (n_steps,) kind of each step.
    seconds: (n_done,) seconds of the first steps.
    had_work: (n_done,) whether the step had something to do.

    Returns
    -------
    Seconds, or None if no step had work so far.
    """
    by_kind: dict[str, list[float]] = {}
    for kind, duration, worked in zip(kinds, seconds, had_work, strict=False):
        if worked:
            by_kind.setdefault(kind, []).append(duration)
    if not by_kind:
        return None
    means = {kind: sum(times) / len(times) for kind, times in by_kind.items()}
    overall = sum(means.values()) / len(means)
    return sum(means.get(kind, overall) for kind in kinds[len(seconds) :])


class StudyProgress:
    """Shows one bar for all steps of a study; the progress of the steps themselves is off.

    Parameters
    ----------
    label: title of the bar.
    kinds: (n_steps,) kind of every step, in order.
    log: CSV file to which each step with work adds a line: kind, step, seconds of wall time, CPU
        seconds of all threads and child processes.
    """

    def __init__(self, label: str, kinds: Sequence[str], log: Path) -> None:
        self.label = label
        self.kinds = list(kinds)
        self.log = log
        self._seconds: list[float] = []
        self._had_work: list[bool] = []
        self._skipped = False
        self._bar: Progress | None = None
        self._is_enabled = progress.is_enabled()
        self._started = time.perf_counter()

    def __enter__(self) -> StudyProgress:
        """Show the bar and switch the bars of the steps off."""
        if not self._is_enabled:
            return self
        progress.enable(False)
        console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        if console.is_terminal:
            columns = ("{task.description}", "{task.fields[left]}")
            self._bar = Progress(
                BarColumn(24),
                MofNCompleteColumn(),
                *(TextColumn(text, markup=False) for text in reversed(columns)),
                console=console,
            )
            self._bar.start()
            self._bar.add_task(self.label, total=len(self.kinds), left="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar and restore the progress setting."""
        if self._bar is not None:
            self._bar.stop()
        progress.enable(self._is_enabled)
        elapsed = format_duration(time.perf_counter() - self._started)
        progress.write_line(
            f"{self.label}: {len(self._seconds)} of {len(self.kinds)} steps in {elapsed}"
        )

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step while the block runs, and measure its time."""
        self._show(title)
        started, cpu_started = time.perf_counter(), cpu_seconds()
        self._skipped = False
        try:
            yield
        finally:
            self._seconds.append(time.perf_counter() - started)
            self._had_work.append(not self._skipped)
            if not self._skipped:
                self._log_step(title, cpu_seconds() - cpu_started)
            if self._bar is not None:
                self._bar.advance(self._bar.task_ids[0])

    def mark_skipped(self) -> None:
        """Mark the current step as one whose work was already done."""
        self._skipped = True

    def _log_step(self, title: str, cpu: float) -> None:
        """Add the last step to the log, as one short line, which is written at once."""
        kind = self.kinds[len(self._seconds) - 1]
        header = "" if self.log.exists() else "kind,step,seconds,cpu_seconds\n"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f'{header}{kind},"{title}",{self._seconds[-1]:.2f},{cpu:.2f}\n')

    def _show(self, title: str) -> None:
        left = estimate_time_left(self.kinds, self._seconds, self._had_work)
        text = "" if left is None else f"about {format_duration(left)} left"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=title, left=text)
        elif self._is_enabled:
            progress.enable(True)
            count = f"{len(self._seconds) + 1}/{len(self.kinds)}"
            progress.write_line(f"{self.label} {count}: {title}{f', {text}' if text else ''}")
            progress.enable(False)


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished child processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def format_duration(seconds: float) -> str:
    """Format seconds: 42 s, 3 min 05 s, 2 h 07 min."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
