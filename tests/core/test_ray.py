"""Ray: the same bytes as in this process, even if workers or nodes die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.core.ray_tasks import (
    Loaded,
    die,
    die_once,
    divide_by_zero,
    refuse,
    square,
    worker_settings,
)

import criticalmass as cm
from criticalmass.core.backends import map_in_order, start_workers
from criticalmass.core.threads import limit_threads
from criticalmass.errors import CriticalMassError
from criticalmass.storage.features import FeatureStore
from criticalmass.storage.run import Run

pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")

from criticalmass.core.ray_backend import ClusterMonitor, Ray

OPTIONS: dict[str, Any] = {
    "selectors": ("random", "pca-top", "leverage"),
    "measures": ("logistic", "knn", "cka", "sgd"),
    "fractions": (0.25, 0.5, 1.0),
    "seeds": 3,
}


def files(folder: Path) -> dict[str, bytes]:
    """The files of a run except the table and the manifest, which contain times."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    timed = ("results.parquet", "manifest.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if p.name not in timed}


def without_time(run: Run) -> pd.DataFrame:
    return run.frame().drop(columns="seconds")


def assert_equal_runs(one: Run, two: Run) -> None:
    """Compare two runs to float tolerance.

    With one thread everywhere they are equal byte for byte. If BLAS of this process has more
    threads (a setting of its start), the last digits can differ.
    """
    a, b = without_time(one), without_time(two)
    plain = ["layer", "selector", "measure", "fraction", "n_kept", "seed", "status", "cell"]
    pd.testing.assert_frame_equal(a[plain], b[plain], check_exact=True)
    similar = (a["measure"] == "cka").to_numpy()
    values, others = a["value"].to_numpy(float), b["value"].to_numpy(float)
    np.testing.assert_allclose(values[similar], others[similar], rtol=1e-9)
    # A sample near the border of two classes can change its class.
    np.testing.assert_allclose(values, others, atol=0.03)
    assert (a["artifact"].isna() == b["artifact"].isna()).all()
    assert {name.partition("/")[0] for name in files(one.path)} == {
        name.partition("/")[0] for name in files(two.path)
    }


@pytest.fixture
def local_run(store: FeatureStore, tmp_path: Path) -> Run:
    with limit_threads(1):
        return cm.sweep(store, out=tmp_path / "local", **OPTIONS)


def test_a_sweep_gives_the_values_of_the_local_one(
    cluster: Any, store: FeatureStore, local_run: Run, tmp_path: Path
) -> None:
    with limit_threads(1):
        ray_run = cm.sweep(store, out=tmp_path / "ray", **OPTIONS, backend="ray")
    assert (ray_run.frame()["status"] == "ok").all()
    assert_equal_runs(local_run, ray_run)


@pytest.mark.filterwarnings("ignore:refine")  # both searches warn
def test_layers_and_a_search_run_on_ray_too(
    cluster: Any, make_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store = make_store("two", layers={"early": 1, "late": 2})
    options: dict[str, Any] = {
        "measures": ("centroid", "cka"),
        "fractions": (0.25, 1.0),
        "seeds": 2,
    }
    with limit_threads(1):
        local_run = cm.sweep(store, out=tmp_path / "a", **options, refine=0.9, refine_cells=20)
        ray_run = cm.sweep(
            store, out=tmp_path / "b", **options, refine=0.9, refine_cells=20, backend=Ray()
        )
    assert_equal_runs(local_run, ray_run)


def test_tasks_come_back_each_once(cluster: Any) -> None:
    assert sorted(Ray().map(square, range(50))) == sorted(x * x for x in range(50))
    assert list(map_in_order(Ray(), square, iter(range(20)))) == [x * x for x in range(20)]
    assert list(Ray().map(square, [])) == []


def test_a_worker_uses_its_number_of_threads_and_our_folder(cluster: Any) -> None:
    assert set(Ray().map(worker_settings, range(4))) == {(1, "1", str(Path.cwd()))}


def test_an_exception_of_a_task_reaches_the_caller_unchanged(cluster: Any) -> None:
    with pytest.raises(CriticalMassError, match=r"^7 is refused$"):
        list(Ray().map(refuse, [7]))
    with pytest.raises(ZeroDivisionError):
        list(Ray().map(divide_by_zero, [7]))
    assert list(Ray().map(square, [3])) == [9]


def test_a_killed_worker_is_replaced(cluster: Any, tmp_path: Path) -> None:
    marks = [tmp_path / name for name in "abc"]
    assert sorted(Ray().map(die_once, marks)) == ["a", "b", "c"]
    with pytest.raises(CriticalMassError, match="died again and again"):
        list(Ray(retries=0).map(die, [1]))


def test_a_worker_loads_the_function_once_for_several_maps(cluster: Any, tmp_path: Path) -> None:
    with start_workers(Ray(), Loaded(tmp_path / "loads")) as run_tasks:
        for tasks in (range(6), range(6, 9)):
            assert sorted(run_tasks(tasks)) == sorted(-x for x in tasks)
    loads = (tmp_path / "loads").read_text().split()
    assert 1 <= len(loads) <= 2  # the cluster has two workers
    assert len(set(loads)) == len(loads)
    assert not {int(pid) for pid in loads} & {os.getpid()}


def test_an_error_while_the_function_is_loaded_reaches_the_caller(
    cluster: Any, tmp_path: Path
) -> None:
    with pytest.raises(CriticalMassError, match=r"^loads has no folder$"):
        list(Ray().map(Loaded(tmp_path / "missing" / "loads"), [1]))


def test_more_cpus_than_a_node_has_are_refused(cluster: Any) -> None:
    with pytest.raises(CriticalMassError, match=r"workers of 3 CPUs .* more than 2; ask for fewer"):
        list(Ray(cpus=3).map(square, [1]))


@pytest.mark.filterwarnings(
    "ignore:1 of the Ray cluster's nodes died"
)  # only if it is counted in time
def test_a_killed_node_changes_no_result(
    cluster: Any,
    store: FeatureStore,
    local_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    doomed = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    results = []

    class NodeKiller(Ray):
        def _results(self, *args: Any) -> Iterator[Any]:
            for result in super()._results(*args):
                results.append(result)
                if len(results) == 2:
                    cluster.remove_node(doomed, allow_graceful=False)
                yield result

    with limit_threads(1):
        ray_run = cm.sweep(store, out=tmp_path / "ray", **OPTIONS, backend=NodeKiller())
    assert len(results) > 2
    assert_equal_runs(local_run, ray_run)
    assert capsys.readouterr().out == ""  # Ray's messages must not mix with our output
    # Later tests use the same cluster: Ray has to know by then that the node is dead.
    import ray

    deadline = time.monotonic() + 600
    while any(node["NodeID"] == doomed.node_id and node["Alive"] for node in ray.nodes()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_nodes_that_died_are_warned_of() -> None:
    nodes = [
        {"NodeID": name, "Alive": True, "Resources": {"CPU": cpus}}
        for name, cpus in (("a", 0.0), ("b", 4.0), ("c", 3.0))
    ]
    monitor = ClusterMonitor(SimpleNamespace(nodes=lambda: nodes), cpus=2, interval=0.0)
    assert monitor.workers == 3
    nodes[1]["Alive"] = False
    with pytest.warns(UserWarning, match="1 of the Ray cluster's nodes died, 1 workers are left"):
        monitor.update()
    monitor.update()
    assert monitor.workers == 1
