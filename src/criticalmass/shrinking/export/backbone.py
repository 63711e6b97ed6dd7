"""The backbone of an export: the model whose layer was shrunk, checked by its weights digest."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models.audio_inputs import AudioPreprocess
from criticalmass.extraction.models.frozen import PENULTIMATE, FrozenModel, WeightSource
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.models.preprocess import ImagePreprocess, TensorPreprocess
from criticalmass.extraction.sounds import Sound
from criticalmass.extraction.specs import LIVE

if TYPE_CHECKING:
    from torch import nn

    from criticalmass.shrinking.export.request import ExportRequest

#: Folder of the sentence encoder, or of the tokenizer, in an export.
ENCODER = "encoder"
#: Kind of a model that is stored in that folder, with its weights.
ENCODER_KIND = "sentence-transformers"
#: Kind of a table of token embeddings, whose texts are means of its rows.
STATIC_KIND = "static-texts"
_TRAINED, _PACKAGE, _SOUND = "trained", "package", "sound"
_CHECK_SECONDS = 0.5
_CHECK_TEXTS = ("a short text", "another text that is longer than the first one by some words")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A model and the layer whose neurons were shrunk.

    Attributes
    ----------
    model: the model; one of timm or of ``criticalmass train`` has no classifier.
    kind: how `rebuild_backbone` builds it.
    layer: name of the layer.
    cut_modules: modules that have the channels of the kept neurons only; the layer then consists
        of the kept neurons.
    """

    model: FrozenModel
    kind: str
    layer: str
    cut_modules: tuple[str, ...] = ()

    @property
    def has_mask(self) -> bool:
        """Whether its inputs are token ids and an attention mask."""
        return self.kind in (ENCODER_KIND, STATIC_KIND)

    def build_module(self) -> nn.Module:
        """Return the torch module: input batches -> (n, n_neurons)."""
        from criticalmass.extraction.models.wrappers import SentenceEmbedder
        from criticalmass.shrinking.export.torch_modules import (
            LayerOutput,
            MaskedEmbedder,
            MaskedMean,
        )

        if self.kind == STATIC_KIND:
            return MaskedMean(self.model.root.embedding)
        if self.has_mask:
            assert isinstance(self.model.module, SentenceEmbedder)
            return MaskedEmbedder(self.model.module)
        return LayerOutput(self.model, self.model.tap(self.layer))

    def open_encoder(self) -> Any:
        """Return the ``SentenceTransformer`` object of a text model, for the caller to change."""
        from criticalmass.extraction.models.text_models import open_encoder

        live = self.model.live
        return open_encoder(self.model.spec) if live is None else copy.deepcopy(live)

    def sample_batch(self) -> NDArray[Any] | None:
        """Return an input batch of two items to check with; None for vectors."""
        if self.model.modality == "vector":
            return None
        items: Sequence[Any] | NDArray[Any] = _CHECK_TEXTS
        if isinstance(self.model.preprocess, TensorPreprocess):
            shape = (2, *(self.model.preprocess.shape or ()))
            items = np.random.default_rng(0).standard_normal(shape)
            return np.abs(items).astype(self.model.preprocess.dtype)
        if isinstance(self.model.preprocess, AudioPreprocess):
            rate = self.model.preprocess.rate
            noise = np.random.default_rng(0).standard_normal((2, int(_CHECK_SECONDS * rate)))
            items = [Sound(one.astype(np.float32), rate) for one in noise]
        if self.model.modality == "image":
            assert isinstance(self.model.preprocess, ImagePreprocess)
            side = self.model.preprocess.resize
            shape = (2, side, side, 3)
            items = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        # Copied: the planes of a grey image share memory, which torch does not accept.
        return np.array(next(iter(self.model.preprocess.batches(items, 2)))[1])

    def layer_output(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the layer of a batch, (n, n_neurons), as `extract` does."""
        from criticalmass.extraction.engines import run_torch

        return run_torch(self.model, self.layer, batch)


def load_backbone(request: ExportRequest) -> Backbone | None:
    """Load the model whose features were shrunk; None for vectors without a model.

    Raises
    ------
    CriticalMassError: if the model is not the one whose features were shrunk, or its layer cannot
        be exported.
    """
    record = request.slim.record
    spec = request.model if request.model is not None else str(record.get("model_spec"))
    if spec == "none" or (isinstance(spec, str) and request.model is None and ":" not in spec):
        return None
    if isinstance(spec, str) and spec.startswith(f"{LIVE}:"):
        raise CriticalMassError(
            f"the features are those of the live model {spec.partition(':')[2]}, which no spec can "
            "load: give the object as model=, or model='none' for whole vectors as input"
        )
    from criticalmass.extraction.models import load_model
    from criticalmass.extraction.models.loading import export_kind

    if isinstance(spec, str):
        export_kind(spec)  # Refused before anything is loaded.
    weights = None if request.weights is None else Path(request.weights)
    model = load_model(spec, weights=weights, device="cpu" if isinstance(spec, str) else "auto")
    is_live = model.live is not None
    kind = _live_kind(model) if is_live else export_kind(model.spec)
    digest = record.get("weights_digest")
    if digest is not None and model.weights_digest != digest:
        raise CriticalMassError(
            f"model {model.spec!r} has weights {model.weights_digest[:12]} but the features were "
            f"extracted with {digest[:12]}; give the same weights (weights=FILE) or model='none'"
        )
    if is_live:
        from criticalmass.extraction.models.live import as_recorded

        model = as_recorded(model, record.get("preprocessing") or {})
    backbone = Backbone(model, kind, str(record["layer"]))
    if backbone.has_mask and backbone.layer != PENULTIMATE:
        raise CriticalMassError(
            f"layer {backbone.layer!r} of a text model cannot be exported, only {PENULTIMATE!r}; "
            "use model='none'"
        )
    return remove_classifier(backbone)


def _live_kind(model: FrozenModel) -> str:
    from criticalmass.extraction.models.wrappers import SentenceEmbedder

    return ENCODER_KIND if isinstance(model.module, SentenceEmbedder) else LIVE


def remove_classifier(backbone: Backbone) -> Backbone:
    """Remove the classifier of a network whose layer is the classifier's input."""
    from torch import nn

    tap = backbone.model.tap(backbone.layer)
    # Some networks with several classifiers do not run without one of them.
    has_classifier = tap.side == "input" and not tap.more_paths
    if backbone.kind not in ("timm", _TRAINED, _PACKAGE, _SOUND) or not has_classifier:
        return backbone
    old = backbone.model
    # One copy of both, so that the copied root is a part of the copied module.
    module, root = copy.deepcopy((old.module, old.root))
    root.set_submodule(tap.path, nn.Identity())
    model = dataclasses.replace(old, module=module, root=root)
    return dataclasses.replace(backbone, model=model)


def describe_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return the JSON-able entry from which `rebuild_backbone` builds the backbone."""
    from criticalmass.extraction.models.image_models import timm_name

    spec = backbone.model.spec
    name = spec.partition(":")[2].partition("?")[0]
    network: dict[str, Any] = {}
    if backbone.kind == _TRAINED:
        from criticalmass.extraction.models.trained import find_checkpoint

        network = {"network": dataclasses.asdict(find_checkpoint(name).shape)}
    if backbone.kind == _PACKAGE:
        from criticalmass.extraction.models.loading import parse_model_spec
        from criticalmass.extraction.models.package_networks import network_shape

        network = {"network": dataclasses.asdict(network_shape(parse_model_spec(spec)))}
    if backbone.kind == STATIC_KIND:
        n_tokens, width = backbone.model.root.embedding.weight.shape
        network = {"network": {"n_tokens": n_tokens, "width": width}}
    architecture = timm_name(name)
    if backbone.kind in ("module", _TRAINED, _PACKAGE):
        architecture = spec
    elif backbone.kind in (_SOUND, STATIC_KIND):
        architecture = spec.partition("?")[0]
    return {
        "kind": backbone.kind,
        "architecture": architecture,
        **network,
        "modality": backbone.model.modality,
        "layer": backbone.layer,
        "pool": backbone.model.pool,
        "cut": list(backbone.cut_modules),
        "weights": backbone.model.weights,
        "weights_digest": backbone.model.weights_digest,
        "preprocessing": dict(backbone.model.preprocessing),
    }


def rebuild_backbone(entry: dict[str, Any], folder: Path, *, trust_code: bool) -> Backbone:
    """Build a backbone without its weights.

    Parameters
    ----------
    entry: from `describe_backbone`.
    folder: folder of the export; it contains a sentence encoder.
    trust_code: whether the factory of a ``module:`` backbone may run.

    Raises
    ------
    CriticalMassError: if this version cannot build the backbone, or its code is not trusted.
    """
    backbone = _rebuild(entry, folder, trust_code=trust_code)
    # Folders of earlier versions do not say how maps and tokens are pooled.
    model = dataclasses.replace(backbone.model, pool=entry.get("pool", backbone.model.pool))
    return remove_classifier(dataclasses.replace(backbone, model=model))


def _rebuild(entry: dict[str, Any], folder: Path, *, trust_code: bool) -> Backbone:
    from criticalmass.extraction.models import load_model

    kind, layer, name = (str(entry.get(key)) for key in ("kind", "layer", "architecture"))
    if kind == "timm":
        return Backbone(_build_timm(name, entry["preprocessing"]), kind, layer)
    if kind == _TRAINED:
        return Backbone(_build_trained(name, entry), kind, layer)
    if kind == _PACKAGE:
        return Backbone(_build_package_network(name, entry), kind, layer)
    if kind == _SOUND and name in _sounds():
        # The untrained network needs no package.
        return Backbone(load_model(f"{name}?init=random", device="cpu"), kind, layer)
    if kind == STATIC_KIND:
        return Backbone(_build_static(name, entry, folder), kind, layer)
    if kind == ENCODER_KIND:
        return Backbone(load_model(f"st:{folder / ENCODER}", device="cpu"), kind, layer)
    if kind == "module" and name.startswith("module:"):
        if not trust_code:
            raise CriticalMassError(
                f"{str(folder)!r} runs the code {name!r} to build its backbone; if you trust it, "
                "pass trust_code=True"
            )
        return Backbone(load_model(name, device="cpu"), "module", layer)
    raise CriticalMassError(
        f"{str(folder)!r} has a backbone of the unknown kind {kind!r}; update criticalmass"
    )


def _sounds() -> list[str]:
    """List the specs of the networks of sounds that are built without a package."""
    from criticalmass.extraction.models.loading import MODEL_SOURCES

    return [source.form for source in MODEL_SOURCES if source.export_kind == _SOUND]


def _build_static(name: str, entry: dict[str, Any], folder: Path) -> FrozenModel:
    """Build a table of token embeddings; the folder has the tokenizer."""
    import torch

    from criticalmass.extraction.models.static_texts import static_model
    from criticalmass.extraction.models.wrappers import StaticEmbedder

    library = import_after_torchvision("transformers", "text")
    tokenizer = library.PreTrainedTokenizerFast.from_pretrained(str(folder / ENCODER))
    vectors = torch.zeros(entry["network"]["n_tokens"], entry["network"]["width"])
    source = WeightSource("export", "")
    return static_model(name, name, StaticEmbedder(vectors), tokenizer, source)


def _build_timm(name: str, settings: dict[str, Any]) -> FrozenModel:
    from criticalmass.extraction.models.image_models import image_model, load_timm
    from criticalmass.extraction.specs import Spec

    text = f"timm:{name}"
    net = load_timm(Spec(text, "timm", name, {"init": "random"}), None).root
    preprocess = ImagePreprocess.from_settings(settings)
    spec = Spec(text, "timm", name, {})
    return image_model(spec, name, net, preprocess, WeightSource("export", ""))


def _build_package_network(text: str, entry: dict[str, Any]) -> FrozenModel:
    """Build a network inside a package by timm; neither the package nor its spec is needed."""
    from criticalmass.extraction.models.image_models import image_model
    from criticalmass.extraction.models.package_networks import NetworkOfTimm
    from criticalmass.extraction.specs import Spec

    shape = NetworkOfTimm(**entry["network"])
    preprocess = ImagePreprocess.from_settings(entry["preprocessing"])
    spec = Spec(f"timm:{shape.name}", "timm", shape.name, {})
    return image_model(spec, shape.name, shape.build(), preprocess, WeightSource("export", text))


def _build_trained(text: str, entry: dict[str, Any]) -> FrozenModel:
    from criticalmass.extraction.models.image_models import image_model
    from criticalmass.extraction.models.small_networks import NetworkShape, build_network
    from criticalmass.extraction.specs import Spec

    shape = NetworkShape(**entry["network"])
    preprocess = ImagePreprocess.from_settings(entry["preprocessing"])
    spec = Spec(text, _TRAINED, shape.name, {})
    source = WeightSource("export", "")
    return image_model(spec, shape.name, build_network(shape), preprocess, source)
