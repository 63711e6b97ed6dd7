"""Measure how few neurons of a pre-trained layer do nearly what the whole layer does.

Use it as ``import criticalmass as cm``. The public names are loaded on first use, so importing
the package is quick and loads neither torch nor numba.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from criticalmass.errors import CriticalMassError as CriticalMassError

_PUBLIC = {
    "CriticalMassError": "errors",
    "DEFAULT_FRACTIONS": "selectors.sizes",
    "FeatureStore": "storage.features",
    "LogisticProbe": "measures.logistic.sklearn_probe",
    "NeuronSelector": "selectors.sklearn_selector",
    "Run": "storage.run",
    "advise": "studies.advice",
    "agreement": "analysis.agreement",
    "attack": "probing.attack",
    "calibration": "sweeps.calibration",
    "cka_critical_mass": "theory.cka",
    "class_accuracy": "analysis.fairness",
    "class_losses": "analysis.fairness",
    "coefficient_of_variation": "analysis.inequality",
    "compare": "analysis.comparison",
    "compare_recipes": "analysis.training_seeds",
    "curves": "analysis.redundancy",
    "degrading_neurons": "sweeps.degrading",
    "diagonal_share": "theory.spectrum",
    "diffused_redundancy": "analysis.estimators",
    "diffuseness": "analysis.diffuseness",
    "diffuseness_summary": "analysis.diffuseness",
    "ensembles": "sweeps.ensembles",
    "exchangeability_test": "theory.exchangeability",
    "expected_cka": "theory.cka",
    "explain": "reporting.explain",
    "export": "shrinking.export.export",
    "extract": "extraction.extract",
    "fairness": "analysis.fairness",
    "fit_probes": "measures.logistic.fit_probes",
    "gaussian_null": "theory.gaussian_null",
    "gini": "analysis.inequality",
    "import_features": "extraction.importing",
    "invert": "probing.invert",
    "linear_cka": "measures.similarity.cka",
    "load_dataset": "extraction.datasets",
    "load_model": "extraction.models",
    "load_slim_torch": "shrinking.export.torch_folder",
    "max_min_gap": "analysis.inequality",
    "measure": "studies.measure",
    "ndcg": "measures.similarity.retrieval",
    "pareto": "analysis.pareto",
    "participation_ratio": "theory.spectrum",
    "predict_ridge": "theory.ridge",
    "prefix_cka": "measures.similarity.cka",
    "prefix_cka_debiased": "measures.similarity.cka",
    "quiet": "core.progress",
    "recall": "measures.similarity.retrieval",
    "redundancy": "analysis.redundancy",
    "report": "reporting.page.report",
    "shared_subsets": "analysis.shared_subsets",
    "shrink": "shrinking.shrink",
    "study": "studies.study",
    "subset_correlations": "analysis.shared_subsets",
    "sweep": "sweeps.sweep",
    "train": "training.train",
    "trained_runs": "analysis.training_seeds",
    "train_sizes": "analysis.train_sizes",
    "verify": "shrinking.verify",
}

#: Public name of a subpackage -> where it lies.
_PACKAGES = {"synthetic": "theory.synthetic"}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    value: Any
    if name in _PACKAGES:
        value = importlib.import_module(f"{__name__}.{_PACKAGES[name]}")
    elif name in _PUBLIC:
        value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *_PUBLIC, *_PACKAGES})
