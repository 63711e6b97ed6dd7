"""Contract of the models of transformers: the features are the library's own hidden states."""

from __future__ import annotations

import importlib
import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.cli.main import main
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.extraction.engines import inspect_layers, make_engine
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.models.pooling import POOLS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="NOT TESTED: the extra [text] is not installed")
tokenizers = pytest.importorskip("tokenizers")
transformers = import_after_torchvision("transformers", "text")

LETTERS = [chr(code) for code in range(97, 123)]
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>"}
WORDS = [*SPECIAL.values(), *LETTERS]
IDS = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 3}
USUAL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 48, **IDS,
}  # fmt: skip
GROUPED = {**USUAL, "num_key_value_heads": 1}
T5 = {
    "vocab_size": 32,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    **IDS,
}
# Class of transformers, its configuration, and the path of its first block.
Family = tuple[str, dict[str, Any], str]
ENCODERS: dict[str, Family] = {
    "bert": ("BertModel", USUAL, "encoder.layer.0"),
    "roberta": ("RobertaModel", USUAL, "encoder.layer.0"),
    "distilbert": (
        "DistilBertModel",
        {"vocab_size": 32, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2},
        "transformer.layer.0",
    ),
    "mpnet": ("MPNetModel", USUAL, "encoder.layer.0"),
    "electra": ("ElectraModel", {**USUAL, "embedding_size": 8}, "encoder.layer.0"),
    "t5": ("T5Model", T5, "block.0"),
    # Its folder does not say that T5's class is an encoder-decoder.
    "t5-encoder": ("T5EncoderModel", T5, "encoder.block.0"),
    "bart": (
        "BartModel",
        {
            "vocab_size": 32, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32, "max_position_embeddings": 48, **IDS,
        },
        "layers.0",
    ),
}  # fmt: skip
# Further families, of which the last hidden states alone are compared.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("AlbertModel", {**USUAL, "embedding_size": 8}),
    "deberta-v2": (
        "DebertaV2Model",
        {
            **USUAL,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_biased_input": False,
        },
    ),
    "xlnet": (
        "XLNetModel",
        {"vocab_size": 32, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32, **IDS},
    ),
    "mistral": ("MistralModel", GROUPED),
    "gemma": ("GemmaModel", {**GROUPED, "head_dim": 8}),
    "phi": ("PhiModel", USUAL),
    "gpt-neox": ("GPTNeoXModel", USUAL),
    "bloom": (
        "BloomModel",
        {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 2, **IDS},
    ),
}
BIDIRECTIONAL = ("albert", "deberta-v2", "xlnet")
DECODERS: dict[str, Family] = {
    "gpt2": (
        "GPT2Model",
        {"vocab_size": 32, "n_positions": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, **IDS},
        "h.0",
    ),
    "llama": ("LlamaModel", GROUPED, "layers.0"),
    "qwen2": ("Qwen2Model", GROUPED, "layers.0"),
    "opt": (
        "OPTModel",
        {
            "vocab_size": 32, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 48, **IDS,
        },
        "decoder.layers.0",
    ),
}  # fmt: skip
SMALL_IMAGES = {"image_size": 16, "patch_size": 4}
BLOCKS = {
    "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    **SMALL_IMAGES,
}  # fmt: skip
# Class of transformers, its configuration, its image processor, and the path of a block.
PICTURES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "vit": ("ViTModel", BLOCKS, "ViTImageProcessor", "layers.0"),
    "dinov2": ("Dinov2Model", {**BLOCKS, "mlp_ratio": 2}, "BitImageProcessor", "encoder.layer.0"),
    "clip-vision": ("CLIPVisionModel", BLOCKS, "CLIPImageProcessor", "encoder.layers.0"),
    "resnet": (
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ConvNextImageProcessor",
        "encoder.stages.0",
    ),
    "convnext": (
        "ConvNextModel",
        {"patch_size": 2, "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "ConvNextImageProcessor",
        "encoder.stages.0",
    ),
}


