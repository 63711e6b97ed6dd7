"""Validate arguments of public functions; bad types raise a one-line CriticalMassError.

``@validate_arguments`` checks arguments by parameter name. A name means the same thing everywhere
in the package, except for the pairs of function and parameter in ``_OVERRIDES``. The decorator
checks types, and ranges that are the same everywhere. The functions themselves check other ranges
and whether a collection may be empty.
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

from criticalmass.core.arrays import as_numpy
from criticalmass.errors import CriticalMassError, shorten

__all__ = ["validate_arguments"]

P = ParamSpec("P")
R = TypeVar("R")
Predicate = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and "\0" not in os.fspath(value) and value != ""


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not _is_bool(value)


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not _is_bool(value)


def _is_finite(value: Any) -> bool:
    return _is_real(value) and math.isfinite(value)


def _is_l2(value: Any) -> bool:
    """Whether a value can be an l2 strength; its user rejects 0, negative values and NaN."""
    return _is_real(value) and not 1e12 < value < math.inf and not 0 < value < 1e-30


def _is_seeds(value: Any) -> bool:
    """Whether a value is a number of seeds, a collection of seeds, or a text such as 'auto'."""
    if _is_real(value):
        return not value > _MAX_SEEDS
    return _is_text(value) or _one_or_more(_is_real)(value)


def _is_numeric_array(value: Any) -> bool:
    """Whether a value is an array of real numbers or converts to one."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        dtype = np.asarray(value).dtype
    return np.dtype(dtype).kind in "fiu"


def _is_artifact(value: Any) -> bool:
    """Whether a value is a folder that this package wrote, or the object opened from one."""
    return _is_path(value) or _is_path(getattr(value, "path", None))


def _is_slim(value: Any) -> bool:
    """Whether a value is a slim model, the plan that has it, or its folder."""
    return _is_artifact(value) or hasattr(value, "record") or hasattr(value, "slim")


def _is_spec(value: Any) -> bool:
    """Whether a value is a model, a dataset or samples, or the spec of one."""
    if isinstance(value, (str, bytes)):
        return _is_text(value) and value.strip() != ""
    names = ("spec", "load_data", "named_modules", "__iter__", "__getitem__", "__array__")
    return not isinstance(value, type) and any(hasattr(value, name) for name in names)


