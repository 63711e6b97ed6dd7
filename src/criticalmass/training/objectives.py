"""The registry of objectives: losses, penalties, and wrappers that change what a loss sees."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from criticalmass.errors import CriticalMassError, unknown_name

Kind = Literal["loss", "penalty", "features", "outputs", "inputs"]


@dataclass(frozen=True)
class Option:
    """An option of an objective.

    Attributes
    ----------
    default: its value if the recipe gives none.
    check: whether a value is allowed.
    expected: the allowed values in words.
    """

    default: Any
    check: Callable[[Any], bool]
    expected: str


@dataclass(frozen=True)
class Objective:
    """One entry of the registry.

    Attributes
    ----------
    name: as recipes write it.
    kind: "loss" (to be minimised), "penalty" (added to the losses), "features" (changes the
        activations before the classifier), "outputs" (which classifiers the losses are averaged
        over) or "inputs" (changes the images).
    term: ``"module:Class"`` within ``criticalmass.training``.
    description: one line for ``criticalmass list objectives``.
    options: name -> option.
    n_views: views of each image that the loss needs.
    needs_classifier: whether it reads logits.
    """

    name: str
    kind: Kind
    term: str
    description: str
    options: Mapping[str, Option] = field(default_factory=dict)
    n_views: int = 1
    needs_classifier: bool = False

    def check(self, options: Mapping[str, Any]) -> None:
        """Check the options that a recipe gives.

        Raises
        ------
        CriticalMassError: an unknown option or a value that is not allowed.
        """
        for key, value in options.items():
            if key not in self.options:
                if not self.options:
                    raise CriticalMassError(f"{self.name} has no options; leave out {key!r}")
                raise unknown_name(f"option of {self.name}", key, self.options)
            option = self.options[key]
            if not option.check(value):
                raise CriticalMassError(
                    f"{key}={value!r} of {self.name} must be {option.expected}, "
                    f"e.g. {option.default!r}"
                )

    def values(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option with the value of the recipe, or its default.

        Equal values are returned equal: 1 as 1.0 where the default is a float, lists as tuples.
        """
        return {
            key: type(option.default)(options.get(key, option.default))
            for key, option in self.options.items()
        }

    def load(self) -> Any:
        """Return the class of the term; torch is imported here."""
        module, _, name = self.term.partition(":")
        return getattr(importlib.import_module(f"criticalmass.training.{module}"), name)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _positive(default: float) -> Option:
    return Option(default, lambda value: _is_number(value) and value > 0, "a number above 0")


def _not_negative(default: float) -> Option:
    return Option(default, lambda value: _is_number(value) and value >= 0, "a number of at least 0")


def _share(default: float) -> Option:
    return Option(default, lambda value: _is_number(value) and 0 <= value < 1, "a number in [0, 1)")


def _size(default: int) -> Option:
    return Option(default, _is_size, "a whole number of at least 1")


def _are_sizes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_size, value))


_SIZES = Option((8, 16, 32, 64, 128, 256, 512), _are_sizes, "a list of numbers of neurons")
_NORM = Option("l2", lambda value: value in ("l2", "linf"), "l2 or linf")
_FLAG = Option(False, lambda value: isinstance(value, bool), "true or false")
_WEIGHT = _positive(1.0)

