"""Labelled datasets: ``load_dataset("demo:fashion-mnist")``."""

from __future__ import annotations

from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.loading import load_dataset
from criticalmass.storage.features import UNLABELLED

__all__ = ["UNLABELLED", "Dataset", "Split", "load_dataset"]
