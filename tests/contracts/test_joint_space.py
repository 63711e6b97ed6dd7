"""Contract of two-tower models of transformers: features are the library's own joint features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="NOT TESTED: the extra [text] is not installed")
tokenizers = pytest.importorskip("tokenizers")
transformers = import_after_torchvision("transformers", "text")

WORDS = ["<pad>", "<unk>", "<s>", "a", "photo", "of", "cat", "dog", "the", "one", "</s>"]
NAMES = ("cat", "dog")
TEMPLATES = ("a photo of a {}", "the {}")
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 12, "pad_token_id": 0,
        "bos_token_id": 2, "eos_token_id": 10}  # fmt: skip
PICTURE = {**SIZES, "image_size": 16, "patch_size": 4}
SETTINGS = {
    "clip": ("CLIP", {"projection_dim": 8}, {"size": {"shortest_edge": 16}, "crop_size": 16}),
    "siglip": ("Siglip", {}, {"size": {"height": 16, "width": 16}}),
}


def save(folder: Path, family: str) -> Any:
    """Save a small model with random weights, its tokenizer and its image processor."""
    name, extra, processor = SETTINGS[family]
    config = getattr(transformers, f"{name}Config")(
        text_config={**TEXT, **({"projection_size": 16} if family == "siglip" else {})},
        vision_config=PICTURE,
        **extra,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.mul_(5.0)
    net.save_pretrained(folder)
    ids = {word: number for number, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, "<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("<s>", 2), ("</s>", 10)]
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    kind = transformers.PreTrainedTokenizerFast
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    kind(tokenizer_object=words, model_max_length=12, **special).save_pretrained(folder)
    getattr(transformers, f"{name}ImageProcessor")(**processor).save_pretrained(folder)
    return net


def pictures(n: int = 10) -> Dataset:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(n) % 2
    splits = {
        name: Split(items[rows], labels[rows], [f"{name}{row}" for row in range(n // 2)])
        for name, rows in (("train", slice(0, n // 2)), ("test", slice(n // 2, n)))
    }
    return Dataset("small", "small", "image", splits, NAMES)


def features_of(output: Any) -> Any:
    value = output if isinstance(output, torch.Tensor) else output.pooler_output
    return value.detach().numpy()


def assert_close(features: Any, expected: Any) -> None:
    np.testing.assert_allclose(features, expected, atol=5e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", SETTINGS)
def test_both_towers_give_the_librarys_joint_features(tmp_path: Path, family: str) -> None:
    net = save(tmp_path / family, family)
    data = pictures()
    store = cm.extract(
        f"hf:{tmp_path / family}?space=joint", data, out=tmp_path / "s", prompts=TEMPLATES,
        layers=("penultimate",), engine="torch",
    )  # fmt: skip
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / family)
    images = processor(list(data.splits["test"].items), return_tensors="pt")
    expected = features_of(net.get_image_features(**images))
    assert np.ptp(expected, axis=0).max() > 1e-2, "the images must differ"
    assert_close(store.features("test").array(), expected)
    prompts = store.prompts()
    assert prompts is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / family)
    texts = [template.format(name) for name in NAMES for template in TEMPLATES]
    # As the pages of the models say: SigLIP was trained on texts of one length.
    how = {"padding": "max_length", "max_length": 12} if family == "siglip" else {"padding": True}
    batch = tokenizer(texts, return_tensors="pt", **how)
    inputs = {"input_ids": batch["input_ids"]}
    if family == "clip":
        inputs["attention_mask"] = batch["attention_mask"]
    expected = features_of(net.get_text_features(**inputs))
    assert np.ptp(expected, axis=0).max() > 1e-2, "the prompts must differ"
    assert_close(prompts.vectors, expected)
    assert prompts.class_names == ("cat", "cat", "dog", "dog")


def processor_of(folder: Path, family: str) -> Any:
    """Return the processor of both towers, as a notebook has it."""
    parts = (transformers.AutoImageProcessor, transformers.AutoTokenizer)
    images, words = (part.from_pretrained(folder) for part in parts)
    kind = getattr(transformers, f"{SETTINGS[family][0]}Processor")
    return kind(images, words)


@pytest.mark.parametrize("family", SETTINGS)
def test_a_live_model_with_both_processors_is_read_as_its_folder(
    tmp_path: Path, family: str
) -> None:
    net = save(tmp_path / family, family).train()
    processor, data = processor_of(tmp_path / family, family), pictures()
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}
    live = cm.extract(
        net, data, out=tmp_path / "live", prompts=TEMPLATES, preprocess=processor, engine="torch"
    )
    saved = cm.extract(
        f"hf:{tmp_path / family}?space=joint", data, out=tmp_path / "saved", prompts=TEMPLATES,
        engine="torch",
    )  # fmt: skip
    for split in data.splits:
        np.testing.assert_array_equal(live.features(split).array(), saved.features(split).array())
    of_live, of_saved = live.prompts(), saved.prompts()
    assert of_live is not None
    assert of_saved is not None
    np.testing.assert_array_equal(of_live.vectors, of_saved.vectors)
    assert of_live.source["text_model"].endswith("?space=joint&modality=text")
    # The user's module is as it was.
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in net.state_dict().items())
    with pytest.warns(UserWarning, match="not significantly better"):
        run = cm.measure(
            net, data, out=tmp_path / "m", prompts=TEMPLATES, preprocess=processor,
            measures=("zero-shot",), seeds=2, fractions=(0.5, 1.0),
        ).run  # fmt: skip
    assert set(run.frame()["measure"]) == {"zero-shot"}


def test_a_live_model_reads_texts_into_the_joint_space(tmp_path: Path) -> None:
    net = save(tmp_path / "clip", "clip")
    processor = processor_of(tmp_path / "clip", "clip")
    texts = ["a photo of a cat", "the dog", "one cat"]
    store = cm.extract(
        load_model(net, preprocess=processor),
        {"train": texts, "test": texts},
        out=tmp_path / "texts",
        engine="torch",
    )
    features = store.features("test").array()
    batch = processor.tokenizer(texts, return_tensors="pt", padding=True)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert_close(features, features_of(net.get_text_features(**inputs)))


def test_prompts_with_one_processor_name_the_whole(tmp_path: Path) -> None:
    net = save(tmp_path / "clip", "clip")
    images = processor_of(tmp_path / "clip", "clip").image_processor
    with pytest.raises(CriticalMassError, match="give its whole processor") as caught:
        cm.extract(net, pictures(), out=tmp_path / "s", prompts=TEMPLATES, preprocess=images)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_layers_of_the_tower_can_be_read_beside_the_joint_space(tmp_path: Path) -> None:
    save(tmp_path / "clip", "clip")
    joint = cm.extract(
        f"hf:{tmp_path / 'clip'}?space=joint", pictures(), out=tmp_path / "joint",
        layers=("penultimate", "encoder.layers.0"), engine="torch",
    )  # fmt: skip
    plain = cm.extract(
        f"hf:{tmp_path / 'clip'}", pictures(), out=tmp_path / "plain",
        layers=("encoder.layers.0",), engine="torch",
    )  # fmt: skip
    assert joint.features("test").shape[1] == 8
    np.testing.assert_allclose(
        joint.features("test", "encoder.layers.0").array(),
        plain.features("test", "encoder.layers.0").array(),
        atol=1e-6,
    )


def test_a_model_of_one_tower_has_no_joint_space(tmp_path: Path) -> None:
    config = transformers.BertConfig(**TEXT)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    save(tmp_path / "words", "clip")
    for file in (tmp_path / "words").glob("tokenizer*"):
        (tmp_path / "bert" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CriticalMassError, match="leave out space=joint") as caught:
        load_model(f"hf:{tmp_path / 'bert'}?space=joint", device="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(CriticalMassError, match="did you mean 'joint'"):
        load_model(f"hf:{tmp_path / 'words'}?space=jiont", device="cpu")
