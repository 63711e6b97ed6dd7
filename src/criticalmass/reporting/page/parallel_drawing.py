"""Figures drawn by a second process while this one still computes.

Matplotlib holds the interpreter's lock, so threads would not help; a report of many runs is
mostly drawing.
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
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from criticalmass.core.threads import thread_count

if TYPE_CHECKING:
    from types import TracebackType

    from markupsafe import Markup
    from matplotlib.figure import Figure

#: What is drawn: its place in the page, the figure, and what it shows.
Job = tuple[str, "Figure", str]
#: An ``<svg>`` element, and a PDF file in base64.
Drawn = tuple["Markup", str]
# An error while the other process is asked: it is gone, or has another matplotlib than this one.
_GONE = (OSError, EOFError, pickle.PickleError, AttributeError, ImportError, TypeError)


def draw(job: Job) -> Drawn:
    """Draw a figure for pages without a script, and for paper."""
    from criticalmass.reporting.figures.figure import as_pdf
    from criticalmass.reporting.page.svg import inline_svg

    place, figure, description = job
    svg = inline_svg(figure, identity=place, description=description)
    # Where everything stands is settled now; the PDF need not work it out again.
    figure.set_layout_engine("none")
    return svg, base64.b64encode(as_pdf(figure)).decode()


@dataclass
class Drawing:
    """Draws figures, each once; a context.

    Attributes
    ----------
    aside: whether a second process helps. It draws the same bytes, and if it dies this one
        draws all.
    none: nothing is drawn at all.
    """

    aside: bool
    none: bool = False
    _waiting: deque[Job] = field(default_factory=deque)
    _known: set[str] = field(default_factory=set)
    _drawn: dict[str, Drawn] = field(default_factory=dict)
    _told: list[tuple[str, type[Warning]]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ended: bool = False
    _helper: subprocess.Popen[bytes] | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Drawing:
        """Start the second process, if there is a core for it."""
        if self.aside and not self.none and sys.executable and thread_count() > 1:
            paths = os.pathsep.join(path for path in sys.path if path)
            self._helper = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    "from criticalmass.reporting.page.parallel_drawing import serve; serve()",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": paths},
            )
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the second process."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._helper is not None and self._thread is not None:
            if error is not None:
                self._helper.kill()
            self._thread.join()
            for pipe in (self._helper.stdin, self._helper.stdout):
                if pipe is not None:
                    pipe.close()
            self._helper.wait()

    def add(self, job: Job) -> None:
        """Have a figure drawn, soon; what has been added is not drawn again."""
        with self._changed:
            if not self.none and job[0] not in self._known:
                self._known.add(job[0])
                self._waiting.append(job)
                self._changed.notify_all()

    def all(self) -> dict[str, Drawn]:
        """Draw what is left, and return every figure by its place."""
        while True:
            with self._changed:
                if not self._waiting:
                    break
                job = self._waiting.pop()
            self._drawn[job[0]] = draw(job)
        self.__exit__(None, None, None)
        while self._waiting:  # what a helper that died gave back
            job = self._waiting.pop()
            self._drawn[job[0]] = draw(job)
        for text, category in self._told:
            warnings.warn(text, category, stacklevel=2)
        return self._drawn

    def _ask(self) -> None:
        """Hand figures to the second process, one after the other."""
        assert self._helper is not None
        told, heard = self._helper.stdin, self._helper.stdout
        assert told is not None
        assert heard is not None
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                _send(told, job)
                drawn, noticed = pickle.load(heard)  # noqa: S301 -- from our own process
            except _GONE:
                with self._changed:
                    self._waiting.append(job)
                return
            self._drawn[job[0]] = drawn
            self._told += noticed


def _send(pipe: IO[bytes], what: Any) -> None:
    pickle.dump(what, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def serve() -> None:
    """Draw what comes on standard input until it ends; the second process."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        try:
            job = pickle.load(source)  # noqa: S301 -- from the process that started this one
        except EOFError:
            return
        with warnings.catch_warnings(record=True) as noticed:
            warnings.simplefilter("always")
            drawn = draw(job)
        _send(target, (drawn, [(str(one.message), one.category) for one in noticed]))
