"""Features from files on disk: ``python -m benchmarks.extraction [--repeats 5] [--only vit]``.

Compares ours, in float32 and (if the processor has it) in bfloat16, with the code of a typical
user: timm in eager float32 with a DataLoader of two workers and timm's own transform, or
``SentenceTransformer.encode``. The times include decoding and tokenising, but not loading the
model, compiling and drawing the images. All run in turn in one process on all cores. Prints
Markdown on stdout: medians of the seconds, and of the ratios of consecutive runs.
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

from benchmarks.timing import Seconds, add_load_option, describe_machine, log, measure_row
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.datasets.images import EncodedImages
from criticalmass.extraction.datasets.splits import take_items
from criticalmass.extraction.engines import Engine, inspect_layers, make_engine
from criticalmass.extraction.models import FrozenModel, load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision

Features = NDArray[np.float32]
_BATCH = 32
_WORKERS = 2
_LAYER = "penultimate"


@dataclass(frozen=True)
class ExtractionCase:
    """One row of the table.

    Attributes
    ----------
    name: name in the table.
    model: spec of the model.
    data: ``"photos"`` (drawn), ``"garments"`` (Fashion-MNIST as PNG) or ``"glosses"``.
    n: number of samples.
    target: ratio to reach, or None.
    """

    name: str
    model: str
    data: str
    n: int
    target: float | None


_LITE = "pypi:efficientnet-lite0"
CASES = {
    "lite0": ExtractionCase(
        "tf_efficientnet_lite0, 96 px, PNGs of 28 x 28", _LITE, "garments", 1000, 3.0
    ),
    "lite0-photos": ExtractionCase("the same, JPEGs of 500 x 375", _LITE, "photos", 300, None),
    "resnet50": ExtractionCase(
        "resnet50, 224 px, JPEGs of 500 x 375", "timm:resnet50?init=random", "photos", 128, 2.5
    ),
    "vit": ExtractionCase(
        "vit_small_patch16_224, 224 px, the same",
        "timm:vit_small_patch16_224?init=random",
        "photos",
        128,
        1.2,
    ),
    "minilm": ExtractionCase(
        "all-MiniLM-L6-v2, WordNet glosses", "pypi:minilm-l6", "glosses", 1000, 1.3
    ),
}
QUICK = ExtractionCase("quick", "timm:test_resnet?init=random&px=64", "photos", 12, None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved runs (default 5)")
    parser.add_argument("--only", choices=CASES, help="one row")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a test")
    add_load_option(parser)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: give at least 1")
    cases = [QUICK] if options.quick else list(CASES.values())
    if options.only:
        cases = [CASES[options.only]]
    print(f"Machine: {describe_machine()}.\n\n{_HEAD}")
    for case in cases:
        row, refusal = measure_row(
            partial(_measure, case, options.repeats),
            even_if_busy=options.even_if_busy or options.quick,
        )
        print(f"| {case.name}: {refusal} |" if row is None else row, flush=True)


_HEAD = (
    "| | a second, ours | ours bf16 | peer | ratio of wall times | target | bf16 ratio | CPU ratio "
    "| off from the peer's | load |\n| - | -: | -: | -: | -: | -: | -: | -: | -: | -: |"
)


def _measure(case: ExtractionCase, repeats: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(case.model, device="cpu")
        items, peer = _prepare(case, model, Path(folder))
        extractors: dict[str, Callable[[], Features]] = {
            "float32": _OurExtractor.make(model, items, "float32")
        }
        try:
            extractors["bf16"] = _OurExtractor.make(model, items, "bf16")
        except CriticalMassError as error:
            log(str(error))
        times, features, load = _run_in_turn({**extractors, "peer": peer}, repeats)
    return _table_row(case, times, features, load)


def _prepare(
    case: ExtractionCase, model: FrozenModel, folder: Path
) -> tuple[Any, Callable[[], Features]]:
    """Make the samples; return the items for ours, and the peer's loop over them."""
    if case.data == "glosses":
        from criticalmass.extraction.models.text_models import open_encoder

        texts = list(load_dataset("demo:wordnet-nouns").splits["train"].items)
        indices = np.random.default_rng(0).permutation(len(texts))[: case.n]
        sample = [texts[index] for index in indices]
        return sample, partial(open_encoder(case.model).encode, sample, show_progress_bar=False)
    draw = _draw_garments if case.data == "garments" else _draw_photos
    draw(case.n, folder)
    loop, paths = _timm_loop(model, folder)
    return EncodedImages.of_files(paths), loop


