"""Choose the columns of a table to read: by the spec's options, by type, or by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.specs import LIVE, Spec

COLUMN_OPTIONS = ("text", "image", "label", "split")
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
    is_image: whether the samples are images (encoded, or paths of files); otherwise texts.
    label: column of the classes; None without labels.
    split: column with the split of each sample; None if there is none.
    """

    content: str
    is_image: bool
    label: str | None
    split: str | None

    def names(self) -> list[str]:
        """List the columns to read."""
        return [name for name in (self.content, self.label, self.split) if name is not None]


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
    for option in COLUMN_OPTIONS:
        name = spec.options.get(option)
        if name is not None and name not in kinds and (option, name) != ("label", NO_LABEL):
            raise unknown_name(f"column of {spec.name!r} called", name, kinds)
    split = spec.options.get("split") or _find_by_name(kinds, _SPLIT_NAMES)
    content, is_image = _choose_content(kinds, spec, {split, spec.options.get("label")})
    label = _choose_label(kinds, spec, {content, split})
    if label is not None and kinds[label] == "image":
        raise CriticalMassError(
            f"column {label!r} of {spec.name!r} is no label: it must hold whole numbers or texts"
        )
    return ColumnChoice(content, is_image, label, split)


def _find_by_name(
    kinds: Mapping[str, str], usual_names: tuple[str, ...], accepted: tuple[str, ...] = ("text",)
) -> str | None:
    """Find a column with a usual name and an accepted kind."""
    by_lower_name = {name.lower(): name for name, kind in kinds.items() if kind in accepted}
    return next((by_lower_name[name] for name in usual_names if name in by_lower_name), None)


def _choose_content(
    kinds: Mapping[str, str], spec: Spec, excluded: set[str | None]
) -> tuple[str, bool]:
    """Choose the column of the samples; return its name and whether it holds images."""
    requested = [
        (spec.options[key], key == "image") for key in ("text", "image") if key in spec.options
    ]
    if len(requested) == 2:
        raise CriticalMassError(f"{spec.text!r} asks for texts and images; ask for one of them")
    if requested:
        name, is_image = requested[0]
        if kinds[name] not in (("text", "image") if is_image else ("text",)):
            raise CriticalMassError(
                f"column {name!r} of {spec.name!r} holds no {'images' if is_image else 'texts'}"
            )
        return name, is_image
    candidates = {name: kind for name, kind in kinds.items() if name not in excluded}
    images = [name for name, kind in candidates.items() if kind == "image"]
    path_column = _find_by_name(candidates, _IMAGE_NAMES)
    if len(images) == 1:
        return images[0], True
    text_column = _find_by_name(candidates, _TEXT_NAMES)
    if not images and path_column is not None and text_column is None:
        return path_column, True
    if not images and path_column is None and text_column is not None:
        return text_column, False
    label_column = _find_by_name(candidates, _LABEL_NAMES)
    texts = [name for name, kind in candidates.items() if kind == "text" and name != label_column]
    if not images and len(texts) == 1:
        return texts[0], False
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
    kinds_of_labels = tuple(set(candidates.values()) - {"image"})
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
