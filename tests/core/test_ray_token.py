"""A cluster that asks for a token: ours is sent, and a missing one is an error at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="NOT TESTED: the extra [ray] is not installed")

# Without a dashboard and with little memory; it ends when its stdin is closed.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
CLIENT = """
import sys
from criticalmass.core.ray_backend import Ray
from criticalmass.errors import CriticalMassError

try:
    print(list(Ray(sys.argv[1]).map(abs, [-3, 4])))
except CriticalMassError as error:
    print(error)
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    without_ray = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return without_ray | {"HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", **more}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Home folders: with the cluster's token, with none, and with another one."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("right", "none", "other")}
    for name, letter in (("right", "a"), ("other", "b")):
        (folders[name] / ".ray").mkdir()
        (folders[name] / ".ray" / "auth_token").write_text(64 * letter)
    return folders


@pytest.fixture(scope="module")
def guarded(homes: dict[str, Path]) -> Iterator[str]:
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment(homes["right"], RAY_AUTH_MODE="token"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert cluster.stdout is not None
    address = cluster.stdout.readline().strip()
    assert address.count(":") == 1
    yield address
    cluster.communicate(timeout=600)


def run_client(address: str, env: dict[str, str]) -> str:
    process = subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "InvalidAuthToken" not in process.stderr
    return process.stdout.strip()


def test_a_token_is_sent_where_it_is_asked_for(guarded: str, homes: dict[str, Path]) -> None:
    assert run_client(guarded, environment(homes["right"])) == "[3, 4]"


@pytest.mark.parametrize(
    ("home", "settings", "cure"),
    [
        ("none", {}, "~/.ray/auth_token"),
        ("other", {}, "~/.ray/auth_token"),
        ("none", {"RAY_AUTH_MODE": "token"}, "~/.ray/auth_token"),
        ("right", {"RAY_AUTH_MODE": "disabled"}, "leave out RAY_AUTH_MODE=disabled"),
    ],
)
def test_without_a_token_the_error_says_where_to_put_it(
    guarded: str, homes: dict[str, Path], home: str, settings: dict[str, str], cure: str
) -> None:
    error = run_client(guarded, environment(homes[home], **settings))
    assert error.startswith(f"the Ray cluster at '{guarded}' asks for a token")
    assert error.endswith(cure)
