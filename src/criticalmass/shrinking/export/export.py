"""``export``: what was kept, in the form that the place of use reads.

Every format writes one folder with ``export.json`` (what was kept, of what, by which versions)
beside its own files. None holds pickled code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from criticalmass.core.arguments import checked
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.shrinking.export import (
    faiss_index,
    indices,
    onnx_file,
    sentence_transformer,
    sklearn_pipeline,
    sql,
    torch_folder,
)
from criticalmass.shrinking.export.folder import Facts, written
from criticalmass.shrinking.export.request import DEFAULTS, Request
from criticalmass.shrinking.slim_model import SlimModel

if TYPE_CHECKING:
    from criticalmass.extraction.models import FrozenModel

__all__ = ["FORMATS", "ExportFormat", "export"]


@dataclass(frozen=True)
class ExportFormat:
    """One entry of the registry.

    Attributes
    ----------
    name: what the user writes.
    write: writes the files into a folder and returns what ``export.json`` says besides.
    description: one line for the help.
    options: parameters of `export` that it understands besides ``out``.
    """

    name: str
    write: Callable[[Request, Path], Facts]
    description: str
    options: tuple[str, ...] = ()


_ALL = (
    ExportFormat("indices", indices.write, "the kept neurons as JSON and .npy"),
    ExportFormat("sklearn", sklearn_pipeline.write, "a scikit-learn pipeline in skops' format"),
    ExportFormat(
        "torch",
        torch_folder.write,
        "backbone, kept neurons and head as safetensors",
        ("model", "weights", "cut"),
    ),
    ExportFormat(
        "onnx",
        onnx_file.write,
        "backbone, kept neurons and head as one ONNX graph",
        ("model", "weights", "cut"),
    ),
    ExportFormat(
        "sentence-transformers",
        sentence_transformer.write,
        "a folder for SentenceTransformer(path) that gives the short vectors",
        ("model", "normalise"),
    ),
    ExportFormat(
        "faiss",
        faiss_index.write,
        "an existing FAISS index on the kept dimensions alone",
        ("index", "normalise"),
    ),
    ExportFormat(
        "sql", sql.write, "statements for pgvector and DuckDB", ("table", "column", "normalise")
    ),
)
FORMATS: Mapping[str, ExportFormat] = MappingProxyType({one.name: one for one in _ALL})


@checked
def export(
    slim: SlimModel | str | os.PathLike[str],
    *,
    format: str,
    out: str | os.PathLike[str],
    model: str | FrozenModel | None = None,
    weights: str | os.PathLike[str] | None = None,
    cut: bool = False,
    index: str | os.PathLike[str] | None = None,
    table: str = "items",
    column: str = "embedding",
    normalise: bool = False,
) -> Path:
    """Write a slim model in the form that the place of use reads.

    Parameters
    ----------
    slim: what `shrink` wrote, or the path of its folder.
    format: ``indices``, ``sklearn``, ``torch``, ``onnx``, ``sentence-transformers``, ``faiss`` or
        ``sql``.
    out: folder to write; an earlier export in it is replaced.
    model: for ``torch``, ``onnx``, ``sentence-transformers``: the backbone, by default the one
        whose features were shrunk; ``"none"``: leave it out, so that whole vectors go in.
    weights: of a ``timm:`` or ``module:`` backbone, a file with a state dict.
    cut: for ``torch``, ``onnx``: take the channels that nobody reads out of the network too.
    index: for ``faiss``: the file of the index on whole vectors.
    table, column: for ``sql``: where the whole vectors are; ``schema.table`` is understood.
    normalise: for ``sentence-transformers``, ``faiss``, ``sql``: scale short vectors to length 1,
        as an index by inner product that stands for cosine needs.

    Returns
    -------
    The folder.

    Raises
    ------
    CriticalMassError: an unknown format, an option of another format, a backbone that is not the
        one whose features were shrunk, or a folder that holds something else.
    StoreError: no slim model there, or a damaged one.
    MissingExtraError: a library that the format needs is not installed.
    """
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    chosen = FORMATS[format]
    options = {
        "model": model,
        "weights": weights,
        "cut": cut,
        "index": index,
        "table": table,
        "column": column,
        "normalise": normalise,
    }
    for name, value in options.items():
        if value != DEFAULTS[name] and name not in chosen.options:
            users = [one.name for one in _ALL if name in one.options]
            raise CriticalMassError(
                f"{name}={value!r} is for format {' or '.join(users)}, not {format!r}; leave it out"
            )
    request = Request(SlimModel.open(slim), **options)  # type: ignore[arg-type]
    return written(Path(out), request.slim, format, lambda part: chosen.write(request, part))
