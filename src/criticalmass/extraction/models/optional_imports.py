"""Imports of torch and torchvision, including a torchvision that does not fit the torch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from criticalmass.core.optional import import_package

# The operator definitions exist as long as this reference.
_operator_libraries: list[Any] = []


def import_torch() -> ModuleType:
    """Import torch.

    Raises
    ------
    MissingExtraError: it is not installed.
    """
    return import_package("torch", "torch")


def import_torchvision() -> ModuleType:
    """Import torchvision; work around one known failure.

    If torchvision's compiled part does not fit the installed torch, its import fails with
    "operator torchvision::nms does not exist". Its Python part only needs the two operators to be
    declared; this package does not call them. Call this function before the first import of
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
        if "torchvision::nms" not in str(error) or _operator_libraries:
            raise
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operator_libraries.append(library)
    return import_package("torchvision", "torch")


def import_after_torchvision(package: str, extra: str) -> ModuleType:
    """Import a package that imports torchvision itself, e.g. timm.

    Parameters
    ----------
    package: import name of the package.
    extra: the extra of ``criticalmass`` that installs it.

    Raises
    ------
    MissingExtraError: it is not installed.
    """
    import_torchvision()
    return import_package(package, extra)
