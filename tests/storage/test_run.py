from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest

from criticalmass.errors import CriticalMassError, RunError, StoreError
from criticalmass.storage import digests, run_table
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
from criticalmass.storage.run_table import COLUMNS


def row(cell, **changes):
    base = {
        "model": "m", "layer": "penultimate", "dataset": "d", "split": "test",
        "selector": "random", "measure": "logistic", "fraction": 0.5, "n_kept": 4,
        "n_neurons": 8, "seed": 0, "value": 0.75, "value_full": 0.9, "n_train": 10, "n_test": 3,
        "l2": 0.1, "gap": float("nan"), "passes": 7, "seconds": 0.5, "status": "ok",
        "error": None, "cell": cell,
    }  # fmt: skip
    return base | changes


def failed(cell, **changes):
    return row(cell, value=None, status="failed", error="it broke", **changes)


def predictions(*rows):
    return Artifact("predictions", np.array(rows))


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"store": "abc"})


def files(run):
    return sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file())


def test_a_new_run_has_an_empty_table_with_types(run):
    frame = run.frame()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 0
    with run.writer() as w:
        w.append([row("a")])
    assert (run.frame().dtypes == frame.dtypes).all()


def test_a_changed_frame_is_the_callers_alone(run):
    with run.writer() as w:
        w.append([row("a"), row("b")])
    before = run.frame().copy()
    changed = run.frame()
    changed.loc[0, "value"] = 0.123
    changed["model"].to_numpy()[:] = "another"
    del changed["seed"]
    pd.testing.assert_frame_equal(run.frame(), before)


def test_a_write_within_one_tick_of_the_clock_is_read(run, monkeypatch):
    """As on file systems with whole seconds, where the number of a file is used again."""
    for module, name, n_keys in (
        (run_table, "_cached_table", 3),
        (digests, "_cached_file_digests", 2),
    ):
        original = getattr(module, name)

        def of_one_tick(path, *_, original=original, n_keys=n_keys):
            return original(path, *(0,) * n_keys)

        of_one_tick.cache_clear = original.cache_clear
        monkeypatch.setattr(module, name, of_one_tick)
    for value, answers in ((0.25, [0, 1, 2]), (0.5, [2, 1, 0])):
        with run.writer() as w:
            w.append([row("a", value=value)], predictions(answers))
        frame = run.frame()
        assert frame["value"].tolist() == [value]
        (name,) = {text.partition(":")[0] for text in frame["artifact"]}
        assert name in digests.file_digests(run.path / "results.parquet")


def test_a_table_damaged_after_it_was_read_is_noticed(run):
    with run.writer() as w:
        w.append([row("a")])
    table = run.path / "results.parquet"
    value = struct.pack("<d", run.frame()["value"][0])
    content = table.read_bytes()
    assert value in content
    table.write_bytes(content.replace(value, struct.pack("<d", 0.123)))
    with pytest.raises(RunError, match="digest differs"):
        run.frame()


def test_rows_and_predictions_come_back(run):
    with run.writer() as w:
        w.append(
            [row("a", seed=0), row("b", seed=1, passes=None)],
            predictions([0, 1, 2], [2, 1, 0]),
        )
    frame = run.frame()
    assert frame["cell"].tolist() == ["a", "b"]
    assert frame["value"].tolist() == [0.75, 0.75]
    assert frame["gap"].isna().all()
    assert frame["passes"].tolist() == [7, pd.NA]
    assert run.artifact(frame.iloc[1]).tolist() == [2, 1, 0]
    assert run.artifact(frame["artifact"][0]).tolist() == [0, 1, 2]
    stacked = run.predictions(frame.iloc[::-1])
    assert stacked.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert stacked.dtype == np.uint8


@pytest.mark.parametrize(("top", "dtype"), [(255, np.uint8), (256, np.uint16), (70000, np.uint32)])
def test_predictions_take_the_smallest_unsigned_type(run, top, dtype):
    with run.writer() as w:
        w.append([row("a")], predictions([0, 1, top]))
    assert run.predictions(run.frame()).dtype == dtype


def test_scores_and_replicates_keep_their_precision(run):
    with run.writer() as w:
        w.append([row("a")], Artifact("scores", np.array([[0.1, 0.2, 0.3]])))
        w.append([row("b", measure="cka")], Artifact("replicates", np.array([[0.1, 1 / 3]])))
    frame = run.frame().set_index("cell")
    assert run.artifact(frame.loc["a"]).dtype == np.float32
    assert run.artifact(frame.loc["b"]).tolist() == [0.1, 1 / 3]


