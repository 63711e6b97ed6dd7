"""How models and datasets are named: ``scheme:name?key=value&key=value``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from criticalmass.errors import CriticalMassError, unknown_name


@dataclass(frozen=True)
class Spec:
    """The parts of a spec string.

    Attributes
    ----------
    text: the whole string as the user wrote it.
    scheme: what stands before the first colon, e.g. ``"demo"``.
    name: what stands between the colon and the question mark.
    options: the ``key=value`` pairs after the question mark.
    """

    text: str
    scheme: str
    name: str
    options: Mapping[str, str]


def parse_spec(kind: str, text: str, schemes: Mapping[str, Collection[str]]) -> Spec:
    """Take a spec apart.

    Parameters
    ----------
    kind: what the spec names, e.g. ``"dataset"``; used in errors.
    text: the spec.
    schemes: the known schemes, each with the options that it understands.

    Raises
    ------
    CriticalMassError: no scheme, an unknown scheme, or an option the scheme does not have.
    """
    scheme, colon, rest = text.partition(":")
    if not scheme or not colon or not rest:
        known = ", ".join(f"{name}:..." for name in sorted(schemes))
        raise CriticalMassError(f"{kind} {text!r} is not of the form scheme:name; known: {known}")
    if scheme not in schemes:
        raise unknown_name(f"{kind} scheme", scheme, schemes)
    name, mark, query = rest.rpartition("?")
    if not mark:
        name, query = rest, ""
    if not name:
        raise CriticalMassError(f"{kind} {text!r} names nothing between {scheme!r}: and '?'")
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
    """Read a whole positive number from a spec's options.

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


def choice_option(spec: Spec, key: str, default: str, known: Collection[str]) -> str:
    """Read one of a few words from a spec's options.

    Raises
    ------
    CriticalMassError: another word.
    """
    value = spec.options.get(key, default)
    if value not in known:
        raise unknown_name(f"{key} of {spec.text!r}:", value, known)
    return value
