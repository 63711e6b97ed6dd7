"""The keys of a study: its models, grids and protocols. Pydantic checks their values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictBool,
    model_validator,
)

from criticalmass.analysis.estimators import DEFAULT_ESTIMATOR, check_delta, check_estimator
from criticalmass.analysis.training_sets import check_n_halves
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.loading import check_dataset_spec
from criticalmass.extraction.datasets.several_labels import with_labels
from criticalmass.extraction.models.loading import check_model_spec
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.selectors.sizes import DEFAULT_FRACTIONS
from criticalmass.studies.published import check_published
from criticalmass.training.recipe import RECIPE, Recipe, load_recipe, merge_keys, recipe_from

PROBE = "probe"
"""Measure name that stands for the probe of the protocol."""
PAPER_FRACTIONS = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01),
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9),
)
"""Fractions of the authors' curves (Nanda et al. 2023, analysis code)."""
LAST_EPOCH = "last"
"""Stands for the last epoch of a recipe."""
TABLES = ("fairness", "agreement", "ensembles", "selectors", "bases", "tasks", "groups")


@dataclass(frozen=True)
class StudyProtocol:
    """The settings of a study that its file does not give.

    Attributes
    ----------
    name: name of the protocol in study files.
    probe: the measure that `PROBE` stands for.
    fractions: shares of the neurons to keep.
    estimator: estimator of the critical mass.
    seeds: number of random subsets of each size.
    """

    name: str
    probe: str
    fractions: tuple[float, ...]
    estimator: str
    seeds: int


_ALL = (
    # Logistic probes on standardised features, fitted to a certified optimum; their strength is
    # chosen on a part of the training split. DR by the estimator of all tables.
    StudyProtocol("exact", "logistic", DEFAULT_FRACTIONS, DEFAULT_ESTIMATOR, 5),
    # As the authors: SGD on raw features, learning rate 0.1, 100 epochs, batches of 256, 14
    # fractions, 5 seeds, the whole layer once. DR by the nearest estimator.
    StudyProtocol("paper", "sgd", PAPER_FRACTIONS, "nearest", 5),
)
PROTOCOLS: Mapping[str, StudyProtocol] = MappingProxyType({one.name: one for one in _ALL})

Item = TypeVar("Item")


def _passes(check: Callable[[Any], None]) -> AfterValidator:
    """Make a validator of a function that raises."""

    def validate(value: Item) -> Item:
        check(value)
        return value

    return AfterValidator(validate)


def _one_of(kind: str, names: Callable[[], Collection[str]]) -> AfterValidator:
    """Make a validator of names; they are looked up when a study is read."""

    def check(name: str) -> None:
        if name not in names():
            raise unknown_name(kind, name, names())

    return _passes(check)


def _one_line(text: str) -> str:
    if not text.strip():
        raise CriticalMassError(f"{text!r} must be a text that is not empty")
    return " ".join(text.split())


def _as_items(value: Any) -> Any:
    """Let one value stand for a list of one."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise CriticalMassError("the list is empty; give at least one, or leave the key out")
    return items


def _check_distinct(items: tuple[Any, ...]) -> None:
    for index, item in enumerate(items):
        if item in items[:index]:
            text = item if isinstance(item, BaseModel) else repr(item)
            raise CriticalMassError(f"{text} is listed twice; leave one of them out")


def _replace_paper(fractions: Any) -> Any:
    if isinstance(fractions, str) and fractions != "paper":
        raise CriticalMassError(f"{fractions!r} must be numbers in (0, 1] or paper")
    return PAPER_FRACTIONS if fractions == "paper" else fractions


Several = Annotated[tuple[Item, ...], BeforeValidator(_as_items), _passes(_check_distinct)]
Text = Annotated[str, AfterValidator(_one_line)]
Share = Annotated[float, Strict(), Field(gt=0, le=1)]


class _Keys(BaseModel):
    """Keys of a file: others are refused, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(_Keys):
    """A model of a study.

    Attributes
    ----------
    spec: model spec of `criticalmass.load_model`.
    weights: name under which the user gives the weight file; None if the spec needs no file.
    published: name of the published curves of this model (`studies.published`), or None.
    """

    model_config = ConfigDict(title="a model")
    spec: Annotated[Text, _passes(check_model_spec)]
    weights: Text | None = None
    published: Annotated[Text, _passes(check_published)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, value: Any) -> Any:
        return value if isinstance(value, (dict, cls)) else {"spec": value}


