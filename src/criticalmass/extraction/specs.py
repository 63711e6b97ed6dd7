"""Spec strings that name models and datasets: ``scheme:name?key=value&key=value``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from criticalmass.errors import CriticalMassError, unknown_name

T = TypeVar("T")
#: Scheme under which a store records an object of the user, which no spec can load again.
LIVE = "live"


@dataclass(frozen=True)
class Spec:
    """The parts of a spec string.

    Attributes
    ----------
    text: the whole string as the user wrote it.
    scheme: the part before the first colon, e.g. ``"demo"``.
    name: the part between the colon and the question mark.
    options: the ``key=value`` pairs after the question mark.
    """

    text: str
    scheme: str
    name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class SpecSource(Generic[T]):
    """One entry of the registry of models or datasets.

    Attributes
    ----------
    form: ``scheme:name``; a placeholder in capitals, as in ``csv:FILE``, stands for any name.
    load: loads what a spec of this form names.
    description: one line for ``criticalmass list``.
    options: options that the spec accepts.
    export_kind: how the export of a model builds it again, see `shrinking.export.backbone`; ""
        for what cannot be exported.
    no_export: why a model of this form cannot be exported; "" if it can, or if others can.
    find_digest: computes the digest of a model's weights from its files, without loading it; None
        if it must be loaded.
    """

    form: str
    load: Callable[..., T]
    description: str
    options: tuple[str, ...] = ()
    export_kind: str = ""
    no_export: str = ""
    find_digest: Callable[[Spec], str | None] | None = None

    @property
    def scheme(self) -> str:
        """The part before the first colon."""
        return self.form.partition(":")[0]

    @property
    def name(self) -> str:
        """The part after the first colon: a name or a placeholder."""
        return self.form.partition(":")[2]

    @property
    def takes_any_name(self) -> bool:
        """Whether the name is a placeholder."""
        return self.name.isupper()


def options_of(sources: Sequence[SpecSource[T]]) -> dict[str, tuple[str, ...]]:
    """Return scheme -> the options that its forms accept."""
    options: dict[str, tuple[str, ...]] = {}
    for source in sources:
        known = options.get(source.scheme, ())
        options[source.scheme] = tuple(dict.fromkeys((*known, *source.options)))
    return options


def find_source(kind: str, spec: Spec, sources: Sequence[SpecSource[T]]) -> SpecSource[T]:
    """Return the entry that loads a spec.

    Parameters
    ----------
    kind: what the spec names, e.g. ``"dataset"``; used in errors.
    spec: a spec of a known scheme.
    sources: the registry.

    Raises
    ------
    CriticalMassError: the scheme has no such name, and no form that takes any name; or this form
        does not accept an option.
    """
    of_scheme = [source for source in sources if source.scheme == spec.scheme]
    named = [source for source in of_scheme if source.name == spec.name]
    matching = [*named, *(source for source in of_scheme if source.takes_any_name)]
    if not matching:
        names = [source.name for source in of_scheme]
        raise unknown_name(f"{spec.scheme}: {kind}", spec.name, names)
    for key in spec.options:
        if key not in matching[0].options:
            form = f"{spec.scheme}:{spec.name}"
            raise unknown_name(f"option of {kind} {form}", key, matching[0].options)
    return matching[0]


def parse_spec(kind: str, text: str, schemes: Mapping[str, Collection[str]]) -> Spec:
    """Parse a spec string.

    Parameters
    ----------
    kind: what the spec names, e.g. ``"dataset"``; used in errors.
    text: the spec string.
    schemes: the known schemes, each with the options that it accepts.

    Raises
    ------
    CriticalMassError: the scheme is missing or unknown, or it does not accept an option.
    """
    scheme, colon, rest = text.partition(":")
    if not scheme or not colon or not rest:
        forms = ", ".join(f"{name}:..." for name in sorted(schemes))
        raise CriticalMassError(f"{kind} {text!r} is not of the form scheme:name; known: {forms}")
    if scheme == LIVE:
        raise CriticalMassError(
            f"{kind} {text!r} was an object of the user, which no spec can load; give the object"
        )
    if scheme not in schemes:
        raise unknown_name(f"{kind} scheme", scheme, schemes)
    name, mark, query = rest.rpartition("?")
    if not mark:
        name, query = rest, ""
    if not name:
        raise CriticalMassError(f"{kind} {text!r} has no name between {scheme + ':'!r} and '?'")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if key not in schemes[scheme]:
            raise unknown_name(f"option of {kind} {scheme}:", key, schemes[scheme])
        if not equals or not value:
            raise CriticalMassError(f"option {pair!r} of {kind} {text!r} is not key=value")
        options[key] = value
    return Spec(text, scheme, name, options)


def integer_option(spec: Spec, key: str, default: int) -> int:
    """Read a positive integer from the options of a spec.

    Raises
    ------
    CriticalMassError: the value is not a whole number of at least 1.
    """
    text = spec.options.get(key)
    if text is None:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise CriticalMassError(
            f"{key}={text!r} in {spec.text!r} must be a whole number of at least 1"
        )
    return int(text)


def choice_option(spec: Spec, key: str, default: str, allowed: Collection[str]) -> str:
    """Read one of several allowed words from the options of a spec.

    Raises
    ------
    CriticalMassError: the value is not an allowed word.
    """
    value = spec.options.get(key, default)
    if value not in allowed:
        raise unknown_name(f"{key} of {spec.text!r}:", value, allowed)
    return value


def missing_path(path: Path, kind: str = "file") -> CriticalMassError:
    """Make the error for a file or folder that does not exist, with a did-you-mean.

    Parameters
    ----------
    path: as the user gave it.
    kind: ``"file"`` or ``"folder"``.
    """
    text = f"no {kind} {str(path)!r}"
    if path.exists():
        return CriticalMassError(f"{text}: it is a {'folder' if path.is_dir() else 'file'}")
    if not path.parent.is_dir():
        return CriticalMassError(f"{text}: there is no folder {str(path.parent)!r}")
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    hint = f"; did you mean {str(path.parent / close[0])!r}?" if close else ""
    return CriticalMassError(f"{text}{hint}")
