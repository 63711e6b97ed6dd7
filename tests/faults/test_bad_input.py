"""Bad input: benchmarks/bad_input.py with some hundreds of calls, and some typical mistakes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.programs import run_program

import criticalmass as cm
from criticalmass.cli.main import run_command
from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run


def test_hundreds_of_bad_calls_each_raise_in_one_line(tmp_path: Path) -> None:
    printed = run_program("benchmarks.bad_input", "--dir", str(tmp_path), "--count", "400")
    count = re.search(r"^([\d,]+) calls", printed, re.MULTILINE)
    assert count is not None
    assert int(count[1].replace(",", "")) >= 350


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "high"}, "level='high' must be a confidence"),
        ({"level": float("nan")}, "level=nan must be"),
        ({"resamples": 10**12}, "resamples=1000000000000 must be a whole number from 2 to 100,000"),
        ({"resamples": True}, "resamples=True"),
        ({"deltas": "half"}, "deltas='half' must be numbers"),
        ({"seed": -1}, "seed=-1"),
        ({"run": 7}, "run=7 must be a run"),
    ],
)
def test_an_error_names_the_argument_and_its_valid_values(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(CriticalMassError) as caught:
        cm.redundancy(**{"run": "nowhere", **arguments})
    assert message in str(caught.value)


def test_a_spec_without_a_scheme_is_repeated() -> None:
    with pytest.raises(CriticalMassError, match=r"^model ':0' is not of the form scheme:name"):
        cm.load_model(":0")


@pytest.mark.parametrize("weights", ["?0", "R&D/w.npz", "w.npz&pool=max"])
def test_a_file_cannot_become_an_option_of_the_model(weights: str, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match=f"^weights={re.escape(repr(weights))} contains "):
        cm.extract("timm:resnet18", "sklearn:digits", out=tmp_path / "out", weights=weights)


def test_a_strength_whose_inverse_overflows_is_refused() -> None:
    with pytest.raises(CriticalMassError, match=r"^l2s=1e-320 must be numbers from 1e-30"):
        cm.fit_probes(np.eye(4, 2), [0, 1, 0, 1], [[0, 1]], [1], 1e-320)


@pytest.mark.parametrize("name", ["path_or_arrays", "labels", "split"])
def test_rows_that_differ_in_length_are_refused(name: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"path_or_arrays": np.eye(4), "labels": [0, 1, 0, 1], "split": None}
    what = "features" if name == "path_or_arrays" else name
    ragged = [[1, 2], [3], [0], [1]]
    with pytest.raises(CriticalMassError, match=rf"^{what}=\[\[1, 2\], .* cannot be made an array"):
        cm.import_features(**arguments | {name: ragged}, out=tmp_path / "out")


def test_a_folder_with_the_name_of_the_output_is_named(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = make_run(), tmp_path / "a\nb"
    folder.mkdir()
    assert run_command(["report", str(run.path), "--out", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path}/a\\nb: Is a directory; choose")


@pytest.mark.parametrize("words", [["--worst-class-drop", "1e400"], ["--worst-class-drop=1e400"]])
def test_an_error_names_the_option_as_the_user_wrote_it(
    words: list[str], store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["shrink", str(store.path), "--keep", "0.9", *words]) == 2
    assert "\nerror: --worst-class-drop=inf is outside" in f"\n{capsys.readouterr().err}"


@pytest.mark.parametrize("orders", [float("nan"), [[0.2, 1.7]], [[True, False]], [["a", "b"]]])
def test_orders_that_are_not_whole_numbers_are_not_rounded(orders: Any) -> None:
    with pytest.raises(CriticalMassError, match=r"^orders( have dtype| have shape|=)"):
        cm.fit_probes(np.eye(4, 2), [0, 1, 0, 1], orders, [1], [0.1])


@pytest.mark.parametrize("level", [None, "high", True])
def test_an_invalid_level_is_repeated(store: FeatureStore, level: Any, tmp_path: Path) -> None:
    with pytest.raises(CriticalMassError, match=f"^refine_level={level!r} must be a confidence"):
        cm.sweep(store, out=tmp_path / "run", measures=("cka",), refine=0.9, refine_level=level)


def test_half_precision_fractions_do_not_overflow(store: FeatureStore) -> None:
    with pytest.raises(CriticalMassError, match="do not fit without sharing neurons"):
        cm.ensembles(store, fractions=np.array([6e4], dtype=np.float16), members=2, seeds=1)


def test_too_many_threads_are_an_error() -> None:
    x, y = np.zeros((4, 2)), [0, 1, 0, 1]
    with pytest.raises(CriticalMassError, match=r"threads=2147483648 must be .* from 1 to"):
        cm.fit_probes(x, y, [[0, 1]], [1], [0.1], threads=2**31)


@pytest.mark.parametrize("out", ["/", "."])
def test_an_output_path_without_a_name_is_an_error(
    out: str, make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CriticalMassError, match=f"'{re.escape(out)}' is not the name"):
        cm.report(run, out)


def test_one_value_stands_for_several() -> None:
    @validate_arguments
    def echo(deltas: Any = (0.9,)) -> Any:
        return deltas

    assert echo(0.5) == (0.5,)
    assert echo(deltas=[0.5]) == [0.5]
    assert echo() == (0.9,)


def test_an_iterator_reaches_the_function_unread() -> None:
    @validate_arguments
    def echo(fractions: Any) -> Any:
        return list(fractions)

    assert echo(iter([0.1, 0.2])) == [0.1, 0.2]


def test_an_error_is_one_line_whatever_it_repeats() -> None:
    text = str(CriticalMassError("no run at 'a\nb\x07\u202e' " + "x" * 9000))
    assert text.isprintable()
    assert len(text) < 1300
    assert text.startswith(r"no run at 'a\nb\x07\u202e' ")


def test_arrays_of_other_libraries_are_accepted() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((20, 4))
    assert cm.linear_cka(x.tolist(), x) == pytest.approx(1.0)
    assert cm.participation_ratio(torch.eye(4).numpy()) == pytest.approx(4.0)
