"""Qrels: which stored documents are relevant to which queries, and how much.

A feature store of a retrieval collection has the documents in the split ``train`` and the queries
in ``test``. Its qrels are a text file of row numbers, one judgement per line. A grade of -1 marks
the document that is the query itself.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from criticalmass.storage.files import read_part, write_bytes

#: The splits of a collection.
DOCUMENTS, QUERIES = "train", "test"
FILE = "qrels.tsv"
_HEADER = "query\tdocument\tgrade\n"


@dataclass(frozen=True, eq=False)
class Qrels:
    """Relevant documents of queries.

    Attributes
    ----------
    n_queries, n_documents: rows of the queries and of the documents.
    queries, documents: (n_pairs,) row numbers, sorted by query and then by document.
    grades: (n_pairs,) grades above 0; a pair that is not listed is not relevant.
    own: (n_queries,) row of the document that is the query itself, which does not count as
        retrieved; -1 if there is none.
    name: name of the qrels, e.g. "test".
    """

    n_queries: int
    n_documents: int
    queries: NDArray[np.int64]
    documents: NDArray[np.int64]
    grades: NDArray[np.float64]
    own: NDArray[np.int64]
    name: str = "test"

    @classmethod
    def of_pairs(
        cls,
        pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
        shape: tuple[int, int],
        own: NDArray[np.int64] | None = None,
        name: str = "test",
    ) -> Qrels:
        """Sort the pairs.

        Parameters
        ----------
        pairs: queries, documents and grades above 0, each (n_pairs,), no pair twice.
        shape: (n_queries, n_documents).
        own, name: as the attributes; no query is a document by default.
        """
        queries, documents, grades = pairs
        order = np.lexsort([documents, queries])
        if own is None:
            own = np.full(shape[0], -1, dtype=np.int64)
        return cls(*shape, queries[order], documents[order], grades[order], own, name)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        digest = hashlib.sha256(f"{self.n_queries} {self.n_documents}".encode())
        for array in (self.queries, self.documents, self.own):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(self.grades, dtype="<f8").tobytes())
        return digest.hexdigest()

    def of_queries(self, rows: NDArray[np.intp]) -> Qrels:
        """Return the qrels of some queries, in the order of ``rows``."""
        position = np.full(self.n_queries, -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))
        queries = position[self.queries]
        kept = queries >= 0
        pairs = queries[kept], self.documents[kept], self.grades[kept]
        shape = len(rows), self.n_documents
        return Qrels.of_pairs(pairs, shape, self.own[rows], self.name)

    def of_documents(self, rows: NDArray[np.intp]) -> Qrels:
        """Return the qrels among some documents, numbered in the order of ``rows``."""
        # One more entry than documents, so that -1 stays -1.
        position = np.full(self.n_documents + 1, -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))
        documents = position[self.documents]
        kept = documents >= 0
        pairs = self.queries[kept], documents[kept], self.grades[kept]
        return Qrels.of_pairs(pairs, (self.n_queries, len(rows)), position[self.own], self.name)

    def describe(self) -> str:
        """Return documents, queries and judgements as a phrase."""
        return (
            f"{self.n_documents:,} documents, {self.n_queries:,} queries, {self.grades.size:,} "
            f"relevant pairs (qrels {self.name!r})"
        )

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the file and return its entry of the manifest."""
        file = io.StringIO()
        file.write(_HEADER)
        rows = zip(self.queries, self.documents, self.grades, strict=True)
        file.writelines(f"{query}\t{document}\t{grade:.17g}\n" for query, document, grade in rows)
        numbers = np.flatnonzero(self.own >= 0)
        file.writelines(f"{query}\t{self.own[query]}\t-1\n" for query in numbers)
        return {
            "path": FILE,
            "sha256": write_bytes(folder / FILE, file.getvalue().encode()),
            "name": self.name,
            "n_queries": self.n_queries,
            "n_documents": self.n_documents,
            "n_pairs": int(self.grades.size),
            "digest": self.digest,
        }


def read_qrels(path: Path, entry: dict[str, Any]) -> Qrels:
    """Read the qrels of a store.

    Parameters
    ----------
    path: the file.
    entry: its entry of the manifest.

    Raises
    ------
    StoreError: the file does not hold what the manifest says.
    """

    def read(content: bytes) -> Qrels:
        text = content.decode("utf-8").removeprefix(_HEADER)
        table = np.loadtxt(io.StringIO(text), delimiter="\t", dtype=np.float64, ndmin=2)
        queries, documents = (table[:, column].astype(np.int64) for column in (0, 1))
        is_own = table[:, 2] < 0.0
        own = np.full(int(entry["n_queries"]), -1, dtype=np.int64)
        own[queries[is_own]] = documents[is_own]
        return Qrels.of_pairs(
            (queries[~is_own], documents[~is_own], table[~is_own, 2]),
            (own.size, int(entry["n_documents"])),
            own,
            str(entry["name"]),
        )

    return read_part(path, entry, "qrels", read)
