"""The kept neurons alone, as JSON and ``.npy``: ``x[:, numpy.load("indices.npy")]``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.storage.files import write_array, write_json


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``indices.npy``, (n_kept,) int64 ascending, and the same in ``indices.json``.

    Raises
    ------
    CriticalMassError: if the slim model is a projection, which keeps no single neurons.
    """
    if request.slim.matrix is not None:
        raise CriticalMassError(
            "this slim model projects vectors, so it has no kept neurons; use format='vectors', "
            "'faiss', 'onnx', 'torch', 'sklearn' or 'sentence-transformers', or shrink without the "
            "selector pca-top"
        )
    indices = request.slim.indices.astype(np.int64)
    write_array(folder / "indices.npy", indices)
    write_json(folder / "indices.json", {"indices": indices.tolist()})
    is_normalised = request.slim.short_map is not None
    return {"files": ["indices.npy", "indices.json"], "normalised": is_normalised}
