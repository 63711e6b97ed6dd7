"""Where work runs: names, what travels to other processes, and how many threads they use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from criticalmass.cli.options import given
from criticalmass.core.backends import Local, get_backend, map_in_order
from criticalmass.core.threads import VARIABLE, limit_threads, thread_count
from criticalmass.errors import CriticalMassError, StoreError
from criticalmass.storage.features import FeatureStore
from criticalmass.sweeps.layer_data import Workbench


def test_importing_the_package_and_its_sweep_loads_no_ray() -> None:
    code = "import sys, criticalmass.sweep, criticalmass.extract; print('ray' in sys.modules)"
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

    asked = {"ray_address": "10.0.0.1:6379", "ray_cpus": 4, "seeds": None}
    assert given({**asked, "backend": None}) == {"backend": Ray("10.0.0.1:6379", cpus=4)}
    assert get_backend("ray:10.0.0.1:6379") == Ray("10.0.0.1:6379")
    with pytest.raises(CriticalMassError, match="--backend local has no use for --ray-address"):
        given({**asked, "backend": "local"})
    with pytest.raises(CriticalMassError, match="cpus=0"):
        given({"ray_cpus": 0})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999999"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")
    from criticalmass.core.ray_backend import _knock

    with pytest.raises(CriticalMassError, match=f"no Ray cluster at '{address}'.*leave the addr"):
        _knock(address)


class Backwards:
    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return map(function, reversed(list(tasks)))


def test_results_of_any_backend_can_be_had_in_order() -> None:
    for place in (Backwards(), Local()):
        assert list(map_in_order(place, lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
        assert list(map_in_order(place, str, [])) == []


def test_a_bench_travels_as_a_path(make_store: Callable[..., FeatureStore]) -> None:
    store = make_store()
    bench = Workbench.of(store)
    bench.layer("penultimate").whole.moments  # noqa: B018  what must not travel
    packed = pickle.dumps(bench)
    assert len(packed) < 5_000
    there = pickle.loads(packed)  # noqa: S301
    assert pickle.loads(packed) is there  # noqa: S301  with what it has read, for the next task
    assert there.store.path == store.path.resolve()
    np.testing.assert_array_equal(there.y_train, bench.y_train)
    np.testing.assert_array_equal(there.validation, bench.validation)
    rows = there.layer("penultimate").train[0:3]
    np.testing.assert_array_equal(rows, store.features("train")[0:3])


def test_another_store_at_the_same_path_is_refused(
    make_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    packed = pickle.dumps(Workbench.of(make_store("a")))
    other = make_store("b", model="other")
    (tmp_path / "a" / "manifest.json").write_bytes((other.path / "manifest.json").read_bytes())
    with pytest.raises(StoreError, match="another feature store on"):
        pickle.loads(packed)  # noqa: S301


def test_threads_are_those_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3")
    assert thread_count() == 3
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(CriticalMassError, match=f"{VARIABLE}='{wrong}'"):
            thread_count()
    monkeypatch.delenv(VARIABLE)
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


def test_a_limit_holds_for_blas_too_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    before = thread_count(), os.environ.get("OMP_NUM_THREADS"), threadpool_info()
    with limit_threads(1):
        assert thread_count() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
        blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert blas
        assert {pool["num_threads"] for pool in blas} == {1}
    assert (thread_count(), os.environ.get("OMP_NUM_THREADS"), threadpool_info()) == before
    with pytest.raises(CriticalMassError, match="threads=0"), limit_threads(0):
        pass
