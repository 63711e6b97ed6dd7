"""The kept neurons alone, as JSON and ``.npy``: ``x[:, numpy.load("indices.npy")]``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.storage.files import write_array, write_json


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``indices.npy``, (n_kept,) int64 ascending, and the same in ``indices.json``."""
    indices = request.slim.indices.astype(np.int64)
    write_array(folder / "indices.npy", indices)
    write_json(folder / "indices.json", {"indices": indices.tolist()})
    return {"files": ["indices.npy", "indices.json"]}