_ALL = (
    Objective(
        "cross-entropy",
        "loss",
        "losses:CrossEntropy",
        "softmax cross-entropy; smoothing mixes in the uniform distribution",
        {"smoothing": _share(0.0), "weight": _WEIGHT},
        needs_classifier=True,
    ),
    Objective(
        "sigmoid",
        "loss",
        "losses:Sigmoid",
        "one logistic loss per class, summed",
        {"weight": _WEIGHT},
        needs_classifier=True,
    ),
    Objective(
        "mse",
        "loss",
        "losses:SquaredError",
        "squared error of the logits from one-hot targets of height scale; the error of the right "
        "class counts kappa times (Hui and Belkin 2021)",
        {"scale": _positive(1.0), "kappa": _positive(1.0), "weight": _WEIGHT},
        needs_classifier=True,
    ),
    Objective(
        "cosine",
        "loss",
        "losses:Cosine",
        "cross-entropy of the cosines between features and class weights, over temperature",
        {"temperature": _positive(0.05), "weight": _WEIGHT},
        needs_classifier=True,
    ),
    Objective(
        "supcon",
        "loss",
        "losses:SupCon",
        "supervised contrastive loss of two views (Khosla et al. 2020)",
        {"temperature": _positive(0.1), "projection": _size(128), "weight": _WEIGHT},
        n_views=2,
    ),
    Objective(
        "simclr",
        "loss",
        "losses:SimClr",
        "contrastive loss of two views, without labels (Chen et al. 2020)",
        {"temperature": _positive(0.5), "projection": _size(128), "weight": _WEIGHT},
        n_views=2,
    ),
    Objective(
        "vicreg",
        "loss",
        "losses:VicReg",
        "variance, invariance and covariance of two views, without labels (Bardes et al. 2022)",
        {
            "invariance": _positive(25.0),
            "variance": _positive(25.0),
            "covariance": _positive(1.0),
            "projection": _size(256),
            "weight": _WEIGHT,
        },
        n_views=2,
    ),
    Objective(
        "decov",
        "penalty",
        "losses:DeCov",
        "energy of the covariances between neurons over that of their variances (Cogswell et al. "
        "2016, made free of scale); correlations: of the correlations instead",
        {"weight": _not_negative(0.1), "correlations": _FLAG},
    ),
    Objective(
        "dropout",
        "features",
        "wrappers:Dropout",
        "drops each neuron of each image with probability p (Srivastava et al. 2014)",
        {"p": _share(0.5)},
    ),
    Objective(
        "nested-dropout",
        "features",
        "wrappers:NestedDropout",
        "keeps the first m neurons of each image, m drawn from sizes (Rippel et al. 2014)",
        {"sizes": _SIZES},
    ),
    Objective(
        "matryoshka",
        "outputs",
        "wrappers:Matryoshka",
        "one classifier on the first m neurons for each m of sizes (Kusupati et al. 2022)",
        {"sizes": _SIZES},
        needs_classifier=True,
    ),
    Objective(
        "matryoshka-shared",
        "outputs",
        "wrappers:MatryoshkaShared",
        "as matryoshka, with the first columns of one classifier (MRL-E of the same)",
        {"sizes": _SIZES},
        needs_classifier=True,
    ),
    Objective(
        "first-neurons",
        "outputs",
        "wrappers:FirstNeuronsHead",
        "the classifier reads the first k neurons only",
        {"k": _size(8)},
        needs_classifier=True,
    ),
    Objective(
        "adversarial",
        "inputs",
        "wrappers:Adversarial",
        "images are moved to raise the loss, by projected gradient steps within a ball of radius "
        "(pixels in 0..1; Madry et al. 2018)",
        {"norm": _NORM, "radius": _positive(0.5), "steps": _size(3)},
    ),
    Objective(
        "noise",
        "inputs",
        "wrappers:Noise",
        "images are moved in a random direction by radius (pixels in 0..1)",
        {"norm": _NORM, "radius": _positive(0.5)},
    ),
)
OBJECTIVES: Mapping[str, Objective] = MappingProxyType({one.name: one for one in _ALL})


def check_objectives(names: Sequence[str]) -> None:
    """Check that objectives can be combined.

    Raises
    ------
    CriticalMassError: none is a loss, one is listed twice, or two exclude each other.
    """
    chosen = [OBJECTIVES[name] for name in names]
    losses = [one for one in chosen if one.kind == "loss"]
    if not losses:
        known = ", ".join(name for name, one in OBJECTIVES.items() if one.kind == "loss")
        raise CriticalMassError(
            f"objectives {list(names)} have no loss; add at least one of {known}"
        )
    for name in names:
        if names.count(name) > 1:
            raise CriticalMassError(f"objective {name!r} is listed twice; leave one of them out")
    outputs = [one.name for one in chosen if one.kind == "outputs"]
    if len(outputs) > 1:
        raise CriticalMassError(f"{outputs[0]!r} and {outputs[1]!r} exclude each other; choose one")
    if outputs and not any(one.needs_classifier for one in losses):
        raise CriticalMassError(
            f"{outputs[0]!r} needs a loss of the classifier, e.g. cross-entropy; "
            f"{losses[0].name!r} is none"
        )


def needs_classifier(names: Sequence[str]) -> bool:
    """Return whether some objective reads the classifier."""
    return any(OBJECTIVES[name].needs_classifier for name in names)


def count_views(names: Sequence[str]) -> int:
    """Return the number of views of each image that the objectives need."""
    return max(OBJECTIVES[name].n_views for name in names)
