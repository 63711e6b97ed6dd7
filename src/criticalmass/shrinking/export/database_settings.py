"""Settings of vector databases for short vectors, each with what truncates or quantises them.

Python modules create, fill and search a collection of Qdrant, Milvus or Weaviate; JSON files define
an index of Azure AI Search or OpenSearch. Databases quantise with ranges and graphs of their own:
what is certified are the dimensions, and the precision up to that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.shrinking.export.folder import Metadata
from criticalmass.shrinking.export.request import ExportRequest
from criticalmass.shrinking.export.vectors import write_query_map
from criticalmass.shrinking.slim_model import SlimModel
from criticalmass.storage.files import write_bytes, write_json

_MODULES = ("qdrant.py", "milvus.py", "weaviate.py")
#: Which setting stores each precision, by database.
_SETTINGS = {
    "qdrant.py": (
        "Qdrant",
        {
            "float32": "size",
            "float16": "size, datatype: float16",
            "int8": "size, quantization_config: scalar int8",
            "binary": "size, quantization_config: binary",
        },
    ),
    "milvus.py": (
        "Milvus",
        {
            "float32": "dim",
            "float16": "dim, FLOAT16_VECTOR",
            "int8": "dim, HNSW_SQ with sq_type SQ8",
            "binary": "dim, BINARY_VECTOR by HAMMING",
        },
    ),
    "weaviate.py": (
        "Weaviate",
        {
            "float32": "quantizer none",
            "float16": "quantizer none (Weaviate stores float32)",
            "int8": "quantizer sq",
            "binary": "quantizer bq",
        },
    ),
    "azure-ai-search.json": (
        "Azure AI Search",
        {
            "float32": "dimensions",
            "float16": "dimensions, Collection(Edm.Half)",
            "int8": "dimensions, scalarQuantization",
            "binary": "dimensions, binaryQuantization",
        },
    ),
    "opensearch.json": (
        "OpenSearch",
        {
            "float32": "dimension",
            "float16": "dimension, encoder sq with type fp16",
            "int8": "dimension, compression_level 4x",
            "binary": "dimension, compression_level 32x",
        },
    ),
}


def write(request: ExportRequest, folder: Path) -> Metadata:
    """Write one file of settings per database, and the map of vectors and queries.

    Raises
    ------
    CriticalMassError: if the slim model is not one of stored vectors.
    """
    slim = request.slim
    if slim.short_map is None:
        raise CriticalMassError(
            f"a slim model by measure={slim.record['measure']!r} promises nothing about searches; "
            "shrink by measure='retrieval' or 'retrieval-recall' for a database"
        )
    write_query_map(slim, folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # Python modules, filled with numbers and fixed names
        keep_trailing_newline=True,
    )
    values = {
        "n_neurons": slim.n_neurons,
        "n_kept": slim.n_kept,
        "precision": slim.precision,
        "rerank": int(slim.record["stored"]["rerank"]),
        "is_projected": slim.matrix is not None,
    }
    for name in _MODULES:
        text = environment.get_template(f"{name}.j2").render(values)
        write_bytes(folder / name, text.encode())
    write_json(folder / "azure-ai-search.json", _azure(slim))
    write_json(folder / "opensearch.json", _opensearch(slim))
    rows = [
        {"database": database, "file": name, "setting": by_precision[slim.precision]}
        for name, (database, by_precision) in _SETTINGS.items()
    ]
    if _is_truncated(slim):
        azure = next(row for row in rows if row["file"] == "azure-ai-search.json")
        azure["setting"] = azure["setting"].replace("dimensions", "truncationDimension")
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "normalised": True,
        "databases": rows,
        "notes": _notes(slim),
    }


def _is_truncated(slim: SlimModel) -> bool:
    """Whether Azure AI Search can cut whole vectors itself: to their first dimensions, as codes."""
    is_prefix = slim.matrix is None and np.array_equal(slim.indices, np.arange(slim.n_kept))
    is_shorter = slim.n_kept < slim.n_neurons
    return is_prefix and is_shorter and slim.precision in ("int8", "binary")


def _notes(slim: SlimModel) -> list[str]:
    rerank = int(slim.record["stored"]["rerank"])
    notes = ["databases quantise with ranges of their own and search approximately"]
    if rerank and _is_truncated(slim):
        notes.append("Azure AI Search stores and re-ranks whole vectors (dimensions)")
    elif rerank:
        notes.append(
            "Azure AI Search and OpenSearch re-rank by the short vectors before they are "
            "quantised; re-rank by whole vectors in the program that asks"
        )
    return notes


def _azure(slim: SlimModel) -> dict[str, Any]:
    """Return the body of ``PUT /indexes/items`` (API version 2025-09-01)."""
    rerank, is_truncated = int(slim.record["stored"]["rerank"]), _is_truncated(slim)
    field: dict[str, Any] = {
        "name": "short",
        "type": f"Collection(Edm.{'Half' if slim.precision == 'float16' else 'Single'})",
        "searchable": True,
        "dimensions": slim.n_neurons if is_truncated else slim.n_kept,
        "vectorSearchProfile": "short",
    }
    search: dict[str, Any] = {
        "algorithms": [{"name": "hnsw", "kind": "hnsw", "hnswParameters": {"metric": "cosine"}}],
        "profiles": [{"name": "short", "algorithm": "hnsw"}],
    }
    kinds = {"int8": "scalarQuantization", "binary": "binaryQuantization"}
    if slim.precision in kinds:
        rescoring: dict[str, Any] = {"enableRescoring": False}
        if rerank:
            rescoring = {
                "enableRescoring": True,
                "defaultOversampling": rerank,
                "rescoreStorageMethod": "preserveOriginals",
            }
        codes: dict[str, Any] = {"name": "codes", "kind": kinds[slim.precision]}
        codes["rescoringOptions"] = rescoring
        if slim.precision == "int8":
            codes["scalarQuantizationParameters"] = {"quantizedDataType": "int8"}
        if is_truncated:
            codes["truncationDimension"] = slim.n_kept
        search["compressions"] = [codes]
        search["profiles"][0]["compression"] = "codes"
    key = {"name": "id", "type": "Edm.String", "key": True}
    return {"name": "items", "fields": [key, field], "vectorSearch": search}


def _opensearch(slim: SlimModel) -> dict[str, Any]:
    """Return the body of ``PUT /items`` (OpenSearch 2.17 or newer)."""
    field: dict[str, Any] = {
        "type": "knn_vector",
        "dimension": slim.n_kept,
        "space_type": "innerproduct",
    }
    if slim.precision in ("int8", "binary"):
        field["mode"] = "on_disk"
        field["compression_level"] = "4x" if slim.precision == "int8" else "32x"
    else:
        parameters: dict[str, Any] = {"m": 16, "ef_construction": 100}
        if slim.precision == "float16":
            parameters["encoder"] = {"name": "sq", "parameters": {"type": "fp16"}}
        field["method"] = {"name": "hnsw", "engine": "faiss", "parameters": parameters}
    return {
        "settings": {"index": {"knn": True}},
        "mappings": {"properties": {"short": field}},
    }
