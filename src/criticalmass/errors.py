"""The exceptions of the package, and functions that word common errors.

An error text repeats the input and names the cure. A ``CriticalMassError`` is a mistake that the
user can correct; any other exception that reaches the user is a bug in this package.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_MAX_LENGTH = 1200
# Extras of which one command needs a part only.
_COLLECTIONS = ("data", "export")
_EXTRA = re.compile(r"""extra *== *['"]([\w-]+)['"]""")
_OWN_EXTRAS = re.compile(r"criticalmass\[([\w,-]+)\]")


class CriticalMassError(ValueError):
    """A mistake in the user's input; its text is one line.

    The text may repeat any input, so characters that would break the line are escaped, and the
    middle of a very long text is left out.
    """

    def __init__(self, text: object = "") -> None:
        line = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
        )
        if len(line) > _MAX_LENGTH:
            line = f"{line[: _MAX_LENGTH // 2]} ... {line[-_MAX_LENGTH // 3 :]}"
        super().__init__(line)


class StoreError(CriticalMassError):
    """A feature store is missing, damaged, or not the requested one."""


class RunError(CriticalMassError):
    """A run folder is missing, damaged, locked, or not the requested one."""


class MissingExtraError(CriticalMassError):
    """An optional dependency is not installed."""


class DataUnavailableError(CriticalMassError):
    """A dataset or model is not available here (no archive, no internet)."""


class BrokenSampleError(CriticalMassError):
    """An image or a sound cannot be decoded."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> CriticalMassError:
    """Make the error for a name that does not exist, with a did-you-mean.

    Parameters
    ----------
    kind: what the names stand for, e.g. ``"selector"``.
    name: the user's input.
    known: the names that exist.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return CriticalMassError(f"no {kind} {str(name)!r}; did you mean {close[0]!r}?")
    return CriticalMassError(f"no {kind} {str(name)!r}; known: {', '.join(names)}")


def shorten(value: object, letters: int = 80) -> str:
    """Return the representation of a value in one line of about so many characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - a value without a representation is named by its type
        text = f"<{type(value).__name__}>"
    return text if len(text) <= letters else f"{text[: letters - 20]}..."


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Make the error for an optional dependency that is not installed.

    The command names the packages of the extra, so it also works where this package was installed
    from a file or a folder. Of an extra whose packages serve different purposes it names those
    alone whose names begin like the missing one: ``onnx`` is of no use without ``onnxruntime``.
    """
    packages = _packages_of({extra})
    name = package.partition(".")[0].replace("_", "-")
    needed = [one for one in packages if one.startswith(name)] if extra in _COLLECTIONS else []
    if needed:
        command = f"pip install {' '.join(map(repr, needed))}"
        return MissingExtraError(
            f"{package!r} is not installed; install it with: {command} (of the extra [{extra}])"
        )
    if not packages:
        return MissingExtraError(
            f"{package!r} is not installed; install the extra [{extra}] of criticalmass"
        )
    command = f"pip install {' '.join(map(repr, packages))}"
    return MissingExtraError(
        f"{package!r} is not installed; install it with: {command} (the extra [{extra}])"
    )


def _packages_of(extras: set[str]) -> list[str]:
    """Return what extras require, as written in the metadata of the installed package."""
    import importlib.metadata

    try:
        lines = importlib.metadata.requires("criticalmass") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    packages: dict[str, None] = {}
    for requirement, _, marker in (line.partition(";") for line in lines):
        name = _EXTRA.search(marker)
        if name is None or name[1] not in extras:
            continue
        own = _OWN_EXTRAS.fullmatch(requirement.strip())
        inner = _packages_of(set(own[1].split(","))) if own else [requirement.strip()]
        packages.update(dict.fromkeys(inner))
    return list(packages)