class DatasetEntry(_Keys):
    """A dataset of a study.

    Attributes
    ----------
    spec: dataset spec of `criticalmass.load_dataset`.
    labels: several labels of each sample, as ``?labels=A,B`` of the spec: features are extracted
        once, and each label is a task of its own.
    """

    model_config = ConfigDict(title="a dataset")
    spec: Text
    labels: Several[Text] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, value: Any) -> Any:
        return value if isinstance(value, (dict, cls)) else {"spec": value}

    @model_validator(mode="after")
    def _check(self) -> DatasetEntry:
        check_dataset_spec(self.text)
        return self

    @property
    def text(self) -> str:
        """The spec with the labels."""
        return with_labels(self.spec, self.labels)


class ModelComparison(_Keys):
    """Two models of a study, whose difference the study is about.

    Attributes
    ----------
    models: specs of the two, as the study lists them.
    cause: what they differ in that the study asks about.
    differs_in: what else they differ in; differences of the results may be due to any of it.
    """

    model_config = ConfigDict(title="a comparison")
    models: Annotated[tuple[Text, Text], _passes(_check_distinct)]
    cause: Text
    differs_in: Several[Text] = ()


class TrainGrid(_Keys):
    """Networks that a study trains: every recipe with every training seed.

    Attributes
    ----------
    base: a recipe of the package, or the keys of one, that all recipes start from.
    recipes: name -> the keys in which it differs from the base. A network may start from another
        one of the same seed: ``network: {start: full, weights: recipe:NAME}``.
    seeds: training seeds 0, 1, ... of each recipe.
    baseline: the recipe that the others are compared with; the first by default.
    at: epochs after which the networks are measured; ``last`` is the end of the training.
    """

    model_config = ConfigDict(title="a grid of trainings")
    base: Text | Mapping[str, Any]
    recipes: Mapping[str, Mapping[str, Any] | None] = Field(min_length=1)
    seeds: Annotated[int, Strict(), Field(ge=1, le=1000)] = 3
    baseline: str = ""
    at: Several[Annotated[int, Strict(), Field(ge=0)] | Literal["last"]] = ("last",)

    @model_validator(mode="after")
    def _check(self) -> TrainGrid:
        if self.baseline and self.baseline not in self.recipes:
            raise unknown_name("recipe", self.baseline, self.recipes)
        for name in self.recipes:
            kept = self.recipe(name).kept_epochs
            lacking = [epoch for epoch in self.at if epoch not in (*kept, LAST_EPOCH)]
            if lacking:
                raise CriticalMassError(
                    f"at: recipe {name!r} keeps no checkpoint of epoch {lacking[0]}; it keeps "
                    f"{', '.join(map(str, kept))}; add checkpoints: [{lacking[0]}] to it"
                )
        starts = {name: self.start_of(name) for name in self.recipes}
        for name, start in starts.items():
            chain = [name]
            while start is not None:
                if start not in starts:
                    raise unknown_name(f"recipe that {chain[-1]!r} can start from", start, starts)
                if start in chain:
                    raise CriticalMassError(
                        f"recipe {name!r} starts from itself ({' > '.join([*chain, start])})"
                    )
                chain.append(start)
                start = starts[start]
        return self

    def start_of(self, name: str) -> str | None:
        """Return the recipe whose network another one starts from; None for other starts."""
        weights = self.recipe(name).network.weights or ""
        return weights.removeprefix(RECIPE) if weights.startswith(RECIPE) else None

    def __hash__(self) -> int:
        """Hash all keys; the mappings among them have no hash of their own."""
        return hash(self.model_dump_json())

    def recipe(self, name: str) -> Recipe:
        """Return a recipe, with training seed 0.

        Raises
        ------
        CriticalMassError: its keys are not valid.
        """
        base = self.base if isinstance(self.base, Mapping) else load_recipe(self.base).to_dict()
        return recipe_from(merge_keys(base, self.recipes[name] or {}), f"recipe {name!r}")


