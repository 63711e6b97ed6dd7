"""Render figures in a second process while this process computes.

Matplotlib holds the interpreter's lock, so threads would not help. A report of many runs spends
most of its time on rendering. The second process runs
``python -m criticalmass.reporting.page.parallel_drawing``; both processes render the same bytes.
"""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections import deque
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from criticalmass.core.threads import thread_count

if TYPE_CHECKING:
    from types import TracebackType

    from markupsafe import Markup
    from matplotlib.figure import Figure

# Errors if the second process has died, or has another version of matplotlib than this one.
_PROCESS_ERRORS = (
    OSError,
    EOFError,
    pickle.PickleError,
    AttributeError,
    ImportError,
    TypeError,
)


@dataclass(frozen=True, eq=False)
class DrawingJob:
    """A figure to render.

    Attributes
    ----------
    plot_id: id of the figure in the page.
    figure: the figure.
    description: text for screen readers.
    """

    plot_id: str
    figure: Figure
    description: str


@dataclass(frozen=True)
class RenderedFigure:
    """A figure as an ``<svg>`` element, and as a PDF file in base64."""

    svg: Markup
    pdf: str


def render_figure(job: DrawingJob) -> RenderedFigure:
    """Render a figure as SVG and PDF."""
    from criticalmass.reporting.figures.figure import as_pdf
    from criticalmass.reporting.page.svg import inline_svg

    svg = inline_svg(job.figure, identity=job.plot_id, description=job.description)
    # The SVG has fixed the layout; the PDF need not compute it again.
    job.figure.set_layout_engine("none")
    return RenderedFigure(svg, base64.b64encode(as_pdf(job.figure)).decode())


class FigureRenderer:
    """Renders figures, each once; a context manager.

    If the second process dies, this process renders all remaining figures.

    Parameters
    ----------
    parallel: use a second process, if there is more than one core.
    enabled: if False, no figure is rendered.
    """

    def __init__(self, *, parallel: bool, enabled: bool = True) -> None:
        self._parallel = parallel and enabled
        self._enabled = enabled
        self._queue: deque[DrawingJob] = deque()
        self._plot_ids: set[str] = set()
        self._results: dict[str, RenderedFigure] = {}
        self._warnings: list[tuple[str, type[Warning]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> FigureRenderer:
        """Start the second process, if there is more than one core."""
        if self._parallel and sys.executable and thread_count() > 1:
            paths = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "criticalmass.reporting.page.parallel_drawing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths},
            )
            self._thread = threading.Thread(target=self._feed_process, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the second process; after an error, without waiting for its figures."""
        if error is not None and self._process is not None:
            self._process.kill()
        self._stop_process()

    def add(self, job: DrawingJob) -> None:
        """Queue a figure, unless a figure with its id has been queued before."""
        with self._changed:
            if self._enabled and job.plot_id not in self._plot_ids:
                self._plot_ids.add(job.plot_id)
                self._queue.append(job)
                self._changed.notify_all()

    def finish(self) -> dict[str, RenderedFigure]:
        """Render the remaining figures and return all figures by id."""
        self._render_queue()
        self._stop_process()
        self._render_queue()  # the job of a process that has died is back in the queue
        for text, category in self._warnings:
            warnings.warn(text, category, stacklevel=2)
        return self._results

    def _render_queue(self) -> None:
        """Render in this process until the queue is empty."""
        while True:
            with self._changed:
                if not self._queue:
                    return
                job = self._queue.pop()
            self._results[job.plot_id] = render_figure(job)

    def _stop_process(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._process is not None and self._thread is not None:
            self._thread.join()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait()

    def _feed_process(self) -> None:
        """Send figures to the second process, one after the other, and store its results."""
        assert self._process is not None
        requests, results = self._process.stdin, self._process.stdout
        assert requests is not None
        assert results is not None
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                job = self._queue.popleft()
            try:
                _send(requests, job)
                rendered, caught = pickle.load(results)  # noqa: S301 -- from our own process
            except _PROCESS_ERRORS:
                with self._changed:
                    self._queue.append(job)
                return
            self._results[job.plot_id] = rendered
            self._warnings += caught


def _send(pipe: IO[bytes], content: Any) -> None:
    pickle.dump(content, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def serve() -> None:
    """Render the jobs on standard input until it ends; run by the second process."""
    requests, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not mix with the results
    while True:
        try:
            job = pickle.load(requests)  # noqa: S301 -- from the process that started this one
        except EOFError:
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rendered = render_figure(job)
        _send(results, (rendered, [(str(one.message), one.category) for one in caught]))


if __name__ == "__main__":
    # Imported under its own name, so that both processes pickle the same classes.
    from criticalmass.reporting.page import parallel_drawing

    parallel_drawing.serve()
