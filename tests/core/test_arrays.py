"""Arrays of other libraries are converted once, before a function runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

import criticalmass as cm
from criticalmass.core.arrays import as_numpy
from criticalmass.errors import CriticalMassError

torch = pytest.importorskip("torch")

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
Y = np.arange(40) % 4
# Values that bfloat16 holds exactly, so that results are equal and not only close.
COARSE = np.round(X * 4) / 4


def forms(x):
    """Return the same array in forms of other libraries."""
    tensor = torch.tensor(x)
    return {
        "tensor": tensor,
        "bfloat16": tensor.bfloat16(),
        "float64": tensor.double(),
        "part of a graph": tensor.clone().requires_grad_(),
        "result of a graph": tensor.clone().requires_grad_() * 1,
        "sparse tensor": tensor.to_sparse(),
        "negative view": torch.complex(tensor, -tensor).conj().imag,
        "list of tensors": list(tensor),
        "sparse matrix": sparse.csr_array(x),
        "nullable numbers": pd.DataFrame(x).astype("Float32"),
    }


@pytest.mark.parametrize("name", forms(COARSE))
def test_functions_of_arrays_accept_every_form(name):
    x = forms(COARSE)[name]
    assert cm.linear_cka(x, X) == pytest.approx(cm.linear_cka(COARSE, X), abs=1e-12)
    assert cm.linear_cka(X, x) == pytest.approx(cm.linear_cka(X, COARSE), abs=1e-12)


def functions():
    """Return calls of the pure functions, as name -> function of a converter of arrays."""
    moment = (COARSE.T @ COARSE).astype(np.float32)
    order, sizes = np.arange(6), np.array([2, 4])
    rows, shares = np.array([[2, 0, 1]]), np.array([0.25, 0.5, 1.0], np.float32)
    values = np.array([0.5, 0.75, 0.875], np.float32)
    return {
        "prefix_cka": lambda f: cm.prefix_cka(f(moment), f(order)),
        "expected_cka": lambda f: cm.expected_cka(f(moment), f(sizes)).mean,
        "participation_ratio": lambda f: cm.participation_ratio(f(moment)),
        "diagonal_share": lambda f: cm.diagonal_share(f(moment)),
        "cka_critical_mass": lambda f: cm.cka_critical_mass(f(moment), 0.9),
        "gini": lambda f: cm.gini(f(values)),
        "coefficient_of_variation": lambda f: cm.coefficient_of_variation(f(values)),
        "max_min_gap": lambda f: cm.max_min_gap(f(values)),
        "ndcg": lambda f: cm.ndcg(f(rows), f(rows[:, :2])),
        "recall": lambda f: cm.recall(f(rows), f(rows[:, :2])),
        "diffused_redundancy": lambda f: cm.diffused_redundancy(f(shares), f(values), 0.875, 0.9),
        "predict_ridge": lambda f: (
            cm.predict_ridge((f(COARSE), f(Y)), (f(COARSE), f(Y)), sizes, l2=0.1).accuracy
        ),
        "fit_probes": lambda f: cm.fit_probes(
            f(COARSE), f(Y), f(order[None]), sizes, [0.1], device="cpu"
        ).predict(f(COARSE)),
        "LogisticProbe": lambda f: (
            cm.LogisticProbe(0.1, device="cpu").fit(f(COARSE), f(Y)).predict(f(COARSE))
        ),
        "NeuronSelector": lambda f: (
            cm.NeuronSelector("anova", 3).fit(f(COARSE), f(Y)).transform(f(COARSE))
        ),
        "NeuronSelector of indices": lambda f: (
            cm.NeuronSelector(indices=[1, 2]).fit(f(COARSE)).transform(f(COARSE))
        ),
    }


def as_graph_tensor(array):
    tensor = torch.tensor(array)
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("name", functions())
@pytest.mark.parametrize("convert", [torch.tensor, as_graph_tensor], ids=["plain", "graph"])
def test_tensors_give_the_result_of_arrays(name, convert):
    call = functions()[name]
    np.testing.assert_array_equal(call(convert), call(np.asarray))


@pytest.mark.parametrize("name", ["linear_cka", "fit_probes", "LogisticProbe", "NeuronSelector"])
def test_bfloat16_gives_the_result_of_arrays(name):
    def narrow(array):
        tensor = torch.tensor(array)
        return tensor.bfloat16() if tensor.is_floating_point() else tensor

    call = functions().get(name, lambda f: cm.linear_cka(f(COARSE), f(COARSE[:, :2])))
    np.testing.assert_array_equal(call(narrow), call(np.asarray))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.ones(3, 2, device="meta"),
            r"x is a tensor of type torch.float32 and .*\(3, 2\) on m",
        ),
        (torch.ones(3, 2, dtype=torch.complex64), "must be an array of real numbers"),
        (torch.ones(3, 2, dtype=torch.bool), "must be an array of real numbers"),
        (pd.DataFrame({"a": ["b"]}), "must be an array of real numbers"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(x, message):
    with pytest.raises(CriticalMassError, match=message) as caught:
        cm.linear_cka(x, X)
    assert "\n" not in str(caught.value)


def test_other_values_are_left_as_they_are():
    for value in (X, [1, 2], "text", None, 5, {}, pd.DataFrame(X), pa.array([1.0])):
        assert as_numpy(value, "x") is value
    missing = as_numpy(pd.Series([1, None], dtype="Int64"), "x")
    np.testing.assert_array_equal(missing, [1.0, np.nan])
