"""Backbone, kept neurons and head as safetensors with a ``config.json``, and their reader.

Nothing in the folder is pickled. A timm network is built by its name and its weights are read
from the file. A sentence encoder is stored as a sentence-transformers folder. A backbone from the
user's own code is built by that code, which the reader must trust explicitly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.notebook import Card, Shown
from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.preprocess import Preprocess, VectorPreprocess
from criticalmass.extraction.specs import LIVE
from criticalmass.shrinking.export.backbone import (
    ENCODER,
    ENCODER_KIND,
    Backbone,
    describe_backbone,
    load_backbone,
    rebuild_backbone,
)
from criticalmass.shrinking.export.channel_pruning import (
    cut_channels,
    keep_channels,
    measure_savings,
)
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import FolderKind, read_manifest, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from criticalmass.shrinking.export.torch_modules import SlimModule

CONFIG = "config.json"
_TEXT_INPUTS = ("input_ids", "attention_mask")
WEIGHTS = "model.safetensors"
TORCH_FOLDER = FolderKind(
    "criticalmass-torch",
    1,
    "exported slim model",
    "export --format torch",
    CriticalMassError,
    CONFIG,
)
#: Largest allowed difference from the outputs of the slim model, relative to the largest of them.
MAX_DEVIATION = 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class SlimTorch(Shown):
    """An exported slim model.

    Attributes
    ----------
    module: torch module; input batches -> short vectors (n, n_kept) and, with a head, logits
        (n, n_present). Inputs are images as (n, 3, height, width) uint8, texts as token ids and
        attention mask, sounds as their front end returns them, or vectors as (n, n_neurons)
        float32.
    preprocess: turns items into input batches.
    config: content of ``config.json``.
    """

    module: SlimModule
    preprocess: Preprocess
    config: dict[str, Any]

    def _card(self) -> Card:
        facts = {
            "keeps": f"{self.config['n_kept']:,} of {self.config['n_neurons']:,}",
            "inputs": ", ".join(self.config["inputs"]),
            "outputs": ", ".join(self.config["outputs"]),
        }
        return Card("Exported slim model", facts)

    def transform(self, items: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """Return the short vectors of items (images, texts or whole vectors), (n, n_kept)."""
        return self._run(items)[0]

    def scores(self, items: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """Return (n, n_present) logits of the head.

        Raises
        ------
        CriticalMassError: if the export has no head.
        """
        if self.config["classes"] is None:
            raise CriticalMassError(
                "this export has no head; shrink with measure='logistic' to get one"
            )
        return self._run(items)[1]

    def predict(self, items: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """Return (n,) class ids; raises the same errors as `scores`."""
        best = np.argmax(self.scores(items), axis=1)
        classes = np.asarray(self.config["classes"], dtype=np.int64)
        return np.asarray(classes[best])

    def _run(self, items: Sequence[Any] | NDArray[Any]) -> list[NDArray[np.float32]]:
        import torch

        device = self.module.kept.indices.device
        has_mask = self.config["inputs"] == list(_TEXT_INPUTS)
        positions, outputs = [], []
        with torch.inference_mode():
            for batch_positions, batch in self.preprocess.batches(items, None):
                inputs = to_input_tensors(batch, has_mask=has_mask)
                results = self.module(*(tensor.to(device) for tensor in inputs))
                outputs.append([result.cpu().numpy() for result in results])
                positions.append(batch_positions)
        if not positions:
            raise CriticalMassError("no items given; give at least one")
        # Batches may be in another order than the items.
        order = np.argsort(np.concatenate(positions))
        return [np.concatenate(output)[order] for output in zip(*outputs, strict=True)]


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write ``config.json``, ``model.safetensors`` and, for a text model, its encoder.

    Raises
    ------
    MissingExtraError: if torch or safetensors is not installed.
    CriticalMassError: if the backbone is not the one whose features were shrunk.
    """
    import_torch()
    safetensors = import_package("safetensors.torch", "torch")
    module, backbone, config = build_modules(request)
    if backbone is not None and backbone.kind == LIVE:
        raise CriticalMassError(
            f"a torch folder is built again by code, and the live model {backbone.model.name!r} "
            "has none: use format='onnx', a module: spec, or model='none' for the head alone"
        )
    state = dict(module.state_dict())
    if backbone is not None and backbone.kind != ENCODER_KIND and backbone.has_mask:
        preprocess: Any = backbone.model.preprocess
        preprocess.tokenizer.save_pretrained(str(folder / ENCODER))
    if backbone is not None and backbone.kind == ENCODER_KIND:
        from criticalmass.extraction.models.text_models import save_encoder

        save_encoder(backbone.open_encoder(), folder / ENCODER)
        state = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    # Cloned: safetensors does not store two names of the same memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    safetensors.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)
    return {"files": sorted(path.name for path in folder.iterdir())}


