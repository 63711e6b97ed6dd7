"""The frozen model: a torch module, what goes in, and where its layers are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.models.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import nn

Modality = Literal["image", "text", "vector"]
PENULTIMATE = "penultimate"


@dataclass(frozen=True)
class Tap:
    """A place in a model where a representation is read.

    Attributes
    ----------
    layer: the name that the user gave, e.g. ``"penultimate"`` or ``"blocks.3.1"``.
    path: dotted path below the model's root; empty for the whole model.
    side: ``"output"`` of that module, or its (first) ``"input"``.
    """

    layer: str
    path: str
    side: Literal["input", "output"]

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{self.side} of {self.path!r}" if self.path else "output of the model"


@dataclass(frozen=True)
class FrozenModel:
    """A pre-trained model whose weights stay as they are.

    Attributes
    ----------
    spec: what it was asked for with.
    name: short name for tables.
    modality: ``"image"``, ``"text"`` or ``"vector"``.
    module: the torch module that takes what ``preprocess`` gives, or an ``OnnxGraph``.
    root: the part of it that dotted layer paths start from.
    preprocess: turns items (PIL images, uint8 arrays, texts, vectors) into its input batches.
    weights: where the weights come from, in words.
    weights_digest: SHA-256 of the weights (of their files where there are files).
    penultimate: the place that the layer name ``penultimate`` stands for.
    pool: how the map or the tokens of a layer become one vector, see `models.pooling`.
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

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """What is done to an item before the model sees it, JSON-able."""
        return self.preprocess.settings

    @property
    def places(self) -> dict[str, str]:
        """Where a layer can be read, in order: path -> kind of module (or of operation)."""
        tensors = getattr(self.root, "tensors", None)
        if isinstance(tensors, Mapping):
            return dict(tensors)
        modules = self.root.named_modules()
        return {name: type(module).__name__ for name, module in modules if name}

    def tap(self, layer: str) -> Tap:
        """Find the place that a layer's name stands for.

        Raises
        ------
        CriticalMassError: no module of that path.
        """
        if layer == PENULTIMATE:
            return self.penultimate
        places = self.places
        if layer not in places:
            raise self._no_layer("", layer)
        return Tap(layer, layer, "output")

    def expand(self, layers: Sequence[str]) -> tuple[str, ...]:
        """Replace patterns by the layers that they fit, each layer once.

        Parameters
        ----------
        layers: names, and patterns: ``?`` stands for one character, ``*`` for any within one part
            of a dotted path, ``**`` for any at all, ``[12]`` for one of these.

        Raises
        ------
        CriticalMassError: a name or pattern that fits no layer.
        """
        places = self.places
        found: dict[str, None] = {}
        for layer in layers:
            if layer in places or not is_pattern(layer):
                found[self.tap(layer).layer] = None
                continue
            fitting = [name for name in places if _translate(layer).fullmatch(name)]
            if not fitting:
                raise self._no_layer(" like", layer)
            found.update(dict.fromkeys(fitting))
        return tuple(found)

    def _no_layer(self, like: str, layer: str) -> CriticalMassError:
        known = [PENULTIMATE, *self.places]
        listed = f"they are listed by: criticalmass list layers {self.spec!r}"
        return unknown_of_many(f"layer in model {self.name!r}{like}", layer, known, listed)


def unknown_of_many(kind: str, name: str, known: Sequence[str], listed: str) -> CriticalMassError:
    """Word the error for an unknown name among so many that a line cannot hold them.

    Parameters
    ----------
    kind, name, known: as of `errors.unknown_name`.
    listed: where the names are to be found, said where none is close.
    """
    error = unknown_name(kind, name, known)
    if "did you mean" in str(error):
        return error
    return CriticalMassError(f"no {kind} {name!r}; {listed}")


def is_pattern(layer: str) -> bool:
    """Tell whether a layer's name is a pattern."""
    return any(letter in layer for letter in "*?[")


def fits(pattern: str, layer: str) -> bool:
    """Tell whether a layer is what a name or pattern stands for."""
    return layer == pattern or (
        is_pattern(pattern) and _translate(pattern).fullmatch(layer) is not None
    )


def _translate(pattern: str) -> re.Pattern[str]:
    """Make a regular expression of a pattern whose ``*`` stops at a dot or slash."""
    parts = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    words = {"**": ".*", "*": "[^./]*", "?": "[^./]"}
    return re.compile(
        "".join(
            words.get(part, part if part[:1] == "[" and part[-1:] == "]" else re.escape(part))
            for part in parts
        )
    )


def find_classifier(root: nn.Module, spec: str) -> Tap:
    """Find the classifier of a network, whose input is the penultimate layer.

    It is what the network's ``get_classifier`` names (timm), else the last linear module.

    Raises
    ------
    CriticalMassError: there is none.
    """
    from torch import nn

    modules = {name: module for name, module in root.named_modules() if name}
    named = getattr(root, "get_classifier", None)
    classifier = named() if callable(named) else None
    for name, module in modules.items():
        if module is classifier:
            return Tap(PENULTIMATE, name, "input")
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    if linear:
        return Tap(PENULTIMATE, linear[-1], "input")
    raise CriticalMassError(
        f"model {spec!r} has no linear classifier, so 'penultimate' is unclear; "
        f"name a layer instead, e.g. {next(reversed(modules), '')!r}"
    )


def files_digest(paths: Iterable[Path]) -> str:
    """Compute the SHA-256 over files, in hex; of one file it is that file's own digest."""
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
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
        if values.numel():
            digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
