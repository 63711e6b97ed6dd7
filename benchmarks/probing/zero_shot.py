"""E12: zero-shot classification on subsets of a joint space of images and texts.

    python -m benchmarks.probing.zero_shot out --seeds 3

A small image tower is trained against the frozen text tower MiniLM (LiT: Zhai et al. 2022,
arXiv:2111.07991): among the captions of a batch, that of the image gets the largest cosine. Two
sets:

- fashion: captions are class names of five classes of Fashion-MNIST in five templates; zero-shot on
  the other five classes, whose names and images were never seen.
- emoji: captions are the names of 1,430 emoji; zero-shot on the category names of the others.

For each training seed the features of the joint space become a store with the prompts of the
classes, and a sweep measures ``zero-shot``, ``centroid`` and ``ridge`` on the same subsets,
random orthonormal bases and principal axes. Tables go to OUT, with --write also to docs/probing/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import criticalmass as cm
from benchmarks.probing.probing import DOCS
from criticalmass.extraction.datasets import Dataset, load_dataset
from criticalmass.extraction.datasets.package_images import EMOJI
from criticalmass.extraction.datasets.splits import take_items
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.models.small_networks import (
    NetworkShape,
    TrainableNetwork,
    build_network,
)
from criticalmass.extraction.prompts import encode_prompts
from criticalmass.storage.run import Run
from criticalmass.studies.tables import write_tables
from criticalmass.training.data import augment

TEXT_MODEL, WIDTH = "pypi:minilm-l6", 384
TEMPLATES = ("a photo of a {}", "a picture of a {}", "a small image of a {}", "one {}", "{}")
TEMPERATURE, BATCH, LEARNING_RATE = 0.07, 128, 0.002
SELECTORS = ("random", "projection-orthonormal", "pca-top")
MEASURES = ("zero-shot", "centroid", "ridge")
DELTAS = (0.8, 0.9, 0.95)
_SEEN = ("T-shirt/top", "trouser", "dress", "sneaker", "bag")


@dataclass(frozen=True, eq=False)
class Captioned:
    """Images with captions to train on, and a labelled dataset to test on.

    Attributes
    ----------
    images: (n, 3, pixels, pixels) uint8.
    captions: (n,) number of the caption of each image.
    texts: the captions.
    target: the dataset of the zero-shot task.
    pixels: side of the images.
    epochs: of the training.
    augmentation: how images are changed in training.
    """

    images: Tensor
    captions: Tensor
    texts: tuple[str, ...]
    target: Dataset
    pixels: int
    epochs: int
    augmentation: str


def fashion() -> Captioned:
    """Five seen and five held-out classes of Fashion-MNIST."""
    dataset = load_dataset("demo:fashion-mnist?n=12000")
    names = dataset.class_names
    seen = [names.index(name) for name in _SEEN]
    train = dataset.splits["train"]
    rows = np.flatnonzero(np.isin(train.labels, seen))
    captions = np.array([seen.index(label) for label in train.labels[rows]])
    held_out = ",".join(name for name in names if name not in _SEEN)
    return Captioned(
        read(dataset, "train", rows, 28),
        torch.from_numpy(captions),
        _SEEN,
        load_dataset(f"demo:fashion-mnist?classes={held_out}&n=5000"),
        28,
        5,
        "crop-flip",
    )


def emoji() -> Captioned:
    """Emoji with their names as captions."""
    dataset = load_dataset("demo:emoji")
    entries = json.loads(EMOJI.file("package/emoji.json").read_text(encoding="utf-8"))
    name_of = {Path(one["image"]).stem: one["name"] or one["short_name"] for one in entries}
    train = dataset.splits["train"]
    texts = [name_of[key].lower().replace("-", " ") for key in train.ids]
    unique = tuple(dict.fromkeys(texts))
    captions = torch.tensor([unique.index(text) for text in texts])
    rows = np.arange(len(train))
    return Captioned(read(dataset, "train", rows, 32), captions, unique, dataset, 32, 30, "crop")


DATA = {"fashion": fashion, "emoji": emoji}


def read(dataset: Dataset, split: str, rows: NDArray[np.intp], pixels: int) -> Tensor:
    """Return images of a split as (n, 3, pixels, pixels) uint8."""
    preprocess = ImagePreprocess(pixels, pixels, "bilinear", mean=(), std=(), stretch=True)
    images = np.empty((len(rows), 3, pixels, pixels), dtype=np.uint8)
    for part, batch in preprocess.batches(take_items(dataset.splits[split].items, rows), None):
        images[part] = batch
    return torch.from_numpy(images)


def train_tower(data: Captioned, texts: Tensor, seed: int) -> TrainableNetwork:
    """Train the image tower.

    Parameters
    ----------
    data: images and captions.
    texts: (n_templates, n_captions, WIDTH) unit vectors of the captions.
    seed: training seed.
    """
    torch.manual_seed(seed)
    network = build_network(NetworkShape("resnet8", 16, 512, data.pixels, WIDTH))
    steps = data.epochs * (len(data.images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(data.epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for batch in torch.split(order[: len(order) // BATCH * BATCH], BATCH):
            images = augment(data.images[batch].float() / 255, data.augmentation, generator)
            captions, target = torch.unique(data.captions[batch], return_inverse=True)
            template = torch.randint(len(texts), (len(captions),), generator=generator)
            cosines = F.normalize(network(images), dim=1) @ texts[template, captions].T
            loss = F.cross_entropy(cosines / TEMPERATURE, target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def embed(network: TrainableNetwork, images: Tensor) -> NDArray[np.float32]:
    """Return the joint space of images, (n, WIDTH)."""
    parts = [network(batch.float() / 255) for batch in torch.split(images, 256)]
    return torch.cat(parts).numpy()


def text_vectors(templates: Sequence[str], names: Sequence[str]) -> NDArray[np.float32]:
    """Return (n_templates, n_names, WIDTH) unit vectors."""
    vectors = encode_prompts(TEXT_MODEL, templates, names, "penultimate").vectors
    vectors = vectors.reshape(len(names), len(templates), WIDTH).transpose(1, 0, 2)
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))


def measure(name: str, seed: int, out: Path) -> tuple[Run, float]:
    """Train, store the joint space, and sweep it."""
    folder = out / f"{name}-{seed}"
    began = time.process_time()
    store_path = folder / "features"
    if not (store_path / "manifest.json").is_file():
        data = DATA[name]()
        texts = torch.from_numpy(text_vectors(TEMPLATES, data.texts))
        network = train_tower(data, texts, seed)
        arrays, labels = {}, {}
        for split, part in data.target.splits.items():
            images = read(data.target, split, np.arange(len(part)), data.pixels)
            arrays[split] = embed(network, images)
            labels[split] = [data.target.class_names[label] for label in part.labels]
        classes = data.target.class_names
        vectors = text_vectors(TEMPLATES, classes)
        prompts = {one: vectors[:, number] for number, one in enumerate(classes)}
        cm.import_features(arrays, labels=labels, prompts=prompts, out=store_path)
    store = cm.FeatureStore.open(store_path)
    run = cm.sweep(store, out=folder / "run", selectors=SELECTORS, measures=MEASURES, seeds=5)
    # A repeated command computes nothing: the cost is that of the first.
    cost = folder / "cpu_seconds.txt"
    if not cost.is_file():
        cost.write_text(f"{time.process_time() - began:.0f}")
    return run, float(cost.read_text())


def tables(runs: Mapping[tuple[str, int], Run]) -> pd.DataFrame:
    """Return the critical masses of every set, training seed, selector and measure."""
    rows = []
    for (name, seed), run in runs.items():
        table = cm.redundancy(run, deltas=DELTAS, estimator="interpolated")
        labels = cm.FeatureStore.open(run.path.parent / "features").labels("test")
        share = float(np.bincount(labels).max() / labels.size)
        rows.append(table.assign(data=name, training_seed=seed, largest_class=share))
    return pd.concat(rows, ignore_index=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", choices=[*DATA], action="append")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/probing.md")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs: dict[tuple[str, int], Run] = {}
    costs: list[dict[str, Any]] = []
    for name in arguments.data or DATA:
        for seed in range(arguments.seeds):
            runs[name, seed], seconds = measure(name, seed, arguments.out)
            costs.append({"data": name, "training_seed": seed, "cpu_seconds": seconds})
            print(name, seed, f"{seconds:.0f} CPU s", flush=True)
            tables(runs).to_csv(arguments.out / "zero_shot.csv", index=False)
            curves = [
                run.frame().assign(data=data, training_seed=number)
                for (data, number), run in runs.items()
            ]
            pd.concat(curves).to_csv(arguments.out / "zero_shot_curves.csv", index=False)
            pd.DataFrame(costs).to_csv(arguments.out / "zero_shot_costs.csv", index=False)
    if arguments.write:
        columns = ["data", "training_seed", "selector", "measure", "delta", "n_neurons"]
        columns += ["largest_class"]
        columns += ["value_full", "critical_mass", "critical_mass_low", "critical_mass_high"]
        written = {
            "zero_shot": tables(runs)[columns].round(4),
            "zero_shot_costs": pd.DataFrame(costs),
        }
        write_tables(written, DOCS / "probing")


if __name__ == "__main__":
    main()
