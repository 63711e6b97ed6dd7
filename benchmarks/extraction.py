"""Features from files on disk: ``python -m benchmarks.extraction [--repeats 5] [--only vit]``.

Ours, in float32 and (where the processor has it) in bfloat16, against what a user would write:
timm in eager float32 behind a DataLoader with two workers and timm's own transform, or
``SentenceTransformer.encode``. Decoding and tokenising are inside the clock; loading the model,
compiling and drawing the pictures are not. In turn, in one process, both on all cores. Prints
Markdown on stdout: medians of the seconds, and of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.timing import Seconds, machine, tell
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import take_items
from criticalmass.extraction.engines import Engine, inspect, make_engine
from criticalmass.extraction.models import FrozenModel, load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision

Features = NDArray[np.float32]
_BATCH = 32
_WORKERS = 2
_LAYER = "penultimate"


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name: of the row.
    model: spec of the model.
    data: ``"photos"`` (drawn), ``"garments"`` (Fashion-MNIST as PNG) or ``"glosses"``.
    n: how many samples.
    target: ratio that was aimed at; None where none was.
    """

    name: str
    model: str
    data: str
    n: int
    target: float | None


_LITE = "pypi:efficientnet-lite0"
CASES = {
    "lite0": Case("tf_efficientnet_lite0, 96 px, PNGs of 28 x 28", _LITE, "garments", 1000, 3.0),
    "lite0-photos": Case("the same, JPEGs of 500 x 375", _LITE, "photos", 300, None),
    "resnet50": Case(
        "resnet50, 224 px, JPEGs of 500 x 375", "timm:resnet50?init=random", "photos", 128, 2.5
    ),
    "vit": Case(
        "vit_small_patch16_224, 224 px, the same",
        "timm:vit_small_patch16_224?init=random",
        "photos",
        128,
        1.2,
    ),
    "minilm": Case("all-MiniLM-L6-v2, WordNet glosses", "pypi:minilm-l6", "glosses", 1000, 1.3),
}
QUICK = Case("quick", "timm:test_resnet?init=random&px=64", "photos", 12, None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved runs (default 5)")
    parser.add_argument("--only", choices=CASES, help="one row")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    asked = parser.parse_args(arguments)
    if asked.repeats < 1:
        parser.error(f"--repeats {asked.repeats}: give at least 1")
    chosen = [QUICK] if asked.quick else list(CASES.values())
    if asked.only:
        chosen = [CASES[asked.only]]
    print(f"Machine: {machine()}.\n\n{_HEAD}")
    for case in chosen:
        print(_measure(case, asked.repeats), flush=True)


_HEAD = (
    "| | a second, ours | ours bf16 | peer | ratio of wall times | target | bf16 ratio | CPU ratio "
    "| off from the peer's | load |\n| - | -: | -: | -: | -: | -: | -: | -: | -: | -: |"
)


def _measure(case: Case, repeats: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(case.model, device="cpu")
        items, peer = _prepared(case, model, Path(folder))
        ways: dict[str, Callable[[], Features]] = {"float32": _Ours.of(model, items, "float32")}
        try:
            ways["bf16"] = _Ours.of(model, items, "bf16")
        except CriticalMassError as error:
            tell(str(error))
        spans, features, load = _interleaved({**ways, "peer": peer}, repeats)
    return _row(case, spans, features, load)


def _prepared(case: Case, model: FrozenModel, folder: Path) -> tuple[Any, Callable[[], Features]]:
    """Lay out the samples; -> them as ours takes them, and the peer's loop over them."""
    if case.data == "glosses":
        from criticalmass.extraction.models.text_models import open_encoder

        texts = list(load_dataset("demo:wordnet-nouns").splits["train"].items)
        chosen = np.random.default_rng(0).permutation(len(texts))[: case.n]
        some = [texts[place] for place in chosen]
        return some, partial(open_encoder(case.model).encode, some, show_progress_bar=False)
    draw = _draw_garments if case.data == "garments" else _draw_photos
    draw(case.n, folder)
    loop, paths = _timm_loop(model, folder)
    return EncodedImages.of_files(paths), loop


def _draw_garments(n: int, folder: Path) -> None:
    from PIL import Image

    images = load_dataset("demo:fashion-mnist").splits["train"].items
    for place, image in enumerate(take_items(images, np.arange(n))):
        Image.fromarray(image).save(folder / f"{place:05}.png")


def _draw_photos(n: int, folder: Path) -> None:
    """Draw noise with the spectrum of photographs (amplitude 1/f), three channels, as JPEGs."""
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    for place in range(n):
        noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
        planes = np.fft.irfft2(noise, s=(height, width))
        grey = planes.mean(axis=0)
        levels = 128 + 50 * (grey + 0.3 * (planes - grey)) / grey.std()
        pixels = np.moveaxis(np.clip(levels, 0, 255), 0, 2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:05}.jpg", quality=90)


def _timm_loop(model: FrozenModel, folder: Path) -> tuple[Callable[[], Features], list[Path]]:
    import torch

    timm = import_after_torchvision("timm", "torch")
    said = model.preprocess.settings
    side = said["centre_crop"]
    transform = timm.data.create_transform(
        input_size=(3, side, side),
        interpolation=said["interpolation"],
        mean=said["mean"],
        std=said["std"],
        crop_pct=side / said["resize_shorter_side"],
    )
    dataset = timm.data.ImageDataset(str(folder), transform=transform)
    net = model.root

    def loop() -> Features:
        loader = torch.utils.data.DataLoader(dataset, batch_size=_BATCH, num_workers=_WORKERS)
        with torch.inference_mode():
            found = [
                net.forward_head(net.forward_features(images), pre_logits=True).numpy()
                for images, _ in loader
            ]
        return np.concatenate(found)

    return loop, [folder / name for name in dataset.filenames()]


@dataclass(frozen=True)
class _Ours:
    """The way from items to features that `criticalmass.extract` takes for one shard."""

    model: FrozenModel
    engine: Engine
    width: int
    items: Any

    @classmethod
    def of(cls, model: FrozenModel, items: Any, precision: str) -> _Ours:
        few = take_items(items, np.arange(min(16, len(items))))
        batch = max((batch for _, batch in model.preprocess.batches(few, 16)), key=len)
        sample = np.repeat(batch, 2, axis=0) if len(batch) == 1 else batch
        layer = inspect(model, [_LAYER], sample)[0]
        engine = make_engine("auto", model, [layer.tap], [sample], precision)
        return cls(model, engine, layer.width, items)

    def __call__(self) -> Features:
        out = {_LAYER: np.empty((len(self.items), self.width), np.float32)}
        batches = self.model.preprocess.batches(self.items, None)
        with threadpool_limits(1, user_api="blas"), closing(batches):
            self.engine.run(batches, out, lambda _: None)
        return out[_LAYER]


def _interleaved(
    ways: Mapping[str, Callable[[], Features]], repeats: int
) -> tuple[dict[str, list[Seconds]], dict[str, Features], list[float]]:
    """Run all in turn, once for nothing; -> the times, the features, and the machine's load."""
    features = {name: way() for name, way in ways.items()}
    spans: dict[str, list[Seconds]] = {name: [] for name in ways}
    load = []
    for run in range(repeats):
        for name, way in ways.items():
            spans[name].append(_timed(way))
        load.append(os.getloadavg()[0])
        told = ", ".join(f"{name} {spans[name][-1].wall:.3g} s" for name in ways)
        tell(f"run {run + 1}: {told}; load {load[-1]:.1f}")
    return spans, features, load


def _timed(way: Callable[[], Features]) -> Seconds:
    """Time a way; its CPU seconds are those of this process and of its finished workers."""
    cpu, wall = _cpu(), time.perf_counter()
    way()
    return Seconds(_cpu() - cpu, time.perf_counter() - wall)


def _cpu() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _row(
    case: Case,
    spans: Mapping[str, Sequence[Seconds]],
    features: Mapping[str, Features],
    load: Sequence[float],
) -> str:
    def rate(name: str) -> str:
        if name not in spans:
            return "none"
        return f"{case.n / statistics.median(one.wall for one in spans[name]):.3g}"

    def ratio(name: str, kind: str) -> str:
        pairs = zip(spans["peer"], spans.get(name, ()), strict=False)
        found = sorted(getattr(peer, kind) / getattr(own, kind) for peer, own in pairs)
        if not found:
            return "none"
        return f"{statistics.median(found):.2f} x ({found[0]:.2f} to {found[-1]:.2f})"

    exact = features["peer"]
    gaps = [np.abs(features[name] - exact).max() / np.abs(exact).max() for name in spans]
    target = "none" if case.target is None else f">= {case.target:g}"
    cells = (
        f"{case.name}, {case.n} samples",
        *(rate(name) for name in ("float32", "bf16", "peer")),
        f"**{ratio('float32', 'wall')}**",
        target,
        ratio("bf16", "wall"),
        ratio("float32", "cpu"),
        ", ".join(f"{gap:.1e}" for gap in gaps[:-1]),
        f"{min(load):.1f} to {max(load):.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
