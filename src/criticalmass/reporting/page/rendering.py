"""Figures of the page as SVG and PDF files, drawn by matplotlib.

Of a large page a second process, ``python -m criticalmass.reporting.page.rendering``, draws half of
the figures: matplotlib holds the interpreter's lock, so threads would wait. Both draw the same
bytes.
"""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from criticalmass.core.threads import thread_count

if TYPE_CHECKING:
    from markupsafe import Markup

    from criticalmass.reporting.plots import Plot


@dataclass(frozen=True)
class RenderedFigure:
    """A figure as an ``<svg>`` element, and as a PDF file in base64."""

    svg: Markup
    pdf: str


@contextmanager
def second_process(*, wanted: bool) -> Iterator[subprocess.Popen[bytes] | None]:
    """Start the process for `render_all`; None if it is not wanted or there is only one core.

    It loads its libraries while this process computes what to draw.
    """
    if not wanted or thread_count() < 2 or not sys.executable:
        yield None
        return
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "criticalmass.reporting.page.rendering"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def render_all(
    plots: Mapping[str, Plot], process: subprocess.Popen[bytes] | None = None
) -> dict[str, RenderedFigure]:
    """Render figures.

    Parameters
    ----------
    plots: id in the page -> figure.
    process: the process of `second_process`. It renders half of the figures; if it fails, this
        process renders them too.
    """
    jobs = [(plot_id, replace(plot, table=plot.table.iloc[:0])) for plot_id, plot in plots.items()]
    if process is None:
        return _render(jobs)
    with ThreadPoolExecutor(1) as executor:
        output = executor.submit(process.communicate, pickle.dumps(jobs[1::2]))
        rendered = _render(jobs[::2])
    if process.returncode == 0:
        rendered |= pickle.loads(output.result()[0])  # noqa: S301 -- from our own process
    else:
        rendered |= _render(jobs[1::2])
    return {plot_id: rendered[plot_id] for plot_id in plots}


def _render(jobs: Sequence[tuple[str, Plot]]) -> dict[str, RenderedFigure]:
    """Render figures in this process."""
    from criticalmass.reporting.figures.draw import as_pdf, draw_alone
    from criticalmass.reporting.page.svg import inline_svg

    rendered = {}
    for plot_id, plot in jobs:
        figure = draw_alone(plot)
        svg = inline_svg(figure, identity=plot_id, description=plot.summary)
        # The SVG has fixed the layout; the PDF need not compute it again.
        figure.set_layout_engine("none")
        rendered[plot_id] = RenderedFigure(svg, base64.b64encode(as_pdf(figure)).decode())
    return rendered


def serve() -> None:
    """Render the figures on standard input; run by the second process."""
    from criticalmass.reporting.figures.draw import new_axes

    new_axes()  # loads matplotlib before the figures come
    jobs = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the process that started this one
    with os.fdopen(os.dup(1), "wb") as results:
        os.dup2(2, 1)  # what a library prints must not mix with the results
        pickle.dump(_render(jobs), results)


if __name__ == "__main__":
    # Imported under its own name, so that both processes pickle the same classes.
    from criticalmass.reporting.page import rendering

    rendering.serve()
