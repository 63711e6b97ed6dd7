"""From a YAML file to a `Study`, checked before anything runs; errors name the line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from criticalmass.analysis.estimators import check_delta, check_estimator
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.loading import check_dataset_spec
from criticalmass.extraction.models.loading import check_model_spec
from criticalmass.measures.registry import MEASURES
from criticalmass.selectors.registry import SELECTORS
from criticalmass.studies.published import check_published
from criticalmass.studies.schema import PAPER_FRACTIONS, PROBE, PROTOCOLS, ModelEntry, Part, Study
from criticalmass.studies.yaml_nodes import Block, Place, read_block

Check = Callable[[Any], Any]
TABLES = ("fairness", "agreement", "ensembles", "selectors")


def read_study(path: Path, name: str | None = None) -> Study:
    """Read a study and check all of it.

    Parameters
    ----------
    path: the file.
    name: the study's; the file's name without suffix if None.

    Raises
    ------
    CriticalMassError: not a study; the message names file and line, and what was meant.
    """
    block = read_block(path, None if name is None else f"study {name!r}")
    block.known_only("a study", {*_STUDY_KEYS, *_PART_KEYS, "parts"})
    if "question" not in block.values:
        raise block.place.error("a study needs a question: question: What is asked?")
    told = {key: _read(block, key, check) for key, check in _STUDY_KEYS.items()}
    shared = {key: _read(block, key, check) for key, check in _PART_KEYS.items()}
    given = {key: value for key, value in shared.items() if value is not None}
    parts = _parts(block, given)
    study = Study(
        name=path.stem if name is None else name,
        parts=parts,
        **{key: value for key, value in told.items() if value is not None},
    )
    if not parts and not study.include:
        raise block.place.error("a study measures something: give models and datasets, or include")
    return study


def _parts(block: Block, given: Mapping[str, Any]) -> tuple[Part, ...]:
    """Make the parts; what the file says outside of them holds for each."""
    if "parts" not in block.values:
        return tuple(_part(block.place, given)) if given else ()
    listed = block.values["parts"]
    if not isinstance(listed, list) or not all(isinstance(one, Block) for one in listed):
        raise block.places["parts"].error("parts must be a list of mappings: - models: ...")
    parts: list[Part] = []
    for one in listed:
        one.known_only("a part of a study", _PART_KEYS)
        own = {key: _read(one, key, check) for key, check in _PART_KEYS.items()}
        chosen = {**given, **{key: value for key, value in own.items() if value is not None}}
        parts += _part(one.place, chosen)
    return tuple(parts)


def _part(place: Place, given: Mapping[str, Any]) -> list[Part]:
    """Make one part for each of its protocols."""
    for key in ("models", "datasets"):
        if not given.get(key):
            raise place.error(f"no {key}; a part of a study names at least one of each")
    rest = {key: value for key, value in given.items() if key != "protocol"}
    return [Part(**rest, protocol=name) for name in given.get("protocol", ("exact",))]


def _read(block: Block, key: str, check: Check) -> Any:
    """Read one key, None where it is not given; whatever is wrong is told with its line."""
    if key not in block.values:
        return None
    try:
        return check(block.values[key])
    except CriticalMassError as error:
        raise block.places[key].error(f"{key}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CriticalMassError(f"{value!r} must be a text")
    return " ".join(value.split())


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CriticalMassError(f"{value!r} must be true or false")
    return value


def _list(check: Check) -> Check:
    """Take one value or several, each once."""

    def read(value: Any) -> tuple[Any, ...]:
        found = [check(one) for one in (value if isinstance(value, list) else [value])]
        if not found:
            raise CriticalMassError("the list is empty; name at least one, or leave the key out")
        for place, one in enumerate(found):
            if one in found[:place]:
                raise CriticalMassError(f"{one!r} is listed twice")
        return tuple(found)

    return read


def _name(kind: str, known: Collection[str]) -> Check:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise unknown_name(kind, value, known)
        return value

    return read


def _fractions(value: Any) -> tuple[float, ...]:
    if value == "paper":
        return PAPER_FRACTIONS
    return tuple(_list(_fraction)(value))


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise CriticalMassError(f"{value!r} must be in (0, 1], or the word paper")
    return float(value)


def _seeds(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise CriticalMassError(f"{value!r} must be a whole number of random subsets, 1 to 1,000")
    return value


def _delta(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CriticalMassError(f"{value!r} must be a number in (0, 1]")
    check_delta(float(value))
    return float(value)


def _estimator(value: Any) -> str:
    text = _text(value)
    check_estimator(text)
    return text


def _model(value: Any) -> ModelEntry:
    if isinstance(value, Block):
        value.known_only("a model", ("spec", "weights", "published"))
        if "spec" not in value.values:
            raise value.place.error("a model needs a spec: spec: timm:resnet50")
        told = {key: _read(value, key, _text) for key in ("spec", "weights", "published")}
    else:
        told = {"spec": _text(value)}
    check_model_spec(told["spec"])
    if told.get("published") is not None:
        check_published(told["published"])
    return ModelEntry(**told)


def _dataset(value: Any) -> str:
    text = _text(value)
    check_dataset_spec(text)
    return text


_STUDY_KEYS: Mapping[str, Check] = {
    "question": _text,
    "source": _text,
    "include": _list(_text),
    "tables": _list(_name("table", TABLES)),
    "estimators": _list(_estimator),
    "deltas": _list(_delta),
    "not_here": _text,
}
_PART_KEYS: Mapping[str, Check] = {
    "models": _list(_model),
    "datasets": _list(_dataset),
    "layers": _list(_text),
    "selectors": _list(_name("selector", SELECTORS)),
    "measures": _list(_name("measure", (PROBE, *MEASURES))),
    "fractions": _fractions,
    "seeds": _seeds,
    "protocol": _list(_name("protocol", PROTOCOLS)),
    "control": _flag,
    "optional": _flag,
}
