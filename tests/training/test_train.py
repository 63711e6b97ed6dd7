"""Training folders: equal bytes, resuming, refusals and faults."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.tiny import DIGITS, contents, tiny_recipe

import criticalmass as cm
from criticalmass.cli.catalogue import describe
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.models.trained import TRAINING, find_checkpoint
from criticalmass.storage import files
from criticalmass.storage.run_lock import write_lock
from criticalmass.training import loop
from criticalmass.training.loop import TrainingError
from criticalmass.training.recipe import load_recipe
from criticalmass.training.train import train_on


def test_a_recipe_trained_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    recipe = tiny_recipe(checkpoints=[1])
    for name in ("a", "b"):
        cm.train(recipe, out=tmp_path / name)
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    assert [name for name in first if name.endswith("safetensors")] == [
        f"checkpoints/epoch-000{epoch}.safetensors" for epoch in (0, 1, 2)
    ]
    assert set(first) - {name for name in first if "/" in name} == {
        "log.parquet",
        "manifest.json",
        "run.lock",
    }


def test_the_training_seed_changes_every_checkpoint(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    a = contents(cm.train(recipe, out=tmp_path / "a").path)
    b = contents(cm.train(recipe, out=tmp_path / "b", seed=1).path)
    for name in a:
        assert (a[name] != b[name]) == (name != "run.lock")


def test_the_log_has_a_row_per_epoch_and_measures_at_checkpoints(tmp_path: Path) -> None:
    result = cm.train(tiny_recipe(epochs=3, checkpoints=[2]), out=tmp_path / "a")
    assert result.checkpoints == (0, 2, 3)
    assert result.log["epoch"].tolist() == [0, 1, 2, 3]
    assert result.log["test_accuracy"].notna().tolist() == [True, False, True, True]
    assert result.log["validation_accuracy"].notna().all()
    # 90 images in steps of 32: the third step has 26.
    assert result.log["step"].tolist() == [0, 3, 6, 9]
    assert result.log["lr"].iloc[-1] == 0


def test_a_network_learns(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        data={"dataset": "sklearn:digits?classes=0,1", "n": 200},
        optimizer={"lr": 0.02},
        epochs=5,
    )
    log = cm.train(recipe, out=tmp_path / "a").log
    assert log["test_accuracy"].iloc[-1] > 0.9 > log["test_accuracy"].iloc[0]
    assert log["train_error"].iloc[-1] < 0.1


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    recipe = tiny_recipe()
    first = cm.train(recipe, out=tmp_path / "a")
    times = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    again = cm.train(recipe, out=tmp_path / "a")
    assert {path: path.stat().st_mtime_ns for path in first.path.rglob("*")} == times
    assert again.log.equals(first.log)


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    cm.train(tiny_recipe(epochs=0), out=tmp_path / "a")
    with pytest.raises(CriticalMassError, match=r"optimizer\.lr: 0\.1 there, 0\.2 here"):
        cm.train(tiny_recipe(epochs=0, optimizer={"lr": 0.2}), out=tmp_path / "a")
    with pytest.raises(CriticalMassError, match=r"network\.name: 'resnet8' there, 'resnet20' here"):
        cm.train(tiny_recipe(epochs=0, network={"name": "resnet20"}), out=tmp_path / "a")
    # A name is no part of what is trained.
    cm.train(tiny_recipe(epochs=0, name="other"), out=tmp_path / "a")


def test_a_folder_of_format_1_is_read_by_its_recipe(tmp_path: Path) -> None:
    """Its recipe has no defaults of options, and its digest is another one."""
    result = cm.train(tiny_recipe(), out=tmp_path / "a")
    newest = contents(result.path)
    manifest = files.read_manifest(result.path, TRAINING)
    manifest |= {"format_version": 1, "recipe_digest": "0" * 64}
    manifest["recipe"]["objectives"] = [{"name": "cross-entropy", "options": {}}]
    files.write_manifest(result.path, manifest)
    old = contents(result.path)
    assert cm.train(tiny_recipe(), out=result.path).log.equals(result.log)
    assert contents(result.path) == old
    with pytest.raises(CriticalMassError, match=r"seed: 0 there, 1 here"):
        cm.train(tiny_recipe(seed=1), out=result.path)
    files.write_manifest(result.path, manifest | {"checkpoints": [], "complete": False})
    with pytest.warns(UserWarning, match="has format 1; it goes on with format 2"):
        cm.train(tiny_recipe(), out=result.path)
    assert contents(result.path) == newest


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CriticalMassError, match="is not a training folder and not empty"):
        cm.train(tiny_recipe(), out=tmp_path)
    with pytest.raises(CriticalMassError, match="is not a training folder"):
        cm.train(tiny_recipe(), out=tmp_path / "notes.txt")


# --- killed and resumed ---------------------------------------------------------------------------

_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


def _train_until(out: str, fatal_event: int, fatal_step: int) -> None:
    """Train in a child process, which kills itself at a file event or a step."""
    n_events = n_steps = 0

    def count_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal n_events
        if event in _EVENTS and str(arguments[0]).startswith(out):
            n_events += 1
            if n_events == fatal_event:
                os.kill(os.getpid(), signal.SIGKILL)

    step = loop.Trainer._step

    def counted(*arguments: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        if n_steps == fatal_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    sys.addaudithook(count_event)
    loop.Trainer._step = counted  # type: ignore[method-assign]
    cm.train(tiny_recipe(checkpoints=[1]), out=out)
    Path(out).with_name("events").write_text(str(n_events))
    os._exit(0)


def kill_training(out: Path, *, event: int = 0, step: int = 0) -> int:
    # No copy of this process: a copy of one with threads can wait for a lock for ever.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preloaded"])
    process = context.Process(target=_train_until, args=(str(out), event, step))
    process.start()
    process.join(600)
    assert process.exitcode is not None
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("training") / "whole"
    return contents(cm.train(tiny_recipe(checkpoints=[1]), out=folder).path)


# The events of a training, from the first file to the last.
@pytest.mark.parametrize("share", [0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0])
def test_killed_at_a_file_and_resumed_the_bytes_are_the_same(
    tmp_path: Path, uninterrupted: dict[str, bytes], share: float
) -> None:
    assert kill_training(tmp_path / "whole") == 0
    n_events = int((tmp_path / "events").read_text())
    event = max(1, round(share * n_events))
    assert kill_training(tmp_path / "out", event=event) == -signal.SIGKILL
    cm.train(tiny_recipe(checkpoints=[1]), out=tmp_path / "out")
    assert contents(tmp_path / "out") == uninterrupted


@pytest.mark.parametrize("step", [1, 2, 5])
def test_killed_within_an_epoch_and_resumed_the_bytes_are_the_same(
    tmp_path: Path, uninterrupted: dict[str, bytes], step: int
) -> None:
    out = tmp_path / "out"
    assert kill_training(out, step=step) == -signal.SIGKILL
    assert len(find_checkpoint(f"{out}@0").manifest["checkpoints"]) == 1 + step // 4
    cm.train(tiny_recipe(checkpoints=[1]), out=out)
    assert contents(out) == uninterrupted


@pytest.mark.parametrize(
    "changes",
    [
        {"objectives": ["simclr", "decov"], "optimizer": {"name": "adamw", "lr": 0.001}},
        {
            "objectives": ["cross-entropy", "dropout", "adversarial"],
            "data": {"augment": "crop-flip", "labels": "rotation"},
            "optimizer": {"warmup": 1, "schedule": "constant", "clip": 1.0},
        },
        {
            "network": {"name": "vit4", "width": 8},
            "optimizer": {"precision": "bf16"},
            "objectives": ["cross-entropy", "nested-dropout"],
        },
    ],
)
def test_stopped_after_an_epoch_and_resumed_every_recipe_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Draws, the optimiser's memory and the learning rate are those of one training."""
    recipe = tiny_recipe(**changes)
    whole = cm.train(recipe, out=tmp_path / "whole").path
    run_epoch = loop.Trainer.run_epoch

    def stop(trainer: loop.Trainer, advance: Callable[[], None]) -> dict[str, Any]:
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(trainer, advance)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "run_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            cm.train(recipe, out=tmp_path / "out")
    cm.train(recipe, out=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_a_training_leaves_the_state_of_torch_alone(tmp_path: Path) -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    cm.train(tiny_recipe(objectives=["simclr"], epochs=1), out=tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_second_process_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    out = tmp_path / "a"
    out.mkdir()
    with write_lock(out):
        temporary = out / ".log.parquet.1.part"
        temporary.write_bytes(b"of the first process")
        with pytest.raises(RunError, match="is being written by process"):
            cm.train(tiny_recipe(epochs=0), out=out)
        assert temporary.exists()
    cm.train(tiny_recipe(epochs=0), out=out)
    assert not temporary.exists()


# --- changed files and data -----------------------------------------------------------------------


def test_a_missing_file_is_made_again_and_a_damaged_one_is_named(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    recipe, out = tiny_recipe(checkpoints=[1]), tmp_path / "a"
    cm.train(recipe, out=out)
    path = out / "checkpoints" / "epoch-0001.safetensors"
    path.write_bytes(b"damaged" + path.read_bytes()[7:])
    with pytest.raises(StoreError, match=r"epoch-0001\.safetensors' is damaged.*delete it and run"):
        cm.train(recipe, out=out)
    path.unlink()
    with pytest.warns(UserWarning, match="a file is missing; the training begins again"):
        cm.train(recipe, out=out)
    assert contents(out) == uninterrupted


def test_a_training_does_not_go_on_with_changed_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe()
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "run_epoch", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            cm.train(recipe, out=tmp_path / "a")
    other = load_dataset("sklearn:digits?n=101")
    with pytest.raises(CriticalMassError, match="begun with another dataset of the same name"):
        train_on(recipe, other, out=tmp_path / "a")
    with pytest.warns(UserWarning, match="begun with threads=1 and goes on with 2"):
        train_on(recipe, load_dataset(DIGITS), out=tmp_path / "a", threads=2)


def _interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


# --- faults ---------------------------------------------------------------------------------------


def run_command_line(capsys: pytest.CaptureFixture[str], *command: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([str(part) for part in command])
    return int(str(left.value.code)), capsys.readouterr().err


def write_recipe(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(
        f"network: {{width: 4, neurons: 16, pixels: 8}}\ndata: {{dataset: '{DIGITS}'}}\n{text}"
    )
    return path


def test_a_loss_that_is_not_finite_stops_at_once_and_the_checkpoints_stay(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        objectives=["mse"],
        optimizer={"lr": 1e6, "momentum": 0, "warmup": 5, "schedule": "constant"},
        epochs=9,
        checkpoints=[1],
    )
    messages = []
    for _ in range(2):
        with pytest.raises(TrainingError, match="use a smaller lr") as caught:
            cm.train(recipe, out=tmp_path / "a")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("recipe 'tiny' (seed 0): ")
    assert "is not finite at step" in messages[0]
    for entry in find_checkpoint(f"{tmp_path / 'a'}@0").manifest["checkpoints"]:
        network = find_checkpoint(f"{tmp_path / 'a'}@{entry['epoch']}").load_network()
        assert all(bool(torch.isfinite(one).all()) for one in network.state_dict().values())


def test_weights_that_the_last_step_of_an_epoch_breaks_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop.Trainer._step

    def break_weights(trainer: loop.Trainer, *arguments: Any) -> Any:
        done = step(trainer, *arguments)
        if arguments[-1] == 5:
            with torch.no_grad():
                trainer.network.linear_head().weight[0, 0] = float("inf")
        return done

    monkeypatch.setattr(loop.Trainer, "_step", break_weights)
    with pytest.raises(TrainingError, match=r"weight head\.weight is not finite at step 6, in ep"):
        cm.train(tiny_recipe(), out=tmp_path / "a")
    assert [one["epoch"] for one in find_checkpoint(f"{tmp_path / 'a'}@0").manifest["checkpoints"]]


def test_a_full_disk_is_named_and_the_training_goes_on_later(
    tmp_path: Path,
    uninterrupted: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_recipe(tmp_path, "optimizer: {batch: 32}\nepochs: 2\ncheckpoints: [1]\nname: tiny")
    fsync, count = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, err = run_command_line(capsys, "train", path, "--out", tmp_path / "a", "-q")
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left" in err
    assert run_command_line(capsys, "train", path, "--out", tmp_path / "a", "-q")[0] == 0
    assert contents(tmp_path / "a") == uninterrupted


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(files, "write_atomically", read_only)
    path = write_recipe(tmp_path, "epochs: 0")
    code, err = run_command_line(capsys, "train", path, "--out", tmp_path / "a", "-q")
    assert (code, err.count("\n")) == (2, 1)
    assert "Permission denied" in err
    assert str(tmp_path / "a") in err


def test_an_interrupt_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop.Trainer, "run_epoch", _interrupt)
    path = write_recipe(tmp_path, "epochs: 1")
    code, err = run_command_line(capsys, "train", path, "--out", tmp_path / "a", "-q")
    assert (code, err.strip().count("\n")) == (130, 0)
    assert "the same command continues" in err


BAD_RECIPES = [
    ("objectives: [cross-entrpy]", "no objective 'cross-entrpy'; did you mean 'cross-entropy'"),
    ("objectives: [dropout]", "have no loss"),
    ("objectives: [mse, mse]", "listed twice"),
    ("objectives: [mse, matryoshka, first-neurons]", "exclude each other"),
    ("objectives: [simclr, matryoshka]", "needs a loss of the classifier"),
    ("objectives: [mse, {dropout: {q: 1}}]", "no option of dropout 'q'"),
    ("objectives: [mse, {dropout: {p: 1}}]", "p=1 of dropout must be a number in [0, 1)"),
    ("objectives: [mse, {dropout: [0.5]}]", "must be"),
    ("objectives: [mse, {matryoshka: {sizes: [64]}}]", "all are above the 16 neurons"),
    ("optimizer: {name: sgdd}", "optimizer 'sgdd' cannot be made"),
    ("optimizer: {name: adahessian}", "needs second derivatives"),
    ("optimizer: {lr: -1}", "greater than 0"),
    ("optimizer: {batch: 1}", "greater than or equal to 2"),
    ("checkpoints: [99]", "checkpoint 99 is after the last epoch"),
    ("epochs: many", "'many' must be"),
    ("colour: red", "no key of a recipe 'colour'"),
    ("network: {name: resnet9000}", "no network 'resnet9000'"),
]


@pytest.mark.parametrize(("text", "message"), BAD_RECIPES)
def test_a_bad_recipe_is_refused_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    key = text.partition(":")[0]
    path = tmp_path / "mine.yaml"
    rest = {
        "network": "network: {width: 4, neurons: 16, pixels: 8}",
        "data": f"data: {{dataset: '{DIGITS}'}}",
    }
    rest.pop(key, None)
    path.write_text("\n".join([*rest.values(), text]))
    code, err = run_command_line(capsys, "train", path, "--out", tmp_path / "a", "-q")
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"labels": [[0, 1, 2], [3, 4]]}}, "has the classes 0 to 9; list each once"),
        ({"data": {"labels": 11}}, "11 groups of the 10 classes"),
        ({"data": {"labels": "coarse"}}, "no scheme of labels 'coarse'"),
        ({"data": {"labels": 1}}, "1 must be one of given, shuffled, rotation"),
        ({"data": {"n": 101}}, "n=101"),
        ({"data": {"n": 9}}, "n=9"),
        ({"data": {"n": 14, "validation": 0.1}}, "leaves none of class"),
        ({"data": {"n": 10, "validation": 0.1}}, "leaves none; use a larger n"),
        ({"network": {"name": "vit4", "width": 8, "pixels": 15}}, "the pixels of 2"),
        ({"network": {"name": "vit4", "width": 6}}, "the width must be a multiple of 4"),
        ({"network": {"name": "test_vit", "pixels": 9}}, "does not take 9 pixels"),
        ({"network": {"pixels": 3}}, "greater than or equal to 4"),
        ({"network": {"start": "full"}}, "full and linear need them"),
        ({"network": {"weights": "timm:test_resnet"}}, "scratch takes no weights"),
        ({"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_data_and_networks_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CriticalMassError) as caught:
        cm.train(tiny_recipe(**changes), out=tmp_path / "a")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_texts_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    lines = [f"word number {number},{'ab'[number % 2]}" for number in range(40)]
    table.write_text("\n".join(["text,label", *lines]))
    with pytest.raises(CriticalMassError, match="holds texts; recipes train on images"):
        cm.train(tiny_recipe(data={"dataset": f"csv:{table}"}), out=tmp_path / "a")


def test_a_batch_larger_than_the_data_is_one_step(tmp_path: Path) -> None:
    log = cm.train(tiny_recipe(optimizer={"batch": 1000}), out=tmp_path / "a").log
    assert log["step"].tolist() == [0, 1, 2]


def test_a_training_folder_is_described(tmp_path: Path) -> None:
    cm.train(tiny_recipe(), out=tmp_path / "a", seed=3)
    facts = dict(describe(tmp_path / "a").to_numpy())
    assert facts["kind"] == "training folder"
    assert facts["recipe"] == "tiny: cross-entropy"
    assert facts["training seed"] == "3"
    assert facts["checkpoints"] == "0, 2 of 2 epochs"
    assert 0 <= float(facts["test accuracy"]) <= 1
    with pytest.raises(CriticalMassError, match="is a training folder, not a feature store"):
        cm.sweep(tmp_path / "a", out=tmp_path / "run")


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as a text."""
    path = write_recipe(
        tmp_path, "objectives: [mse, {decov: {weight: 1e-3}}]\noptimizer: {lr: 1e-3}"
    )
    recipe = load_recipe(path)
    assert recipe.objectives[1].options["weight"] == 0.001
    assert recipe.optimizer.lr == 0.001
    assert np.isclose(recipe.optimizer.momentum, 0.9)


def test_what_a_killed_process_left_in_a_finished_folder_is_removed(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    recipe, out = tiny_recipe(checkpoints=[1]), tmp_path / "a"
    cm.train(recipe, out=out)
    for name in (
        "1-resume.pt",
        ".manifest.json.1.part",
        "checkpoints/.epoch.1.part",
        "writer.json",
    ):
        (out / name).write_bytes(b"{}")
        cm.train(recipe, out=out)
        assert contents(out) == uninterrupted