def test_rows_may_share_one_artifact_row(run):
    shared = [row(f"s{seed}", seed=seed, artifact=0) for seed in range(3)]
    with run.writer() as w:
        w.append([*shared, row("t", seed=3, artifact=1)], predictions([1, 1, 1], [2, 2, 2]))
        reference = run.frame()["artifact"][0]
        w.append([row("u", seed=4, artifact=reference), row("v", seed=5, artifact=None)])
    frame = run.frame()
    assert run.predictions(frame[:5])[:, 0].tolist() == [1, 1, 1, 2, 1]
    assert frame["artifact"].isna().tolist() == [False] * 5 + [True]


def test_a_failed_cell_is_a_row_without_value_and_is_asked_again(run):
    with run.writer() as w:
        w.append([row("a"), failed("b", seed=1), row("c", seed=2, status="not_converged")])
    frame = run.frame().set_index("cell")
    assert frame.loc["b", "value"] is pd.NA
    assert frame.loc["b", "error"] == "it broke"
    assert run.missing(["d", "c", "b", "a"]) == ["d", "b"]


def test_the_same_cell_is_replaced_and_its_old_file_goes_with_the_next_writer(run):
    with run.writer() as w:
        w.append([row("a")], predictions([0, 0, 0]))
        w.append([row("a", value=0.5)], predictions([1, 1, 1]))
    frame = run.frame()
    assert frame["value"].tolist() == [0.5]
    assert run.predictions(frame).tolist() == [[1, 1, 1]]
    with run.writer():
        pass
    assert len([name for name in files(run) if name.startswith("predictions/")]) == 1


def test_a_kill_while_a_cell_is_replaced_leaves_its_old_predictions(run, monkeypatch):
    with run.writer() as w:
        w.append([row("a")], predictions([0, 0, 0]))

        def die(table):
            raise KeyboardInterrupt

        monkeypatch.setattr(w, "_write_table", die)
        with pytest.raises(KeyboardInterrupt):
            w.append([row("a", value=0.5)], predictions([1, 1, 1]))
    assert run.predictions(run.frame()).tolist() == [[0, 0, 0]]


def test_the_table_does_not_depend_on_the_order_of_arrival(tmp_path):
    rows = [row(f"{seed}-{k}", seed=seed, n_kept=k) for seed in range(3) for k in (1, 4)]
    frames = []
    for i, arrival in enumerate([[0, 1, 2, 3, 4, 5], [5, 2, 4, 0, 3, 1]]):
        run = Run.create(tmp_path / str(i), {})
        with run.writer() as w:
            for at in arrival:
                w.append([rows[at]], predictions([at, 0, 0]))
        frames.append(run.frame())
    pd.testing.assert_frame_equal(*frames)


def test_orders_and_labels_come_back(run):
    with run.writer() as w:
        w.put_labels([2, 0, 1], ("x", "y", "z"))
        w.put_labels([2, 0, 1], ("x", "y", "z"))
        name = w.put_order("random", "blocks/0:out", 3, np.array([1, 0, 2]))
        w.put_order("random", "blocks_0_out", 3, np.array([2, 1, 0]))
    assert run.labels().tolist() == [2, 0, 1]
    assert run.class_names == ("x", "y", "z")
    assert run.manifest["store"] == "abc"
    assert (run.path / name).is_file()
    assert run.order("random", "blocks/0:out", 3).tolist() == [1, 0, 2]
    assert run.order("random", "blocks_0_out", 3).tolist() == [2, 1, 0]


def test_results_stay_with_their_labels(run):
    with run.writer() as w:
        w.put_labels([0, 1, 1], ("x", "y"))
        w.append([row("a")], predictions([0, 1, 0]))
        with pytest.raises(RunError, match="other test labels"):
            w.put_labels([1, 1, 1], ("x", "y"))
        w.drop(["a"])
        w.put_labels([1, 1, 1], ("x", "y"))
    assert len(run.frame()) == 0
    assert run.labels().tolist() == [1, 1, 1]


def test_a_run_and_its_path_are_interchangeable(run):
    assert Run.open(run) is run
    assert Run.open(str(run.path)) == Run.open(run.path) == run
    assert os.fspath(run) == str(run.path)


def test_a_living_writer_is_named(run):
    with (
        run.writer(),
        pytest.raises(RunError, match=f"process {os.getpid()}"),
        run.writer(),
    ):
        pass
    with run.writer():
        pass
    assert "writer.json" not in files(run)


def test_a_writer_on_another_host_is_named(run):
    with run.writer():
        (run.path / "writer.json").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
        with pytest.raises(RunError, match="process 1 on elsewhere; wait"), run.writer():
            pass
        for content in ("mine", "[]", '{"pid": 1}'):
            (run.path / "writer.json").write_text(content)
            with pytest.raises(RunError, match="written by another process"), run.writer():
                pass


