"""Several labels of one input: features once, a store for each label, paired comparisons."""

from __future__ import annotations

import importlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import criticalmass as cm
from criticalmass.cli.main import run_command
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.extraction.datasets import UNLABELLED, load_dataset
from criticalmass.storage.features_writer import StoreWriter
from criticalmass.storage.run import Run

torch = pytest.importorskip("torch")
N, D = 480, 16


def two_tasks(n: int = N) -> dict[str, Any]:
    """Vectors of which every neuron tells the side, and only all together the balance."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, n)
    noise = rng.standard_normal((n, D))
    signs = np.where(np.arange(D) % 2, 1.0, -1.0)
    # The alternating sum does not depend on the side.
    balance = (noise @ signs > 0).astype(int)
    return {
        "x": (noise + 12.0 * (side[:, None] - 0.5)).astype(np.float32),
        "side": side.tolist(),
        "balance": balance.tolist(),
    }


def sweep(store: Any, out: Path) -> Run:
    return cm.sweep(store, out=out, fractions=(1 / 16, 0.25, 0.5, 1.0), measures=("ridge", "cka"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Both tasks, the second one with wrong labels, and that with one label in fifty changed."""
    folder = tmp_path_factory.mktemp("tasks")
    data = two_tasks()
    noise = np.random.default_rng(1).random(N) < 0.3
    data["noisy"] = (np.array(data["balance"]) ^ noise).tolist()
    data["changed"] = [y ^ (row % 50 == 0) for row, y in enumerate(data["noisy"])]
    names = ("side", "balance", "noisy", "changed")
    store = cm.extract(torch.nn.Identity(), data, out=folder / "features", labels=names)
    return {name: sweep(store.task(name), folder / name) for name in names}


def test_the_critical_mass_depends_on_the_task(runs: dict[str, Run]) -> None:
    table = cm.compare(runs["side"], runs["balance"], deltas=0.95)
    row = table.query("quantity == 'critical_mass' and measure == 'ridge'").iloc[0]
    assert row["value_a"] == 1
    assert row["value_b"] > 8
    assert row["high"] < 0
    assert (row["samples"], row["seeds"]) == ("paired", "paired")
    assert row["by"] == "dataset"
    assert row["a"].endswith("-side")


def test_tasks_on_the_same_samples_are_compared_in_pairs(runs: dict[str, Run]) -> None:
    width = {}
    for paired in (None, False):
        table = cm.compare(runs["noisy"], runs["changed"], paired=paired)
        row = table.query("quantity == 'whole layer'").iloc[0]
        width[row["samples"]] = row["high"] - row["low"]
    assert width["paired"] < 0.5 * width["independent"]


def test_similarities_of_tasks_on_the_same_samples_do_not_differ(runs: dict[str, Run]) -> None:
    table = cm.compare(runs["side"], runs["balance"]).query("measure == 'cka'")
    values = table[table["quantity"] == "value"]
    assert len(values) == 3
    assert set(values["difference"]) == set(values["low"]) == set(values["high"]) == {0.0}
    other = cm.compare(runs["side"], runs["balance"], paired=False).query("measure == 'cka'")
    assert (other["high"] - other["low"]).max() > 0.001


def test_one_subset_for_tasks_of_one_store(runs: dict[str, Run]) -> None:
    side, balance = runs["side"], runs["balance"]
    table = cm.shared_subsets([side, balance], deltas=0.95).query("measure == 'ridge'")
    assert (table["hardest_task"] == balance.frame()["dataset"].iloc[0]).all()
    alike = cm.subset_correlations([runs["noisy"], runs["changed"]]).query(
        "n_kept.isna() and measure == 'ridge'"
    )
    assert alike["correlation"].iloc[0] > 0


