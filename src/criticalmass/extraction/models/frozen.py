"""The frozen model: a network, its preprocessing, and the layers that can be read."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from criticalmass.core.notebook import Card, Shown
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.models.pooling import TokenLayout
from criticalmass.extraction.models.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

Modality = Literal["image", "text", "audio", "vector", "tensor"]
PENULTIMATE = "penultimate"


@dataclass(frozen=True)
class Tap:
    """The input or output of a module at which a layer is read.

    Attributes
    ----------
    layer: the name that the user gave, e.g. ``"penultimate"`` or ``"blocks.3.1"``.
    path: dotted path below the model's root; empty for the whole model.
    side: ``"output"`` of that module, or its (first) ``"input"``.
    more_paths: further modules whose inputs are read as well (of several classifiers).
    """

    layer: str
    path: str
    side: Literal["input", "output"]
    more_paths: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every module that is read."""
        return (self.path, *self.more_paths)

    @property
    def description(self) -> str:
        """Side and paths in words."""
        if not self.path:
            return "output of the model"
        return f"{self.side} of {' and '.join(repr(path) for path in self.paths)}"


@dataclass(frozen=True)
class WeightSource:
    """The origin of a model's weights.

    Attributes
    ----------
    description: the origin in words, e.g. ``"file net.pth"``.
    digest: SHA-256 of the weights, in hex.
    """

    description: str
    digest: str


