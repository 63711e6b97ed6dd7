"""Valid calls of every public function and command, for `benchmarks.bad_input` and `twice`."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import criticalmass as cm

_N, _D, _C = 60, 8, 3


@dataclass(frozen=True)
class Material:
    """Small real inputs, and the folder that calls write to.

    Attributes
    ----------
    folder: folder of the inputs.
    x, y: 60 vectors of 8 neurons, and their classes.
    moment: (8, 8) second moment of the vectors.
    command_lines: name of a command -> its valid arguments.
    """

    folder: Path
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    command_lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def moment(self) -> np.ndarray[Any, Any]:
        """(8, 8) second moment of the centred vectors."""
        centred = self.x - self.x.mean(axis=0)
        moment: np.ndarray[Any, Any] = centred.T.astype(np.float64) @ centred
        return moment

    def path(self, name: str) -> Path:
        """Return the path of one of the inputs."""
        return self.folder / name

    @property
    def scratch(self) -> Path:
        """Folder that calls write to."""
        return self.folder / "scratch"

    @property
    def out(self) -> Path:
        """New path to write to."""
        return self.scratch / "out"

    def reset(self) -> None:
        """Remove the output of an earlier call."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()


# An image network with random weights, and images for it.
_NETWORK, _IMAGES = "timm:test_resnet?init=random&px=32", "sklearn:digits?n=60"


@dataclass(frozen=True)
class Call:
    """A public function and its valid arguments."""

    name: str
    function: Callable[..., Any]
    make: Callable[[Material], dict[str, Any]]

    def arguments(self, material: Material) -> dict[str, Any]:
        """Return valid arguments, including the defaults."""
        arguments = self.make(material)
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.default is not parameter.empty:
                arguments.setdefault(name, parameter.default)
        return arguments


def _write_onnx_graph(path: Path) -> None:
    """Write an ONNX graph that multiplies vectors by a matrix."""
    import onnx
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((_D, _D)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", _D])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", _D])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))


def _write_study(path: Path, model: str, data: str) -> Path:
    """Write a study of one model and one dataset; return its path."""
    path.write_text(
        f"question: Does it run?\nmodels: ['{model}']\ndatasets: ['{data}']\nselectors: [random]\n"
        "measures: [ridge]\nfractions: [0.5, 1.0]\nseeds: 2\n"
    )
    return path


def _write_recipe(path: Path) -> Path:
    """Write a recipe of a training that takes a moment; return its path."""
    path.write_text(
        "network: {width: 4, neurons: 8, pixels: 8}\ndata: {dataset: 'sklearn:digits?n=50'}\n"
        "optimizer: {batch: 32}\nepochs: 1\n"
    )
    return path


