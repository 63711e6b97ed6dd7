"""``export``: write a slim model in the format of another program.

Every format writes one folder with its own files and ``export.json``, which describes the model,
the kept neurons and the versions. No format contains pickled code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from criticalmass.core.arguments import validate_arguments
from criticalmass.errors import CriticalMassError, unknown_name
from criticalmass.extraction.databases.url import DatabaseUrl
from criticalmass.shrinking.export import (
    database,
    database_settings,
    faiss_index,
    indices,
    onnx_file,
    sentence_transformer,
    sklearn_pipeline,
    sql,
    torch_folder,
)
from criticalmass.shrinking.export import (
    vectors as vector_codes,
)
from criticalmass.shrinking.export.folder import Metadata, write_export_folder
from criticalmass.shrinking.export.request import DEFAULTS, ExportRequest
from criticalmass.shrinking.slim_model import SlimModel

if TYPE_CHECKING:
    from criticalmass.extraction.models import FrozenModel

__all__ = ["FORMATS", "ExportFormat", "export"]


@dataclass(frozen=True)
class ExportFormat:
    """One entry of the registry.

    Attributes
    ----------
    name: value of the parameter ``format``.
    write: writes the files into a folder and returns its entries of ``export.json``.
    description: one line for the help.
    options: parameters of `export` that apply to it, besides ``out``.
    """

    name: str
    write: Callable[[ExportRequest, Path], Metadata]
    description: str
    options: tuple[str, ...] = ()


_ALL = (
    ExportFormat("indices", indices.write, "kept neurons as JSON and .npy"),
    ExportFormat("sklearn", sklearn_pipeline.write, "scikit-learn pipeline in the skops format"),
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
        "folder for SentenceTransformer(path) that returns the short vectors",
        ("model", "normalise"),
    ),
    ExportFormat(
        "faiss",
        faiss_index.write,
        "FAISS index of short vectors: an existing one built again, or one from vectors",
        ("index", "index_type", "vectors", "queries", "normalise"),
    ),
    ExportFormat(
        "vectors",
        vector_codes.write,
        "certified codes of whole vectors as .npy and Parquet, with the map of queries",
        ("vectors",),
    ),
    ExportFormat(
        "settings",
        database_settings.write,
        "settings of Qdrant, Milvus, Weaviate, Azure AI Search and OpenSearch",
    ),
    ExportFormat(
        "sql",
        sql.write,
        "scripts that move a live PostgreSQL table (pgvector), and SQL for DuckDB",
        ("table", "column", "id", "suffix", "metric", "new_column", "normalise"),
    ),
    ExportFormat(
        "database",
        database.write,
        "short vectors in a table beside the whole ones, in their own database",
        ("to", "table", "column", "id", "suffix", "normalise"),
    ),
)
FORMATS: Mapping[str, ExportFormat] = MappingProxyType({entry.name: entry for entry in _ALL})


@validate_arguments
def export(
    slim: SlimModel | str | os.PathLike[str],
    *,
    format: str,
    out: str | os.PathLike[str],
    model: str | FrozenModel | Any | None = None,
    weights: str | os.PathLike[str] | None = None,
    cut: bool = False,
    index: str | os.PathLike[str] | None = None,
    table: str | None = None,
    column: str | None = None,
    id: str | None = None,
    suffix: str | None = None,
    metric: str = "cosine",
    new_column: bool = False,
    normalise: bool = False,
    vectors: str | os.PathLike[str] | None = None,
    index_type: str | None = None,
    queries: str | os.PathLike[str] | None = None,
    to: str | None = None,
) -> Path:
    """Write a slim model in the format of another program.

    Parameters
    ----------
    slim: a slim model from `shrink`, or the path of its folder.
    format: ``indices``, ``sklearn``, ``torch``, ``onnx``, ``sentence-transformers``, ``faiss``,
        ``vectors``, ``settings``, ``sql`` or ``database``.
    out: folder to write; an earlier export in it is replaced.
    model: for ``torch``, ``onnx``, ``sentence-transformers``: the backbone. Default: the model
        whose features were shrunk. ``"none"`` exports without a backbone, for whole vectors as
        input.
    weights: file with the state dict of a ``timm:`` or ``module:`` backbone.
    cut: for ``torch``, ``onnx``: also remove the channels of neurons that are not kept from the
        network.
    index: for ``faiss``: file of the index on whole vectors, of which type, parameters and ids are
        kept.
    table, column: for ``sql``, ``database``: table and column of the whole vectors;
        ``schema.table`` is allowed. Default: for ``sql`` ``items`` and ``embedding``; ``database``
        finds them if there is one of each, and takes ``items`` of several tables.
    id: for ``sql``, ``database``: column that names a row. Default: for ``sql`` ``id``, for
        ``database`` the key.
    suffix: for ``sql``, ``database``: end of the names that are created, a digest of the slim model
        by default.
    metric: for ``sql``: ``cosine``, ``inner-product`` or ``l2``, by which whole vectors are
        compared. Stored vectors are certified for the cosine.
    new_column: for ``sql``: write a column of short vectors even if an index suffices, so that the
        whole vectors can be dropped.
    normalise: for ``sentence-transformers``, ``faiss``, ``sql``: scale short vectors to length 1,
        for indexes that compute cosines as inner products. Stored vectors have it in any case.
    vectors: for ``vectors``: the whole vectors, a feature store or a .npy file. For ``faiss``: the
        vectors that ``index`` was built from, if it holds approximations of them, or vectors to
        build an index from.
    index_type: for ``faiss``: type of the index to build: ``"flat"``, ``"hnsw"``, ``"ivf"``,
        ``"pq"`` or ``"ivfpq"``. Default: that of ``index``.
    queries: for ``faiss``: whole queries that measure the recall before and after, a .npy file or
        a feature store. By default up to 1,000 stored vectors, of the test split if there is one.
    to: for ``database``: its address, as `import_features` takes it. Short vectors are written into
        a new table; the table of whole vectors is only read. A repeated call goes on after an
        interruption.

    Returns
    -------
    The folder.

    Raises
    ------
    CriticalMassError: if the format is unknown, an option belongs to another format, the backbone
        is not the one whose features were shrunk, or the folder holds something else.
    StoreError: if there is no slim model, or it is damaged.
    MissingExtraError: if a library that the format needs is not installed.
    """
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    entry = FORMATS[format]
    options = {
        "model": model,
        "weights": weights,
        "cut": cut,
        "index": index,
        "table": table,
        "column": column,
        "id": id,
        "suffix": suffix,
        "metric": metric,
        "new_column": new_column,
        "normalise": normalise,
        "vectors": vectors,
        "index_type": index_type,
        "queries": queries,
        "to": to,
    }
    for name, value in options.items():
        if value != DEFAULTS[name] and name not in entry.options:
            users = [other.name for other in _ALL if name in other.options]
            shown = DatabaseUrl.parse(str(value)).shown if name == "to" else value
            raise CriticalMassError(
                f"{name}={shown!r} is for format {' or '.join(users)}, not {format!r}; leave it out"
            )
    request = ExportRequest(SlimModel.open(slim), **options)  # type: ignore[arg-type]
    return write_export_folder(
        Path(out), request.slim, format, lambda folder: entry.write(request, folder)
    )
