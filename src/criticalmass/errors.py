"""The package's errors, and helpers that word them.

An error repeats the input and names the cure. A ``CriticalMassError`` is the user's to mend;
anything else that escapes is a bug in this package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 1200


class CriticalMassError(ValueError):
    """A mistake in what the user asked for or handed in; its text is one line.

    It repeats what the user wrote, which may be anything: what would break the line is escaped,
    and what is very long is cut in its middle.
    """

    def __init__(self, text: object = "") -> None:
        line = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
        )
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 3 :]}"
        super().__init__(line)


class StoreError(CriticalMassError):
    """A feature store is missing, damaged, or not what was asked for."""


class RunError(CriticalMassError):
    """A run folder is missing, damaged, locked, or not what was asked for."""


class MissingExtraError(CriticalMassError):
    """An optional dependency is not installed."""


class DataUnavailableError(CriticalMassError):
    """A dataset or model cannot be had here (no archive, no internet)."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> CriticalMassError:
    """Word the error for a name that is not in a registry, with a did-you-mean.

    Parameters
    ----------
    kind: what the name should have named, e.g. ``"selector"``.
    name: what the user wrote.
    known: the names that exist.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return CriticalMassError(f"no {kind} {str(name)!r}; did you mean {close[0]!r}?")
    return CriticalMassError(f"no {kind} {str(name)!r}; known: {', '.join(names)}")


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Word the error for an optional dependency that is not installed."""
    return MissingExtraError(
        f"{package!r} is not installed; install it with: pip install 'criticalmass[{extra}]'"
    )
