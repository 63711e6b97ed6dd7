"""With one thread everywhere, Ray gives the bytes of one process, even if workers die.

BLAS reads its number of threads when Python starts, so this runs in a separate process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")

ROOT = Path(__file__).parents[3]
ONE_THREAD = {
    "CRITICALMASS_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
PROGRAM = """
import json, sys
from pathlib import Path

import numpy as np
import criticalmass as cm
from criticalmass.measures.logistic import ray_rows
from criticalmass.measures.logistic.row_shards import ShardCache
from criticalmass.sweeps import draw_spread
from tests.measures.logistic.local_workers import LocalRows, LocalWorkers

# As in conftest.py; they run in this process and are no part of the comparison.
draw_spread.FEWEST = draw_spread.MOST = 3
folder, kills = Path(sys.argv[1]), []
rng = np.random.default_rng(5)
labels = {"train": np.arange(3_000) % 3, "test": np.arange(900) % 3}
centres = 0.4 * rng.standard_normal((3, 48))
x = {
    split: (centres[y] + rng.standard_normal((y.size, 48)) + 3.0).astype(np.float32)
    for split, y in labels.items()
}
store = cm.import_features(x, out=folder / "store", labels=labels)


class KilledWorkers(ray_rows._RayWorkers):
    def run(self, *arguments):
        kills.append(0)
        if len(kills) % 101 == 7:
            self.ray.kill(self.actors[len(kills) % len(self.actors)], no_restart=False)
            kills[-1] = 1
        return super().run(*arguments)


def contents(name, measures, backend):
    run = cm.sweep(
        store, out=folder / name, selectors=("random", "pca-top", "leverage"),
        fractions=(0.25, 1.0), seeds=2, measures=measures, backend=backend,
    )
    frame = run.frame().drop(columns="seconds")
    with_times = ("results.parquet", "manifest.json")
    files = {
        str(path.relative_to(run.path)): path.read_bytes()
        for path in run.path.rglob("*") if path.is_file() and path.name not in with_times
    }
    return files | {"the table": frame.to_csv(index=False).encode()}


def different(one, two):
    return [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]


import ray

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=100 << 20, _node_ip_address="127.0.0.1",
         _system_config={"enable_worker_prestart": False, "prestart_worker_first_driver": False})
measures = ("logistic", "ridge", "knn", "centroid", "sgd", "cka")
local_jobs = contents("local-jobs", measures, "local")
ray_jobs = contents("ray-jobs", measures, "ray")
local_rows = contents("local-rows", ("logistic", "cka"), LocalRows(LocalWorkers(ShardCache(1))))
ray_rows._RayWorkers = KilledWorkers
killed_rows = contents("ray-rows", ("logistic", "cka"), "ray-rows")
Path(folder, "result.json").write_text(json.dumps({
    "files": len(local_jobs), "jobs": different(local_jobs, ray_jobs),
    "kills": sum(kills), "rows": different(local_rows, killed_rows),
}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bytes")
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_jobs_on_workers_give_the_bytes_of_this_process(result: dict[str, Any]) -> None:
    assert result["files"] > 20
    assert result["jobs"] == []


def test_rows_on_workers_that_die_give_the_bytes_of_one_process(result: dict[str, Any]) -> None:
    assert result["kills"] > 1
    assert result["rows"] == []