def test_features_are_stored_once_and_move_together(tmp_path: Path) -> None:
    data = two_tasks(80)
    store = cm.extract(
        torch.nn.Identity(), data, out=tmp_path / "a" / "features", labels=("side", "balance")
    )
    assert len([*store.path.rglob("features/**/*.npy")]) == 2  # train and test
    assert store.tasks == ("balance", "side")
    assert store.class_names == UNLABELLED
    with pytest.raises(CriticalMassError, match=r"sweep the store of one of them: .*tasks/side"):
        cm.sweep(store, out=tmp_path / "run", measures=("ridge",))
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = cm.FeatureStore.open(tmp_path / "b" / "features")
    side = moved.task("side")
    for split in ("train", "test"):
        assert np.array_equal(side.features(split).array(), moved.features(split).array())
        rows = [int(name.rpartition("-")[2]) for name in side.sample_ids(split)]
        assert side.labels(split).tolist() == [data["side"][row] for row in rows]
    assert side.digest() != moved.task("balance").digest()
    # Without the store around it there are no features.
    shutil.copytree(side.path, tmp_path / "alone")
    with pytest.raises(StoreError, match="shares the features of the store around it"):
        cm.FeatureStore.open(tmp_path / "alone")
    shard = next(moved.path.rglob("features/**/train-*.npy"))
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(StoreError, match="damaged"):
        moved.task("side")


def test_a_missing_label_is_left_out_of_its_task_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreWriter, "shard_rows", 7)
    data = two_tasks(80)
    missing = {3, 4, 50, 79}
    data["balance"] = [None if row in missing else y for row, y in enumerate(data["balance"])]
    with pytest.warns(UserWarning, match=r"'balance' .* is missing in .* left out of this label"):
        store = cm.extract(
            torch.nn.Identity(), data, out=tmp_path / "features", labels=("side", "balance")
        )
    n = dict.fromkeys(store.tasks, 0)
    for name in store.tasks:
        task = store.task(name)
        for split in ("train", "test"):
            rows = [int(sample.rpartition("-")[2]) for sample in task.sample_ids(split)]
            n[name] += len(rows)
            assert np.array_equal(task.features(split).array(), data["x"][rows])
            assert np.array_equal(task.features(split)[[0, -1]], data["x"][[rows[0], rows[-1]]])
            assert task.labels(split).tolist() == [int(data[name][row]) for row in rows]
    assert n == {"side": 80, "balance": 76}
    notes = store.task("balance").manifest["dataset"]["notes"]
    assert sum(notes["samples_without_label"].values()) == 4
    pair = [sweep(store.task(name), tmp_path / name) for name in ("side", "balance")]
    assert set(cm.compare(*pair)["samples"]) == {"independent"}


@pytest.mark.parametrize("scheme", ["csv", "parquet", "jsonl", "hf"])
def test_every_table_gives_the_same_tasks(tmp_path: Path, scheme: str) -> None:
    table = pd.DataFrame(
        {
            "text": [f"text {row}" for row in range(40)],
            "tone": [row % 4 + 1 for row in range(40)],
            "speaker": ["a", "b", None, "b"] * 10,
        }
    )
    path = tmp_path / f"t.{scheme}"
    if scheme == "csv":
        table.to_csv(path, index=False)
    elif scheme == "parquet":
        table.to_parquet(path)
    elif scheme == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        library = pytest.importorskip("datasets")
        library.Dataset.from_pandas(table).save_to_disk(path)
    with pytest.warns(UserWarning, match="'speaker' .* missing in"):
        data = load_dataset(f"{scheme}:{path}?text=text", labels=("tone", "speaker"))
    assert data.task_classes == {"tone": ("1", "2", "3", "4"), "speaker": ("a", "b")}
    assert data.spec == f"{scheme}:{path}?text=text"
    for split in data.splits.values():
        rows = [int(name.rpartition("-")[2]) for name in split.ids]
        assert split.tasks["tone"].tolist() == [row % 4 for row in rows]
        assert split.tasks["speaker"].tolist() == [[0, 1, -1, 1][row % 4] for row in rows]
        # The first label decides the split.
        assert np.ptp(np.bincount(split.tasks["tone"])) <= 1
    # Other labels of the same samples leave the samples as they are.
    assert load_dataset(f"{scheme}:{path}?text=text&labels=tone").digest == data.digest
    with pytest.warns(UserWarning, match="missing"):
        sample = load_dataset(f"{scheme}:{path}?text=text&labels=tone,speaker&n=8")
    assert np.bincount(sample.splits["train"].tasks["tone"]).tolist() == [2, 2, 2, 2]


