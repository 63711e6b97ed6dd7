"""A sentence-transformers folder that gives the short vectors, made of the library's own parts.

After the encoder's own stages comes a linear stage without bias whose rows are unit vectors: it
picks the kept neurons, exactly.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.backbone import backbone_of
from criticalmass.shrinking.export.folder import Facts
from criticalmass.shrinking.export.request import Request


def write(request: Request, folder: Path) -> Facts:
    """Write the folder of ``SentenceTransformer(path)``.

    It gives float32 vectors; a smaller precision is a matter of where they are stored.

    Raises
    ------
    MissingExtraError: sentence-transformers is not installed.
    CriticalMassError: the vectors are not of a sentence-transformers model.
    """
    backbone = backbone_of(request)
    if backbone is None or not backbone.takes_mask:
        raise CriticalMassError(
            f"the vectors of {request.slim.record['model']!r} are not those of a "
            "sentence-transformers model; name it: model='st:FOLDER'"
        )
    from criticalmass.extraction.models.text_models import open_encoder, save_encoder

    encoder = open_encoder(backbone.model.spec)
    stages = _stages()
    picker = _picker(stages, request.slim.indices, request.slim.n_neurons)
    encoder.append(picker)
    if request.normalise:
        encoder.append(stages.Normalize())
    save_encoder(encoder, folder)
    return {"normalised": request.normalise}


def _stages() -> Any:
    """Import the module that holds Dense and Normalize; version 6 moved it."""
    moved = importlib.util.find_spec("sentence_transformers.base") is not None
    name = "sentence_transformers.base.modules" if moved else "sentence_transformers.models"
    return importlib.import_module(name)


def _picker(stages: Any, indices: NDArray[np.intp], n_neurons: int) -> Any:
    """Return the stage that keeps ``indices`` of vectors of ``n_neurons``."""
    import torch

    matrix = torch.zeros(indices.size, n_neurons)
    matrix[torch.arange(indices.size), torch.from_numpy(indices.astype(np.int64))] = 1.0
    return stages.Dense(
        in_features=n_neurons,
        out_features=int(indices.size),
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=matrix,
    )
