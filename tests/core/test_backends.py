"""Backends: their names, what they pickle, and the number of threads they use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from criticalmass.cli.options import make_backend
from criticalmass.core import memory, threads
from criticalmass.core.backends import (
    Local,
    get_backend,
    hold_rows,
    map_in_order,
    start_workers,
)
from criticalmass.core.compute import DEFAULT_COMPUTE, Compute
from criticalmass.core.threads import THREADS_VARIABLE, limit_threads, thread_count
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.layer_data import SweepData


def test_importing_the_package_and_its_sweep_loads_no_ray() -> None:
    modules = "sys, criticalmass.sweeps.sweep, criticalmass.extraction.extract"
    code = f"import {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_address_belongs_to_a_cluster() -> None:
    with pytest.raises(CriticalMassError, match=r"'local:10\.0\.0\.1:6379'.*no address"):
        get_backend("local:10.0.0.1:6379")
    with pytest.raises(CriticalMassError, match="did you mean 'ray'"):
        get_backend("rya:10.0.0.1:6379")


def test_options_of_a_cluster_make_one_backend() -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from criticalmass.core.ray_backend import Ray

    address = "10.0.0.1:6379"
    assert make_backend(None, address, 4) == Ray(address, cpus=4)
    assert get_backend("ray:10.0.0.1:6379") == Ray("10.0.0.1:6379")
    with pytest.raises(CriticalMassError, match="--backend local does not use --ray-address"):
        make_backend("local", address, 4)
    with pytest.raises(CriticalMassError, match="cpus=0"):
        make_backend(None, None, 0)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999999"])
def test_an_address_with_a_closed_port_is_an_error_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")
    from criticalmass.core.ray_backend import _check_port

    with pytest.raises(CriticalMassError, match=f"no Ray cluster at '{address}'.*leave the addr"):
        _check_port(address)


class Backwards:
    """Runs tasks in reverse order."""

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return map(function, reversed(list(tasks)))


def test_map_in_order_works_with_any_backend() -> None:
    for backend in (Backwards(), Local()):
        assert list(map_in_order(backend, lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
        assert list(map_in_order(backend, str, [])) == []


def test_a_backend_without_workers_runs_the_function_here() -> None:
    for backend in (Backwards(), Local()):
        with start_workers(backend, str) as run_tasks:
            assert sorted(run_tasks(range(3))) == ["0", "1", "2"]
            assert list(run_tasks([7])) == ["7"]
        with hold_rows(backend, DEFAULT_COMPUTE) as compute:
            assert compute is DEFAULT_COMPUTE


def test_sweep_data_is_pickled_as_a_path(make_store: Callable[..., FeatureStore]) -> None:
    store = make_store()
    data = SweepData.from_store(store, Compute(threads=3, held_bytes=7))
    data.layer("penultimate").whole_layer.moments  # noqa: B018  must not be pickled
    packed = pickle.dumps(data)
    assert len(packed) < 5_000
    loaded = pickle.loads(packed)  # noqa: S301
    assert loaded.store.path == store.path.resolve()
    assert loaded.compute == data.compute
    np.testing.assert_array_equal(loaded.y_train, data.y_train)
    np.testing.assert_array_equal(loaded.validation, data.validation)
    rows = loaded.layer("penultimate").train[0:3]
    np.testing.assert_array_equal(rows, store.features("train")[0:3])


def test_another_store_at_the_same_path_is_refused(
    make_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    packed = pickle.dumps(SweepData.from_store(make_store("a"), DEFAULT_COMPUTE))
    other = make_store("b", model="other")
    (tmp_path / "a" / "manifest.json").write_bytes((other.path / "manifest.json").read_bytes())
    with pytest.raises(StoreError, match="differs from the feature store"):
        pickle.loads(packed)  # noqa: S301


def test_the_variable_sets_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert thread_count() == 3
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv(THREADS_VARIABLE, wrong)
        with pytest.raises(CriticalMassError, match=f"{THREADS_VARIABLE}='{wrong}'"):
            thread_count()
    monkeypatch.delenv(THREADS_VARIABLE)
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("quota", "expected"), [("150000 100000", 2), ("max 100000", 6), ("800000 100000", 6)]
)
def test_a_container_has_the_cores_of_its_quota(
    quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("1:cpu:/\n0::/outer/inner\n")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "cpu.max").write_text(f"{quota}\n")
    files = partial(memory.group_files, proc=tmp_path, groups=tmp_path)
    monkeypatch.setattr(threads, "group_files", files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    assert thread_count() == expected


def test_a_limit_applies_to_blas_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threadpool_limits(2):
        before = thread_count(), threadpool_info()
        with limit_threads(1):
            assert thread_count() == 1
            assert os.environ["OMP_NUM_THREADS"] == "1"
            blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
            assert blas
            assert {pool["num_threads"] for pool in blas} == {1}
        assert (thread_count(), threadpool_info()) == before
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert 2 in {pool["num_threads"] for pool in threadpool_info()}
    with pytest.raises(CriticalMassError, match="threads=0"), limit_threads(0):
        pass
