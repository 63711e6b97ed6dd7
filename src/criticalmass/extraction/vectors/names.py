"""Usual names of columns and arrays: of vectors, labels, keys, and the two splits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from criticalmass.errors import CriticalMassError

LABEL_NAMES = ("label", "labels", "target", "class", "y")
_VECTOR_NAMES = frozenset(
    (
        *(
            "embedding",
            "embeddings",
            "vector",
            "vectors",
            "feature",
            "features",
            "x",
            "emb",
            "embs",
        ),
        *("vec", "vecs", "hidden", "hidden_state", "hidden_states", "representation"),
        *("representations", "activation", "activations", "latent", "latents", "encoding"),
        *("encodings", "codes"),
    )
)
_VECTOR_ENDS = ("embedding", "embeddings", "vector", "vectors", "_emb", "_embs", "_vec", "_vecs")
_KEY_NAMES = frozenset(
    (
        *("id", "ids", "key", "keys", "index", "idx", "uid", "uuid", "guid", "pk", "row", "rowid"),
        *("row_id", "rownum", "row_number", "unnamed", "", "split", "fold", "subset", "category"),
        *("score", "scores", "price", "rank", "rating", "weight", "year", "date", "time"),
        *("timestamp", "created", "created_at", "updated_at", *LABEL_NAMES),
    )
)
_KEY_ENDS = ("_id", "_key", "_idx", "_index", "_label", "_target", "_class", "_score", "_price")
SPLITS = ("train", "test")
#: Name of a split -> the split that it stands for.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "validation", "valid", "dev"), "val"),
}


def split_roles(names: Iterable[str]) -> dict[str, str]:
    """Return name -> split; without a test split, the validation split is the test.

    A single name stands for all samples, which are then split; unknown names stay as they are.
    """
    names = list(names)
    if len(names) == 1 and names[0].lower() in SPLIT_NAMES:
        return {names[0]: "all"}
    roles = {name: SPLIT_NAMES.get(name.lower(), name) for name in names}
    if "test" not in roles.values():
        roles = {name: "test" if role == "val" else role for name, role in roles.items()}
    return roles


def is_vector_name(name: str) -> bool:
    """Return whether a name says that a column or array holds vectors."""
    plain = simplify(name)
    return plain in _VECTOR_NAMES or plain.endswith(_VECTOR_ENDS) or plain.startswith("hidden")


def is_surely_vector_name(name: str) -> bool:
    """Return whether a name stands for vectors and hardly for a text: not ``features``."""
    plain = simplify(name)
    return "embed" in plain or "vector" in plain or plain.endswith(("emb", "vec", "embs", "vecs"))


def is_label_name(name: str) -> bool:
    """Return whether a name, after the groups before ``/``, is a usual name of labels."""
    return name.rpartition("/")[2].lower() in LABEL_NAMES


def is_key_name(name: str) -> bool:
    """Return whether a name says that a column of numbers is a key, a label or a price."""
    plain = re.sub(r"[_\d]*level_\d+_*$", "index", simplify(name)) if "level_" in name else None
    plain = plain or simplify(name)
    return plain in _KEY_NAMES or plain.endswith(_KEY_ENDS) or plain.startswith("unnamed")


def simplify(name: str) -> str:
    """Return a name in lower case with underscores; ``Text Embedding`` is ``text_embedding``."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def name_pattern(name: str) -> str:
    """Return a name with its numbers replaced: ``d12`` and ``d7`` have the same pattern."""
    return re.sub(r"\d+", "#", name)


def find_label_name(names: Iterable[str], owner: str) -> str | None:
    """Find the column or array with a usual name of labels; None if there is none.

    Parameters
    ----------
    names: the names that exist.
    owner: what has them, for the message.

    Raises
    ------
    CriticalMassError: several such names.
    """
    matches = [name for name in names if is_label_name(name)]
    if len(matches) > 1:
        raise CriticalMassError(
            f"which of {owner} are the labels, {' or '.join(map(repr, matches))}? Name them with "
            "labels= (--labels); 'none' stands for no labels"
        )
    return matches[0] if matches else None


@dataclass(frozen=True)
class SplitNames:
    """Names that belong together: ``x_train``, ``x_test``.

    Attributes
    ----------
    stem: the part that they share, without the split: ``x``; empty for ``train`` and ``test``.
    names: split -> name.
    """

    stem: str
    names: dict[str, str]


def group_by_split(names: Iterable[str]) -> list[SplitNames]:
    """Group names that differ in the split only: ``x_train``, ``test/features`` ..."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        plain = simplify(name)
        for split in SPLITS:
            stem = None
            if plain == split:
                stem = ""
            elif plain.startswith(f"{split}_"):
                stem = plain.removeprefix(f"{split}_")
            elif plain.endswith(f"_{split}"):
                stem = plain.removesuffix(f"_{split}")
            if stem is not None:
                groups.setdefault(stem, {}).setdefault(split, name)
    return [SplitNames(stem, group) for stem, group in groups.items()]
