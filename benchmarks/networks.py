"""Do timm's networks work: ``python -m benchmarks.networks [--quick] [--dir DIR]``.

One small network of each family of timm, with random weights and small images. Each is loaded, its
penultimate layer is computed with the engine ``auto``, and the features are compared with those of
plain torch and with timm's own ``forward_head(..., pre_logits=True)``. Prints a Markdown table and
a summary. An error is one line of the table, and the program then exits with 1.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import describe_machine, log
from criticalmass.extraction.engines import inspect_layers, make_engine, run_torch
from criticalmass.extraction.engines.layer_shapes import example_batch
from criticalmass.extraction.models import FrozenModel, load_model

LAYER = "penultimate"
PIXELS = 64
# The smallest network of each family of timm 1.0.31 that has at most 60 million weights, and the
# side of its images where 64 pixels are too few (None: its own side).
NETWORKS: dict[str, int | None] = {
    **dict.fromkeys(
        (
            "mobileone_s1", "convmixer_768_32", "convnext_zepto_rms", "cpubone_nano",
            "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny",
            "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "densenet121", "dla46x_c",
            "dpn48b", "edgenext_xx_small", "mobilenetv2_035", "efficientvim_m1",
            "efficientvim_m1_dist", "efficientvit_b0", "efficientvit_m0",
            "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf",
            "ghostnet_050", "hardcorenas_b", "hgnetv2_b0", "sam2_hiera_tiny", "hrnet_w18_small",
            "iformer_t", "inception_next_atto", "lcnetv2_small", "lowformer_b0", "mambaout_femto",
            "maxvit_pico_rw_256", "poolformerv2_s12", "mobilenetv3_small_050", "mobilevit_xxs",
            "mvitv2_tiny", "nextvit_small", "nf_regnet_b0", "pvt_v2_b0", "rdnet_tiny",
            "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50", "resnest14d", "resnet10t",
            "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s",
            "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
            "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224",
            "tiny_vit_5m_224", "tresnet_m", "twins_svt_small", "vit_tiny_patch16_224",
            "vit_tiny_r_s16_p8_224", "vit_srelpos_small_patch16_224", "vitamin_small_224",
            "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p", "xcit_nano_12_p8_224",
        ),
        PIXELS,
    ),
    **dict.fromkeys(("inception_resnet_v2", "inception_v3", "inception_v4"), 96),
    **dict.fromkeys(
        (
            "halonet_h1", "cait_xxs24_224", "coat_tiny", "convit_tiny", "efficientformer_l1",
            "efficientformerv2_s0", "gcvit_xxtiny", "gmlp_ti16_224", "hiera_tiny_224", "levit_128s",
            "levit_256d", "nest_tiny", "pit_ti_224", "pit_ti_distilled_224",
            "tnt_s_legacy_patch16_224", "visformer_tiny", "volo_d1_224",
        )
    ),
}  # fmt: skip
QUICK = ("resnet10t", "crossvit_tiny_240", "efficientvim_m1_dist", "pvt_v2_b0", "starnet_s050")


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Attributes
    ----------
    network: its name.
    width: neurons of the penultimate layer; None after an error.
    place: where the layer is read.
    engine: name of the engine that ran.
    difference: largest difference from torch, relative to the largest feature of torch.
    timm_difference: the same from timm's own pre-logits; None where these have another width.
    seconds: wall time for loading, converting and running.
    note: the line of a fallback, or of an error.
    """

    network: str
    width: int | None
    place: str
    engine: str
    difference: float | None
    timm_difference: float | None
    seconds: float
    note: str

    @property
    def has_failed(self) -> bool:
        """Whether the layer could not be computed."""
        return self.width is None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--only", metavar="NAME", action="append", help="only this network")
    parser.add_argument("--dir", type=Path, help="also write networks.csv there")
    parser.add_argument("--minutes", type=float, help="begin no network after this time")
    options = parser.parse_args(arguments)
    names = options.only or (QUICK if options.quick else tuple(NETWORKS))
    log(f"{len(names)} networks on {describe_machine()}")
    print("| network | penultimate | read at | engine | from torch | from timm | s | |")
    print("| - | -: | - | - | -: | -: | -: | - |")
    start = time.perf_counter()
    results: list[Result] = []
    for name in names:
        if options.minutes is not None and time.perf_counter() - start > 60 * options.minutes:
            log(f"{len(names) - len(results)} networks are left out, after {options.minutes} min")
            break
        results.append(measure(name, NETWORKS.get(name)))
        print(_row(results[-1]), flush=True)
    print(f"\n{summary(results)}")
    if options.dir is not None:
        _write_csv(options.dir, results)
    sys.exit(1 if any(result.has_failed for result in results) else 0)