def make_material(folder: Path) -> Material:
    """Make the inputs: vectors, a store, two runs, a slim model and an ONNX graph."""
    rng = np.random.default_rng(0)
    y = np.arange(_N) % _C
    x = (rng.standard_normal((_C, _D))[y] + rng.standard_normal((_N, _D))).astype(np.float32)
    np.savez(folder / "data.npz", X=x, y=y)
    _write_onnx_graph(folder / "model.onnx")
    store, run, slim = (str(folder / name) for name in ("store", "run", "slim"))
    cm.import_features(x, out=store, labels=y)
    cm.sweep(store, out=run, fractions=(0.25, 0.5, 1.0), seeds=2, measures=("ridge", "cka"),
             selectors=("random", "leverage"))  # fmt: skip
    other = str(folder / "other")
    cm.sweep(store, out=other, fractions=(0.25, 1.0), seeds=2, measures=("ridge", "cka"))
    # A second task on the same features, and probes on fewer training rows.
    np.savez(folder / "other_task.npz", X=x, y=(np.arange(_N) // 3) % 2)
    task_store, task, sized = (str(folder / name) for name in ("task_store", "task", "sized"))
    cm.import_features(folder / "other_task.npz", out=task_store)
    cm.sweep(task_store, out=task, fractions=(0.25, 0.5, 1.0), seeds=2, measures=("ridge",))
    cm.sweep(store, out=sized, fractions=(0.5, 1.0), seeds=2, measures=("ridge",),
             train_sizes=(24,))  # fmt: skip
    cm.shrink(store, keep=0.5, measure="logistic", selectors=("random",), out=slim)
    model, data = f"onnx:{folder / 'model.onnx'}", f"npz:{folder / 'data.npz'}"
    out = ("--out", str(folder / "scratch" / "out"))
    study = _write_study(folder / "study.yaml", model, data)
    lines: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(_RUN_COMMANDS, (run,)),
        "advise": (store, "--keep", "0.8"),
        "attack": (
            _NETWORK,
            _IMAGES,
            *out,
            "--heads",
            "2",
            "--keep",
            "0.2",
            "--images",
            "2",
            "--steps",
            "1",
        ),
        "invert": (
            _NETWORK,
            _IMAGES,
            *out,
            "--images",
            "2",
            "--steps",
            "1",
            "--seeds",
            "1",
            "--selector",
            "random",
            "--objective",
            "match",
            "--start",
            "noise",
        ),
        "compare": (run, other),
        "diffuseness": (run, "--measure", "ridge"),
        "calibration": (store, "--fraction", "0.25", "--seeds", "2"),
        "degrading-neurons": (store, "--fdr", "0.2"),
        "gaussian-null": (store, *out),
        "ensembles": (store, "--fraction", "0.25", "--probe", "ridge", "--seeds", "2"),
        "explain": (store,),
        "export": (slim, "--format", "indices", *out),
        "extract": (model, data, *out),
        "figure": ("value", run, "--out", str(folder / "scratch" / "out.svg")),
        "import": (str(folder / "data.npz"), *out),
        "info": (run,),
        "list": ("selectors",),
        "measure": (model, data, *out, "--measure", "ridge", "--fraction", "0.5", "--seeds", "2"),
        "report": (run, "--out", str(folder / "scratch" / "out.html")),
        "shrink": (store, "--measure", "ridge", "--selector", "random"),
        "shared-subsets": (run, task),
        "study": (str(study), *out, "--no-pages"),
        "sweep": (store, *out, "--measure", "ridge", "--fraction", "0.5", "--seeds", "2"),
        "train": (str(_write_recipe(folder / "recipe.yaml")), *out),
        "train-sizes": (sized,),
        "verify": (slim, store),
    }
    return Material(folder, x, y, lines)


_RUN_COMMANDS = ("agreement", "class-losses", "fairness", "pareto", "redundancy")
#: Commands that are not called -> reason.
EXCLUDED_COMMANDS = {"demo": "it has one option, a path, and takes minutes"}


def _run_arguments(**more: Any) -> Callable[[Material], dict[str, Any]]:
    return lambda m: {"run": str(m.path("run")), "resamples": 20, **more}


def _store_arguments(m: Material) -> dict[str, Any]:
    return {"store": str(m.path("store"))}


def _ridge_arguments(m: Material) -> dict[str, Any]:
    half = _N // 2
    return {
        "train": (m.x[:half], m.y[:half]),
        "test": (m.x[half:], m.y[half:]),
        "sizes": [2, 4, 8],
    }


def _sweep_arguments(m: Material) -> dict[str, Any]:
    return {"out": str(m.out), "fractions": (0.5,), "seeds": 2, "measures": ("ridge",)}


_EXTRACT_ARGUMENTS: Callable[[Material], dict[str, Any]] = lambda m: {  # noqa: E731
    "model": f"onnx:{m.path('model.onnx')}",
    "dataset": f"npz:{m.path('data.npz')}",
    "out": str(m.out),
}
_ARGUMENTS: dict[str, Callable[[Material], dict[str, Any]]] = {
    "advise": lambda m: {"vectors": str(m.path("store")), "keep": 0.8},
    "agreement": _run_arguments(),
    "attack": lambda m: {"model": _NETWORK, "dataset": _IMAGES, "out": str(m.out), "heads": 2,
                         "keep": 0.2, "images": 2, "steps": 1},
    "cka_critical_mass": lambda m: {"second_moment": m.moment, "delta": 0.9},
    "class_accuracy": _run_arguments(),
    "class_losses": _run_arguments(),
    "coefficient_of_variation": lambda _: {"x": [0.2, 0.4, 0.9]},
    "compare": lambda m: {"a": str(m.path("run")), "b": str(m.path("other")), "resamples": 20},
    "curves": _run_arguments(),
    "diagonal_share": lambda m: {"second_moment": m.moment},
    "diffused_redundancy": lambda _: {
        "fractions": [0.2, 0.5, 1.0], "values": [0.5, 0.8, 0.9], "value_full": 0.9, "delta": 0.9
    },
    "diffuseness": _run_arguments(measure="ridge"),
    "diffuseness_summary": _run_arguments(measure="ridge"),
    "calibration": lambda m: {**_store_arguments(m), "fractions": (0.5,), "seeds": 2,
                              "resamples": 20},
    "degrading_neurons": lambda m: {**_store_arguments(m), "fdr": 0.2},
    "gaussian_null": lambda m: {**_store_arguments(m), "out": str(m.out)},
    "ensembles": lambda m: {**_store_arguments(m), "fractions": (0.5,), "members": 2, "seeds": 2,
                            "probe": "ridge", "resamples": 20},
    "exchangeability_test": lambda m: {"second_moment": m.moment, "n_draws": 19},
    "expected_cka": lambda m: {"second_moment": m.moment, "sizes": [2, 4]},
    "explain": _store_arguments,
    "export": lambda m: {"slim": str(m.path("slim")), "format": "indices", "out": str(m.out)},
    "extract": _EXTRACT_ARGUMENTS,
    "fairness": _run_arguments(),
    "fit_probes": lambda m: {"x": m.x, "y": m.y, "orders": [list(range(_D))], "sizes": [2, 4],
                             "l2s": [0.1]},
    "gini": lambda _: {"x": [0.2, 0.4, 0.9]},
    "import_features": lambda m: {"path_or_arrays": m.x, "out": str(m.out), "labels": m.y},
    "invert": lambda m: {"model": _NETWORK, "dataset": _IMAGES, "out": str(m.out), "images": 2,
                         "steps": 1, "seeds": 1, "selectors": ("random",),
                         "objectives": ("match",), "starts": ("noise",)},
    "linear_cka": lambda m: {"x": m.x, "y": m.x[:, :4]},
    "load_dataset": lambda m: {"spec": f"npz:{m.path('data.npz')}"},
    "load_model": lambda m: {"spec": f"onnx:{m.path('model.onnx')}"},
    "max_min_gap": lambda _: {"x": [0.2, 0.4, 0.9]},
    "measure": lambda m: {**_EXTRACT_ARGUMENTS(m), **_sweep_arguments(m)},
    "ndcg": lambda _: {"ranked": [[2, 0, 1]], "relevant": [[2, 1]]},
    "pareto": _run_arguments(),
    "participation_ratio": lambda m: {"second_moment": m.moment},
    "predict_ridge": _ridge_arguments,
    "prefix_cka": lambda m: {"second_moment": m.moment, "order": list(range(_D))},
    "prefix_cka_debiased": lambda m: {"second_moment": m.moment, "n_samples": _N,
                                      "moment_of_squares": np.abs(m.moment) * 100.0,
                                      "order": list(range(_D))},
    "recall": lambda _: {"ranked": [[2, 0, 1]], "relevant": [[2, 1]]},
    "redundancy": _run_arguments(),
    "report": lambda m: {"run_or_runs": str(m.path("run")), "out": str(m.out)},
    "shrink": lambda m: {**_store_arguments(m), "measure": "ridge", "selectors": ("random",)},
    "shared_subsets": lambda m: {"runs": [str(m.path("run")), str(m.path("task"))],
                                 "resamples": 20},
    "subset_correlations": lambda m: {"runs": [str(m.path("run")), str(m.path("task"))]},
    "train_sizes": lambda m: {"run": str(m.path("sized")), "resamples": 20},
    "verify": lambda m: {"slim": str(m.path("slim")), "store": str(m.path("store"))},
    "study": lambda m: {"name_or_file": str(m.path("study.yaml")), "out": str(m.out),
                        "pages": False},
    "sweep": lambda m: {**_store_arguments(m), **_sweep_arguments(m)},
    "train": lambda m: {"recipe": str(m.path("recipe.yaml")), "out": str(m.out)},
}  # fmt: skip
CALLS = [Call(name, getattr(cm, name), make) for name, make in sorted(_ARGUMENTS.items())]
