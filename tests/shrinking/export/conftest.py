"""Slim models to export, and a separate process that reads the exports."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.forks import ForkServer

import criticalmass as cm
from criticalmass.shrinking.codec import Codec
from criticalmass.shrinking.slim_model import SlimModel

GUARD = "\nimport sys\nassert 'criticalmass' not in sys.modules\n"
# The compiled part of torchvision may not fit the installed torch; see `optional_imports`.
REPAIR = """
import torch
lib = torch.library.Library("torchvision", "DEF")
try:
    for name in ("nms", "qnms"):
        lib.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except RuntimeError:
    pass
"""


def make_store(n_classes: int, out: Path) -> cm.FeatureStore:
    """Overlapping classes in 24 neurons that are far from 0, without a model."""
    rng = np.random.default_rng(n_classes)
    centres = rng.standard_normal((n_classes, 24))
    y = np.arange(1000) % n_classes
    x = (0.8 * centres[y] + rng.standard_normal((1000, 24)) + 2.0).astype(np.float32)
    return cm.import_features(
        {"train": x[:600], "test": x[600:]}, out=out, labels={"train": y[:600], "test": y[600:]}
    )


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> cm.FeatureStore:
    return make_store(3, tmp_path_factory.mktemp("vectors") / "store")


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> SlimModel:
    store = make_store(2, tmp_path_factory.mktemp("two") / "store")
    return cm.shrink(store, keep=0.6, selectors=("random",), max_dims=12).slim


@pytest.fixture(scope="session")
def slim(vectors: cm.FeatureStore) -> SlimModel:
    return cm.shrink(vectors, keep=0.6, selectors=("random",), max_dims=12).slim


@pytest.fixture(scope="session")
def whole(vectors: cm.FeatureStore) -> NDArray[np.float32]:
    """Held-out rows, (400, 24)."""
    return vectors.features("test").array()


@pytest.fixture(scope="session")
def at_precision(slim: SlimModel, vectors: cm.FeatureStore) -> Callable[[str], SlimModel]:
    """Make the same slim model, stored in another precision."""

    def make(precision: str) -> SlimModel:
        codec = Codec.learn(precision, vectors.features("train")).subset(slim.indices)
        return dataclasses.replace(slim, codec=codec)

    return make


@pytest.fixture(scope="session")
def fresh() -> Callable[..., str]:
    """Run code in a separate process, in which this package must not be imported."""

    def run(code: str, folder: Path, *, alone: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code + (GUARD if alone else "")],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def forked() -> Iterator[Callable[..., str]]:
    """Like `fresh`, in copies of a process that has imported torch and what reads exports of it."""
    imports = f"{REPAIR}\nimport numpy, onnxruntime, sentence_transformers"
    server = ForkServer(imports, {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})

    def run(code: str, folder: Path, *, alone: bool = True) -> str:
        return server.run(code + (GUARD if alone else ""), folder)

    yield run
    server.close()


@pytest.fixture(scope="session")
def repair() -> str:
    """Code that a process needs before it imports sentence-transformers on some machines."""
    return REPAIR
