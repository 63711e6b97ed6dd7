"""Frozen models: ``load_model("pypi:efficientnet-lite0")``."""

from __future__ import annotations

from criticalmass.extraction.models.frozen import FrozenModel, Tap
from criticalmass.extraction.models.loading import fingerprint, load_model, with_options

__all__ = ["FrozenModel", "Tap", "fingerprint", "load_model", "with_options"]