@dataclass(frozen=True, repr=False)
class FrozenModel(Shown):
    """A pre-trained model whose weights do not change.

    Attributes
    ----------
    spec: the spec that it was loaded from.
    name: short name for tables.
    modality: ``"image"``, ``"text"``, ``"audio"``, ``"vector"``, or ``"tensor"``: inputs as they
        are.
    module: the torch module that takes the batches of ``preprocess``, or an ``OnnxGraph``.
    root: the part of ``module`` that dotted layer paths start from.
    preprocess: turns items (PIL images, uint8 arrays, texts, vectors) into input batches.
    weights: origin of the weights, in words.
    weights_digest: SHA-256 of the weights (of their files if they come from files).
    penultimate: the tap of the layer name ``penultimate``.
    pool: how the positions or tokens of a layer become one vector, see `models.pooling`.
    is_causal: whether a token depends on the tokens before it only (decoders).
    live: the user's own object that the model was made of; None if it was loaded from a spec.
    output_names: class of each output of the network; empty if they are not known.
    text_tower: of an image tower in a joint space of images and texts, the tower of the texts.
    """

    spec: str
    name: str
    modality: Modality
    module: Any
    root: Any
    preprocess: Preprocess
    weights: str
    weights_digest: str
    penultimate: Tap
    pool: str = "mean"
    is_causal: bool = False
    live: Any = field(default=None, repr=False, compare=False)
    output_names: tuple[str, ...] = ()
    text_tower: FrozenModel | None = field(default=None, repr=False, compare=False)

    def _card(self) -> Card:
        facts = {
            "takes": f"{self.modality}s",
            "penultimate": self.penultimate.description,
            "weights": f"{self.weights} ({self.weights_digest[:12]})",
        }
        return Card(f"Model {self.name} ({self.spec})", facts)

    @contextlib.contextmanager
    def in_evaluation(self) -> Iterator[None]:
        """Hold a live module in evaluation mode and without gradients while the block runs.

        Afterwards every module and parameter has the flags that it had. A model that was loaded
        from a spec is always in this state.
        """
        with contextlib.nullcontext() if self.live is None else evaluation_mode(self.live):
            yield

    @property
    def token_layout(self) -> TokenLayout:
        """What the axes of the network's layers are."""
        return TokenLayout(
            channels_last=getattr(self.root, "output_fmt", None) == "NHWC",
            has_class=not self.is_causal and self._has_class_token,
            is_text=self.modality == "text",
        )

    @property
    def _has_class_token(self) -> bool:
        """Whether the first token represents the whole sample."""
        if self.modality == "audio":
            # Of the networks of sounds only transformers of spectrograms (AST) have one.
            return hasattr(getattr(self.root, "embeddings", None), "cls_token")
        return getattr(self.root, "num_prefix_tokens", 1) > 0

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """The settings of the preprocessing, JSON-able."""
        return self.preprocess.settings

    @property
    def places(self) -> dict[str, str]:
        """Every layer that can be named, in order: path -> type of its module or operation."""
        tensors = getattr(self.root, "tensors", None)
        if isinstance(tensors, Mapping):
            return dict(tensors)
        modules = self.root.named_modules()
        return {name: type(module).__name__ for name, module in modules if name}

    def tap(self, layer: str) -> Tap:
        """Return the tap of a layer name.

        Raises
        ------
        CriticalMassError: the model has no such layer.
        """
        if layer == PENULTIMATE:
            return self.penultimate
        if layer not in self.places:
            raise self._unknown_layer("", layer)
        return Tap(layer, layer, "output")

    def expand(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Replace patterns by the layers that they match, each layer once.

        Parameters
        ----------
        layers: names, and patterns: ``?`` matches one character, ``*`` any characters within one
            part of a dotted path, ``**`` any characters, ``[12]`` one of these characters.

        Raises
        ------
        CriticalMassError: a name or pattern matches no layer.
        """
        names = self.places
        expanded: dict[str, None] = {}
        for layer in layers:
            if layer in names or not is_pattern(layer):
                expanded[self.tap(layer).layer] = None
                continue
            matches = [name for name in names if _pattern_regex(layer).fullmatch(name)]
            if not matches:
                raise self._unknown_layer(" like", layer)
            expanded.update(dict.fromkeys(matches))
        return tuple(expanded)

    def _unknown_layer(self, like: str, layer: str) -> CriticalMassError:
        names = [PENULTIMATE, *self.places]
        hint = f"they are listed by: criticalmass list layers {self.spec!r}"
        return unknown_name_of_many(f"layer in model {self.name!r}{like}", layer, names, hint)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Hold a module in evaluation mode and without gradients; restore its flags at the end."""
    modules = [(part, part.training) for part in module.modules()]
    parameters = [(weight, weight.requires_grad) for weight in module.parameters()]
    is_training = module.training
    try:
        module.eval()
        for weight, _ in parameters:
            weight.requires_grad_(False)
        yield
    finally:
        # First by its own method, which may do more than set the flag.
        module.train(is_training)
        for part, flag in modules:
            part.training = flag
        for weight, flag in parameters:
            weight.requires_grad_(flag)


def unknown_name_of_many(
    kind: str, name: str, known: Sequence[str], hint: str
) -> CriticalMassError:
    """Make the error for an unknown name if there are too many known names to list.

    Parameters
    ----------
    kind, name, known: as in `errors.unknown_name`.
    hint: how to list the known names; used if no known name is similar.
    """
    error = unknown_name(kind, name, known)
    if "did you mean" in str(error):
        return error
    return CriticalMassError(f"no {kind} {name!r}; {hint}")


def error_reason(error: Exception) -> str:
    """Return the first line of another library's error message, at most 160 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def is_pattern(layer: str) -> bool:
    """Whether a layer name is a pattern."""
    return any(letter in layer for letter in "*?[")


def matches_layer(pattern: str, layer: str) -> bool:
    """Whether a name or pattern matches a layer."""
    return layer == pattern or (
        is_pattern(pattern) and _pattern_regex(pattern).fullmatch(layer) is not None
    )


def _pattern_regex(pattern: str) -> re.Pattern[str]:
    """Compile a pattern whose ``*`` stops at a dot or slash."""
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    wildcards = {"**": ".*", "*": "[^./]*", "?": "[^./]"}
    return re.compile(
        "".join(
            wildcards.get(part, part if part[:1] == "[" and part[-1:] == "]" else re.escape(part))
            for part in parts
        )
    )


def files_digest(paths: Iterable[Path]) -> str:
    """Compute the SHA-256 over files, in hex; for one file it is the digest of that file."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


def state_digest(module: nn.Module) -> str:
    """Compute the SHA-256 over a module's parameters and buffers, in hex."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            digest.update(f"{name}|{tensor!r}|".encode())
            continue
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
        if values.numel():
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
