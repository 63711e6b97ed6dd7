"""The door of the public functions: arguments of the wrong kind get one line, not a traceback.

``@checked`` looks at arguments by their names, which mean the same everywhere in the package.
This is about kinds, and about ranges that are the same everywhere; other ranges, and whether a
collection may be empty, are looked at where the values are used.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

import numpy as np

from criticalmass.errors import CriticalMassError

__all__ = ["checked"]

P = ParamSpec("P")
R = TypeVar("R")
Test = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and "\0" not in os.fspath(value) and value != ""


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not _is_flag(value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not _is_flag(value)


def _several(test: Test) -> Test:
    """Accept one value or a collection of such values."""

    def holds(value: Any) -> bool:
        if test(value):
            return True
        if isinstance(value, np.ndarray):
            return value.ndim == 1 and all(test(one) for one in value.tolist())
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            return False
        # An iterator can be read once only, by the function itself.
        if iter(value) is value:
            return True
        return all(test(one) for one in value)

    return holds


def _either(*tests: Test) -> Test:
    return lambda value: any(test(value) for test in tests)


def _within(low: float, high: float) -> Test:
    return lambda value: _is_real(value) and low < value < high


def _at_least(low: int) -> Test:
    # Beyond 32 bits no array of that size can be held: a slip, not a wish.
    return lambda value: _is_whole(value) and low <= value < 2**32


_SEEDS = "a whole number of seeds, seeds (whole, 0 or more), or 'auto'"
_RULES: dict[str, tuple[Test, str]] = {
    "level": (_within(0, 1), "a confidence between 0 and 1, e.g. 0.95"),
    "refine_level": (_within(0, 1), "a confidence between 0 and 1, e.g. 0.95"),
    "resamples": (_at_least(2), "a whole number of at least 2, e.g. 2000"),
    "n_draws": (_at_least(1), "a whole number of at least 1, e.g. 199"),
    "seed": (_at_least(0), "a whole number, 0 or more"),
    "seeds": (_either(_is_text, _several(_is_real)), _SEEDS),
    "members": (_several(_at_least(1)), "whole numbers of at least 1"),
    "refine_seeds": (_at_least(1), "a whole number of at least 1"),
    "refine_cells": (_at_least(1), "a whole number of at least 1"),
    "batch_size": (_at_least(1), "a whole number of at least 1"),
    "budget_bytes": (_at_least(1), "a whole number of bytes, at least 1"),
    "max_dims": (_at_least(1), "a whole number of neurons, at least 1"),
    "max_passes": (_at_least(1), "a whole number of at least 1"),
    "threads": (_at_least(1), "a whole number of at least 1"),
    "n_samples": (_at_least(1), "a whole number of samples, at least 1"),
    "delta": (_is_real, "a number in (0, 1], e.g. 0.9"),
    "deltas": (_several(_is_real), "numbers in (0, 1], e.g. 0.9"),
    "refine": (_several(_is_real), "numbers in (0, 1], e.g. 0.9"),
    "keep": (_is_real, "a number in (0, 1], e.g. 0.95"),
    "worst_class_drop": (_is_real, "a number from 0 to 1, e.g. 0.05"),
    "tol": (_within(0, math.inf), "a number above 0, e.g. 1e-6"),
    "l2": (_several(_is_real), "numbers above 0, e.g. 0.01"),
    "l2s": (_several(_is_real), "numbers above 0, e.g. 0.01"),
    "sizes": (_several(_is_real), "whole numbers of neurons, at least 1"),
    "fractions": (_either(_is_text, _several(_is_real)), "numbers in (0, 1], at least one"),
    "out": (_is_path, "a path"),
    "device": (_is_text, "a text: auto, cpu or cuda"),
    **dict.fromkeys(
        (
            *("estimator", "measure", "layer", "probe", "relevance", "rerun", "dtype", "engine"),
            *("precision", "pool", "column", "table", "format", "by"),
        ),
        (_is_text, "a text"),
    ),
    **dict.fromkeys(
        ("selectors", "measures", "layers", "precisions"),
        (_several(_is_text), "a name or several"),
    ),
    **dict.fromkeys(
        (
            *("debiased", "standardise", "remainder", "paired", "cut", "normalise", "copy"),
            *("skip_broken", "trust_code", "projections"),
        ),
        (_is_flag, "True or False"),
    ),
}
_DATA = ("store", "run", "run_or_runs", "a", "slim", "path", "spec", "model", "dataset", "weights")


def _is_data(value: Any) -> bool:
    """Whether something that stands for data may be what it is: no number, no empty text."""
    if isinstance(value, (str, os.PathLike)):
        return _is_path(value)
    if isinstance(value, (bytes, bool, Real, np.ndarray, Mapping, type, complex)):
        return False
    return value is not None and value != [] and value != ()


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Look at the arguments of a public function before it runs.

    ``None`` passes where it is the default.

    Raises
    ------
    CriticalMassError: (when the function is called) an argument is of the wrong kind.
    """
    signature = inspect.signature(function)
    rules = {name: _RULES[name] for name in signature.parameters if name in _RULES}
    data = [name for name in signature.parameters if name in _DATA]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            if value is None and signature.parameters[name].default is None:
                continue
            if name in rules and not _holds(rules[name][0], value):
                raise CriticalMassError(f"{name}={_short(value)} must be {rules[name][1]}")
            if name in data and not _holds(_is_data, value):
                raise CriticalMassError(
                    f"{name}={_short(value)} must be a path, a spec or what it stands for"
                )
        return function(*args, **kwargs)

    return call


def _holds(test: Test, value: Any) -> bool:
    """Ask a test; a value that defeats it is of the wrong kind."""
    try:
        return bool(test(value))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"