def make_tokenizer(folder: Path) -> None:
    """Save a tokenizer with one token per letter that adds no other tokens."""
    ids = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    kind = transformers.PreTrainedTokenizerFast
    kind(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)


def save(folder: Path, name: str, options: dict[str, Any]) -> Any:
    """Save a small network with random weights."""
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    net = kind(kind.config_class(**options)).eval()
    # The weights of a fresh network are so small that its attention hardly mixes tokens.
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.mul_(10.0)
    net.save_pretrained(folder)
    return net


@pytest.fixture(autouse=True)
def quiet():
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(level)
    transformers.logging.enable_progress_bar()


def dataset(modality: str, items: Any) -> Dataset:
    n = len(items)
    split = Split(items, np.arange(n) % 2, [str(i) for i in range(n)])
    return Dataset("small", "small", modality, {"test": split}, ("a", "b"))


def texts(n: int = 7) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(LETTERS, 2 + 3 * (i % 4))) for i in range(n)]


def padded_states(net: Any, folder: Path, side: str, layer: int) -> tuple[Any, Any]:
    """Compute the library's hidden states of a padded batch; return them and its mask."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts(), padding=True, padding_side=side, return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    if side == "left" and "position_ids" in inspect.signature(net.forward).parameters:
        # GPT-2 counts positions from the padding if it is not told otherwise.
        inputs["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    net = net.get_encoder() if hasattr(net.config, "d_kv") or hasattr(net, "decoder") else net
    with torch.no_grad():
        states = net(**inputs, output_hidden_states=True).hidden_states[layer]
    return states, batch["attention_mask"].bool()


def pooled(states: Any, mask: Any, pool: str) -> Any:
    """Pool hidden states over the tokens that are not padding, text by text."""
    rows = [row[kept] for row, kept in zip(states, mask, strict=True)]
    how = {
        "mean": lambda row: row.mean(0),
        "max": lambda row: row.amax(0),
        "cls": lambda row: row[0],
        "last": lambda row: row[-1],
    }[pool]
    return torch.stack([how(row) for row in rows]).numpy()


def assert_close(features: Any, expected: Any) -> None:
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_features_are_its_mean_hidden_states(name, tmp_path):
    kind, options, block = ENCODERS[name]
    net = save(tmp_path / name, kind, options)
    make_tokenizer(tmp_path / name)
    model = load_model(f"hf:{tmp_path / name}", device="cpu")
    assert (model.pool, model.is_causal) == ("mean", False)
    block = block.removeprefix("encoder.") if model.root is not net and "t5" in name else block
    store = cm.extract(model, dataset("text", texts()), out=tmp_path / "s",
                       layers=("penultimate", block))  # fmt: skip
    assert store.manifest["engine"]["name"] == "openvino"
    for layer, number in (("penultimate", -1), (block, 1)):
        states, mask = padded_states(net, tmp_path / name, "right", number)
        assert_close(store.features("test", layer).array(), pooled(states, mask, "mean"))


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_features_are_those_of_its_last_token(name, tmp_path):
    kind, options, block = DECODERS[name]
    net = save(tmp_path / name, kind, options)
    make_tokenizer(tmp_path / name)
    model = load_model(f"hf:{tmp_path / name}", device="cpu")
    assert (model.pool, model.is_causal) == ("last", True)
    data = dataset("text", texts())
    store = cm.extract(model, data, out=tmp_path / "s", layers=("penultimate", block))
    assert store.manifest["engine"]["name"] == "openvino"
    assert store.manifest["layers"]["penultimate"]["pooling"] == "last token"
    for layer, number in (("penultimate", -1), (block, 1)):
        features = store.features("test", layer).array()
        for side in ("right", "left"):
            states, mask = padded_states(net, tmp_path / name, side, number)
            assert_close(features, pooled(states, mask, "last"))


@pytest.mark.parametrize("name", OTHERS)
def test_features_of_further_families_are_their_last_hidden_states(name, tmp_path):
    net = save(tmp_path / name, *OTHERS[name])
    make_tokenizer(tmp_path / name)
    store = cm.extract(f"hf:{tmp_path / name}", dataset("text", texts()), out=tmp_path / "s")
    assert store.manifest["engine"]["name"] == "openvino"
    pool = "mean" if name in BIDIRECTIONAL else "last"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
    expected = []
    for text in texts():
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = net(input_ids=ids).last_hidden_state
        expected.append(pooled(states, torch.ones_like(ids, dtype=torch.bool), pool))
    assert_close(store.features("test").array(), np.concatenate(expected))


def test_every_pooling_of_a_decoder(tmp_path, capsys):
    net = save(tmp_path / "gpt2", *DECODERS["gpt2"][:2])
    make_tokenizer(tmp_path / "gpt2")
    spec, data = f"hf:{tmp_path / 'gpt2'}", dataset("text", texts())
    states, mask = padded_states(net, tmp_path / "gpt2", "right", -1)
    for pool in ("mean", "max", "last"):
        store = cm.extract(spec, data, out=tmp_path / pool, pool=pool, engine="torch")
        assert_close(store.features("test").array(), pooled(states, mask, pool))
    # Its first token has seen nothing of the text.
    with pytest.raises(CriticalMassError, match=r"without a class token; use pool='mean', 'max' or "
                       "'last'"):  # fmt: skip
        cm.extract(spec, data, out=tmp_path / "s", pool="cls")
    assert "last" in POOLS
    with pytest.raises(SystemExit) as left:
        main(["extract", "--help"])
    assert left.value.code == 0
    assert "last" in capsys.readouterr().out


def test_only_the_tokens_of_texts_have_a_last_one(tmp_path):
    pictures = np.zeros((3, 32, 32, 3), np.uint8)
    with pytest.raises(CriticalMassError, match="not tokens of a text") as caught:
        cm.extract("timm:test_vit?init=random&px=32", dataset("image", pictures),
                   out=tmp_path / "s", layers=("blocks",), pool="last")  # fmt: skip
    assert "\n" not in str(caught.value)


def test_the_text_tower_of_clip_is_causal(tmp_path):
    kind = transformers.CLIPConfig
    config = kind(text_config={**USUAL, "hidden_act": "gelu"}, vision_config=BLOCKS)
    torch.manual_seed(0)
    net = transformers.CLIPModel(config).eval()
    net.save_pretrained(tmp_path / "clip")
    make_tokenizer(tmp_path / "clip")
    size = {"shortest_edge": 16}
    transformers.CLIPImageProcessor(size=size, crop_size=16).save_pretrained(tmp_path / "clip")
    spec = f"hf:{tmp_path / 'clip'}?modality=text"
    assert load_model(spec, device="cpu").pool == "last"
    assert load_model(f"hf:{tmp_path / 'clip'}", device="cpu").modality == "image"
    store = cm.extract(spec, dataset("text", texts()), out=tmp_path / "s")
    states, mask = padded_states(net.text_model, tmp_path / "clip", "right", -1)
    expected = net.text_model.final_layer_norm(states)
    assert_close(store.features("test").array(), pooled(expected.detach(), mask, "last"))


def test_weights_in_few_bits_are_computed_with_in_float32(tmp_path):
    kind, options, _ = DECODERS["llama"]
    net = save(tmp_path / "llama", kind, options)
    net.to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    make_tokenizer(tmp_path / "llama")
    store = cm.extract(f"hf:{tmp_path / 'llama'}", dataset("text", texts()), out=tmp_path / "s")
    assert store.manifest["engine"]["precision"] == "float32"
    net = transformers.AutoModel.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    states, mask = padded_states(net.eval(), tmp_path / "llama", "right", -1)
    assert_close(store.features("test").array(), pooled(states, mask, "last"))


def test_texts_longer_than_the_positions_are_cut(tmp_path):
    # RoBERTa counts positions from the padding's number: 2 of its 48 stay unused.
    net = save(tmp_path / "roberta", "RobertaModel", {**USUAL, "pad_token_id": 1})
    make_tokenizer(tmp_path / "roberta")
    long, spec = "ab" * 40, f"hf:{tmp_path / 'roberta'}"
    assert load_model(spec, device="cpu").preprocess.max_length == 46
    store = cm.extract(spec, dataset("text", [long, "ab", "abc"]), out=tmp_path / "s")
    ids = torch.tensor([[4, 5] * 23])
    with torch.no_grad():
        expected = net(input_ids=ids).last_hidden_state.mean(1).numpy()
    assert_close(store.features("test").array()[:1], expected)


def test_an_empty_text_has_one_token(tmp_path):
    net = save(tmp_path / "gpt2", *DECODERS["gpt2"][:2])
    make_tokenizer(tmp_path / "gpt2")
    spec = f"hf:{tmp_path / 'gpt2'}"
    store = cm.extract(spec, dataset("text", ["", "ab", "abc"]), out=tmp_path / "s")
    with torch.no_grad():
        expected = net(input_ids=torch.tensor([[3]])).last_hidden_state[:, -1].numpy()
    assert_close(store.features("test").array()[:1], expected)


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_models_features_are_its_mean_hidden_states(name, tmp_path):
    kind, options, processor, block = PICTURES[name]
    net = save(tmp_path / name, kind, options)
    sizes: dict[str, Any] = {
        "ViTImageProcessor": {"size": {"height": 16, "width": 16}},
        "ConvNextImageProcessor": {"size": {"shortest_edge": 16}, "crop_pct": 1.0},
    }.get(processor, {"size": {"shortest_edge": 16}, "crop_size": 16})
    prepare = getattr(transformers, processor)(**sizes)
    prepare.save_pretrained(tmp_path / name)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    store = cm.extract(f"hf:{tmp_path / name}", dataset("image", pictures), out=tmp_path / "s",
                       device="cpu", layers=("penultimate", block))  # fmt: skip
    assert store.manifest["engine"]["name"] == "openvino"
    inputs = prepare(list(pictures), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = net(inputs, output_hidden_states=True)
    for layer, states in (
        ("penultimate", output.last_hidden_state),
        (block, output.hidden_states[1]),
    ):
        expected = states.mean(dim=(2, 3) if states.ndim == 4 else 1).numpy()
        assert_close(store.features("test", layer).array(), expected)


def test_a_masked_autoencoder_sees_every_patch(tmp_path):
    net = save(tmp_path / "mae", "ViTMAEModel", BLOCKS)
    prepare = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    prepare.save_pretrained(tmp_path / "mae")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    store = cm.extract(f"hf:{tmp_path / 'mae'}", dataset("image", pictures), out=tmp_path / "s",
                       device="cpu", engine="torch")  # fmt: skip
    net.config.mask_ratio = 0.0
    with torch.no_grad():
        states = net(prepare(list(pictures), return_tensors="pt")["pixel_values"])
    assert_close(store.features("test").array(), states.last_hidden_state.mean(1).numpy())


def test_a_model_that_openvino_does_not_convert_runs_in_torch(tmp_path, capsys):
    # A mixture of experts counts the tokens of each, for which OpenVINO has no operation.
    options = {**GROUPED, "num_local_experts": 4}
    net = save(tmp_path / "mixtral", "MixtralModel", options)
    make_tokenizer(tmp_path / "mixtral")
    spec, data = f"hf:{tmp_path / 'mixtral'}", dataset("text", texts())
    with pytest.warns(
        UserWarning,
        match=r"OpenVINO does not convert 'mixtral' \(.*\); features of 'mixtral' are computed "
        "with torch",
    ):
        store = cm.extract(spec, data, out=tmp_path / "s")
    assert store.manifest["engine"]["name"] == "torch"
    states, mask = padded_states(net, tmp_path / "mixtral", "right", -1)
    assert_close(store.features("test").array(), pooled(states, mask, "last"))
    lines = (f"{text},{'ab'[i % 2]}\n" for i, text in enumerate(texts(24)))
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(lines))
    arguments = ["extract", spec, f"csv:{tmp_path / 'texts.csv'}", "--out", str(tmp_path / "c")]
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--engine", "openvino"])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_that_does_not_run_says_so_in_one_line(tmp_path):
    # Its last hidden states are not a tensor that the class returns.
    save(tmp_path / "dpr", "DPRQuestionEncoder", {**USUAL, "projection_dim": 0})
    make_tokenizer(tmp_path / "dpr")
    with pytest.raises(CriticalMassError, match="does not run on its input") as caught:
        cm.extract(f"hf:{tmp_path / 'dpr'}", dataset("text", texts()), out=tmp_path / "s")
    assert "\n" not in str(caught.value)


def test_a_model_of_audio_without_its_feature_extractor_says_so(tmp_path):
    options = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    options |= {"conv_dim": [8], "conv_stride": [2], "conv_kernel": [3], "intermediate_size": 32}
    options |= {"num_feat_extract_layers": 1, "num_conv_pos_embedding_groups": 2}
    kind = transformers.Wav2Vec2Model
    kind(kind.config_class(**options)).save_pretrained(tmp_path / "wav2vec2")
    with pytest.raises(CriticalMassError, match=r"AutoFeatureExtractor of .* cannot be loaded"):
        load_model(f"hf:{tmp_path / 'wav2vec2'}", device="cpu")


def test_a_model_of_other_inputs_is_refused_by_its_input(tmp_path):
    kind = transformers.PatchTSTModel
    options = {"num_input_channels": 1, "context_length": 8, "patch_length": 2, "d_model": 8}
    options |= {"num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8}
    kind(kind.config_class(**options)).save_pretrained(tmp_path / "patchtst")
    with pytest.raises(CriticalMassError, match="takes 'past_values'; only models of images"):
        load_model(f"hf:{tmp_path / 'patchtst'}", device="cpu")


def test_an_engine_reads_a_causal_model_of_any_length(tmp_path):
    save(tmp_path / "qwen2", *DECODERS["qwen2"][:2])
    make_tokenizer(tmp_path / "qwen2")
    model = load_model(f"hf:{tmp_path / 'qwen2'}", device="cpu")
    batches = {n: 4 + np.tile(np.arange(n) % 26, (2, 1)) for n in (1, 2, 9, 40)}
    taps = [layer.tap for layer in inspect_layers(model, ["penultimate"], batches[9])]
    engines = [make_engine(name, model, taps, [batches[9]]) for name in ("torch", "openvino")]
    for batch in batches.values():
        outputs = [{"penultimate": np.zeros((2, 16), np.float32)} for _ in engines]
        for engine, out in zip(engines, outputs, strict=True):
            engine.run([(np.arange(2), batch)], out, lambda _: None)
        assert_close(outputs[1]["penultimate"], outputs[0]["penultimate"])


def test_a_sentence_encoder_made_of_a_decoder(tmp_path):
    library = import_after_torchvision("sentence_transformers", "text")
    net = save(tmp_path / "gpt2", *DECODERS["gpt2"][:2])
    make_tokenizer(tmp_path / "gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = importlib.import_module("sentence_transformers.models")
        transformer = parts.Transformer(str(tmp_path / "gpt2"))
        pooling = parts.Pooling(16, pooling_mode="lasttoken")
        encoder = library.SentenceTransformer(modules=[transformer, pooling], device="cpu")
        encoder.save(str(tmp_path / "st"))
    store = cm.extract(
        f"st:{tmp_path / 'st'}",
        dataset("text", texts()),
        out=tmp_path / "s",
        layers=("penultimate", "h.0"),
    )
    assert store.manifest["engine"]["name"] == "openvino"
    expected = encoder.encode(texts(), show_progress_bar=False)
    assert_close(store.features("test").array(), expected)
    states, mask = padded_states(net, tmp_path / "gpt2", "right", 1)
    assert_close(store.features("test", "h.0").array(), pooled(states, mask, "last"))
