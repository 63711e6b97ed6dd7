"""Convert arrays of other libraries (torch, scipy.sparse, pandas) to NumPy arrays.

No library is imported: an array is recognised by its methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from criticalmass.errors import CriticalMassError

# NumPy has no such types; the conversion to float32 is exact.
_NARROW_FLOATS = ("torch.bfloat16", "torch.float8")


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def is_sparse(value: Any) -> bool:
    """Return whether a value is a sparse matrix or array of scipy."""
    return hasattr(value, "toarray") and hasattr(value, "nnz")


def as_numpy(value: Any, name: str) -> Any:
    """Convert an array of another library to NumPy; return other values unchanged.

    Parameters
    ----------
    value: a torch tensor of any type (also bfloat16, on a GPU, or part of a graph), a list of
        such tensors, a sparse matrix of scipy, or a pandas object of nullable numbers, in which a
        missing value becomes NaN.
    name: name of the argument, for errors.

    Raises
    ------
    CriticalMassError: a tensor that has no values or cannot be converted.
    """
    if is_tensor(value):
        return tensor_to_numpy(value, name)
    if isinstance(value, (list, tuple)) and value and is_tensor(value[0]):
        return [as_numpy(item, name) for item in value]
    if is_sparse(value):
        return value.toarray()
    if hasattr(value, "to_numpy") and _is_nullable(value):
        return value.to_numpy(dtype=np.float64, na_value=np.nan)
    return value


def _is_nullable(value: Any) -> bool:
    """Return whether a pandas object holds numbers of types that NumPy does not have."""
    dtypes = list(getattr(value, "dtypes", [])) if getattr(value, "ndim", 0) == 2 else []
    dtypes = dtypes or [getattr(value, "dtype", None)]
    is_number = all(getattr(dtype, "kind", "") in tuple("iuf") for dtype in dtypes)
    return is_number and not all(isinstance(dtype, np.dtype) for dtype in dtypes)


def tensor_to_numpy(value: Any, name: str) -> Any:
    """Convert a torch tensor to NumPy; return any other value unchanged.

    Raises
    ------
    CriticalMassError: a tensor that has no values or cannot be converted.
    """
    if not is_tensor(value):
        return value
    try:
        plain = value.detach().cpu()
        if plain.is_quantized:
            plain = plain.dequantize()
        if "strided" not in str(plain.layout):
            plain = plain.to_dense()
        if str(plain.dtype).startswith(_NARROW_FLOATS):
            plain = plain.float()
        return plain.resolve_conj().resolve_neg().numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        is_nested = getattr(value, "is_nested", False)
        shape = "rows of several lengths" if is_nested else f"shape {tuple(value.shape)}"
        raise CriticalMassError(
            f"{name} is a tensor of type {value.dtype} and {shape} on "
            f"{value.device}, which cannot be converted to a NumPy array; give dense values on "
            f"the CPU, e.g. {name}.float().cpu()"
        ) from error