def _is_recipe(value: Any) -> bool:
    """Whether a value names a recipe, or is one, or its keys."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value)
    return _is_path(value) or hasattr(value, "with_changes")


def _is_labels(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "fiuUSbO"


def _is_labelled_rows(value: Any) -> bool:
    """Whether a value is a pair (rows, labels), or an eigenbasis computed from one."""
    if isinstance(value, (tuple, list)):
        is_pair = len(value) == 2 and hasattr(value[0], "shape") and _is_numeric_array(value[0])
        return is_pair and _is_labels(value[1])
    return hasattr(value, "eigenvalues")


def _one_or_more(predicate: Predicate) -> Predicate:
    """Accept one value that passes, or a collection of such values."""

    def passes(value: Any) -> bool:
        if predicate(value):
            return True
        if isinstance(value, np.ndarray):
            return value.ndim == 1 and all(predicate(item) for item in value.tolist())
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            return False
        # An iterator can be read only once, and the function itself must read it.
        if iter(value) is value:
            return True
        return all(predicate(item) for item in value)

    return passes


def _any_of(*predicates: Predicate) -> Predicate:
    return lambda value: any(predicate(value) for predicate in predicates)


def _between(low: float, high: float) -> Predicate:
    return lambda value: _is_real(value) and low < value < high


def _is_names(value: Any) -> bool:
    return not isinstance(value, np.ndarray) and _one_or_more(_is_text)(value)


def _is_reference_points(value: Any) -> bool:
    """Whether a value is a collection of reference points, or the path of a file of them."""
    return _is_path(value) or (
        isinstance(value, Iterable) and not isinstance(value, (str, bytes, np.ndarray))
    )


def _integer_from(low: int, high: int = 2**32 - 1) -> Predicate:
    # A larger value is a mistake: no array of that size fits in memory.
    return lambda value: _is_integer(value) and low <= value <= high


_MAX_COUNT = 100_000
_MAX_SEEDS = 10_000
# Each thread allocates its own workspace.
_MAX_THREADS = 1024
_SEEDS = f"a whole number of seeds up to {_MAX_SEEDS:,}, seeds (whole, 0 or more), or 'auto'"
# Parameters that are arrays, and pairs of arrays; arrays of other libraries are converted.
_ARRAYS = (
    *("second_moment", "moment_of_squares", "x", "order", "orders", "values"),
    *("value_full", "ranked", "relevant", "gains"),
)
_PAIRS = ("train", "test", "validation")
_NAMES = ("selectors", "measures", "layers", "precisions", "objectives", "starts")
_CONVERTED = frozenset((*_ARRAYS, *_PAIRS, "y", "fractions", "sizes", "l2s", "l2"))
_RULES: dict[str, tuple[Predicate, str]] = {
    "level": (_between(1e-6, 1), "a confidence between 0 and 1, e.g. 0.95"),
    "refine_level": (_is_real, "a confidence between 0 and 1, e.g. 0.95"),
    "resamples": (
        _integer_from(2, _MAX_COUNT),
        f"a whole number from 2 to {_MAX_COUNT:,}, e.g. 2000",
    ),
    "n_draws": (_integer_from(1, _MAX_COUNT), f"a whole number from 1 to {_MAX_COUNT:,}, e.g. 199"),
    "seed": (_integer_from(0), "a whole number, 0 or more"),
    "seeds": (_is_seeds, _SEEDS),
    "batch_size": (_integer_from(1), "a whole number of at least 1"),
    "budget_bytes": (_integer_from(1), "a whole number of bytes, at least 1"),
    "max_bytes": (_integer_from(1), "a whole number of bytes, at least 1"),
    "limit": (_integer_from(1), "a whole number of rows, at least 1"),
    "max_dims": (_integer_from(1), "a whole number of dimensions, at least 1"),
    "price": (_between(0, math.inf), "a price of a gigabyte per month, above 0"),
    "n_vectors": (_integer_from(1), "a whole number of vectors, at least 1"),
    "max_passes": (_integer_from(1), "a whole number of at least 1"),
    "threads": (_integer_from(1, _MAX_THREADS), f"a whole number from 1 to {_MAX_THREADS:,}"),
    "n_samples": (_integer_from(1), "a whole number of samples, at least 1"),
    "delta": (_is_real, "a number in (0, 1], e.g. 0.9"),
    "deltas": (_one_or_more(_is_real), "numbers in (0, 1], e.g. 0.9"),
    **dict.fromkeys(("steps", "restarts"), (_integer_from(1), "a whole number of at least 1")),
    **dict.fromkeys(("step", "radius", "epsilon"), (_is_real, "a number, e.g. 0.5")),
    "pass_share": (_is_real, "a number in [0.5, 1), e.g. 0.95"),
    "accuracy": (_one_or_more(_is_real), "numbers in (0, 1], e.g. 0.65"),
    "keep": (_is_real, "a number in (0, 1], e.g. 0.95"),
    "worst_class_drop": (_is_real, "a number from 0 to 1, e.g. 0.05"),
    "tol": (_between(0, math.inf), "a number above 0, e.g. 1e-6"),
    "l2": (_one_or_more(_is_l2), "numbers from 1e-30 to 1e12, e.g. 0.01"),
    "l2s": (_one_or_more(_is_l2), "numbers from 1e-30 to 1e12, e.g. 0.01"),
    "sizes": (_one_or_more(_is_finite), "whole numbers of neurons, at least 1"),
    "fractions": (_any_of(_is_text, _one_or_more(_is_real)), "numbers in (0, 1], at least one"),
    "members": (_one_or_more(_integer_from(1)), "whole numbers of at least 1"),
    **dict.fromkeys(_ARRAYS, (_is_numeric_array, "an array of real numbers")),
    "y": (_is_labels, "an array of labels"),
    **dict.fromkeys(_PAIRS, (_is_labelled_rows, "a pair of rows and labels")),
    "backend": (lambda value: _is_text(value) or hasattr(value, "map"), "a text, e.g. local"),
    **dict.fromkeys(("run", "run_or_runs"), (_one_or_more(_is_artifact), "a run or its folder")),
    **dict.fromkeys(("a", "b", "store"), (_is_artifact, "a folder, or the object opened from it")),
    "slim": (_is_slim, "a folder, or what shrink returned"),
    **dict.fromkeys(
        ("model", "dataset", "spec", "judge"), (_is_spec, "a spec, or the object loaded from it")
    ),
    **dict.fromkeys(("weights", "index", "path"), (_is_path, "a path")),
    "sampling": (lambda value: hasattr(value, "seed"), "a Sampling of the law"),
    "law": (_is_text, "a text"),
    "recipe": (_is_recipe, "a recipe of the package, a YAML file, or a mapping of keys"),
    "out": (_is_path, "a path"),
    "device": (_is_text, "a text: auto, cpu or cuda"),
    **dict.fromkeys(
        (
            *("estimator", "measure", "layer", "probe", "relevance", "rerun", "dtype", "engine"),
            *("precision", "pool", "column", "table", "id", "suffix", "metric", "format", "by"),
            *("where", "to", "index_type", "norm"),
        ),
        (_is_text, "a text"),
    ),
    **dict.fromkeys(
        _NAMES,
        (_is_names, "a name or several"),
    ),
    **dict.fromkeys(
        (
            *("debiased", "standardise", "remainder", "paired", "cut", "normalise", "copy"),
            *(
                "skip_broken",
                "trust_code",
                "projections",
                "chance_corrected",
                "new_column",
                "blind_spots",
                "link",
                "on",
            ),
        ),
        (_is_bool, "True or False"),
    ),
}
# (function, parameter) -> rule, where a parameter accepts other values than elsewhere.
_OVERRIDES: dict[tuple[str, str], tuple[Predicate, str]] = {
    ("report", "reference"): (_is_reference_points, "points, or the path of a file of them"),
    **dict.fromkeys(
        (("redundancy", "control"), ("report", "control")),
        (_is_artifact, "a run or its folder"),
    ),
    **dict.fromkeys(
        (("shared_subsets", "runs"), ("subset_correlations", "runs")),
        (_one_or_more(_is_artifact), "runs or their folders, one for each task"),
    ),
    ("shared_subsets", "accuracies"): (
        lambda value: not _is_real(value) and _one_or_more(_is_real)(value),
        "a list of numbers in (0, 1], one for each task",
    ),
    ("degrading_neurons", "fdr"): (_is_real, "a number in (0, 1)"),
    ("linear_cka", "y"): (_is_numeric_array, "an array of real numbers"),
    **dict.fromkeys(
        (("ensembles", "seeds"), ("calibration", "seeds")),
        (_integer_from(1, 1000), "a whole number from 1 to 1,000"),
    ),
    ("ensembles", "members"): (
        _integer_from(1, _MAX_COUNT),
        f"a whole number from 1 to {_MAX_COUNT:,}",
    ),
    **dict.fromkeys(
        (("ensembles", "fractions"), ("calibration", "fractions")),
        (_one_or_more(_is_real), "numbers in (0, 1]"),
    ),
    ("prefix_cka", "without_top"): (_integer_from(0, _MAX_COUNT), "a whole number from 0"),
    ("explain", "seeds"): (
        _integer_from(1, _MAX_SEEDS),
        f"a whole number from 1 to {_MAX_SEEDS:,}",
    ),
    ("invert", "keep"): (_one_or_more(_is_real), "numbers in (0, 1], e.g. 0.1"),
    **dict.fromkeys(
        (("invert", "seeds"), ("invert", "images"), ("invert", "reference")),
        (_integer_from(1, _MAX_COUNT), f"a whole number from 1 to {_MAX_COUNT:,}"),
    ),
    ("explain", "run"): (_is_artifact, "a run or its folder"),
    ("diffused_redundancy", "fractions"): (_is_numeric_array, "an array of real numbers"),
    **dict.fromkeys(
        (("load_dataset", "labels"), ("extract", "labels"), ("measure", "labels")),
        (
            lambda value: isinstance(value, (list, tuple)) and all(map(_is_text, value)),
            "a list of names of columns",
        ),
    ),
    ("extract", "prompts"): (_is_names, "a template or several, e.g. 'a photo of a {}'"),
    ("extract", "text_model"): (_is_spec, "a spec, or the object loaded from it"),
    ("attack", "radii"): (_one_or_more(_is_real), "numbers above 0, e.g. 0.5"),
    ("attack", "keep"): (_is_real, "a number in (0, 1], e.g. 0.05"),
    ("attack", "norm"): (_is_text, "a text: l2 or linf"),
    **{
        ("attack", name): (_integer_from(least, _MAX_COUNT), f"a whole number from {least}")
        for name, least in (
            *(("heads", 1), ("images", 1), ("steps", 1), ("restarts", 1), ("seed", 0)),
        )
    },
    ("train", "recipe"): (
        lambda value: _is_path(value) or isinstance(value, Mapping) or hasattr(value, "objectives"),
        "a recipe: a name, a YAML file, or its keys",
    ),
    ("study", "name_or_file"): (_is_path, "a study's name or file"),
    ("study", "features"): (_is_path, "a path"),
    ("study", "data"): (_is_path, "a path"),
    ("study", "protocol"): (_is_text, "a text: exact or paper"),
    ("study", "pages"): (_is_bool, "True or False"),
    ("study", "weights"): (
        lambda value: isinstance(value, Mapping) and all(map(_is_path, value.values())),
        "a mapping of names to files",
    ),
}
# Parameters for which one value stands for a collection of one, as one name does for `_NAMES`.
_WRAPPED = frozenset(("deltas", "sizes", "l2s"))


def validate_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a public function before it runs.

    ``None`` passes where it is the default. Arrays of other libraries become NumPy arrays.

    Raises
    ------
    CriticalMassError: (when the function is called) an argument has the wrong type.
    """
    signature = inspect.signature(function)
    rules = {name: _RULES[name] for name in signature.parameters if name in _RULES}
    rules |= {name: rule for (verb, name), rule in _OVERRIDES.items() if verb == function.__name__}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name not in rules or (value is None and signature.parameters[name].default is None):
                continue
            predicate, expected = rules[name]
            if name in _CONVERTED:
                value = bound.arguments[name] = _convert_arrays(value, name)
            if not _passes(predicate, value):
                raise CriticalMassError(f"{name}={_describe(value)} must be {expected}")
            if isinstance(value, np.generic):
                value = bound.arguments[name] = value.item()
            is_single = isinstance(value, Real if name in _WRAPPED else str)
            if is_single and name in (*_WRAPPED, *_NAMES):
                bound.arguments[name] = (value,)
        return function(*bound.args, **bound.kwargs)

    return call


def _convert_arrays(value: Any, name: str) -> Any:
    """Convert an array, or each array of a pair, to NumPy if another library made it."""
    if name in _PAIRS and isinstance(value, (tuple, list)):
        return tuple(as_numpy(item, name) for item in value)
    return as_numpy(value, name)


def _passes(predicate: Predicate, value: Any) -> bool:
    """Apply a predicate; a value that makes it raise does not pass."""
    try:
        return bool(predicate(value))
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False


def _describe(value: Any) -> str:
    text = shorten(value)
    return f"{text} ({type(value).__name__})" if text.endswith("...") else text