def test_what_a_dead_writer_left_locks_nothing(run):
    """Also if its process number is that of a living process, as in a container that restarts."""
    (run.path / "run.lock").touch()
    (run.path / "writer.json").write_text(json.dumps({"pid": os.getppid(), "host": "elsewhere"}))
    (run.path / "lock").write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    with run.writer() as w:
        w.append([row("a")])
    assert len(run.frame()) == 1


FORKED = """
import os, signal, sys, time
from criticalmass.storage.run import Run
with Run.open(sys.argv[1]).writer():
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(600)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_child_of_a_killed_writer_holds_no_lock(run):
    """A pool of processes may outlive the sweep that started it."""
    writer = subprocess.run(
        [sys.executable, "-c", FORKED, str(run.path)],
        stdout=subprocess.PIPE, text=True, check=False, timeout=600,
    )  # fmt: skip
    child = int(writer.stdout)
    try:
        os.kill(child, 0)
        with run.writer() as w:
            w.append([row("a")])
    finally:
        os.kill(child, signal.SIGKILL)


KILLED = """
import os, signal
import numpy as np
from criticalmass.storage import files
from criticalmass.storage.artifacts import Artifact
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run
run = Run.open({run!r})
with run.writer() as w:
    w.append([dict({row!r}, cell="kept")], Artifact("predictions", np.array([[0, 1, 2]])))
    {moment} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
    w.append([dict({row!r}, cell="lost")], Artifact("predictions", np.array([[2, 2, 2]])))