def test_what_cannot_be_a_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"text {row},{row % 2},{row % 3},,{row + 0.5}" for row in range(12)]
    path.write_text("\n".join(["text,tone,speaker,empty,size", *lines]))
    spec = f"csv:{path}?text=text"
    for labels, words in {
        ("tone", "speeker"): "did you mean 'speaker'",
        ("tone", "tone"): "each label once",
        ("tone", "text"): "holds the samples",
        ("empty",): "no value in any row",
        ("size",): "regression is not supported",
        ("a&b",): "rename this column",
    }.items():
        with pytest.raises(CriticalMassError, match=words):
            load_dataset(spec, labels=labels)
    for bad, words in {
        f"{spec}&label=tone&labels=speaker": "leave label out",
        f"{spec}&labels=tone,speaker&classes=0-1": "leave classes= out",
        f"csv:{path}?label=tone&labels=tone": "leave label out",
    }.items():
        with pytest.raises(CriticalMassError, match=words):
            load_dataset(bad)
    with pytest.raises(CriticalMassError, match="already sets labels"):
        load_dataset(f"{spec}&labels=tone", labels=("speaker",))
    with pytest.raises(CriticalMassError, match=r"no option .*labels"):
        load_dataset("sklearn:digits", labels=("tone",))
    data = two_tasks(20)
    with pytest.raises(CriticalMassError, match="did you mean 'side'"):
        load_dataset(data, labels=("sides",))
    with pytest.raises(CriticalMassError, match="19 labels 'side'"):
        load_dataset(data | {"side": data["side"][:-1]}, labels=("side",))
    with pytest.raises(CriticalMassError, match="labels=side are columns"):
        load_dataset((data["x"], data["side"]), labels=("side",))
    with pytest.raises(CriticalMassError, match="did you mean 'side'"):
        cm.extract(
            torch.nn.Identity(), data, out=tmp_path / "features", labels=("side", "balance")
        ).task("sidee")


NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def pictures_with_labels(path: Path) -> None:
    """Write 80 pictures whose colour shows the tone and the speaker; ten lack the third label."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(80):
        tone, speaker = row % 2, row // 2 % 2
        colour = np.array([180 * tone, 180 * speaker, 0])
        pixels = rng.integers(0, 60, (8, 8, 3)) + colour
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        rows.append({"image": file.getvalue(), "tone": tone, "speaker": f"s{speaker}"})
        rows[-1]["lost"] = None if row % 8 == 0 else tone
    pd.DataFrame(rows).to_parquet(path)


def test_one_command_measures_all_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = []

    def page(runs: list[Run], out: Path, **options: Any) -> Path:
        pages.append([run.path.name for run in runs])
        return out

    monkeypatch.setattr(
        importlib.import_module("criticalmass.reporting.page.report"), "report", page
    )
    (tmp_path / "net_of_tasks.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pictures_with_labels(tmp_path / "t.parquet")
    command = ["measure", "module:net_of_tasks:net?px=8", "parquet:t.parquet", "--out", "out", "-q"]
    options = ["--measure", "ridge", "--refine", "none", "--fraction", "0.5", "--fraction", "1"]
    labels = ["tone", "speaker"]
    flags = [flag for label in labels for flag in ("--labels", label)]
    assert run_command([*command, *options, *flags]) == 0
    printed = capsys.readouterr().out
    assert "t-tone" in printed
    assert "t-speaker" in printed
    frames = {name: Run.open(tmp_path / "out" / f"run-{name}").frame() for name in labels}
    assert len(frames["tone"]) == len(frames["speaker"]) > 5
    assert run_command(["compare", "out/run-tone", "out/run-speaker", "--format", "csv"]) == 0
    assert "paired" in capsys.readouterr().out
    assert pages == [["run-tone", "run-speaker"]]
    assert run_command(["sweep", "out/features/tasks/tone", "--out", "again", "-q"]) == 0


def imported(source: Any, out: Path, tasks: Any, **options: Any) -> Any:
    return cm.import_features(source, out=out, tasks=tasks, **options)


@pytest.mark.filterwarnings("ignore:label 'side' of .* is missing")
@pytest.mark.parametrize("kind", ["frame", "wide", "parquet", "npz", "files", "arrays"])
def test_vectors_are_imported_with_several_labels(tmp_path: Path, kind: str) -> None:
    data = two_tasks(60)
    x = data["x"]
    labels: dict[str, Any] = {"balance": data["balance"], "side": [f"s{y}" for y in data["side"]]}
    labels["side"][5] = None
    tasks: Any = ("balance", "side")
    if kind == "frame":
        source: Any = pd.DataFrame({"embedding": list(x), "balance": labels["balance"]})
        source["side"] = labels["side"]
    elif kind == "wide":
        # All columns are numbers, and those of a label are no neurons.
        labels["side"] = data["side"]
        source = pd.DataFrame(x, columns=[f"d{i}" for i in range(D)])
        source["balance"], source["side"] = labels["balance"], labels["side"]
    elif kind == "parquet":
        source = tmp_path / "t.parquet"
        pd.DataFrame({"embedding": list(x), **labels}).to_parquet(source)
    else:
        # Arrays of texts have no missing values.
        labels["side"] = [data["side"][row] for row in range(60)]
        if kind == "npz":
            source = tmp_path / "t.npz"
            np.savez(source, X=x, balance=labels["balance"], side=labels["side"])
        else:
            source, tasks = x, labels
        if kind == "files":
            np.save(tmp_path / "balance.npy", labels["balance"])
            (tmp_path / "side.txt").write_text("\n".join(map(str, labels["side"])))
            tasks = [str(tmp_path / "balance.npy"), str(tmp_path / "side.txt")]
    if None in labels["side"]:
        with pytest.warns(UserWarning, match=r"'side' of .* is missing in 1 of .* vectors"):
            store = imported(source, tmp_path / "out", tasks)
    else:
        store = imported(source, tmp_path / "out", tasks)
    assert store.tasks == ("balance", "side")
    assert store.class_names == UNLABELLED
    seen = dict.fromkeys(store.tasks, 0)
    for name in store.tasks:
        task = store.task(name)
        for split in ("train", "test"):
            rows = [int(sample.rpartition("-")[2]) for sample in task.sample_ids(split)]
            seen[name] += len(rows)
            assert np.array_equal(task.features(split).array(), x[rows])
            classes = [task.class_names[number] for number in task.labels(split)]
            assert classes == [str(labels[name][row]) for row in rows]
    assert seen == {"balance": 60, "side": 59 if None in labels["side"] else 60}
    # The first label decides the split: a quarter of each of its classes is for the test.
    y = store.task("balance").labels("test")
    assert np.bincount(y).tolist() == [round(labels["balance"].count(c) / 4) for c in (0, 1)]
    # The same request opens the store; other labels of the same vectors are added to it.
    again = imported(source, tmp_path / "out", tasks)
    assert again.digest() == store.digest()


def test_imported_tasks_are_compared_in_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = two_tasks(240)
    pd.DataFrame(
        {"embedding": list(data["x"]), "side": data["side"], "balance": data["balance"]}
    ).to_parquet(tmp_path / "t.parquet")
    flags = ["--labels", "balance", "--labels", "side", "--out", str(tmp_path / "out"), "-q"]
    assert run_command(["import", str(tmp_path / "t.parquet"), *flags]) == 0
    printed = capsys.readouterr().out.split()
    assert [Path(path).name for path in printed] == ["balance", "side"]
    runs = [sweep(path, tmp_path / Path(path).name) for path in printed]
    assert set(cm.compare(*runs)["samples"]) == {"paired"}


def test_tasks_that_cannot_be_imported_are_refused(tmp_path: Path) -> None:
    data = two_tasks(20)
    frame = pd.DataFrame({"embedding": list(data["x"]), "side": data["side"]})
    frame["size"] = np.arange(20) + 0.5
    for tasks, words in {
        ("side", "sidee"): "did you mean 'side'",
        ("side", "side"): "must name each label once",
        ("side", "size"): "regression is not supported",
    }.items():
        with pytest.raises(CriticalMassError, match=words):
            imported(frame, tmp_path / "out", tasks)
    with pytest.raises(CriticalMassError, match="19 labels"):
        imported(data["x"], tmp_path / "out", {"side": data["side"][:-1]})
    with pytest.raises(CriticalMassError, match="labels and tasks are given"):
        imported(frame, tmp_path / "out", ("side",), labels="side")
    with pytest.raises(CriticalMassError, match="leave out tasks"):
        imported(data["x"], tmp_path / "out", ("side",), queries=data["x"], qrels={"0": {"0": 1}})


def test_a_study_measures_each_label_of_one_input(tmp_path: Path, monkeypatch: Any) -> None:
    figures = []

    def page(runs: list[Run], out: Path, **options: Any) -> Path:
        figures.extend(options["figures"])
        return out

    module = importlib.import_module("criticalmass.reporting.page.report")
    monkeypatch.setattr(module, "report", page)
    (tmp_path / "net_of_a_study.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pictures_with_labels(tmp_path / "t.parquet")
    (tmp_path / "mine.yaml").write_text(
        "question: q\nmodels: ['module:net_of_a_study:net?px=8']\n"
        "datasets:\n  - {spec: 'parquet:t.parquet', labels: [tone, speaker, lost]}\n"
        "group: pictures\nexamples: [all, 40]\nmeasures: [ridge]\nfractions: [0.5, 1.0]\n"
        "seeds: 3\ndeltas: [0.9]\ntables: [tasks, groups]\n"
    )
    with pytest.warns(UserWarning, match="'lost' of .* is missing"):
        result = cm.study("mine.yaml", out="out")
    assert result.missing == ()
    # Features are extracted once for all labels.
    assert len([*Path("out/features").glob("*.json")]) == 2
    tables = {path.stem: pd.read_csv(path) for path in Path("out/studies/mine").glob("*.csv")}
    redundancy = tables["redundancy"]
    assert set(redundancy["task"]) == {"tone", "speaker", "lost"}
    assert set(redundancy["group"]) == {"pictures"}
    assert set(redundancy["examples"]) == {"all", "40"}
    assert set(redundancy["n_train"][redundancy["task"] == "tone"]) == {60, 40}
    tasks = tables["tasks"]
    assert set(tasks["bar_kind"]) == {"whole layer", "above chance"}
    pairs = tasks.groupby(["task", "task_b"])["samples"].agg(set)
    # A label that some samples lack has other samples.
    assert pairs["tone", "speaker"] == {"paired"}
    assert pairs["tone", "lost"] == pairs["speaker", "lost"] == {"independent"}
    whole = tasks[(tasks["quantity"] == "whole layer") & (tasks["task_b"] == "speaker")]
    bars = whole.groupby("bar_kind")["value_a"].first()
    assert bars["above chance"] < bars["whole layer"]
    groups = tables["groups"]
    assert len(groups) == 6
    assert (groups["critical_mass_low"] <= groups["critical_mass"]).all()
    fronts = tables["fronts"].sort_values("n_kept")
    for _, front in fronts.groupby(["task", "examples"]):
        assert front["value"].is_monotonic_increasing
    assert [figure.title for figure in figures] == [
        "Critical mass by task",
        "Redundancy and performance of every task, 40 training samples",
        "Redundancy and performance of every task, all training samples",
    ]


def test_labels_of_a_study_are_checked_and_named(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "net_of_a_study.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "question: q\nmodels: ['module:net_of_a_study:net?px=8']\npage: false\ndatasets:\n  - "
    for entry, words in {
        "{spec: 'parquet:t.parquet', lables: [tone]}": r"line 5: .*did you mean 'labels'",
        "{spec: 'parquet:t.parquet', labels: [tone, tone]}": "'tone' is listed twice",
        "'parquet:t.parquet?labels=tone,tone'": "must name each label once",
        "{spec: 'parquet:t.parquet?labels=tone', labels: [speaker]}": "already sets labels",
        "{spec: sklearn:digits, labels: [tone]}": "no option of dataset sklearn: 'labels'",
    }.items():
        (tmp_path / "mine.yaml").write_text(text + entry + "\n")
        with pytest.raises(CriticalMassError, match=words):
            cm.study("mine.yaml", out="out")
    pictures_with_labels(tmp_path / "t.parquet")
    (tmp_path / "mine.yaml").write_text(
        text + "{spec: 'parquet:t.parquet', labels: [tone, speeker]}\n"
    )
    result = cm.study("mine.yaml", out="out", pages=False)
    assert {one.dataset.rpartition("(")[2] for one in result.missing} == {
        "label 'tone')",
        "label 'speeker')",
    }
    assert all("did you mean 'speaker'" in one.reason for one in result.missing)
