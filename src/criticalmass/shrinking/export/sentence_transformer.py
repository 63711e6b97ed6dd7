"""A sentence-transformers folder that returns the short vectors, made of the library's stages.

The encoder's own stages are followed by a linear stage without bias whose rows are unit vectors:
it selects the kept neurons exactly, or projects on directions. Stored vectors have length 1.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.backbone import ENCODER_KIND, load_backbone
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.slim_model import SlimModel


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write the folder of ``SentenceTransformer(path)``.

    It returns float32 vectors; a smaller precision must be applied where they are stored.

    Raises
    ------
    MissingExtraError: if sentence-transformers is not installed.
    CriticalMassError: if the vectors are not those of a sentence-transformers model.
    """
    backbone = load_backbone(request)
    if backbone is None or backbone.kind != ENCODER_KIND:
        raise CriticalMassError(
            f"the vectors of {request.slim.record['model']!r} are not those of a "
            "sentence-transformers model; if they are, name it with model='st:FOLDER'"
        )
    from criticalmass.extraction.models.text_models import save_encoder

    encoder = backbone.open_encoder()
    stages = _stages()
    is_normalised = request.normalise or request.slim.short_map is not None
    if is_normalised and isinstance(encoder[-1], stages.Normalize):
        # Short vectors of length 1 do not depend on the length of whole ones.
        encoder.pop(len(encoder) - 1)
    encoder.append(_linear_stage(stages, request.slim))
    if is_normalised:
        encoder.append(stages.Normalize())
    save_encoder(encoder, folder)
    return {
        "normalised": is_normalised,
        "stages": [type(stage).__name__ for stage in encoder],
        "mteb": _identity(request.slim, folder),
    }


def _identity(slim: SlimModel, folder: Path) -> dict[str, str]:
    """Return the name and the revision by which mteb files results: they say what is in the folder.

    mteb demands a name with a slash.
    """
    from criticalmass.extraction.models.text_models import folder_digest

    model = re.sub(r"[^\w.-]+", "-", str(slim.record["model"])).strip("-") or "model"
    rule = re.sub(r"[^\w.-]+", "-", str(slim.record["selector"])).strip("-")
    return {
        "name": f"criticalmass/{model}-{rule}-{slim.n_kept}",
        "revision": folder_digest(folder)[:40],
    }


def _stages() -> Any:
    """Import the module of Dense and Normalize, which version 6 moved."""
    is_moved = importlib.util.find_spec("sentence_transformers.base") is not None
    name = "sentence_transformers.base.modules" if is_moved else "sentence_transformers.models"
    return importlib.import_module(name)


def _linear_stage(stages: Any, slim: SlimModel) -> Any:
    """Return the linear stage that keeps the neurons of a slim model, or projects on directions."""
    import torch

    matrix = torch.zeros(slim.n_kept, slim.n_neurons)
    if slim.matrix is None:
        matrix[torch.arange(slim.n_kept), torch.from_numpy(slim.indices.astype(np.int64))] = 1.0
    else:
        matrix = torch.from_numpy(np.ascontiguousarray(slim.matrix.T))
    return stages.Dense(
        in_features=slim.n_neurons,
        out_features=slim.n_kept,
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=matrix,
    )
