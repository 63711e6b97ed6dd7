"""``README.md`` of an export: what it is, how it is used, what was promised and measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from criticalmass.shrinking.model_card import escape, summarise
from criticalmass.shrinking.slim_model import CARD, SlimModel
from criticalmass.storage.files import write_bytes

_USES: Mapping[str, str] = {
    "indices": """\
import numpy

short = vectors[:, numpy.load("indices.npy")]""",
    "sklearn": """\
import skops.io

pipeline = skops.io.load("pipeline.skops", trusted=[])
short = pipeline[:-1].transform(vectors)
classes = pipeline.predict(vectors)  # if a head was exported""",
    "torch": """\
import criticalmass as cm

shipped = cm.load_slim_torch(".")
short = shipped.transform(inputs)""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
short = session.run(None, {session.get_inputs()[0].name: inputs})[0]""",
    "sentence-transformers": """\
import json
from pathlib import Path

from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")
short = model.encode(["a text", "another text"])

# mteb files results under these; no file of a folder sets them.
identity = json.loads(Path("export.json").read_text())["mteb"]
model.model_card_data.model_name = identity["name"]
model.model_card_data.base_model_revision = identity["revision"]""",
}


# What the Hugging Face hub reads.
_FRONT_MATTER = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
---"""


def write_readme(folder: Path, slim: SlimModel, name: str, metadata: Mapping[str, Any]) -> None:
    """Write the README of an export, unless the format has written one.

    Parameters
    ----------
    folder: of the export.
    slim: the exported model.
    name: format of the export.
    metadata: entries of ``export.json`` that the format adds.
    """
    if (folder / CARD).exists():
        return
    record = slim.record
    # Vectors that were imported have no model; the dataset is the name that the user gave them.
    vectors = record["dataset"] if record["model"] == "imported" else record["model"]
    blocks = [
        _FRONT_MATTER if name == "sentence-transformers" else "",
        f"# {escape(vectors)} in {slim.n_kept:,} of {slim.n_neurons:,} dimensions",
        summarise(record),
        _table_section(metadata),
        _use_section(name, slim.precision, metadata),
        _database_section(metadata),
        _recall_section(metadata),
        "## Not covered\n\nThe promise is for data like the test split of "
        f"{escape(record['dataset'])}, and for the measure {escape(record['measure'])}. "
        "`export.json` has the record of this export; the folder of `criticalmass shrink` has the "
        "whole model card.",
    ]
    write_bytes(folder / CARD, ("\n\n".join(block for block in blocks if block) + "\n").encode())


def recall_lines(metadata: Mapping[str, Any]) -> list[str]:
    """Return the recall that an export measured, and its limits, one line each.

    Parameters
    ----------
    metadata: content of ``export.json``.
    """
    recall = metadata.get("recall")
    if recall is None:
        return []
    rows = [
        f"recall@10 {row['recall']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        f"{_bytes(row, ', {:,.0f} bytes a vector')}: {row['search']}"
        for row in recall["recalls"]
    ]
    return [*rows, recall["sentence"], *(f"Note: {note}." for note in metadata["notes"])]


def _use_section(name: str, precision: str, metadata: Mapping[str, Any]) -> str:
    code = _USES.get(name)
    if name == "faiss":
        code = _faiss_use(metadata)
    elif name in ("vectors", "database"):
        code = _query_use(name, precision, metadata)
    return "" if code is None else f"## Use\n\n```python\n{code}\n```"


def _table_section(metadata: Mapping[str, Any]) -> str:
    """Return where a database has the short vectors; empty for other formats."""
    if "whole" not in metadata:
        return ""
    return (
        f"The short vectors are in the column `{metadata['column']}` of the table "
        f"`{metadata['name']}` of {metadata['database']}, under the key `{metadata['key']}` of "
        f"`{metadata['whole']}`. Search in it with short queries, and join the other columns by "
        "the key."
    )


def _query_use(name: str, precision: str, metadata: Mapping[str, Any]) -> str:
    """Return how queries are shortened with the arrays of the folder, and what codes stand for."""
    shorten = 'queries[:, numpy.load("indices.npy")]'
    if "matrix.npy" in metadata["files"]:
        shorten = 'queries @ numpy.load("matrix.npy")'
    lines = ["import numpy", "", f"short = {shorten}  # queries: (n, whole dimensions)"]
    if metadata["normalised"]:
        lines.append("short /= numpy.linalg.norm(short, axis=1, keepdims=True)")
    if precision == "binary":
        lines.append('bits = short > numpy.load("offset.npy")')
    if name == "vectors":
        lines.append('codes = numpy.load("train.npy")  # one file per split, or vectors.npy')
    if name == "vectors" and precision == "int8":
        lines.append('vectors = numpy.load("offset.npy") + numpy.load("step.npy") * codes')
    return "\n".join(lines)


def _database_section(metadata: Mapping[str, Any]) -> str:
    """Return the table of databases and their settings; empty for other formats."""
    if "databases" not in metadata:
        return ""
    rows = "\n".join(
        f"| {row['database']} | `{row['file']}` | {row['setting']} |"
        for row in metadata["databases"]
    )
    notes = "\n".join(f"- {note[0].upper()}{note[1:]}." for note in metadata["notes"])
    return (
        "## Databases\n\n| database | file | what shortens or quantises |\n| --- | --- | --- |\n"
        f"{rows}\n\nThe Python modules have `create`, `insert` and `search`. They take whole "
        "vectors and shorten them with the arrays of this folder. The JSON files are bodies of "
        "requests (`PUT /indexes/items` of Azure AI Search, `PUT /items` of OpenSearch) for short "
        "vectors, as `shorten` of any module returns them.\n\n" + notes
    )


def _faiss_use(metadata: Mapping[str, Any]) -> str:
    lines = ["import faiss", "", 'index = faiss.read_index("index.faiss")']
    if metadata["queries"] == "short":
        lines[1:1] = ["import numpy"]
        lines.append('queries = queries[:, numpy.load("indices.npy")].copy()')
        if metadata["normalised"]:
            lines.append("faiss.normalize_L2(queries)")
    lines.append("scores, ids = index.search(queries, 10)")
    return "\n".join(lines)


def _recall_section(metadata: Mapping[str, Any]) -> str:
    """Return the table of what dimensions and index lose; empty for other formats."""
    recall = metadata.get("recall")
    if recall is None:
        return ""
    rows = "\n".join(
        f"| {row['search']} | {row['recall']:.4f} | [{row['low']:.4f}, {row['high']:.4f}] | "
        f"{_bytes(row, '{:,.0f}')} |"
        for row in recall["recalls"]
    )
    notes = "".join(f"\n- {note[0].upper()}{note[1:]}." for note in metadata["notes"])
    return (
        f"## Recall of the index\n\n{recall['sentence']}\n\n"
        "| search | recall@10 | 95 % interval | bytes of the file a vector |\n"
        f"| --- | ---: | --- | ---: |\n{rows}\n\n"
        "A result is right if its whole vector is at least as near to the query as the tenth "
        "nearest. The promise above covers the dimensions and their precision, not what the index "
        "loses." + (f"\n{notes}" if notes else "")
    )


def _bytes(row: Mapping[str, Any], form: str) -> str:
    size = row["bytes_per_vector"]
    return "" if size is None else form.format(size)
