"""Imports that need care: torchvision beside a torch build that it was not compiled for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from criticalmass.core.optional import import_package

# The operator definitions live as long as this reference does.
_kept: list[Any] = []


def import_torch() -> ModuleType:
    """Import torch.

    Raises
    ------
    MissingExtraError: it is not installed.
    """
    return import_package("torch", "torch")


def import_torchvision() -> ModuleType:
    """Import torchvision, mending the one known failure first.

    A torchvision whose compiled part does not fit the installed torch stops at its own import
    with "operator torchvision::nms does not exist". Its Python part needs no more than that the
    two operators are declared; nothing here calls them. To be used before the first import of
    timm, transformers or sentence-transformers, which import torchvision themselves.

    Raises
    ------
    MissingExtraError: torch or torchvision is not installed.
    RuntimeError: torchvision fails in another way.
    """
    torch = import_torch()
    try:
        return import_package("torchvision", "torch")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error) or _kept:
            raise
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return import_package("torchvision", "torch")


def import_after_torchvision(package: str, extra: str) -> ModuleType:
    """Import a package that imports torchvision by itself, e.g. timm.

    Parameters
    ----------
    package: the package's import name.
    extra: the extra of this package that brings it.

    Raises
    ------
    MissingExtraError: it is not installed.
    """
    import_torchvision()
    return import_package(package, extra)
