"""A second process draws the bytes that this one draws, and may die."""

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
from criticalmass.reporting.page.parallel_drawing import Drawing, Job, draw
from criticalmass.storage.run import Run


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_drawing, "thread_count", lambda: 2)


def job(number: int) -> Job:
    figure = Figure(figsize=(2, 2), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, 1, number])
    ax.set_title(f"number {number}")
    return f"place-{number}", figure, f"figure <{number}>"


def wait(drawing: Drawing) -> None:
    """Wait until something is drawn."""
    end = time.monotonic() + 60
    while not drawing._drawn and time.monotonic() < end:
        time.sleep(0.01)
    assert drawing._drawn


def test_both_processes_draw_the_same_bytes() -> None:
    with Drawing(aside=True) as drawing:
        for number in range(8):
            drawing.add(job(number))
        assert drawing._helper is not None
        found = drawing.all()
    assert drawing._helper.returncode == 0
    assert found == {f"place-{number}": draw(job(number)) for number in range(8)}


def test_the_second_process_does_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    with Drawing(aside=True) as drawing:
        drawing.add(job(1))
        wait(drawing)  # this process draws nothing before all()
        monkeypatch.setattr(parallel_drawing, "draw", lambda _: pytest.fail("drawn here"))
        assert set(drawing.all()) == {"place-1"}


@pytest.mark.parametrize("when", ["before", "after one"])
def test_if_it_dies_all_is_drawn_here(when: str) -> None:
    with Drawing(aside=True) as drawing:
        assert drawing._helper is not None
        if when == "after one":
            drawing.add(job(9))
            wait(drawing)
        os.kill(drawing._helper.pid, signal.SIGKILL)
        drawing._helper.wait()
        for number in range(3):
            drawing.add(job(number))
        found = drawing.all()
    assert {f"place-{number}" for number in range(3)} <= set(found)


def test_an_error_of_the_caller_leaves_no_process() -> None:
    drawing = Drawing(aside=True)
    with contextlib.suppress(ZeroDivisionError), drawing:
        drawing.add(job(1))
        raise ZeroDivisionError
    assert drawing._helper is not None
    assert drawing._helper.poll() is not None


def test_warnings_of_the_second_process_are_told_here() -> None:
    place, figure, words = job(1)
    figure.axes[0].set_title("\N{CJK UNIFIED IDEOGRAPH-4E00}")  # not in the font
    with Drawing(aside=True) as drawing:
        drawing.add((place, figure, words))
        wait(drawing)
        with pytest.warns(UserWarning, match="Glyph"):
            drawing.all()


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
    assert "drawn by its script" in many
    assert len(many) < len(few) / 2
