"""Sounds: encoded files and table cells, decoded on access to one channel of float32."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from criticalmass.core.optional import import_package
from criticalmass.extraction.datasets.encoded import EncodedSamples, SampleHeader
from criticalmass.extraction.sounds import BrokenSoundError, Sound

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".mp3"))
"""The suffixes of sounds, in lower case."""


class EncodedSounds(EncodedSamples[Sound]):
    """A sequence of sounds that are decoded on access."""

    noun = "sound"
    error = BrokenSoundError

    @staticmethod
    def decode(content: bytes) -> Sound:
        """Decode a sound; see `decode`."""
        return decode(content)

    @staticmethod
    def read_header(content: bytes) -> SampleHeader:
        """Check the header of an encoded sound."""
        return read_header(content)


def decode(content: bytes) -> Sound:
    """Decode a sound (WAV, FLAC, OGG and what else libsndfile reads) to the mean of its channels.

    Raises
    ------
    BrokenSoundError: it is damaged, empty, in no known format, or has values that are not finite.
    MissingExtraError: soundfile is not installed.
    """
    library = _library()
    try:
        channels, rate = library.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (library.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise BrokenSoundError(_reason(error)) from error
    if not len(channels):
        raise BrokenSoundError("it has no samples")
    samples = channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise BrokenSoundError("it has values that are not finite")
    return Sound(samples, int(rate))


def read_header(content: bytes) -> SampleHeader:
    """Check an encoded sound without decoding it."""
    if not content:
        return SampleHeader("nothing to read")
    library = _library()
    try:
        n_samples = library.info(io.BytesIO(content)).frames
    except (library.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        return SampleHeader(_reason(error))
    return SampleHeader(None if n_samples else "it has no samples")


def _library() -> Any:
    return import_package("soundfile", "audio")


def _reason(error: Exception) -> str:
    """Return libsndfile's reason, without the name of the object that was read."""
    return str(getattr(error, "error_string", error)).strip().rstrip(".")
