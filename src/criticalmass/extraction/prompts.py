"""Class prompts: texts from templates and class names, encoded by the text tower of a model."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import UNITS
from criticalmass.extraction.engines import inspect_layers, make_engine, reference_name
from criticalmass.extraction.labels import encode_labels
from criticalmass.extraction.models import FrozenModel, load_model
from criticalmass.extraction.models.frozen import PENULTIMATE
from criticalmass.extraction.shards import sample_batches
from criticalmass.extraction.vectors import Vectors
from criticalmass.storage.prompts import Prompts

_JOINT = "space=joint"


def check_templates(templates: Sequence[str] | str) -> tuple[str, ...]:
    """Return the templates, each once.

    Raises
    ------
    CriticalMassError: a template does not have exactly one ``{}``.
    """
    texts = (templates,) if isinstance(templates, str) else tuple(dict.fromkeys(templates))
    for text in texts:
        try:
            fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError:
            fields = []
        if fields != [""]:
            raise CriticalMassError(
                f"prompt {text!r} must have {{}} once, where the class name goes, e.g. "
                "'a photo of a {}'"
            )
    return texts


def text_model_of(model: str | Any, text_model: str | Any | None) -> str | Any:
    """Return the text tower: the one that is given, or that of a spec of a joint space.

    Raises
    ------
    CriticalMassError: none is given, and the model has no text tower.
    """
    if text_model is not None:
        return text_model
    if isinstance(model, FrozenModel) and model.text_tower is not None:
        return model.text_tower
    spec = str(model if isinstance(model, str) else getattr(model, "spec", "live"))
    if spec.startswith("hf:") and _JOINT in spec:
        return f"{spec.replace('&modality=image', '').replace('modality=image&', '')}&modality=text"
    cure = f"; for a model of two towers write {spec}?{_JOINT}" if spec.startswith("hf:") else ""
    if not isinstance(model, str):
        cure = "; for a model of two towers (CLIP) give its whole processor as preprocess="
    raise CriticalMassError(
        f"prompts need a text model of the space of {spec!r}: give --text-model (text_model=){cure}"
    )


def encode_prompts(
    text_model: str | Any,
    templates: Sequence[str],
    class_names: Sequence[str],
    layer: str,
    device: str = "auto",
) -> Prompts:
    """Encode every template with every class name.

    Parameters
    ----------
    text_model: what `load_model` takes; its penultimate layer is the joint space.
    templates: with ``{}`` in place of the class name.
    class_names: the classes.
    layer: the stored layer that shares the space.
    device: as in `criticalmass.extract`.

    Raises
    ------
    CriticalMassError: the model takes no texts.
    """
    model = load_model(text_model, device=device)
    if model.modality != "text":
        raise CriticalMassError(
            f"text model {model.spec!r} takes {UNITS[model.modality]}; give a model of texts"
        )
    texts = [template.format(name) for name in class_names for template in templates]
    with model.in_evaluation():
        vectors = _encode(model, texts)
    source = {
        "text_model": model.spec,
        "weights_digest": model.weights_digest,
        "templates": list(templates),
    }
    owners = tuple(name for name in class_names for _ in templates)
    return Prompts(layer, vectors, owners, source)


def _encode(model: FrozenModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the penultimate layer of each text, (n_texts, n_neurons), by the reference engine."""
    samples = sample_batches(model, texts)
    [layer] = inspect_layers(model, (PENULTIMATE,), samples[0])
    engine = make_engine(reference_name(model), model, [layer.tap], samples)
    vectors = np.empty((len(texts), layer.width), dtype=np.float32)
    with closing(model.preprocess.batches(texts, None)) as batches:
        engine.run(batches, {PENULTIMATE: vectors}, lambda _: None)
    return vectors


def read_prompt_vectors(vectors: Vectors, class_names: Sequence[str], layer: str) -> Prompts:
    """Return imported vectors as prompts.

    Parameters
    ----------
    vectors: one matrix, with a label per row that names a class; or without labels, one row for
        each class, in their order.
    class_names: of the samples.
    layer: the layer of the samples.

    Raises
    ------
    CriticalMassError: several matrices, or rows whose classes are not known.
    """
    if set(vectors.sources) != {"all"}:
        raise CriticalMassError(
            f"{vectors.name} has the parts {', '.join(sorted(vectors.sources))}; give one matrix "
            "of prompts"
        )
    matrix = np.concatenate([*vectors.sources["all"].chunks()]).astype(np.float32)
    names = tuple(class_names)
    if vectors.labels:
        known, (numbers,) = encode_labels([vectors.labels["all"]])
        names = tuple(known[number] for number in numbers.tolist())
    if len(names) != len(matrix):
        raise CriticalMassError(
            f"{vectors.name} has {len(matrix)} rows without labels, and there are {len(names)} "
            "classes; give a label that names the class of each row, or one row for each class in "
            "their order"
        )
    return Prompts(layer, matrix, names, {"file": vectors.name})


def prompts_of_mapping(given: Mapping[str, Any], layer: str) -> Prompts:
    """Return prompts that are given as class name -> (n_templates, n_neurons) or (n_neurons,)."""
    try:
        blocks = {str(name): np.atleast_2d(np.asarray(rows, np.float32)) for name, rows in
                  given.items()}  # fmt: skip
        matrix = np.concatenate([*blocks.values()])
    except (TypeError, ValueError) as error:
        raise CriticalMassError(
            f"prompts must be class name -> vectors of equal width ({error})"
        ) from error
    owners = tuple(name for name, rows in blocks.items() for _ in rows)
    return Prompts(layer, matrix, owners, {"file": "given"})
