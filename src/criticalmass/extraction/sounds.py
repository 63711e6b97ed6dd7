"""Decoded sounds: one channel of float32 at a rate, and their resampling."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import BrokenSampleError


class BrokenSoundError(BrokenSampleError):
    """A sound cannot be decoded."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A decoded sound.

    Attributes
    ----------
    samples: (n,) float32, the mean over the channels.
    rate: samples per second.
    """

    samples: NDArray[np.float32]
    rate: int


def resample(sound: Sound, rate: int) -> NDArray[np.float32]:
    """Resample a sound with the polyphase filter of scipy (Kaiser window, beta 5).

    Parameters
    ----------
    sound: the sound.
    rate: samples per second of the result.
    """
    if sound.rate == rate:
        return sound.samples
    from scipy.signal import resample_poly

    divisor = gcd(sound.rate, rate)
    samples = resample_poly(sound.samples, rate // divisor, sound.rate // divisor)
    return np.asarray(samples, dtype=np.float32)
