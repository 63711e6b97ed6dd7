"""Right calls of every public function and command, for `benchmarks.bad_input` to spoil."""

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
    """Small real inputs, and the places where calls may write.

    Attributes
    ----------
    folder: of the inputs.
    x, y: 60 vectors of 8 neurons, and their classes.
    moment: (8, 8) second moment of the vectors.
    command_lines: name of a command -> words after it that are right.
    """

    folder: Path
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    command_lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def moment(self) -> np.ndarray[Any, Any]:
        """(8, 8) second moment of the centred vectors."""
        centred = self.x - self.x.mean(axis=0)
        found: np.ndarray[Any, Any] = centred.T.astype(np.float64) @ centred
        return found

    def place(self, name: str) -> Path:
        """Return the place of one of the inputs."""
        return self.folder / name

    @property
    def scratch(self) -> Path:
        """Where calls write."""
        return self.folder / "scratch"

    @property
    def out(self) -> Path:
        """A new place to write to."""
        return self.scratch / "out"

    def fresh(self) -> None:
        """Remove what an earlier call wrote."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()


@dataclass(frozen=True)
class Call:
    """A public function and how to call it rightly."""

    name: str
    function: Callable[..., Any]
    make: Callable[[Material], dict[str, Any]]

    def arguments(self, material: Material) -> dict[str, Any]:
        """Return right arguments, those with defaults too: each may be spoilt."""
        given = self.make(material)
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.default is not parameter.empty:
                given.setdefault(name, parameter.default)
        return given


def _graph(path: Path) -> None:
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


def make_material(folder: Path) -> Material:
    """Make the inputs: vectors, a store, a run, a slim model, a graph."""
    rng = np.random.default_rng(0)
    y = np.arange(_N) % _C
    x = (rng.standard_normal((_C, _D))[y] + rng.standard_normal((_N, _D))).astype(np.float32)
    np.savez(folder / "data.npz", X=x, y=y)
    _graph(folder / "model.onnx")
    store, run, slim = (str(folder / name) for name in ("store", "run", "slim"))
    cm.import_features(x, out=store, labels=y)
    cm.sweep(store, out=run, fractions=(0.25, 0.5, 1.0), seeds=2, measures=("ridge", "cka"),
             selectors=("random", "leverage"))  # fmt: skip
    other = str(folder / "other")
    cm.sweep(store, out=other, fractions=(0.25, 1.0), seeds=2, measures=("ridge", "cka"))
    cm.shrink(store, keep=0.5, measure="logistic", selectors=("random",), out=slim)
    model, data = f"onnx:{folder / 'model.onnx'}", f"npz:{folder / 'data.npz'}"
    out = ("--out", str(folder / "scratch" / "out"))
    study = folder / "study.yaml"
    study.write_text(
        f"question: Does it run?\nmodels: ['{model}']\ndatasets: ['{data}']\nselectors: [random]\n"
        "measures: [ridge]\nfractions: [0.5, 1.0]\nseeds: 2\n"
    )
    lines: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(_OF_RUNS, (run,)),
        "compare": (run, other),
        "diffuseness": (run, "--measure", "ridge"),
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
        "study": (str(study), *out, "--no-pages"),
        "sweep": (store, *out, "--measure", "ridge", "--fraction", "0.5", "--seeds", "2"),
    }
    return Material(folder, x, y, lines)


_OF_RUNS = ("agreement", "class-losses", "fairness", "pareto", "redundancy")
#: Commands that are not tried, and why.
LEFT_OUT = {"demo": "it has one option, a path, and takes minutes"}


def _of_run(**more: Any) -> Callable[[Material], dict[str, Any]]:
    return lambda m: {"run": str(m.place("run")), "resamples": 20, **more}


def _store(m: Material) -> dict[str, Any]:
    return {"store": str(m.place("store"))}


def _task(m: Material) -> dict[str, Any]:
    half = _N // 2
    return {
        "train": (m.x[:half], m.y[:half]),
        "test": (m.x[half:], m.y[half:]),
        "sizes": [2, 4, 8],
    }


def _swept(m: Material) -> dict[str, Any]:
    return {"out": str(m.out), "fractions": (0.5,), "seeds": 2, "measures": ("ridge",)}


_MODEL: Callable[[Material], dict[str, Any]] = lambda m: {  # noqa: E731
    "model": f"onnx:{m.place('model.onnx')}",
    "dataset": f"npz:{m.place('data.npz')}",
    "out": str(m.out),
}
_RIGHT: dict[str, Callable[[Material], dict[str, Any]]] = {
    "agreement": _of_run(),
    "cka_critical_mass": lambda m: {"second_moment": m.moment, "delta": 0.9},
    "class_accuracy": _of_run(),
    "class_losses": _of_run(),
    "coefficient_of_variation": lambda _: {"x": [0.2, 0.4, 0.9]},
    "compare": lambda m: {"a": str(m.place("run")), "b": str(m.place("other")), "resamples": 20},
    "curves": _of_run(),
    "diagonal_share": lambda m: {"second_moment": m.moment},
    "diffused_redundancy": lambda _: {
        "fractions": [0.2, 0.5, 1.0], "values": [0.5, 0.8, 0.9], "value_full": 0.9, "delta": 0.9
    },
    "diffuseness": _of_run(measure="ridge"),
    "diffuseness_summary": _of_run(measure="ridge"),
    "ensembles": lambda m: {**_store(m), "fractions": (0.5,), "members": 2, "seeds": 2,
                            "probe": "ridge", "resamples": 20},
    "exchangeability_test": lambda m: {"second_moment": m.moment, "n_draws": 19},
    "expected_cka": lambda m: {"second_moment": m.moment, "sizes": [2, 4]},
    "explain": _store,
    "export": lambda m: {"slim": str(m.place("slim")), "format": "indices", "out": str(m.out)},
    "extract": _MODEL,
    "fairness": _of_run(),
    "fit_probes": lambda m: {"x": m.x, "y": m.y, "orders": [list(range(_D))], "sizes": [2, 4],
                             "l2s": [0.1]},
    "gini": lambda _: {"x": [0.2, 0.4, 0.9]},
    "import_features": lambda m: {"path_or_arrays": m.x, "out": str(m.out), "labels": m.y},
    "linear_cka": lambda m: {"x": m.x, "y": m.x[:, :4]},
    "load_dataset": lambda m: {"spec": f"npz:{m.place('data.npz')}"},
    "load_model": lambda m: {"spec": f"onnx:{m.place('model.onnx')}"},
    "max_min_gap": lambda _: {"x": [0.2, 0.4, 0.9]},
    "measure": lambda m: {**_MODEL(m), **_swept(m)},
    "ndcg": lambda _: {"ranked": [[2, 0, 1]], "relevant": [[2, 1]]},
    "pareto": _of_run(),
    "participation_ratio": lambda m: {"second_moment": m.moment},
    "predict_logistic": _task,
    "predict_ridge": _task,
    "prefix_cka": lambda m: {"second_moment": m.moment, "order": list(range(_D))},
    "prefix_cka_debiased": lambda m: {"second_moment": m.moment, "n_samples": _N,
                                      "moment_of_squares": np.abs(m.moment) * 100.0,
                                      "order": list(range(_D))},
    "recall": lambda _: {"ranked": [[2, 0, 1]], "relevant": [[2, 1]]},
    "redundancy": _of_run(),
    "report": lambda m: {"run_or_runs": str(m.place("run")), "out": str(m.out)},
    "shrink": lambda m: {**_store(m), "measure": "ridge", "selectors": ("random",)},
    "study": lambda m: {"name_or_file": str(m.place("study.yaml")), "out": str(m.out),
                        "pages": False},
    "sweep": lambda m: {**_store(m), **_swept(m)},
}  # fmt: skip
#: Public names that are no functions of data, or whose arguments are another library's business.
NO_CALLS = frozenset(
    ("CriticalMassError", "DEFAULT_FRACTIONS", "FeatureStore", "Run", "LogisticProbe",
     "NeuronSelector", "load_slim_torch")
)  # fmt: skip
CALLS = [Call(name, getattr(cm, name), make) for name, make in sorted(_RIGHT.items())]