def measure(name: str, pixels: int | None) -> Result:
    """Compute the penultimate layer of a network of timm with random weights.

    Parameters
    ----------
    name: name of the network.
    pixels: side of its images; None for its own.
    """
    start = time.perf_counter()
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            side = "" if pixels is None else f"&px={pixels}"
            model = load_model(f"timm:{name}?init=random{side}", device="cpu")
            batch = example_batch(model)
            engine, features = _run(model, batch)
            notes += [str(one.message) for one in caught if "are computed with" in str(one.message)]
            seconds = time.perf_counter() - start
            expected = run_torch(model, LAYER, batch)
            timms = _pre_logits(model, batch)
    except Exception as error:  # noqa: BLE001 - any error is a row of the table
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(name, None, "", "", None, None, time.perf_counter() - start, line)
    return Result(
        network=name,
        width=features.shape[1],
        place=model.penultimate.description,
        engine=engine,
        difference=_difference(features, expected),
        timm_difference=_difference(features, timms) if timms.shape == features.shape else None,
        seconds=seconds,
        note="; ".join(notes),
    )


def _run(model: FrozenModel, batch: NDArray[Any]) -> tuple[str, NDArray[np.float32]]:
    """Run the engine ``auto``; return its name and the features, (n, n_neurons)."""
    layers = inspect_layers(model, [LAYER], batch)
    engine = make_engine("auto", model, [layer.tap for layer in layers], [batch])
    features = np.empty((len(batch), layers[0].width), np.float32)
    engine.run([(np.arange(len(batch)), batch)], {LAYER: features}, lambda _: None)
    return str(engine.info["name"]), features


def _pre_logits(model: FrozenModel, batch: NDArray[Any]) -> NDArray[np.float32]:
    """Return what timm gives instead of logits, averaged over positions, (n, n_neurons)."""
    import torch

    net, module = model.root, model.module
    with torch.no_grad():
        inputs = (torch.from_numpy(batch).float() / 255.0 - module.mean) / module.std
        values: Any = net.forward_head(net.forward_features(inputs), pre_logits=True)
    positions = (2, 3) if values.ndim == 4 else tuple(range(1, values.ndim - 1))
    averaged: NDArray[np.float32] = (values.mean(positions) if positions else values).numpy()
    return averaged


def _difference(features: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(features - expected).max() / np.abs(expected).max())


def summary(results: Sequence[Result]) -> str:
    """Return the counts, the largest differences and the time in words."""
    done = [result for result in results if not result.has_failed]
    engines = [result.engine for result in done]
    counts = ", ".join(f"{engines.count(name)} in {name}" for name in dict.fromkeys(engines))
    worst = max((result.difference or 0.0 for result in done), default=0.0)
    timms = [r.timm_difference for r in done if r.timm_difference is not None]
    seconds = sum(result.seconds for result in results)
    return (
        f"{len(results)} networks: {len(done)} computed ({counts}), {len(results) - len(done)} "
        f"failed. Largest difference from torch {worst:.1e}, from timm's pre-logits "
        f"{max(timms, default=0.0):.1e} ({len(timms)} have the same width). {seconds:,.0f} s."
    )


def _row(result: Result) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    cells = (
        result.network,
        "failed" if result.width is None else f"{result.width:,}",
        result.place,
        result.engine,
        number(result.difference),
        number(result.timm_difference),
        f"{result.seconds:.1f}",
        result.note,
    )
    return f"| {' | '.join(cells)} |"


def _write_csv(folder: Path, results: Sequence[Result]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "networks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Result)])
        writer.writerows(dataclasses.astuple(result) for result in results)


if __name__ == "__main__":
    main()