"""


@pytest.mark.parametrize("moment", ["w._write_table", "w._save", "files.os.replace"])
def test_a_kill_leaves_a_readable_run_that_the_next_writer_cleans(run, moment):
    script = KILLED.format(run=str(run.path), row=row("x", gap=None), moment=moment)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert run.frame()["cell"].tolist() == ["kept"]
    left = files(run)
    with run.writer() as w:
        cleaned = files(run)
        w.append([row("lost", seed=1)], predictions([2, 2, 2]))
    assert run.frame()["cell"].tolist() == ["kept", "lost"]
    assert len([name for name in cleaned if name.startswith("predictions/")]) == 1
    assert not [name for name in cleaned if name.endswith((".tmp", ".part"))]
    assert moment == "w._save" or len(left) > len(cleaned)


def test_a_missing_or_truncated_file_is_named(run):
    with run.writer() as w:
        w.append([row("a")], predictions([0, 1, 2]))
    frame = run.frame()
    path = run.path / frame["artifact"][0].partition(":")[0]
    whole = path.read_bytes()
    for damaged in (whole[:-2], whole[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=path.name):
            run.predictions(frame)
    path.unlink()
    with pytest.raises(RunError, match=f"{path.name} is missing"):
        run.predictions(frame)
    table = run.path / "results.parquet"
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(RunError, match=r"results\.parquet is damaged"):
        run.frame()


@pytest.mark.parametrize(
    ("bad", "artifact", "says"),
    [
        ([row("a", colour="red")], None, "unknown columns.*colour"),
        ([row("a", model=None)], None, "no .*model"),
        ([row("a", status="fine")], None, "'fine'; use ok"),
        ([row("a", value=float("nan"))], None, "others have a value"),
        ([row("a", status="failed", error="x")], None, "has an error and no value"),
        ([row("a", status="failed", value=None)], None, "has an error"),
        ([row("a"), row("a")], None, "'a' occurs twice"),
        ([row("a")], predictions([0, 1]), "n_test=3.*2 test samples"),
        ([row("a")], predictions([0, 1, 1], [0, 0, 0]), "2 artifact rows for 1 rows"),
        ([row("a", artifact=5)], predictions([0, 1, 1]), "row 5 of 1"),
        ([row("a", artifact=0)], None, "row 0 of 0"),
        ([row("a")], predictions([0, 1, -1]), "class ids 0 or more"),
        ([row("a")], predictions([0.0, 1, 1]), "class ids"),
        ([row("a")], Artifact("scores", np.array([[1, 2, np.nan]])), "NaN"),
        ([row("a")], Artifact("scores", np.ones(3)), r"\(3,\)"),
        ([row("a")], Artifact("score", np.ones((1, 3))), "did you mean 'scores'"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(run, bad, artifact, says):
    with run.writer():
        pass
    before = files(run)
    with run.writer() as w, pytest.raises(CriticalMassError, match=says) as caught:
        w.append(bad, artifact)
    assert "\n" not in str(caught.value)
    assert files(run) == before


def test_reading_a_missing_artifact_is_an_error(run):
    with run.writer() as w:
        w.append([row("a"), row("b", seed=1)], None)
        w.append([row("c", seed=2)], Artifact("scores", np.ones((1, 3))))
        w.append([row("d", seed=3, n_test=2)], Artifact("scores", np.ones((1, 2))))
        w.append([row("e", seed=4)], predictions([1, 1, 1]))
    frame = run.frame()
    with pytest.raises(RunError, match="no predictions"):
        run.predictions(frame[:1])
    with pytest.raises(RunError, match="no artifact"):
        run.artifact(frame.iloc[0])
    with pytest.raises(RunError, match="different lengths"):
        run.artifacts(frame["artifact"][2:4])
    with pytest.raises(RunError, match="different kinds"):
        run.artifacts(frame["artifact"][3:5])
    with pytest.raises(RunError, match="no row 9"):
        run.artifact(frame["artifact"][2].replace(":0", ":9"))


def test_a_folder_of_another_kind_is_named_with_the_command_to_give(run, tmp_path, make_store):
    folder = tmp_path / "my store"
    folder.mkdir()
    shutil.copytree(make_store("features").path, folder, dirs_exist_ok=True)
    with pytest.raises(RunError) as caught:
        Run.open(folder)
    assert str(caught.value) == (
        f"{str(folder)!r} is a feature store, not a run; make a run with: criticalmass sweep "
        f"'{folder}' --out FOLDER"
    )
    with pytest.raises(StoreError, match=r"is a run, not a feature store; .*extract or import$"):
        FeatureStore.open(run.path)
    (folder / "manifest.json").write_text('{"format": "of another program"}')
    with pytest.raises(RunError, match=r"holds no run \(its manifest.json has another format\)"):
        Run.open(folder)


def test_folders_that_are_no_run_are_refused(run, tmp_path):
    with pytest.raises(RunError, match="is a run already"):
        Run.create(run.path, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="is not empty"):
        Run.create(tmp_path / "other", {})
    with pytest.raises(RunError, match="no run at"):
        Run.open(tmp_path / "other")
    (run.path / "manifest.json").write_text('{"format": "criticalmass-run", "version": 99}')
    with pytest.raises(RunError, match="99"):
        Run.open(run.path)
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="not readable JSON"):
        Run.open(run.path)


class TestBatchedWrites:
    """Rows of several appends are written together; the result is that of single writes."""

    def test_the_table_is_that_of_single_writes(self, run, tmp_path):
        other = Run.create(tmp_path / "other", {"store": "abc"})
        appends = [([row(f"c{i}", seed=i)], predictions([i, 1, 2])) for i in range(6)]
        appends.append(([row("c2", seed=2, value=0.25)], predictions([9, 9, 9])))
        with run.writer() as w, w.batched():
            for rows, artifact in appends:
                w.append(rows, artifact)
        with other.writer() as w:
            for rows, artifact in appends:
                w.append(rows, artifact)
        pd.testing.assert_frame_equal(run.frame(), other.frame())
        table = run.frame()
        assert table.loc[table["cell"] == "c2", "value"].item() == 0.25
        assert run.artifact(table[table["cell"] == "c2"].iloc[0]).tolist() == [9, 9, 9]

    def test_quick_appends_share_a_write(self, run, monkeypatch):
        writes = []
        monkeypatch.setattr("criticalmass.storage.run._SECONDS_PER_WRITE", 3600)
        with run.writer() as w:
            single = w._write_table
            monkeypatch.setattr(w, "_write_table", lambda t: (writes.append(len(t)), single(t)))
            with w.batched():
                for i in range(5):
                    w.append([row(f"c{i}", seed=i)])
        # The first is written at once, since nothing was written before it.
        assert writes in ([1, 5], [5])

    def test_rows_are_written_after_half_a_second(self, run, monkeypatch):
        monkeypatch.setattr("criticalmass.storage.run._SECONDS_PER_WRITE", 0)
        with run.writer() as w, w.batched():
            for i in range(3):
                w.append([row(f"c{i}", seed=i)])
                assert len(run.frame()) == i + 1

    def test_an_error_inside_loses_no_row(self, run):
        def interrupted():
            with run.writer() as w, w.batched():
                w.append([row("a")])
                w.append([row("b", seed=1)])
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert run.frame()["cell"].tolist() == ["a", "b"]

    def test_an_incomplete_row_is_refused_at_once(self, run):
        with run.writer() as w, w.batched():
            w.append([row("a")])
            with pytest.raises(RunError, match="status"):
                w.append([row("b", status="nonsense")])
        assert run.frame()["cell"].tolist() == ["a"]