class StudyPart(_Keys):
    """A grid: every model on every dataset, every selector and measure on every layer.

    Attributes
    ----------
    models, datasets, layers, selectors, measures: the axes of the grid.
    examples: protocols of training samples that each dataset is measured in: a number of training
        samples, or ``all``; see `criticalmass.extraction.datasets.sampling`. Empty: as the specs
        say.
    group: kind of the datasets, by which tables and figures group them.
    train: networks that are trained first and are models of the grid as well.
    fractions: shares of the neurons; those of the protocol if empty.
    seeds: number of random subsets; that of the protocol if 0.
    training_sets: halves of the training rows on which probes are trained again; see
        `criticalmass.sweep`.
    protocol: keys of `PROTOCOLS`; the grid is swept under each.
    control: whether each model is also measured untrained.
    optional: whether the study is complete without this part.
    """

    model_config = ConfigDict(title="a part of a study")
    models: Several[ModelEntry] = ()
    train: TrainGrid | None = None
    datasets: Several[DatasetEntry] = ()
    examples: Several[Annotated[int, Strict(), Field(ge=2)] | Literal["all"]] = ()
    group: Text = ""
    layers: Several[Text] = ("penultimate",)
    selectors: Several[Annotated[str, _one_of("selector", lambda: SELECTORS)]] = ("random",)
    measures: Several[Annotated[str, _one_of("measure", lambda: (PROBE, *MEASURES))]] = (PROBE,)
    fractions: Annotated[Several[Share], BeforeValidator(_replace_paper)] = ()
    seeds: Annotated[int, Strict(), Field(ge=1, le=1000)] = 0
    training_sets: Annotated[int, Strict(), AfterValidator(check_n_halves)] = 0
    protocol: Several[Annotated[str, _one_of("protocol", lambda: PROTOCOLS)]] = ("exact",)
    control: StrictBool = False
    optional: StrictBool = False


class Study(StudyPart):
    """A question and the grids that answer it.

    The keys of a part may also stand outside of the parts, as the defaults of each.

    Attributes
    ----------
    name: name of the study: that of its file, without suffix.
    question: the question, in one line.
    source: where the paper asks it.
    parts: the grids, each with all of its keys.
    include: other studies that are run with this one.
    tables: tables in addition to curves and DR: fairness, agreement, ensembles, selectors (each
        selector compared with random subsets), bases (compression, diffuseness and usefulness),
        tasks (the labels of one input compared in pairs), groups (critical mass and Pareto front
        of every task, by group).
    comparisons: pairs of models whose difference is tabulated, with what they differ in.
    estimators: estimators of DR; that of each part's protocol if empty.
    deltas: shares of the whole layer's value.
    page: whether a page is written as well; it should not be for a hundred networks.
    not_here: why there is no local variant; empty if there is one, or if this is it.
    """

    model_config = ConfigDict(title="a study")
    name: str
    question: Text
    source: Text = ""
    parts: tuple[StudyPart, ...] = ()
    include: Several[Text] = ()
    tables: Several[Annotated[str, _one_of("table", lambda: TABLES)]] = ()
    comparisons: tuple[ModelComparison, ...] = ()
    estimators: Several[Annotated[Text, _passes(check_estimator)]] = ()
    deltas: Several[Annotated[float, Strict(), _passes(check_delta)]] = (0.8, 0.9, 0.95)
    page: StrictBool = True
    not_here: Text = ""