def _draw_garments(n: int, folder: Path) -> None:
    from PIL import Image

    images = load_dataset("demo:fashion-mnist").splits["train"].items
    for index, image in enumerate(take_items(images, np.arange(n))):
        Image.fromarray(image).save(folder / f"{index:05}.png")


def _draw_photos(n: int, folder: Path) -> None:
    """Write noise with the spectrum of photographs (amplitude 1/f) as JPEGs of three channels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    for index in range(n):
        noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
        planes = np.fft.irfft2(noise, s=(height, width))
        grey = planes.mean(axis=0)
        levels = 128 + 50 * (grey + 0.3 * (planes - grey)) / grey.std()
        pixels = np.moveaxis(np.clip(levels, 0, 255), 0, 2).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:05}.jpg", quality=90)


def _timm_loop(model: FrozenModel, folder: Path) -> tuple[Callable[[], Features], list[Path]]:
    import torch

    timm = import_after_torchvision("timm", "torch")
    settings = model.preprocess.settings
    side = settings["centre_crop"]
    transform = timm.data.create_transform(
        input_size=(3, side, side),
        interpolation=settings["interpolation"],
        mean=settings["mean"],
        std=settings["std"],
        crop_pct=side / settings["resize_shorter_side"],
    )
    dataset = timm.data.ImageDataset(str(folder), transform=transform)
    net = model.root

    def loop() -> Features:
        loader = torch.utils.data.DataLoader(dataset, batch_size=_BATCH, num_workers=_WORKERS)
        with torch.inference_mode():
            batches = [
                net.forward_head(net.forward_features(images), pre_logits=True).numpy()
                for images, _ in loader
            ]
        return np.concatenate(batches)

    return loop, [folder / name for name in dataset.filenames()]


@dataclass(frozen=True)
class _OurExtractor:
    """Extracts the features of items as `criticalmass.extract` does for one shard."""

    model: FrozenModel
    engine: Engine
    width: int
    items: Any

    @classmethod
    def make(cls, model: FrozenModel, items: Any, precision: str) -> _OurExtractor:
        first_items = take_items(items, np.arange(min(16, len(items))))
        batch = max((batch for _, batch in model.preprocess.batches(first_items, 16)), key=len)
        sample = np.repeat(batch, 2, axis=0) if len(batch) == 1 else batch
        layer = inspect_layers(model, [_LAYER], sample)[0]
        engine = make_engine("auto", model, [layer.tap], [sample], precision)
        return cls(model, engine, layer.width, items)

    def __call__(self) -> Features:
        out = {_LAYER: np.empty((len(self.items), self.width), np.float32)}
        batches = self.model.preprocess.batches(self.items, None)
        with threadpool_limits(1, user_api="blas"), closing(batches):
            self.engine.run(batches, out, lambda _: None)
        return out[_LAYER]


def _run_in_turn(
    extractors: Mapping[str, Callable[[], Features]], repeats: int
) -> tuple[dict[str, list[Seconds]], dict[str, Features], list[float]]:
    """Run all in turn after a warm-up; return the times, the features, and the machine's load."""
    features = {name: extractor() for name, extractor in extractors.items()}
    times: dict[str, list[Seconds]] = {name: [] for name in extractors}
    load = []
    for run in range(repeats):
        for name, extractor in extractors.items():
            times[name].append(_time_extractor(extractor))
        load.append(os.getloadavg()[0])
        walls = ", ".join(f"{name} {times[name][-1].wall:.3g} s" for name in extractors)
        log(f"run {run + 1}: {walls}; load {load[-1]:.1f}")
    return times, features, load


def _time_extractor(extractor: Callable[[], Features]) -> Seconds:
    """Time an extractor; the CPU time is that of this process and of its finished workers."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    extractor()
    return Seconds(_cpu_seconds() - cpu, time.perf_counter() - wall)


def _cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _table_row(
    case: ExtractionCase,
    times: Mapping[str, Sequence[Seconds]],
    features: Mapping[str, Features],
    load: Sequence[float],
) -> str:
    def rate(name: str) -> str:
        if name not in times:
            return "none"
        return f"{case.n / statistics.median(one.wall for one in times[name]):.3g}"

    def ratio(name: str, kind: str) -> str:
        pairs = zip(times["peer"], times.get(name, ()), strict=False)
        ratios = sorted(getattr(peer, kind) / getattr(own, kind) for peer, own in pairs)
        if not ratios:
            return "none"
        return f"{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    exact = features["peer"]
    gaps = [np.abs(features[name] - exact).max() / np.abs(exact).max() for name in times]
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
