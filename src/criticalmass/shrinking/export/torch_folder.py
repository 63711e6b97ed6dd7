"""Backbone, kept neurons and head as safetensors with a ``config.json``, and their reader.

Nothing in the folder is pickled. Networks of timm are built by name and filled from the file; a
sentence encoder is a sentence-transformers folder inside; a backbone that the user's own code
made needs that code again, and the reader's word that it is trusted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.core.arguments import checked
from criticalmass.core.optional import import_package
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.preprocess import Preprocess, VectorPreprocess
from criticalmass.shrinking.export.backbone import ENCODER, Backbone, backbone_of, describe, rebuild
from criticalmass.shrinking.export.channel_pruning import cut_at, cut_channels, savings
from criticalmass.shrinking.export.folder import Facts
from criticalmass.shrinking.export.request import Request
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from criticalmass.shrinking.export.torch_modules import Slim

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = "criticalmass-torch"
FORMAT_VERSION = 1
#: Largest difference from the slim model's own numbers, relative to the largest of them.
AGREEMENT = 1e-4


@dataclass(frozen=True, eq=False)
class SlimTorch:
    """An exported slim model.

    Attributes
    ----------
    module: torch module; input batches -> short vectors (n, n_kept) and, with a head, logits
        (n, n_present). Images go in as (n, 3, height, width) uint8, texts as token ids and
        attention mask, vectors as (n, n_neurons) float32.
    preprocess: turns items into input batches.
    config: what the folder says.
    """

    module: Slim
    preprocess: Preprocess
    config: dict[str, Any]

    def transform(self, items: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """Return the short vectors of items (images, texts or whole vectors), (n, n_kept)."""
        return self._run(items)[0]

    def scores(self, items: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """Return (n, n_present) logits of the head.

        Raises
        ------
        CriticalMassError: if it has none.
        """
        if self.config["classes"] is None:
            raise CriticalMassError(
                "this export has no head; shrink with measure='logistic' for one"
            )
        return self._run(items)[1]

    def predict(self, items: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """Return (n,) class ids; raises as `scores` does."""
        best = np.argmax(self.scores(items), axis=1)
        classes = np.asarray(self.config["classes"], dtype=np.int64)
        return np.asarray(classes[best])

    def _run(self, items: Sequence[Any] | NDArray[Any]) -> list[NDArray[np.float32]]:
        import torch

        device = self.module.kept.indices.device
        takes_mask = self.config["inputs"] == ["input_ids", "attention_mask"]
        rows, parts = [], []
        with torch.inference_mode():
            for places, batch in self.preprocess.batches(items, None):
                given = torch.from_numpy(np.require(batch, requirements=["C", "W"])).to(device)
                inputs = (given, torch.ones_like(given)) if takes_mask else (given,)
                parts.append([output.cpu().numpy() for output in self.module(*inputs)])
                rows.append(places)
        if not rows:
            raise CriticalMassError("no items given; give at least one")
        back = np.argsort(np.concatenate(rows))
        return [np.concatenate(part)[back] for part in zip(*parts, strict=True)]


def write(request: Request, folder: Path) -> Facts:
    """Write ``config.json``, ``model.safetensors`` and, of a text model, its encoder.

    Raises
    ------
    MissingExtraError: torch or safetensors is not installed.
    CriticalMassError: a backbone that is not the one whose features were shrunk.
    """
    import_torch()
    safetensors = import_package("safetensors.torch", "torch")
    module, backbone, config = assemble(request)
    state = dict(module.state_dict())
    if backbone is not None and backbone.takes_mask:
        from criticalmass.extraction.models.text_models import open_encoder, save_encoder

        save_encoder(open_encoder(backbone.model.spec), folder / ENCODER)
        state = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    # Cloned, since a file of safetensors holds no two names for one memory.
    content = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    safetensors.save_file(content, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)
    return {"files": sorted(path.name for path in folder.iterdir())}


def assemble(request: Request) -> tuple[Slim, Backbone | None, dict[str, Any]]:
    """Build the modules of a request and check them against the slim model's own numbers.

    Returns
    -------
    Modules, backbone (or None) and the description of both, JSON-able.
    """
    from criticalmass.shrinking.export.torch_modules import slim_module

    slim, backbone = request.slim, backbone_of(request)
    used = backbone
    if request.cut:
        if backbone is None:
            raise CriticalMassError("cut=True needs a backbone; leave it out for vectors")
        used = cut_channels(backbone, slim.indices, slim.n_neurons)
    module = slim_module(slim, None if used is None else used.module(), is_cut=request.cut)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "n_neurons": slim.n_neurons,
        "n_kept": slim.n_kept,
        "indices": slim.indices.tolist(),
        "precision": slim.precision,
        "classes": None if slim.head is None else slim.head.classes.tolist(),
        "class_names": list(slim.class_names),
        "inputs": ["vectors"],
        "outputs": ["short"] if slim.head is None else ["short", "logits"],
        "backbone": None,
    }
    if backbone is not None and used is not None:
        names = {"image": ["images"], "vector": ["vectors"]}
        config["inputs"] = names.get(backbone.model.modality, ["input_ids", "attention_mask"])
        config["backbone"] = describe(used)
        _check(slim, backbone, module)
        if request.cut:
            n_present = 0 if slim.head is None else int(slim.head.classes.size)
            config["savings"] = savings(backbone, used, slim.n_kept, n_present)
    return module, used, config


def sample_inputs(backbone: Backbone, batch: NDArray[Any]) -> tuple[Tensor, ...]:
    """Return what the modules take for an input batch."""
    import torch

    given = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
    return (given, torch.ones_like(given)) if backbone.takes_mask else (given,)


def compare(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], what: str) -> float:
    """Return the largest difference, relative to the largest number of each output.

    Raises
    ------
    CriticalMassError: above `AGREEMENT`.
    """
    gap = max(
        float(np.abs(one - two).max() / max(np.abs(two).max(), np.finfo(np.float32).tiny))
        for one, two in zip(found, wanted, strict=True)
    )
    if not gap <= AGREEMENT:
        raise CriticalMassError(
            f"{what} is off from the slim model's numbers by {gap:.1e}; nothing was written"
        )
    return gap


def _check(slim: SlimModel, backbone: Backbone, module: Slim) -> None:
    import torch

    batch = backbone.sample()
    if batch is None:
        return
    whole = backbone.whole(batch)
    wanted = [slim.transform(whole)] + ([] if slim.head is None else [slim.scores(whole)])
    with torch.inference_mode():
        found = [output.numpy() for output in module(*sample_inputs(backbone, batch))]
    compare(found, wanted, "the torch module")


@checked
def load_slim_torch(
    path: str | os.PathLike[str], *, device: str = "auto", trust_code: bool = False
) -> SlimTorch:
    """Load what ``export(..., format="torch")`` wrote.

    Parameters
    ----------
    path: the folder.
    device: ``"auto"`` (the GPU if there is one), ``"cpu"`` or ``"cuda"``.
    trust_code: whether a backbone of the user's own code (``module:``) may be built: its factory
        is run.

    Raises
    ------
    CriticalMassError: no such export, a newer one, weights that do not fit, or untrusted code.
    MissingExtraError: a library that it needs is not installed.
    """
    folder = Path(path)
    config = _read_config(folder)
    import_torch()
    safetensors = import_package("safetensors.torch", "torch")
    from criticalmass.extraction.models.loading import resolve_device
    from criticalmass.shrinking.export.torch_modules import empty_slim

    entry, chosen, made = config["backbone"], resolve_device(device), None
    preprocess: Preprocess = VectorPreprocess()
    if entry is not None:
        backbone = rebuild(entry, folder, trust_code=trust_code)
        if entry["cut"]:
            kept = np.asarray(config["indices"], dtype=np.intp)
            backbone = cut_at(backbone, entry["cut"], kept)
        made, preprocess = backbone.module(), backbone.model.preprocess
    n_present = None if config["classes"] is None else len(config["classes"])
    module = empty_slim(made, int(config["n_kept"]), str(config["precision"]), n_present)
    file = folder / WEIGHTS
    if not file.is_file():
        raise CriticalMassError(f"{str(file)!r} is missing; export again")
    try:
        state = safetensors.load_file(file)
        if entry is not None and entry["kind"] == "sentence-transformers":
            whole = module.state_dict()
            state |= {name: whole[name] for name in whole if name.startswith("backbone.")}
        module.load_state_dict(state, strict=True)
    except (
        RuntimeError,
        ValueError,
        import_package("safetensors", "torch").SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise CriticalMassError(f"{str(file)!r} does not fit its {CONFIG}: {reason}") from error
    return SlimTorch(module.to(chosen), preprocess, config)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise CriticalMassError(f"no exported slim model at {str(folder)!r} (it has no {CONFIG})")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CriticalMassError(f"{str(path)!r} is not readable JSON ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CriticalMassError(f"{str(path)!r} is not of a torch export")
    if config.get("format_version") != FORMAT_VERSION:
        raise CriticalMassError(
            f"{str(path)!r} has the format version {config.get('format_version')!r}, this "
            f"criticalmass reads {FORMAT_VERSION}; update criticalmass or export again"
        )
    return config
