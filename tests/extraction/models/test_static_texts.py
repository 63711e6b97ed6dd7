"""WordLlama: texts as the means of their token embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.extraction.models.wordllama_package import write_wordllama

from criticalmass.extraction.models.static_texts import load_wordllama
from criticalmass.extraction.specs import Spec

torch = pytest.importorskip("torch")


def test_wordllama_is_the_mean_of_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    vectors = write_wordllama(("a", "b"), 256)
    model = load_wordllama(Spec("pypi:wordllama-256", "pypi", "wordllama-256", {}))
    texts = ["a b b", "", "b"]
    got = np.zeros((3, 256), np.float32)
    for rows, ids in model.preprocess.batches(texts, None):
        got[rows] = model.module(torch.from_numpy(ids)).numpy()
    tokens = [[2, 3, 3], [0], [3]]
    expected = [vectors[ids].astype(np.float32).mean(axis=0) for ids in tokens]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
