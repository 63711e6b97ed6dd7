"""A second process renders the same bytes as this one, and may die."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import criticalmass as cm
from criticalmass.reporting.page import parallel_drawing
from criticalmass.reporting.page.parallel_drawing import DrawingJob, FigureRenderer, render_figure
from criticalmass.storage.run import Run


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_drawing, "thread_count", lambda: 2)


def job(number: int) -> DrawingJob:
    figure = Figure(figsize=(2, 2), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1, number])
    ax.set_title(f"number {number}")
    return DrawingJob(f"figure-{number}", figure, f"figure <{number}>")


def wait(renderer: FigureRenderer) -> None:
    """Wait until a figure is rendered."""
    end = time.monotonic() + 60
    while not renderer._results and time.monotonic() < end:
        time.sleep(0.01)
    assert renderer._results


def test_both_processes_render_the_same_bytes() -> None:
    with FigureRenderer(parallel=True) as renderer:
        for number in range(8):
            renderer.add(job(number))
        assert renderer._process is not None
        results = renderer.finish()
    assert renderer._process.returncode == 0
    assert results == {f"figure-{number}": render_figure(job(number)) for number in range(8)}


def test_the_second_process_does_render(monkeypatch: pytest.MonkeyPatch) -> None:
    with FigureRenderer(parallel=True) as renderer:
        renderer.add(job(1))
        wait(renderer)  # this process renders nothing before finish()
        monkeypatch.setattr(
            parallel_drawing, "render_figure", lambda _: pytest.fail("rendered in this process")
        )
        assert set(renderer.finish()) == {"figure-1"}


@pytest.mark.parametrize("when", ["before", "after one"])
def test_if_it_dies_this_process_renders_all(when: str) -> None:
    with FigureRenderer(parallel=True) as renderer:
        assert renderer._process is not None
        if when == "after one":
            renderer.add(job(9))
            wait(renderer)
        os.kill(renderer._process.pid, signal.SIGKILL)
        renderer._process.wait()
        for number in range(3):
            renderer.add(job(number))
        results = renderer.finish()
    assert {f"figure-{number}" for number in range(3)} <= set(results)


def test_an_error_of_the_caller_leaves_no_process() -> None:
    renderer = FigureRenderer(parallel=True)
    with contextlib.suppress(ZeroDivisionError), renderer:
        renderer.add(job(1))
        raise ZeroDivisionError
    assert renderer._process is not None
    assert renderer._process.poll() is not None


def test_warnings_of_the_second_process_are_raised_in_this_one() -> None:
    warning_job = job(1)
    # A character that is not in the font.
    warning_job.figure.axes[0].set_title("\N{CJK UNIFIED IDEOGRAPH-4E00}")
    with FigureRenderer(parallel=True) as renderer:
        renderer.add(warning_job)
        wait(renderer)
        with pytest.warns(UserWarning, match="Glyph"):
            renderer.finish()


def test_a_page_of_three_runs_is_the_same_with_and_without(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = cm.report([run, run, run], tmp_path / "one.html").read_bytes()
        monkeypatch.setattr(parallel_drawing, "thread_count", lambda: 1)
        assert cm.report([run, run, run], tmp_path / "two.html").read_bytes() == one


def test_a_page_of_many_runs_leaves_the_drawing_to_its_script(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run()
    few = cm.report([run] * 6, tmp_path / "few.html").read_text(encoding="utf-8")
    many = cm.report([run] * 7, tmp_path / "many.html").read_text(encoding="utf-8")
    assert 'data-save="pdf"' in few
    assert 'data-save="pdf"' not in many
    assert 'data-save="svg"' in many
    assert "only the script of the page draws the figures" in many
    assert len(many) < len(few) / 2
