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


def _is_finite(value: Any) -> bool:
    return _is_real(value) and math.isfinite(value)


def _is_strength(value: Any) -> bool:
    """Whether something may be an l2; what is 0, negative or NaN is told where it is used."""
    return _is_real(value) and not 1e12 < value < math.inf and not 0 < value < 1e-30


def _is_seeds(value: Any) -> bool:
    """Whether something may be a number of seeds, or which: one number is how many."""
    if _is_real(value):
        return not value > _MOST_SEEDS
    return _is_text(value) or _several(_is_real)(value)


def _is_numbers(value: Any) -> bool:
    """Whether something is an array of real numbers, or reads as one."""
    kind = getattr(value, "dtype", None)
    if kind is None:
        kind = np.asarray(value).dtype
    return np.dtype(kind).kind in "fiu"


def _is_place(value: Any) -> bool:
    """Whether something is a folder of this package, or an object of one."""
    return _is_path(value) or hasattr(value, "path") or hasattr(value, "record")


def _is_spec(value: Any) -> bool:
    """Whether something names a model or a dataset, or is one."""
    return (_is_text(value) and value.strip() != "") or hasattr(value, "spec")


def _is_labels(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "fiuUSbO"


def _is_pair(value: Any) -> bool:
    """Whether something is rows with their labels, or was made of them."""
    if isinstance(value, (tuple, list)):
        rows = len(value) == 2 and hasattr(value[0], "shape") and _is_numbers(value[0])
        return rows and _is_labels(value[1])
    return hasattr(value, "eigenvalues")


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


def _is_names(value: Any) -> bool:
    return not isinstance(value, np.ndarray) and _several(_is_text)(value)


def _is_listing(value: Any) -> bool:
    """Whether something may be a path or a listing of points."""
    return _is_path(value) or (
        isinstance(value, Iterable) and not isinstance(value, (str, bytes, np.ndarray))
    )


def _at_least(low: int, high: int = 2**32 - 1) -> Test:
    # Beyond 32 bits no array of that size can be held: a slip, not a wish.
    return lambda value: _is_whole(value) and low <= value <= high


_MOST = 100_000
_MOST_SEEDS = 10_000
# Each thread has room of its own to work in.
_MOST_THREADS = 1024
_SEEDS = f"a whole number of seeds up to {_MOST_SEEDS:,}, seeds (whole, 0 or more), or 'auto'"
_RULES: dict[str, tuple[Test, str]] = {
    "level": (_within(1e-6, 1), "a confidence between 0 and 1, e.g. 0.95"),
    "refine_level": (_is_real, "a confidence between 0 and 1, e.g. 0.95"),
    "resamples": (_at_least(2, _MOST), f"a whole number from 2 to {_MOST:,}, e.g. 2000"),
    "n_draws": (_at_least(1, _MOST), f"a whole number from 1 to {_MOST:,}, e.g. 199"),
    "seed": (_at_least(0), "a whole number, 0 or more"),
    "seeds": (_is_seeds, _SEEDS),
    "batch_size": (_at_least(1), "a whole number of at least 1"),
    "budget_bytes": (_at_least(1), "a whole number of bytes, at least 1"),
    "max_dims": (_at_least(1), "a whole number of neurons, at least 1"),
    "max_passes": (_at_least(1), "a whole number of at least 1"),
    "threads": (_at_least(1, _MOST_THREADS), f"a whole number from 1 to {_MOST_THREADS:,}"),
    "n_samples": (_at_least(1), "a whole number of samples, at least 1"),
    "delta": (_is_real, "a number in (0, 1], e.g. 0.9"),
    "deltas": (_several(_is_real), "numbers in (0, 1], e.g. 0.9"),
    "keep": (_is_real, "a number in (0, 1], e.g. 0.95"),
    "worst_class_drop": (_is_real, "a number from 0 to 1, e.g. 0.05"),
    "tol": (_within(0, math.inf), "a number above 0, e.g. 1e-6"),
    "l2": (_several(_is_strength), "numbers from 1e-30 to 1e12, e.g. 0.01"),
    "l2s": (_several(_is_strength), "numbers from 1e-30 to 1e12, e.g. 0.01"),
    "sizes": (_several(_is_finite), "whole numbers of neurons, at least 1"),
    "fractions": (_either(_is_text, _several(_is_real)), "numbers in (0, 1], at least one"),
    "members": (_several(_at_least(1)), "whole numbers of at least 1"),
    **dict.fromkeys(
        (
            *("second_moment", "moment_of_squares", "x", "order", "orders", "values"),
            *("value_full", "ranked", "relevant", "gains"),
        ),
        (_is_numbers, "an array of real numbers"),
    ),
    "y": (_is_labels, "an array of labels"),
    **dict.fromkeys(("train", "test", "validation"), (_is_pair, "a pair of rows and labels")),
    "backend": (lambda value: _is_text(value) or hasattr(value, "map"), "a text, e.g. local"),
    **dict.fromkeys(("run", "run_or_runs"), (_several(_is_place), "a run or its folder")),
    **dict.fromkeys(("a", "b", "store", "slim"), (_is_place, "a folder, or what was opened of it")),
    **dict.fromkeys(("model", "dataset", "spec"), (_is_spec, "a spec, or what was loaded of it")),
    **dict.fromkeys(("weights", "index", "path"), (_is_path, "a path")),
    "sampling": (lambda value: hasattr(value, "seed"), "a Sampling of the law"),
    "law": (_is_text, "a text"),
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
        (_is_names, "a name or several"),
    ),
    **dict.fromkeys(
        (
            *("debiased", "standardise", "remainder", "paired", "cut", "normalise", "copy"),
            *("skip_broken", "trust_code", "projections"),
        ),
        (_is_flag, "True or False"),
    ),
}
# Where a name is narrower than elsewhere.
_NARROWER = {
    ("report", "reference"): (_is_listing, "points, or the path of a file of them"),
    ("linear_cka", "y"): (_is_numbers, "an array of real numbers"),
    ("ensembles", "seeds"): (_at_least(1, 1000), "a whole number from 1 to 1,000"),
    ("ensembles", "members"): (_at_least(1, _MOST), f"a whole number from 1 to {_MOST:,}"),
    ("ensembles", "fractions"): (_several(_is_real), "numbers in (0, 1]"),
    ("explain", "seeds"): (_at_least(1, _MOST_SEEDS), f"a whole number from 1 to {_MOST_SEEDS:,}"),
    ("explain", "run"): (_is_place, "a run or its folder"),
    ("diffused_redundancy", "fractions"): (_is_numbers, "an array of real numbers"),
}
_NARROWER |= {
    ("study", "name_or_file"): (_is_path, "a study's name or file"),
    ("study", "features"): (_is_path, "a path"),
    ("study", "data"): (_is_path, "a path"),
    ("study", "protocol"): (_is_text, "a text: exact or paper"),
    ("study", "pages"): (_is_flag, "True or False"),
    ("study", "weights"): (
        lambda value: isinstance(value, Mapping) and all(map(_is_path, value.values())),
        "a mapping of names to files",
    ),
}
# One value stands for a collection of one.
_GATHERED = frozenset(("deltas", "sizes", "l2s"))


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Look at the arguments of a public function before it runs.

    ``None`` passes where it is the default.

    Raises
    ------
    CriticalMassError: (when the function is called) an argument is of the wrong kind.
    """
    signature = inspect.signature(function)
    rules = {name: _RULES[name] for name in signature.parameters if name in _RULES}
    narrower = {name: rule for (verb, name), rule in _NARROWER.items() if verb == function.__name__}
    rules |= narrower

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name not in rules or (value is None and signature.parameters[name].default is None):
                continue
            if not _holds(rules[name][0], value):
                raise CriticalMassError(f"{name}={_short(value)} must be {rules[name][1]}")
            if isinstance(value, np.generic):
                value = bound.arguments[name] = value.item()
            if name in _GATHERED and isinstance(value, Real):
                bound.arguments[name] = (value,)
        return function(*bound.args, **bound.kwargs)

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
