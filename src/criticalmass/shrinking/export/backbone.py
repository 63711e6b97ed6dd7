"""The backbone of an export: the model whose layer was shrunk, checked to be that one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.frozen import PENULTIMATE, FrozenModel
from criticalmass.extraction.models.preprocess import ImagePreprocess

if TYPE_CHECKING:
    from torch import nn

    from criticalmass.shrinking.export.request import Request

Kind = Literal["timm", "module", "sentence-transformers"]
_KINDS: dict[str, Kind] = {
    "timm": "timm",
    "module": "module",
    "st": "sentence-transformers",
}
_LITE = "pypi:efficientnet-"
_CHECK_TEXTS = ("a short text", "another text that is longer than the first one by some words")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A model and the layer that is read.

    Attributes
    ----------
    model: without the classifier that nobody reads, where it is timm's.
    kind: how it is built again.
    layer: whose neurons were shrunk.
    cut: modules of which only the kept channels are left; the layer then is those alone.
    """

    model: FrozenModel
    kind: Kind
    layer: str
    cut: tuple[str, ...] = ()

    @property
    def takes_mask(self) -> bool:
        """Whether it takes an attention mask beside the input."""
        return self.kind == "sentence-transformers"

    def module(self) -> nn.Module:
        """Return the module: input batches -> (n, n_neurons)."""
        from criticalmass.extraction.models.wrappers import SentenceEmbedder
        from criticalmass.shrinking.export.torch_modules import LayerOf, MaskedEmbedder

        if self.takes_mask:
            assert isinstance(self.model.module, SentenceEmbedder)
            return MaskedEmbedder(self.model.module)
        return LayerOf(self.model, self.model.tap(self.layer))

    def sample(self) -> NDArray[Any] | None:
        """Return an input batch of two items to check with; None where its width is unknown."""
        if self.model.modality == "vector":
            return None
        items: Sequence[str] | NDArray[Any] = _CHECK_TEXTS
        if self.model.modality == "image":
            assert isinstance(self.model.preprocess, ImagePreprocess)
            side = self.model.preprocess.resize
            shape = (2, side, side, 3)
            items = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        # Copied, since a grey image's planes are one memory, which torch does not take.
        return np.array(next(iter(self.model.preprocess.batches(items, 2)))[1])

    def whole(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the whole layer of a batch, (n, n_neurons), as `extract` does."""
        from criticalmass.extraction.engines import run_torch

        return run_torch(self.model, self.layer, batch)


def backbone_of(request: Request) -> Backbone | None:
    """Load the model whose features were shrunk; None for vectors that came without one.

    Raises
    ------
    CriticalMassError: another model than the one whose features were shrunk, or one whose layer
        cannot be exported.
    """
    record = request.slim.record
    asked = request.model if request.model is not None else str(record.get("model_spec"))
    if asked == "none" or (isinstance(asked, str) and request.model is None and ":" not in asked):
        return None
    from criticalmass.extraction.models import load_model

    kind = _kind(asked if isinstance(asked, str) else asked.spec)
    weights = None if request.weights is None else Path(request.weights)
    model = load_model(asked, weights=weights, device="cpu")
    wanted = record.get("weights_digest")
    if wanted is not None and model.weights_digest != wanted:
        raise CriticalMassError(
            f"model {model.spec!r} has the weights {model.weights_digest[:12]}, the features were "
            f"made with {wanted[:12]}; give the same (weights=FILE), or model='none'"
        )
    found = Backbone(model, kind, str(record["layer"]))
    if found.takes_mask and found.layer != PENULTIMATE:
        raise CriticalMassError(
            f"layer {found.layer!r} of a text model cannot be exported, only {PENULTIMATE!r}; "
            "use model='none'"
        )
    return without_classifier(found)


def without_classifier(backbone: Backbone) -> Backbone:
    """Take the classifier out of a timm network that is read at the classifier's input."""
    from torch import nn

    tap = backbone.model.tap(backbone.layer)
    if backbone.kind != "timm" or tap.side != "input":
        return backbone
    old = backbone.model
    # Together, so that the copied root is still a part of the copied module.
    module, root = copy.deepcopy((old.module, old.root))
    root.set_submodule(tap.path, nn.Identity())
    model = dataclasses.replace(old, module=module, root=root)
    return dataclasses.replace(backbone, model=model)


def describe(backbone: Backbone) -> dict[str, Any]:
    """Write down how the backbone is built again; JSON-able."""
    spec = backbone.model.spec
    name = spec.partition(":")[2].partition("?")[0]
    if spec.startswith(_LITE):
        name = f"tf_efficientnet_{name.removeprefix('efficientnet-')}"
    return {
        "kind": backbone.kind,
        "architecture": spec if backbone.kind == "module" else name,
        "modality": backbone.model.modality,
        "layer": backbone.layer,
        "cut": list(backbone.cut),
        "weights": backbone.model.weights,
        "weights_digest": backbone.model.weights_digest,
        "preprocessing": dict(backbone.model.preprocessing),
    }


def rebuild(entry: dict[str, Any], folder: Path, *, trust_code: bool) -> Backbone:
    """Build a described backbone, its weights still to be filled in.

    Parameters
    ----------
    entry: from `describe`.
    folder: of the export; a sentence encoder is in it.
    trust_code: whether the factory of a ``module:`` backbone may be run.

    Raises
    ------
    CriticalMassError: a backbone that this version cannot build, or untrusted code.
    """
    from criticalmass.extraction.models import load_model

    kind, layer, name = (str(entry.get(key)) for key in ("kind", "layer", "architecture"))
    if kind == "timm":
        return without_classifier(Backbone(_timm(name, entry["preprocessing"]), "timm", layer))
    if kind == "sentence-transformers":
        model = load_model(f"st:{folder / ENCODER}", device="cpu")
        return Backbone(model, "sentence-transformers", layer)
    if kind == "module" and name.startswith("module:"):
        if not trust_code:
            raise CriticalMassError(
                f"{str(folder)!r} runs the code {name!r} to build its backbone; if you trust it, "
                "pass trust_code=True"
            )
        return Backbone(load_model(name, device="cpu"), "module", layer)
    raise CriticalMassError(f"{str(folder)!r} has a backbone of the unknown kind {kind!r}")


ENCODER = "encoder"


def _timm(name: str, settings: dict[str, Any]) -> FrozenModel:
    from criticalmass.extraction.models.image_models import image_model, load_timm
    from criticalmass.extraction.specs import Spec

    text = f"timm:{name}"
    net = load_timm(Spec(text, "timm", name, {"init": "random"}), None).root
    preprocess = ImagePreprocess(
        int(settings["centre_crop"]),
        int(settings["resize_shorter_side"]),
        str(settings["interpolation"]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )
    spec = Spec(text, "timm", name, {})
    return image_model(spec, name, net, preprocess, ("export", ""))


def _kind(spec: str) -> Kind:
    if spec.startswith("pypi:"):
        return "timm" if spec.startswith(_LITE) else "sentence-transformers"
    scheme = spec.partition(":")[0]
    if scheme not in _KINDS:
        raise CriticalMassError(
            f"model {spec!r} cannot be exported; use one of timm:, pypi:, st: or module:, or "
            "model='none'"
        )
    return _KINDS[scheme]
