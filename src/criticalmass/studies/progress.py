"""The steps of a study: their titles, their times and the remaining time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from criticalmass.core.progress import Progress


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


class StudySteps:
    """The steps of a study.

    Parameters
    ----------
    bar: shows the steps.
    kinds: (n_steps,) kind of every step, in order.
    log: CSV file to which each step with work adds a line: kind, step, seconds of wall time, CPU
        seconds of all threads and child processes.
    """

    def __init__(self, bar: Progress, kinds: Sequence[str], log: Path) -> None:
        self.bar = bar
        self.kinds = list(kinds)
        self.log = log
        self._seconds: list[float] = []
        self._had_work: list[bool] = []

    @contextmanager
    def step(self, title: str, count: Callable[[], int] | None = None) -> Iterator[None]:
        """Show a step while the block runs, and measure its time.

        Parameters
        ----------
        title: what the step does.
        count: returns how many results exist; a step that adds none had no work.
        """
        left = estimate_time_left(self.kinds, self._seconds, self._had_work)
        self.bar.begin(title, left)
        before = None if count is None else count()
        started, cpu_started = time.perf_counter(), _cpu_seconds()
        try:
            yield
        finally:
            seconds, cpu = time.perf_counter() - started, _cpu_seconds() - cpu_started
            self._had_work.append(count is None or count() != before)
            if self._had_work[-1]:
                self._log_step(title, seconds, cpu)
            self._seconds.append(seconds)
            self.bar.advance()

    def _log_step(self, title: str, seconds: float, cpu: float) -> None:
        """Add a step to the log, as one short line, which is written at once."""
        kind = self.kinds[len(self._seconds)]
        header = "" if self.log.exists() else "kind,step,seconds,cpu_seconds\n"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f'{header}{kind},"{title}",{seconds:.2f},{cpu:.2f}\n')


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished child processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
