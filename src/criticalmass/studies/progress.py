"""The overall progress of a study: one bar, what is being done, and the time left."""

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


def time_left(kinds: Sequence[str], taken: Sequence[float], worked: Sequence[bool]) -> float | None:
    """Guess the seconds that the steps to come will take.

    A step takes as long as the mean of its kind so far, or of all kinds. What was found finished
    took no time and says nothing of the rest.

    Parameters
    ----------
    kinds: (n_steps,) what kind of step each is.
    taken: (n_done,) seconds of the first steps.
    worked: (n_done,) whether there was something to do in it.

    Returns
    -------
    Seconds, or None as long as nothing is known.
    """
    seen: dict[str, list[float]] = {}
    for kind, seconds, real in zip(kinds, taken, worked, strict=False):
        if real:
            seen.setdefault(kind, []).append(seconds)
    if not seen:
        return None
    means = {kind: sum(times) / len(times) for kind, times in seen.items()}
    usual = sum(means.values()) / len(means)
    return sum(means.get(kind, usual) for kind in kinds[len(taken) :])


class Watch:
    """Shows one bar for all steps of a study; its steps' own progress is kept silent.

    Parameters
    ----------
    label: what is being done as a whole.
    kinds: (n_steps,) kind of every step in order.
    log: CSV file to which each step that did something adds a line: kind, step, seconds of wall
        time, CPU seconds of all threads and of child processes.
    """

    def __init__(self, label: str, kinds: Sequence[str], log: Path) -> None:
        self.label = label
        self.kinds = list(kinds)
        self.log = log
        self._taken: list[float] = []
        self._worked: list[bool] = []
        self._idle = False
        self._bar: Progress | None = None
        self._told = progress.enabled()
        self._started = time.perf_counter()

    def __enter__(self) -> Watch:
        """Begin to show; the steps' own bars are switched off meanwhile."""
        if not self._told:
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
        """Take the bar away and let others show theirs again."""
        if self._bar is not None:
            self._bar.stop()
        progress.enable(self._told)
        passed = duration(time.perf_counter() - self._started)
        progress.say(f"{self.label}: {len(self._taken)} of {len(self.kinds)} steps in {passed}")

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        """Show a step and time it."""
        self._show(words)
        begun, cpu = time.perf_counter(), cpu_seconds()
        self._idle = False
        try:
            yield
        finally:
            self._taken.append(time.perf_counter() - begun)
            self._worked.append(not self._idle)
            if not self._idle:
                self._write(words, cpu_seconds() - cpu)
            if self._bar is not None:
                self._bar.advance(self._bar.task_ids[0])

    def nothing_to_do(self) -> None:
        """Say within a step that its work had been done before."""
        self._idle = True

    def _write(self, words: str, cpu: float) -> None:
        """Add the last step to the log: one short line, which no interruption can halve."""
        kind = self.kinds[len(self._taken) - 1]
        head = "" if self.log.exists() else "kind,step,seconds,cpu_seconds\n"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f'{head}{kind},"{words}",{self._taken[-1]:.2f},{cpu:.2f}\n')

    def _show(self, words: str) -> None:
        left = time_left(self.kinds, self._taken, self._worked)
        rest = "" if left is None else f"about {duration(left)} left"
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=words, left=rest)
        elif self._told:
            progress.enable(True)
            count = f"{len(self._taken) + 1}/{len(self.kinds)}"
            progress.say(f"{self.label} {count}: {words}{f', {rest}' if rest else ''}")
            progress.enable(False)


def cpu_seconds() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def duration(seconds: float) -> str:
    """Write seconds as people read them: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
