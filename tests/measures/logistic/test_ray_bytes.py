"""Ray's bytes: with one thread for everything they are those of one process, whoever dies.

BLAS takes its number of threads when Python starts, so this runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")

ONE = {
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
from criticalmass.measures.logistic.row_shards import Holder
from criticalmass.measures.logistic.training_rows import holding
from criticalmass.measures.logistic.device import lending
from criticalmass.measures.logistic.distributed import Here, SpreadCrew
from criticalmass.core.moments import spreading

folder, killed = Path(sys.argv[1]), []
rng = np.random.default_rng(5)
labels = {"train": np.arange(3_000) % 3, "test": np.arange(900) % 3}
centres = 0.4 * rng.standard_normal((3, 48))
x = {
    split: (centres[y] + rng.standard_normal((y.size, 48)) + 3.0).astype(np.float32)
    for split, y in labels.items()
}
store = cm.import_features(x, out=folder / "store", labels=labels)


class Leaves:
    def map(self, function, tasks):
        crew = SpreadCrew(Here((Holder(1),)))
        for task in tasks:
            with lending(crew), spreading(crew.moments), holding(0):
                found = function(task)
            yield found


class Killing(ray_rows._Workers):
    def ask(self, *question):
        killed.append(0)
        if len(killed) % 40 == 7:
            self.ray.kill(self.workers[len(killed) % len(self.workers)], no_restart=False)
            killed[-1] = 1
        return super().ask(*question)


def contents(name, measures, backend):
    run = cm.sweep(
        store, out=folder / name, selectors=("random", "pca-top", "leverage"),
        fractions=(0.25, 0.5, 1.0), seeds=2, measures=measures, backend=backend,
    )
    frame = run.frame().drop(columns="seconds")
    told = ("results.parquet", "manifest.json")
    files = {
        str(path.relative_to(run.path)): path.read_bytes()
        for path in run.path.rglob("*") if path.is_file() and path.name not in told
    }
    return files | {"the table": frame.to_csv(index=False).encode()}


def differing(one, two):
    return [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]


import ray

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=100 << 20, _node_ip_address="127.0.0.1")
jobs = ("logistic", "ridge", "knn", "centroid", "sgd", "cka")
here = contents("here", jobs, "local")
there = contents("there", jobs, "ray")
leaves = contents("leaves", ("logistic", "cka"), Leaves())
ray_rows._Workers = Killing
spread = contents("spread", ("logistic", "cka"), "ray-rows")
Path(folder, "found.json").write_text(json.dumps({
    "files": len(here), "jobs": differing(here, there),
    "killed": sum(killed), "rows": differing(leaves, spread),
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bytes")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=os.environ | ONE,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return told


def test_jobs_on_workers_leave_the_bytes_of_this_process(found: dict[str, Any]) -> None:
    assert found["files"] > 20
    assert found["jobs"] == []


def test_rows_on_workers_that_die_leave_the_bytes_of_one_process(found: dict[str, Any]) -> None:
    assert found["killed"] > 1
    assert found["rows"] == []