def build_modules(request: ExportRequest) -> tuple[SlimModule, Backbone | None, dict[str, Any]]:
    """Build the modules of a request and compare their outputs with those of the slim model.

    Returns
    -------
    Modules, backbone or None, and the JSON-able configuration of both.

    Raises
    ------
    CriticalMassError: if the backbone cannot be exported, or the outputs differ.
    """
    from criticalmass.shrinking.export.torch_modules import make_slim_module

    slim, backbone = request.slim, load_backbone(request)
    exported = backbone
    if request.cut:
        if backbone is None:
            raise CriticalMassError("cut=True needs a backbone; leave it out for vectors")
        if slim.matrix is not None:
            raise CriticalMassError(
                "cut=True removes channels that are not read, but a projection reads all of them; "
                "leave it out"
            )
        exported = cut_channels(backbone, slim.indices, slim.n_neurons)
    backbone_module = None if exported is None else exported.build_module()
    module = make_slim_module(slim, backbone_module, is_cut=request.cut)
    config = {
        "format": TORCH_FOLDER.format,
        "format_version": TORCH_FOLDER.newest,
        "n_neurons": slim.n_neurons,
        "n_kept": slim.n_kept,
        "indices": slim.indices.tolist(),
        "precision": slim.precision,
        "projected": slim.matrix is not None,
        "normalised": slim.short_map is not None,
        "classes": None if slim.head is None else slim.head.classes.tolist(),
        "class_names": list(slim.class_names),
        "inputs": ["vectors"],
        "outputs": ["short"] if slim.head is None else ["short", "logits"],
        "backbone": None,
    }
    if backbone is not None and exported is not None:
        names = {
            "image": ["images"],
            "audio": ["sounds"],
            "vector": ["vectors"],
            "tensor": ["inputs"],
        }
        config["inputs"] = names.get(backbone.model.modality, list(_TEXT_INPUTS))
        config["backbone"] = describe_backbone(exported)
        _check_modules(slim, backbone, module)
        if request.cut:
            n_present = 0 if slim.head is None else int(slim.head.classes.size)
            config["savings"] = measure_savings(backbone, exported, slim.n_kept, n_present)
    return module, exported, config


def to_input_tensors(batch: NDArray[Any], *, has_mask: bool) -> tuple[Tensor, ...]:
    """Return an input batch as the tensors that the modules take.

    Parameters
    ----------
    batch: input batch of the preprocessing.
    has_mask: whether an attention mask of ones is added.
    """
    import torch

    tensor = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
    return (tensor, torch.ones_like(tensor)) if has_mask else (tensor,)


def check_deviation(
    outputs: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], name: str
) -> float:
    """Return the largest difference, relative to the largest number of each output.

    Parameters
    ----------
    outputs, expected: the compared outputs, in the same order.
    name: what is checked, for the error message.

    Raises
    ------
    CriticalMassError: if the difference is above `MAX_DEVIATION`.
    """
    tiny = np.finfo(np.float32).tiny
    deviation = max(
        float(np.abs(output - reference).max() / max(np.abs(reference).max(), tiny))
        for output, reference in zip(outputs, expected, strict=True)
    )
    if not deviation <= MAX_DEVIATION:
        raise CriticalMassError(
            f"the outputs of {name} differ from those of the slim model by {deviation:.1e}, "
            f"more than {MAX_DEVIATION:.0e}; nothing was written"
        )
    return deviation


def _check_modules(slim: SlimModel, backbone: Backbone, module: SlimModule) -> None:
    """Compare the outputs on a small batch with those of the slim model."""
    import torch

    batch = backbone.sample_batch()
    if batch is None:
        return
    vectors = backbone.layer_output(batch)
    expected = [slim.transform(vectors)] + ([] if slim.head is None else [slim.scores(vectors)])
    inputs = to_input_tensors(batch, has_mask=backbone.has_mask)
    with torch.inference_mode():
        outputs = [output.numpy() for output in module(*inputs)]
    check_deviation(outputs, expected, "the torch module")


@validate_arguments
def load_slim_torch(
    path: str | os.PathLike[str], *, device: str = "auto", trust_code: bool = False
) -> SlimTorch:
    """Load an export that ``export(..., format="torch")`` wrote.

    Parameters
    ----------
    path: the folder.
    device: ``"auto"`` (the GPU if there is one), ``"cpu"`` or ``"cuda"``.
    trust_code: whether the factory of a backbone from the user's own code (``module:``) may run.

    Raises
    ------
    CriticalMassError: if there is no such export, it is of a newer version, its weights do not
        fit, or its code is not trusted.
    MissingExtraError: if a library that it needs is not installed.
    """
    folder = Path(path)
    config = read_manifest(folder, TORCH_FOLDER)
    import_torch()
    safetensors = import_package("safetensors.torch", "torch")
    from criticalmass.extraction.models.loading import resolve_device
    from criticalmass.shrinking.export.torch_modules import KeptShape, make_empty_module

    entry, torch_device = config["backbone"], resolve_device(device)
    backbone_module = None
    preprocess: Preprocess = VectorPreprocess()
    if entry is not None:
        backbone = rebuild_backbone(entry, folder, trust_code=trust_code)
        if entry["cut"]:
            indices = np.asarray(config["indices"], dtype=np.intp)
            backbone = keep_channels(backbone, entry["cut"], indices)
        backbone_module, preprocess = backbone.build_module(), backbone.model.preprocess
    n_present = None if config["classes"] is None else len(config["classes"])
    shape = KeptShape(
        int(config["n_kept"]),
        str(config["precision"]),
        int(config["n_neurons"]) if config.get("projected") else None,
        bool(config.get("normalised")),
    )
    module = make_empty_module(backbone_module, shape, n_present)
    file = folder / WEIGHTS
    if not file.is_file():
        raise CriticalMassError(f"{str(file)!r} is missing; export again")
    try:
        state = safetensors.load_file(file)
        if entry is not None and entry["kind"] == ENCODER_KIND:
            initial = module.state_dict()
            state |= {name: initial[name] for name in initial if name.startswith("backbone.")}
        module.load_state_dict(state, strict=True)
    except (
        RuntimeError,
        ValueError,
        import_package("safetensors", "torch").SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise CriticalMassError(f"{str(file)!r} does not fit its {CONFIG}: {reason}") from error
    return SlimTorch(module.to(torch_device), preprocess, config)
