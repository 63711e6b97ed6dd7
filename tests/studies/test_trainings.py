"""Studies that train networks: the grid, the order, failures, and the tables."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.studies.schema import TrainGrid
from criticalmass.studies.trainings import list_trainings, train_all

TINY = {
    "data": {"dataset": "sklearn:digits?classes=0-4", "n": 60},
    "network": {"width": 4, "neurons": 16, "pixels": 8},
    "optimizer": {"batch": 20},
    "epochs": 1,
}


def make_grid(**changes: object) -> TrainGrid:
    return TrainGrid(**{"base": TINY, "recipes": {"plain": None}, "seeds": 2, **changes})


class TestGrid:
    def test_every_recipe_has_every_training_seed(self, tmp_path: Path) -> None:
        grid = make_grid(recipes={"plain": None, "mse": {"objectives": ["mse"]}})
        trainings = list_trainings(grid, tmp_path)
        names = {(one.recipe.name, one.recipe.seed, one.folder.name[:-9]) for one in trainings}
        assert names == {(n, s, f"{n}-s{s}") for n in ("plain", "mse") for s in (0, 1)}
        assert {one.recipe.objectives[0].name for one in trainings} == {"cross-entropy", "mse"}

    def test_equal_recipes_of_two_studies_have_one_folder(self, tmp_path: Path) -> None:
        one = make_grid(recipes={"plain": None, "mse": {"objectives": ["mse"]}})
        folders = [{t.folder for t in list_trainings(g, tmp_path)} for g in (one, make_grid())]
        assert folders[1] < folders[0]

    def test_a_network_comes_after_the_one_that_it_starts_from(self, tmp_path: Path) -> None:
        tuned = {"network": {"start": "full", "weights": "recipe:plain"}}
        trainings = list_trainings(make_grid(recipes={"tuned": tuned, "plain": None}), tmp_path)
        assert [one.name for one in trainings] == ["plain", "tuned"] * 2
        for first, second in (trainings[:2], trainings[2:]):
            assert second.start == first.folder
            assert second.recipe.network.weights == f"trained:{first.folder}@1"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"baseline": "plan"}, "did you mean 'plain'"),
            ({"recipes": {}}, "at least 1"),
            ({"recipes": {"a": {"objectives": ["mes"]}}}, "did you mean 'mse'"),
            ({"recipes": {"a": {"epoch": 2}}}, "did you mean 'epochs'"),
            ({"at": [0, 7]}, r"keeps no checkpoint of epoch 7; it keeps 0, 1"),
            ({"base": "fashion-fiv"}, "did you mean 'fashion-five'"),
            (
                {"recipes": {"a": {"network": {"start": "full", "weights": "recipe:b"}}}},
                "recipe that 'a' can start from",
            ),
            (
                {
                    "recipes": {
                        "a": {"network": {"start": "full", "weights": "recipe:b"}},
                        "b": {"network": {"start": "full", "weights": "recipe:a"}},
                    }
                },
                "starts from itself",
            ),
        ],
    )
    def test_what_cannot_be_trained_is_refused_when_the_study_is_read(
        self, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            make_grid(**changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a study that trains; it was run once."""
    folder = tmp_path_factory.mktemp("training-study")
    (folder / "small.yaml").write_text(STUDY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # One at a time, in this process.
        patch.setattr("criticalmass.studies.trainings.thread_count", lambda: 1)
        cm.study(folder / "small.yaml", out=folder / "out")
    return folder


STUDY = """\
question: Does the loss govern redundancy?
page: false
train:
  base:
    data: {dataset: "sklearn:digits?classes=0-4", n: 60}
    network: {width: 4, neurons: 16, pixels: 8}
    optimizer: {batch: 20}
    epochs: 1
  recipes:
    plain:
    mse: {objectives: [mse]}
    diverges: {optimizer: {lr: 1.0e+9}}
  seeds: 3
datasets: ["sklearn:digits?classes=5-9&n=100"]
measures: [ridge, cka]
fractions: [0.125, 0.25, 0.5, 1.0]
seeds: 2
"""


def test_networks_are_trained_measured_and_compared(trained: Path) -> None:
    results = trained / "out/studies/small"
    networks = pd.read_csv(results / "training.csv")
    assert sorted(zip(networks["recipe"], networks["training_seed"], strict=True)) == [
        (name, seed) for name in ("mse", "plain") for seed in range(3)
    ]
    assert networks["probe_accuracy"].between(0.2, 1).all()
    effects = pd.read_csv(results / "effects.csv")
    assert set(effects["recipe"]) == {"mse"}
    assert set(effects["baseline"]) == {"plain"}
    assert set(effects["measure"]) == {"ridge", "cka"}
    assert (effects["n_pairs"] == 3).all()
    # The laws say something of both measures.
    assert effects["predicted_log_ratio"].notna().all()


def test_a_training_that_fails_is_listed_with_its_own_reason(trained: Path) -> None:
    missing = pd.read_csv(trained / "out/studies/small/missing.csv")
    assert len(missing) == 3
    assert missing["reason"].str.contains("not finite").all()


def test_the_second_time_nothing_is_trained(trained: Path) -> None:
    folder = trained / "out/training"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    grid = make_grid(seeds=3, recipes={"plain": None, "mse": {"objectives": ["mse"]}})
    results = list(train_all(list_trainings(grid, folder), "cpu"))
    assert [error for _, error in results] == [None] * 6
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before


def test_a_network_whose_weights_were_deleted_is_trained_again(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("criticalmass.studies.trainings.thread_count", lambda: 1)
    [training] = list_trainings(make_grid(seeds=1), tmp_path)
    shutil.copytree(trained / "out/training" / training.folder.name, training.folder)
    weights = training.folder / "checkpoints/epoch-0001.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.warns(UserWarning, match="a file is missing"):
        assert [error for _, error in train_all([training], "cpu")] == [None]
    assert weights.read_bytes() == content
    weights.write_bytes(b"damaged")
    [(_, error)] = train_all([training], "cpu")
    assert "damaged" in str(error)


def test_without_random_subsets_recipes_are_compared_by_the_first_selector(trained: Path) -> None:
    text = STUDY.replace("seeds: 2", "selectors: [first]").replace(
        "    diverges: {optimizer: {lr: 1.0e+9}}\n", ""
    )
    (trained / "ordered.yaml").write_text(text, encoding="utf-8")
    cm.study(trained / "ordered.yaml", out=trained / "out")
    table = pd.read_csv(trained / "out/studies/ordered/effects.csv")
    assert set(table["selector"]) == {"first"}
    # The laws are those of random subsets.
    assert table["predicted_log_ratio"].isna().all()


def test_a_control_of_trained_networks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control.yaml").write_text(f"{STUDY}control: true\n", encoding="utf-8")
    with pytest.raises(CriticalMassError, match=r"line 18: control: .* recipe with epochs: 0"):
        cm.study(tmp_path / "control.yaml", out=tmp_path / "out")


def test_a_network_whose_start_failed_fails_for_the_same_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(
        recipes={
            "broken": {"data": {"n": 1_000_000}},
            "tuned": {"network": {"start": "full", "weights": "recipe:broken"}},
        },
        seeds=1,
    )
    monkeypatch.setattr("criticalmass.studies.trainings.thread_count", lambda: 1)
    results = {one.name: error for one, error in train_all(list_trainings(grid, tmp_path), "cpu")}
    assert "n=1000000" in str(results["broken"])
    assert isinstance(results["tuned"], CriticalMassError)
    assert str(results["tuned"]) == str(results["broken"])


def test_processes_train_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    trainings = list_trainings(make_grid(), tmp_path)
    assert [error for _, error in train_all(trainings, "cpu")] == [None, None]
    for one in trainings:
        for path in one.folder.rglob("*.safetensors"):
            name = path.relative_to(tmp_path)
            assert path.read_bytes() == (trained / "out/training" / name).read_bytes()


def test_the_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, os, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from criticalmass.studies.trainings import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600).result()\n"
    )
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 600
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)
    parent.stdout.close()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2]
    except OSError:
        return True
    return state.split()[0] != "Z"
