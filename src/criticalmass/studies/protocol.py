"""How a study measures: as the authors did, or as exactly as it can be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from criticalmass.selectors.sizes import DEFAULT_FRACTIONS

PROBE = "probe"
"""The measure that means the probe of the protocol, whichever that is."""
PAPER_FRACTIONS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01),
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9),
)
"""The fractions of the authors' curves (Nanda et al. 2023, their analysis code)."""


@dataclass(frozen=True)
class Protocol:
    """What a study takes where its file does not say otherwise.

    Attributes
    ----------
    name: what the file calls it.
    probe: the measure that `PROBE` stands for.
    fractions: shares of the neurons to keep.
    estimator: of the critical mass.
    seeds: number of random subsets of each size.
    words: what it is, in a sentence.
    """

    name: str
    probe: str
    fractions: tuple[float, ...]
    estimator: str
    seeds: int
    words: str


_ALL = (
    Protocol(
        "exact",
        "logistic",
        DEFAULT_FRACTIONS,
        "strict",
        5,
        "logistic probes on standardised features, fitted to a certified optimum, their strength "
        "chosen on a part of the training split; DR by the strict estimator",
    ),
    Protocol(
        "paper",
        "sgd",
        PAPER_FRACTIONS,
        "nearest",
        5,
        "as the authors: SGD on raw features, learning rate 0.1, 100 epochs, batches of 256, 14 "
        "fractions, 5 seeds, the whole layer once; DR by the nearest estimator",
    ),
)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({one.name: one for one in _ALL})
