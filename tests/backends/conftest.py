"""A small Ray cluster on this machine, shared by all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of one node without work (this process is on it) and two of one CPU each."""
    ray = pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    from criticalmass.core.ray_backend import connect

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False},
    )
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=80 << 20)
    connect(made.address)
    yield made
    ray.shutdown()
    made.shutdown()
