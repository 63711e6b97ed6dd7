"""Choose the columns of a table to read: by the spec's options, by type, or by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.dataset import UNITS, Modality
from criticalmass.extraction.specs import LIVE, Spec

_CONTENT_OPTIONS: tuple[Modality, ...] = ("text", "image", "audio")
COLUMN_OPTIONS = (*_CONTENT_OPTIONS, "label", "labels", "split")
NO_LABEL = "none"
# Usual column names, the most likely first.
_LABEL_NAMES = ("label", "labels", "class", "target", "category", "y", "fine_label", "coarse_label")
_TEXT_NAMES = ("text", "sentence", "content", "review", "document", "question")
_IMAGE_NAMES = (
    "image",
    "img",
    "image_path",
    "image_file",
    "file_name",
    "filename",
    "filepath",
    "path",
)
_SPLIT_NAMES = ("split", "fold", "subset")
# Where a table has such columns but none with a usual name, the user must name the label.
_LABEL_KINDS = ("class", "number", "text")


@dataclass(frozen=True)
class ColumnChoice:
    """The columns of a table to read.

    Attributes
    ----------
    content: column of the samples.
    modality: ``"text"``, or ``"image"`` or ``"audio"`` (encoded, or paths of files).
    label: column of the classes; None without labels, or with several.
    split: column with the split of each sample; None if there is none.
    labels: columns of several labels; empty for one label or none.
    """

    content: str
    modality: Modality
    label: str | None
    split: str | None
    labels: tuple[str, ...] = ()

    @property
    def is_encoded(self) -> bool:
        """Whether the samples are encoded images or sounds, or paths of such files."""
        return self.modality != "text"

    def notes(self) -> dict[str, str]:
        """Return role -> column, for the notes of the dataset; several labels have stores."""
        roles = {self.modality: self.content, "label": self.label, "split": self.split}
        return {role: name for role, name in roles.items() if name}

    def names(self) -> list[str]:
        """List the columns to read."""
        names = (self.content, self.label, *self.labels, self.split)
        return [name for name in names if name is not None]


def choose_columns(kinds: Mapping[str, str], spec: Spec) -> ColumnChoice:
    """Choose the columns of samples, labels and splits.

    Parameters
    ----------
    kinds: column -> ``"text"``, ``"image"`` (encoded images), ``"class"`` (class numbers with
        names), ``"number"`` (whole numbers), or another word.
    spec: the spec that named the dataset; its options ``text``, ``image``, ``label`` and
        ``split`` name columns.

    Raises
    ------
    CriticalMassError: a named column does not exist or has an unsuitable type, or the choice is
        ambiguous; the message lists the columns.
    """
    labels = label_names(spec)
    requested = [(key, spec.options.get(key)) for key in COLUMN_OPTIONS if key != "labels"]
    for option, name in [*requested, *(("labels", name) for name in labels)]:
        if name is not None and name not in kinds and (option, name) != ("label", NO_LABEL):
            raise unknown_name(f"column of {spec.name!r} called", name, kinds)
    split = spec.options.get("split") or _find_by_name(kinds, _SPLIT_NAMES)
    content, modality = _choose_content(kinds, spec, {split, spec.options.get("label"), *labels})
    label = None if labels else _choose_label(kinds, spec, {content, split})
    for name in filter(None, (label, *labels)):
        if kinds[name] in ("image", "audio"):
            raise CriticalMassError(
                f"column {name!r} of {spec.name!r} is no label: it must hold whole numbers or texts"
            )
        if name in labels and name in (content, split):
            raise CriticalMassError(
                f"column {name!r} of {spec.name!r} is no label: it holds the "
                f"{'samples' if name == content else 'split'}; leave it out of the labels"
            )
    return ColumnChoice(content, modality, label, split, labels)


def label_names(spec: Spec) -> tuple[str, ...]:
    """Read the option ``labels`` of a spec: the names of several labels, by commas.

    Raises
    ------
    CriticalMassError: an empty name, one name twice, or one with the option ``label``.
    """
    text = spec.options.get("labels")
    if text is None:
        return ()
    names = tuple(text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise CriticalMassError(
            f"labels={text} in {spec.text!r} must name each label once, by commas without spaces"
        )
    if "label" in spec.options:
        raise CriticalMassError(f"{spec.text!r} sets label and labels; leave label out")
    return names


def _find_by_name(
    kinds: Mapping[str, str], usual_names: tuple[str, ...], accepted: tuple[str, ...] = ("text",)
) -> str | None:
    """Find a column with a usual name and an accepted kind."""
    by_lower_name = {name.lower(): name for name, kind in kinds.items() if kind in accepted}
    return next((by_lower_name[name] for name in usual_names if name in by_lower_name), None)


def _choose_content(
    kinds: Mapping[str, str], spec: Spec, excluded: set[str | None]
) -> tuple[str, Modality]:
    """Choose the column of the samples; return its name and what it holds."""
    requested: list[Modality] = [key for key in _CONTENT_OPTIONS if key in spec.options]
    if len(requested) > 1:
        units = " and ".join(UNITS[key] for key in requested)
        raise CriticalMassError(f"{spec.text!r} asks for {units}; ask for one of them")
    if requested:
        modality = requested[0]
        name = spec.options[modality]
        # A column of bytes may hold images or sounds.
        accepted = {"text": ("text",), "image": ("text", "image")}
        if kinds[name] not in accepted.get(modality, ("text", "image", "audio")):
            raise CriticalMassError(f"column {name!r} of {spec.name!r} holds no {UNITS[modality]}")
        return name, modality
    candidates = {name: kind for name, kind in kinds.items() if name not in excluded}
    images = [name for name, kind in candidates.items() if kind == "image"]
    sounds = [name for name, kind in candidates.items() if kind == "audio"]
    if len(sounds) == 1 and not images:
        return sounds[0], "audio"
    path_column = _find_by_name(candidates, _IMAGE_NAMES)
    if len(images) == 1:
        return images[0], "image"
    text_column = _find_by_name(candidates, _TEXT_NAMES)
    if not images and path_column is not None and text_column is None:
        return path_column, "image"
    if not images and path_column is None and text_column is not None:
        return text_column, "text"
    label_column = _find_by_name(candidates, _LABEL_NAMES)
    texts = [name for name, kind in candidates.items() if kind == "text" and name != label_column]
    if not images and len(texts) == 1:
        return texts[0], "text"
    if "vector" in kinds.values() and not images and not texts:
        raise CriticalMassError(
            f"{spec.name!r} holds vectors, which need no model: criticalmass import {spec.name}"
        )
    raise CriticalMassError(
        f"which column of {spec.name!r} holds the texts or images? {_describe(kinds)}; "
        f"{_cure(spec, 'text=COLUMN&label=COLUMN', ' (or image=COLUMN)')}"
    )


def _choose_label(kinds: Mapping[str, str], spec: Spec, excluded: set[str | None]) -> str | None:
    requested = spec.options.get("label")
    if requested is not None:
        return None if requested == NO_LABEL and requested not in kinds else requested
    candidates = {name: kind for name, kind in kinds.items() if name not in excluded}
    classes = [name for name, kind in candidates.items() if kind == "class"]
    if len(classes) == 1:
        return classes[0]
    # A column of decimals or lists may hold whole numbers, or it is refused by its values.
    kinds_of_labels = tuple(set(candidates.values()) - {"image", "audio"})
    label = _find_by_name(candidates, _LABEL_NAMES, kinds_of_labels)
    if label is not None or not any(kind in _LABEL_KINDS for kind in candidates.values()):
        return label
    raise CriticalMassError(
        f"which column of {spec.name!r} is the label? {_describe(candidates)}; "
        f"{_cure(spec, 'label=COLUMN', f', or label={NO_LABEL} for no labels')}"
    )


def _cure(spec: Spec, options: str, others: str = "") -> str:
    """Say how to name columns: in the spec, or in a dataset of the user."""
    if spec.scheme == LIVE:
        return "keep the columns to read: dataset.select_columns(['text', 'label'])"
    return f"name it: '{spec.text.partition('?')[0]}?{options}'{others}"


def _describe(kinds: Mapping[str, str]) -> str:
    return "it has " + ", ".join(f"{name!r} ({kind})" for name, kind in kinds.items())
