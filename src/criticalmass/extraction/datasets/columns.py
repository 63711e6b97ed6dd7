"""Which column of a table holds what: by its type, by its name, or by the user's word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.specs import Spec

OPTIONS = ("text", "image", "label", "split")
NO_LABEL = "none"
# What columns usually are called, the likeliest first.
_LABELS = ("label", "labels", "class", "target", "category", "y", "fine_label", "coarse_label")
_TEXTS = ("text", "sentence", "content", "review", "document", "question")
_IMAGES = ("image", "img", "image_path", "image_file", "file_name", "filename", "filepath", "path")
_SPLITS = ("split", "fold", "subset")
_LABEL_KINDS = ("class", "number", "text")


@dataclass(frozen=True)
class Columns:
    """What to read of a table.

    Attributes
    ----------
    content: the column of the samples.
    is_image: whether they are images (encoded, or paths to files); else texts.
    label: the column of the classes; None without labels.
    split: the column that says which sample is for what; None if there is none.
    """

    content: str
    is_image: bool
    label: str | None
    split: str | None

    def names(self) -> list[str]:
        """List the columns to read."""
        return [name for name in (self.content, self.label, self.split) if name is not None]


def choose_columns(kinds: Mapping[str, str], spec: Spec) -> Columns:
    """Decide which column is what.

    Parameters
    ----------
    kinds: column -> ``"text"``, ``"image"`` (encoded images), ``"class"`` (a class number that
        has a name), ``"number"`` (whole), or another word.
    spec: what the dataset was asked for with; its options ``text``, ``image``, ``label`` and
        ``split`` name columns.

    Raises
    ------
    CriticalMassError: a column that is not there or cannot be what it is to be, or no way to
        tell which one is meant; the columns are listed.
    """
    for option in OPTIONS:
        name = spec.options.get(option)
        if name is not None and name not in kinds and (option, name) != ("label", NO_LABEL):
            raise unknown_name(f"column of {spec.name!r} called", name, kinds)
    split = spec.options.get("split") or _named(kinds, _SPLITS)
    taken = {split, spec.options.get("label")}
    content, is_image = _content(kinds, spec, taken)
    label = _label(kinds, spec, {content, split})
    if label is not None and kinds[label] not in _LABEL_KINDS:
        raise CriticalMassError(
            f"column {label!r} of {spec.name!r} is no label: it must hold whole numbers or texts"
        )
    return Columns(content, is_image, label, split)


def _named(
    kinds: Mapping[str, str], likely: tuple[str, ...], fit: tuple[str, ...] = ("text",)
) -> str | None:
    """Find a column of a usual name and a fitting kind."""
    lower = {name.lower(): name for name, kind in kinds.items() if kind in fit}
    return next((lower[name] for name in likely if name in lower), None)


def _content(kinds: Mapping[str, str], spec: Spec, taken: set[str | None]) -> tuple[str, bool]:
    asked = [
        (spec.options[key], key == "image") for key in ("text", "image") if key in spec.options
    ]
    if len(asked) == 2:
        raise CriticalMassError(f"{spec.text!r} asks for texts and images; ask for one of them")
    if asked:
        name, is_image = asked[0]
        if kinds[name] not in (("text", "image") if is_image else ("text",)):
            raise CriticalMassError(
                f"column {name!r} of {spec.name!r} holds no {'images' if is_image else 'texts'}"
            )
        return name, is_image
    free = {name: kind for name, kind in kinds.items() if name not in taken}
    images = [name for name, kind in free.items() if kind == "image"]
    paths = _named(free, _IMAGES)
    texts = [name for name, kind in free.items() if kind == "text"]
    if len(images) == 1:
        return images[0], True
    text = _named(free, _TEXTS)
    if not images and paths is not None and text is None:
        return paths, True
    if not images and paths is None and text is not None:
        return text, False
    likely_label = _named(free, _LABELS)
    texts = [name for name in texts if name != likely_label]
    if not images and len(texts) == 1:
        return texts[0], False
    if "vector" in kinds.values() and not images and not texts:
        raise CriticalMassError(
            f"{spec.name!r} holds vectors, which need no model: criticalmass import {spec.name}"
        )
    raise CriticalMassError(
        f"which column of {spec.name!r} holds the texts or images? {_listed(kinds)}; "
        f"say so: '{_bare(spec)}?text=COLUMN&label=COLUMN' (or image=COLUMN)"
    )


def _label(kinds: Mapping[str, str], spec: Spec, taken: set[str | None]) -> str | None:
    asked = spec.options.get("label")
    if asked is not None:
        return None if asked == NO_LABEL and asked not in kinds else asked
    free = {name: kind for name, kind in kinds.items() if name not in taken}
    classes = [name for name, kind in free.items() if kind == "class"]
    if len(classes) == 1:
        return classes[0]
    found = _named(free, _LABELS, _LABEL_KINDS)
    if found is not None or not any(kind in _LABEL_KINDS for kind in free.values()):
        return found
    raise CriticalMassError(
        f"which column of {spec.name!r} is the label? {_listed(free)}; say so: "
        f"'{_bare(spec)}?label=COLUMN', or label={NO_LABEL} to go without"
    )


def _bare(spec: Spec) -> str:
    return spec.text.partition("?")[0]


def _listed(kinds: Mapping[str, str]) -> str:
    return "it has " + ", ".join(f"{name!r} ({kind})" for name, kind in kinds.items())
