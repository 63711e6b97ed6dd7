"""Probes: what can be trained on a subset of neurons and scored by its accuracy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping

from criticalmass.errors import unknown_name
from criticalmass.probes.task import ProbeScores, ProbeTask

__all__ = ["PROBES", "Probe", "get_probe"]

Probe = Callable[[ProbeTask], ProbeScores]
_PLACES = {
    "logistic": "logistic_task",
    "ridge": "closed_form",
    "lda": "closed_form",
    "knn": "neighbours",
    "centroid": "neighbours",
    "sgd": "sgd",
}


class _Probes(Mapping[str, Probe]):
    """Name -> probe; a probe's module, with what it compiles, is loaded when it is asked for."""

    def __getitem__(self, name: str) -> Probe:
        module = importlib.import_module(f"{__name__}.{_PLACES[name]}")
        probe: Probe = getattr(module, name)
        return probe

    def __contains__(self, name: object) -> bool:
        return name in _PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


PROBES: Mapping[str, Probe] = _Probes()


def get_probe(name: str) -> Probe:
    """Look a probe up.

    Raises
    ------
    CriticalMassError
        For an unknown name, with a did-you-mean.
    """
    if name not in PROBES:
        raise unknown_name("probe", name, PROBES)
    return PROBES[name]
