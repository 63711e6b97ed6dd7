"""Progress: bars on a terminal, lines elsewhere, nothing outside of a display."""

from __future__ import annotations

import io
import sys
import types
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.core import progress
from criticalmass.core.progress import Progress, warn_user, write_line


class Terminal(io.StringIO):
    """Text that counts as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def work() -> None:
    """One task of two steps, with a task, a line and a warning inside of it."""
    with Progress("study", 2, "steps") as outer:
        outer.begin("first step")
        with Progress("inner", 30, "cells") as inner:
            inner.advance(30)
            write_line("a line")
        outer.advance()
        outer.begin("second step", left=65)
        outer.advance()


def test_lines_are_written_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.display():
        work()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:4] == [
        "study: 2 steps",
        "study 1/2: first step",
        "a line",
        "study 2/2: second step, about 1 min 05 s left",
    ]
    assert lines[4].startswith("study: 2 of 2 steps in ")
    assert len(lines) == 5


def test_a_task_inside_another_has_its_own_bar(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress.display(), Progress("outer", 2, "steps") as outer:
        outer.begin("first step", left=65)
        assert progress._display.bars is not None
        with Progress("inner", 30, "cells") as inner:
            inner.advance(12)
            tasks = [(task.description, task.completed) for task in progress._display.bars.tasks]
            assert tasks == [("first step", 0), ("inner", 12)]
            progress._display.bars.refresh()
            write_line("a line")
        assert len(progress._display.bars.tasks) == 1
        outer.advance()
    assert progress._display.bars is None
    shown = terminal.getvalue()
    for text in ("first step", "inner", "12/30", "a line", "about 1 min 05 s left", "1/2"):
        assert text in shown


def test_nothing_is_shown_outside_of_a_display(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        work()
        with progress.display():
            pass
        work()
    assert terminal.getvalue() == ""


def test_a_warning_is_a_line_in_a_display_and_a_user_warning_outside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.display():
        warn_user("careful")
    assert capsys.readouterr().err == "careful\n"
    with pytest.warns(UserWarning, match="careful"):
        warn_user("careful")


def test_a_warning_names_the_line_of_the_user(tmp_path: Path) -> None:
    """It names no file of this package, however deep in it the warning is issued."""
    with pytest.warns(UserWarning, match="careful") as direct:
        warn_user("careful")
    rows = np.random.default_rng(0).standard_normal((40, 4))
    labels = np.arange(40) % 2
    with pytest.warns(UserWarning, match="of 40 test vectors") as deep:
        cm.import_features(
            {"train": rows, "test": rows}, labels={"train": labels, "test": labels},
            out=tmp_path / "store",
        )  # fmt: skip
    assert {one.filename for one in [*direct, *deep]} == {__file__}


def test_an_error_closes_all_bars(terminal: Terminal) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        redirect_stderr(terminal),
        progress.display(),
        Progress("a", 1),
        Progress("b", 1),
    ):
        raise ZeroDivisionError
    assert progress._display == progress._Display()


class Handle:
    """An output of a notebook; records what it shows."""

    def __init__(self, shown: list[str]) -> None:
        self.shown = shown

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        assert "<script" not in content["text/html"]
        self.shown.append(content["text/plain"])


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Pretend to be the kernel of a notebook; each output is the list of what it showed."""
    outputs: list[list[str]] = []

    def show(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        outputs.append([])
        return Handle(outputs[-1])

    shell = types.SimpleNamespace(kernel=object())
    module: Any = types.ModuleType("IPython")
    module.get_ipython = lambda: shell
    module.display = types.ModuleType("IPython.display")
    module.display.display = show
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", module.display)
    return outputs


def test_a_notebook_has_one_output_for_a_task_and_those_inside(
    outputs: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Progress("<script>", 1000, "rows") as bar:
        for _ in range(1000):
            with progress.Progress("inner", 1, "rows") as inner:
                inner.advance()
            bar.advance()
        bar.begin("step", 3.0)
        progress.write_line("a line")
    assert len(outputs) == 1
    assert len(outputs[0]) < 20
    assert outputs[0][-1].startswith("<script>: 1,000 of 1,000 rows in ")
    assert capsys.readouterr().out == "a line\n"


def test_quiet_shows_nothing_in_a_notebook(
    outputs: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with cm.quiet(), progress.Progress("task", 2):
        progress.write_line("a line")
        with pytest.warns(UserWarning, match="a warning"):
            progress.warn_user("a warning")
    assert (outputs, capsys.readouterr().out) == ([], "")
    progress.warn_user("a warning")
    assert capsys.readouterr().err == "a warning\n"


def test_quiet_holds_from_its_call_on() -> None:
    before = progress._display.is_on
    try:
        cm.quiet(False)
        assert progress._display.shows
        cm.quiet()
        assert not progress._display.shows
    finally:
        progress._display.is_on = before
