"""Labels that are made from a dataset's annotations: counts, distances, and kinds of classes.

An option ``label=NAME`` of a spec chooses one of them, and ``labels=A,B`` several. Counts and
distances are those of VTAB (Zhai et al. 2019, arXiv:1910.04867), with its thresholds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.datasets.dataset import Dataset
from criticalmass.extraction.datasets.several_labels import choose_labels, without_labels_option
from criticalmass.extraction.labels import LabelColumn
from criticalmass.extraction.specs import Spec

CLASS = "class"
"""Name of a dataset's own labels beside those that are made from them."""


@dataclass(frozen=True)
class LabelScheme:
    """A label that is made from the annotations of images.

    Attributes
    ----------
    description: what it is, for lists.
    read: returns the label of each image of a dataset of torchvision.
    """

    description: str
    read: Callable[[Any], Sequence[Any]]


def bins(values: npt.ArrayLike, thresholds: Sequence[float]) -> npt.NDArray[np.intp]:
    """Return the number of the last threshold below each value; a value at one is not above it.

    Parameters
    ----------
    values: (n,) numbers above the first threshold.
    thresholds: ascending.
    """
    return np.searchsorted(np.asarray(thresholds), np.asarray(values, np.float64), "left") - 1


def groups_of_levels(levels: npt.ArrayLike, n_levels: int, n_groups: int) -> npt.NDArray[np.int64]:
    """Return the group of each of ``n_levels`` consecutive levels, groups of equal width."""
    width = n_levels / n_groups
    return np.floor(np.asarray(levels, np.float64) / width).astype(np.int64)


# CLEVR: the smallest distance between camera and object, in the units of its scenes.
CLEVR_DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0)
# KITTI: the distance of the nearest car, van or truck, in metres; beyond the last one is none.
KITTI_DISTANCES = (-100.0, 8.0, 20.0, 999.0)
_KITTI_CLASSES = ("up to 8 m", "8 to 20 m", "over 20 m", "no vehicle")
_VEHICLES = ("Car", "Van", "Truck")
_NO_VEHICLE = 1000.0


def clevr_counts(source: Any) -> list[int]:
    """Return the number of objects of each scene."""
    return [len(objects) for objects in _clevr_objects(source)]


def clevr_distances(source: Any) -> list[str]:
    """Return the distance class of each scene's object nearest to the camera."""
    nearest = [min(one["pixel_coords"][2] for one in scene) for scene in _clevr_objects(source)]
    names = [f"over {low:g}" for low in CLEVR_DISTANCES]
    return [names[number] for number in bins(nearest, CLEVR_DISTANCES)]


def _clevr_objects(source: Any) -> list[list[Any]]:
    """Read the objects of each image from the scenes beside the images."""
    files = [Path(file) for file in source._image_files]
    if not files:
        raise CriticalMassError("CLEVR has no images in this folder; unpack CLEVR_v1.0 again")
    part = files[0].parent.name
    path = files[0].parents[2] / "scenes" / f"CLEVR_{part}_scenes.json"
    scenes = json.loads(path.read_text(encoding="utf-8"))["scenes"]
    objects = {scene["image_filename"]: scene["objects"] for scene in scenes}
    return [objects[file.name] for file in files]


def kitti_distances(source: Any) -> list[str]:
    """Return the distance class of the nearest car, van or truck of each image."""
    nearest = [
        min(
            (float(fields[13]) for fields in _kitti_objects(path) if fields[0] in _VEHICLES),
            default=_NO_VEHICLE,
        )
        for path in source.targets
    ]
    return [_KITTI_CLASSES[number] for number in bins(nearest, KITTI_DISTANCES)]


def _kitti_objects(path: str) -> list[list[str]]:
    """Read a label file: an object a line, 15 fields, of which 11 to 13 are x, y and z in m."""
    return [line.split() for line in Path(path).read_text().splitlines() if line.strip()]


LABEL_SCHEMES: Mapping[str, Mapping[str, LabelScheme]] = {
    "CLEVRClassification": {
        "count": LabelScheme("number of objects, 3 to 10", clevr_counts),
        "distance": LabelScheme("distance of the nearest object in 6 classes", clevr_distances),
    },
    "Kitti": {
        "distance": LabelScheme("distance of the nearest vehicle in 4 classes", kitti_distances)
    },
}
"""Class of torchvision.datasets -> name of a label -> how it is made."""


def label_schemes(spec: Spec, names: Sequence[str]) -> dict[str, LabelScheme]:
    """Return the schemes of some labels of a dataset of torchvision.

    Raises
    ------
    CriticalMassError: it has no such label.
    """
    known = LABEL_SCHEMES.get(spec.name, {})
    for name in names:
        if name not in known:
            if not known:
                raise CriticalMassError(
                    f"{spec.text!r}: {spec.name} has one label only; leave {name!r} out"
                )
            raise unknown_name(f"label of {spec.text!r}:", name, known)
    return {name: known[name] for name in names}


def with_kinds(
    load: Callable[[str], Dataset], name: str, kind_of: Callable[[str], str]
) -> Callable[[Spec], Dataset]:
    """Make a loader of a dataset whose classes fall into kinds, which are a second label.

    Parameters
    ----------
    load: the loader of the dataset with its classes.
    name: name of the second label; the first is ``class``.
    kind_of: class name -> kind.
    """

    def load_labelled(spec: Spec) -> Dataset:
        dataset = load(without_labels_option(spec))
        classes = {
            part: [dataset.class_names[number] for number in split.labels]
            for part, split in dataset.splits.items()
        }
        kinds = {part: [kind_of(one) for one in names] for part, names in classes.items()}
        columns = {
            label: {part: LabelColumn(values, label) for part, values in parts.items()}
            for label, parts in {CLASS: classes, name: kinds}.items()
        }
        return choose_labels(dataset, spec, columns)

    return load_labelled


FASHION_KINDS = {
    "T-shirt/top": "top",
    "pullover": "top",
    "dress": "top",
    "coat": "top",
    "shirt": "top",
    "trouser": "trousers",
    "sandal": "shoe",
    "sneaker": "shoe",
    "ankle boot": "shoe",
    "bag": "bag",
}
"""Class of Fashion-MNIST -> kind of clothes."""


def newsgroup_topic(name: str) -> str:
    """Return the first word of a newsgroup, its topic: comp, rec, sci ..."""
    return name.partition(".")[0]
