"""`LayerInfo`: what the plan of a sweep needs to know of a layer, without its features."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from criticalmass.errors import CriticalMassError, StoreError, unknown_name
from criticalmass.storage.features import FeatureStore

TRAIN, SPLIT = "train", "test"


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a feature store with a training and a test split.

    Attributes
    ----------
    name: of the layer.
    model, dataset: short names of the store's model and dataset.
    n_train, n_test: samples of the splits.
    n_neurons: width.
    n_classes: number of class names of the dataset.
    dtype: of the values as they are read.
    item_bytes: bytes of a stored value.
    digest: of the features, labels and qrels.
    is_collection: whether test samples are queries that search the training samples.
    stored: digests of what the store has beside the layer, by name: classifier, prompts.
    """

    name: str
    model: str
    dataset: str
    n_train: int
    n_test: int
    n_neurons: int
    n_classes: int
    dtype: str
    item_bytes: int
    digest: str
    is_collection: bool = False
    stored: Mapping[str, str] = field(default_factory=dict)


def describe_layers(
    store: FeatureStore, names: str | Iterable[str] | None = None
) -> tuple[LayerInfo, ...]:
    """Describe layers of a store, all by default, in the order of the store.

    Raises
    ------
    CriticalMassError: the store has no such layer, or none is given.
    StoreError: the store lacks the split ``train`` or ``test``.
    """
    missing = [split for split in (TRAIN, SPLIT) if split not in store.splits]
    if missing:
        raise StoreError(
            f"{str(store.path)!r} has the splits {', '.join(store.splits) or 'none'} but no "
            f"{' and no '.join(missing)}; a sweep trains on 'train' and scores on 'test'"
        )
    layers = check_names("layer", store.layers if names is None else names, store.layers)
    return tuple(_describe_layer(store, name) for name in layers)


def _describe_layer(store: FeatureStore, name: str) -> LayerInfo:
    train, test = store.features(TRAIN, name), store.features(SPLIT, name)
    return LayerInfo(
        name=name,
        model=store.model,
        dataset=store.dataset,
        n_train=len(train),
        n_test=len(test),
        n_neurons=test.shape[1],
        n_classes=len(store.class_names),
        dtype=str(test.dtype),
        item_bytes=int(train.shards[0].dtype.itemsize),
        digest=store.digest(name),
        is_collection=store.is_collection,
        stored=store.stored_digests(name),
    )


def check_names(
    kind: str, names: str | Iterable[str], existing: Collection[str]
) -> tuple[str, ...]:
    """Return the names, each once, in the order of the existing ones.

    Raises
    ------
    CriticalMassError: a name does not exist (the message suggests one), or none is given.
    """
    unordered = (names,) if isinstance(names, str) else tuple(names)
    for name in unordered:
        if name not in existing:
            raise unknown_name(kind, name, existing)
    if not unordered:
        raise CriticalMassError(f"no {kind} given; name at least one of: {', '.join(existing)}")
    return tuple(name for name in existing if name in unordered)
