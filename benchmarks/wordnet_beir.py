"""A retrieval collection in BEIR's format from WordNet: lemmas as queries, glosses as documents.

Relevant to a lemma are the glosses of all its synsets. The document is the definition, without the
example sentences, which often contain the lemma.

    python -m benchmarks.wordnet_beir wordnet --documents 20000 --queries 3000
    criticalmass extract pypi:minilm-l6 beir:wordnet --out features
    python -m benchmarks.wordnet_beir wordnet --check features

The check computes relevance by NumPy alone, from the qrels of the folder, and says how often the
lower bound of `shrink` is above the share that is kept on all queries, if it sees some of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import criticalmass as cm
from criticalmass.extraction.datasets.debian_packages import find_or_fetch
from criticalmass.shrinking.paired_tests import score_ratio_bound

CUTOFF, SIZES, SAMPLES, REPETITIONS = 10, (64, 96, 128, 171, 256), (250, 1000), 1000


def read_synsets(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Yield offset, lemmas and definition of the synsets of ``data.noun`` (wndb(5WN))."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence at the start of the file
            continue
        synset, _, gloss = line.partition(" | ")
        fields = synset.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        definition = gloss.split(';  "')[0].split('; "')[0].strip()
        yield f"n{fields[0]}", [word.replace("_", " ") for word in words], definition


def write_collection(
    synsets: Sequence[tuple[str, list[str], str]],
    folder: Path,
    *,
    n_documents: int,
    n_queries: int,
    seed: int = 0,
) -> None:
    """Write corpus, queries and qrels: drawn lemmas, their glosses, and drawn other glosses."""
    rng = np.random.default_rng(seed)
    glosses: dict[str, list[int]] = {}
    for row, (_, lemmas, _) in enumerate(synsets):
        for lemma in dict.fromkeys(lemmas):
            glosses.setdefault(lemma, []).append(row)
    names = sorted(glosses)
    chosen = [names[i] for i in np.sort(rng.choice(len(names), n_queries, replace=False))]
    relevant = {row for lemma in chosen for row in glosses[lemma]}
    others = np.array([row for row in range(len(synsets)) if row not in relevant])
    n_others = max(0, min(n_documents - len(relevant), others.size))
    drawn = set(rng.choice(others, n_others, replace=False).tolist())
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for row in sorted(relevant | drawn):
            name, _, text = synsets[row]
            file.write(json.dumps({"_id": name, "title": "", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for number, lemma in enumerate(chosen):
            file.write(json.dumps({"_id": f"q{number}", "text": lemma}) + "\n")
    with (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for number, lemma in enumerate(chosen):
            file.writelines(f"q{number}\t{synsets[row][0]}\t1\n" for row in glosses[lemma])


def relevance(
    similarity: NDArray[np.float64], grades: Sequence[dict[int, int]]
) -> NDArray[np.float64]:
    """(3, n_queries) nDCG@10, recall@10 and MRR@10, query by query, as trec_eval defines them."""
    scores = np.zeros((3, len(grades)))
    discounts = 1.0 / np.log2(np.arange(2, CUTOFF + 2))
    for i, of_query in enumerate(grades):
        ranked = np.argsort(-similarity[i], kind="stable")[:CUTOFF]
        gains = np.array([of_query.get(int(row), 0) for row in ranked], dtype=float)
        best = np.sort(np.array(list(of_query.values()), dtype=float))[::-1][:CUTOFF]
        hits = np.flatnonzero(gains)
        scores[0, i] = gains @ discounts / (best @ discounts[: best.size])
        scores[1, i] = hits.size / len(of_query)
        scores[2, i] = 1.0 / (1.0 + hits[0]) if hits.size else 0.0
    return scores


def check(folder: Path, store: cm.FeatureStore) -> None:
    """Print relevance by NumPy of whole vectors and principal directions, and of the bounds."""
    documents, queries = (store.features(s).array().astype(float) for s in ("train", "test"))
    rows = {name: row for row, name in enumerate(store.sample_ids("train"))}
    numbers = {name: row for row, name in enumerate(store.sample_ids("test"))}
    grades: list[dict[int, int]] = [{} for _ in numbers]
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades[numbers[query]][rows[document]] = int(grade)
    units = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    basis = np.linalg.eigh(units.T @ units)[1][:, ::-1]

    def search(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        stored = documents @ matrix
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        return relevance(queries @ matrix @ stored.T, grades)

    whole = search(np.eye(documents.shape[1]))
    print(f"whole vectors: nDCG, recall, MRR {whole.mean(axis=1).round(4)}")
    rng = np.random.default_rng(0)
    for size in SIZES:
        of_size = search(basis[:, :size])
        truth = of_size[0].mean() / whole[0].mean()
        text = f"pca-top {size}: nDCG {of_size[0].mean():.4f}, share {truth:.4f}; bound too high:"
        for n in SAMPLES:
            drawn = [rng.integers(0, len(grades), n) for _ in range(REPETITIONS)]
            bounds = [score_ratio_bound(of_size[0][d], whole[0][d], 0.95) for d in drawn]
            share = np.mean(np.array(bounds) > truth)
            text += f" {share:.3f} of n={n} (median {np.median(bounds):.3f})"
        print(text)


def main() -> None:
    """Write the collection, or check a feature store made from it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--check", type=Path, metavar="FEATURES")
    options = parser.parse_args()
    if options.check:
        check(options.folder, cm.FeatureStore.open(options.check))
        return
    wordnet = find_or_fetch("wordnet-base", "usr/share/wordnet", ("data.noun",))
    synsets = list(read_synsets(wordnet / "data.noun"))
    write_collection(
        synsets, options.folder, n_documents=options.documents, n_queries=options.queries
    )


if __name__ == "__main__":
    main()
