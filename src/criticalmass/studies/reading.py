"""Read study files; errors name the line, the key, the value and the cure."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from criticalmass.core.yaml_files import FileModels, YamlFile, read_yaml
from criticalmass.errors import unknown_name
from criticalmass.studies.schema import (
    DatasetEntry,
    ModelComparison,
    ModelEntry,
    Study,
    StudyPart,
    TrainGrid,
)

_MODELS = FileModels(
    Study,
    {
        "parts": StudyPart,
        "models": ModelEntry,
        "datasets": DatasetEntry,
        "comparisons": ModelComparison,
        "train": TrainGrid,
    },
)


def read_study(path: Path, name: str | None = None) -> Study:
    """Read a study file and check all of it.

    Parameters
    ----------
    path: the file.
    name: name of the study; that of the file, without suffix, by default.

    Raises
    ------
    CriticalMassError: the file is not a study; the message names the file, the line and, for an
        unknown name, a similar one.
    """
    file = read_yaml(path, str(path) if name is None else f"study {name!r}", "study")
    if "name" in file.values:
        raise _MODELS.unknown_key(file, ("name",))
    try:
        study = Study(**{**file.values, "name": path.stem if name is None else name})
    except ValidationError as error:
        raise _MODELS.explain(file, error.errors()) from error
    complete = study.model_copy(update={"parts": _complete_parts(file, study)})
    _check_comparisons(file, complete)
    return complete


def _check_comparisons(file: YamlFile, study: Study) -> None:
    """Raise if a comparison names a model that the study does not measure."""
    known = list(dict.fromkeys(entry.spec for part in study.parts for entry in part.models))
    for index, comparison in enumerate(study.comparisons):
        for spec in comparison.models:
            if spec not in known:
                error = unknown_name("model of this study", spec, known)
                raise file.error(("comparisons", index, "models"), str(error))


def _complete_parts(file: YamlFile, study: Study) -> tuple[StudyPart, ...]:
    """Return the parts with the keys outside of them, which are the defaults of each."""
    keys = StudyPart.model_fields.keys() & study.model_fields_set
    outside = {key: getattr(study, key) for key in keys}
    if not (outside or study.parts or study.include):
        raise file.error((), "a study needs models and datasets, or include")
    parts = []
    for index, part in enumerate(study.parts or [StudyPart()] * bool(outside)):
        update = {key: outside[key] for key in keys - part.model_fields_set}
        parts.append(part.model_copy(update=update))
        if parts[-1].control and not parts[-1].models:
            text = "control measures models untrained; give train a recipe with epochs: 0 instead"
            is_own = "control" in part.model_fields_set and study.parts
            raise file.error(("parts", index, "control") if is_own else ("control",), text)
        for key in ("models", "datasets"):
            has_models = key == "models" and parts[-1].train is not None
            if not getattr(parts[-1], key) and not has_models:
                text = f"no {key}; a part of a study needs at least one of each"
                raise file.error(("parts", index), text)
    return tuple(parts)
