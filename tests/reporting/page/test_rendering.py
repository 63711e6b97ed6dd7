"""A second process renders the same bytes as this one, and may fail."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.reporting.page import rendering
from criticalmass.reporting.plots import Plot, Series, plain_axis
from criticalmass.storage.run import Run


def plots(count: int) -> dict[str, Plot]:
    axis = plain_axis([0.0, 1.0], "$a$ <b>")
    table = pd.DataFrame({"a": [1, 2]})
    return {
        f"figure-{n}": Plot(
            f"name-{n}", "title", "caption", f"figure <{n}>", table, axis, axis,
            (Series("line", [0.0, 1.0], [0.0, 1.0 / (n + 1)]),),
        )
        for n in range(count)
    }  # fmt: skip


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "thread_count", lambda: 2)


@pytest.mark.usefixtures("shared", "real_pdfs")
def test_both_processes_render_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[str] = []
    render = rendering._render

    def recorded(jobs: list[tuple[str, Plot]]) -> dict[str, rendering.RenderedFigure]:
        own.extend(plot_id for plot_id, _ in jobs)
        return render(jobs)

    monkeypatch.setattr(rendering, "_render", recorded)
    with rendering.second_process(wanted=True) as process:
        results = rendering.render_all(plots(4), process)
    assert own == ["figure-0", "figure-2"], "the second process draws the others"
    assert list(results) == [f"figure-{n}" for n in range(4)]
    assert results == render(list(plots(4).items()))


@pytest.mark.usefixtures("shared")
def test_if_it_fails_this_process_renders_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with rendering.second_process(wanted=True) as process:
        results = rendering.render_all(plots(3), process)
    assert list(results) == ["figure-0", "figure-1", "figure-2"]


@pytest.mark.usefixtures("shared")
def test_an_error_of_the_caller_leaves_no_process(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        contextlib.suppress(ZeroDivisionError),
        rendering.second_process(wanted=True) as process,
    ):
        raise ZeroDivisionError
    assert process is not None
    assert process.returncode is not None
    assert capfd.readouterr().err == "", "no traceback of the second process"


@pytest.mark.usefixtures("real_pdfs")
def test_a_page_is_the_same_with_and_without(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("criticalmass.reporting.page.report._MAX_SERIAL_RUNS", 0)
    run = make_run()
    pages = []
    for cores in (1, 2):
        monkeypatch.setattr(rendering, "thread_count", lambda cores=cores: cores)
        path = cm.report(run, tmp_path / f"{cores}.html")
        pages.append(path.read_bytes())
    assert pages[0] == pages[1]


def test_a_page_of_many_runs_leaves_the_drawing_to_its_script(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("criticalmass.reporting.page.report._MAX_DRAWN_RUNS", 1)
    run = make_run()
    few = cm.report(run, tmp_path / "few.html").read_text(encoding="utf-8")
    many = cm.report([run] * 2, tmp_path / "many.html").read_text(encoding="utf-8")
    assert 'data-save="pdf"' in few
    assert 'data-save="pdf"' not in many
    assert 'data-save="svg"' in many
    assert "only the script of the page draws the figures" in many
    assert len(many) < len(few)
