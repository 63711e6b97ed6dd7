"""map_ahead: results in order, the first error, and no thread left running."""

from __future__ import annotations

import importlib
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import criticalmass as cm
from criticalmass.core.threads import map_ahead
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.pixels import BrokenImageError
from criticalmass.storage import features_writer

HALF = (0.5, 0.5, 0.5)
MODEL = "timm:test_resnet?init=random&px=32"


def ahead_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 30), st.integers(1, 4), st.integers(1, 9), st.sets(st.integers(0, 29)), st.data()
)
def test_results_come_in_order_until_the_first_error(n, workers, ahead, failing, data):
    pauses = data.draw(st.lists(st.sampled_from([0.0, 1e-3]), min_size=n, max_size=n))

    def work(task):
        time.sleep(pauses[task])
        if task in failing:
            raise ValueError(task)
        return task * task

    stop = min([task for task in failing if task < n], default=n)
    results = []
    expected = pytest.raises(ValueError, match=f"^{stop}$") if stop < n else nullcontext()
    with expected:
        results.extend(map_ahead(work, range(n), workers=workers, ahead=ahead))
    # list.extend keeps what came before the error.
    assert results == [task * task for task in range(stop)]
    assert ahead_threads() == []


def test_no_more_than_ahead_tasks_are_started_early():
    started = []
    results = map_ahead(lambda task: started.append(task) or task, range(50), workers=3, ahead=5)
    assert started == []
    for index in range(10):
        assert next(results) == index
        time.sleep(0.01)
        # The result that the consumer holds, and five more.
        assert len(started) <= index + 1 + 5
    results.close()
    assert len(started) <= 15
    assert ahead_threads() == []


def test_an_interrupted_consumer_leaves_no_thread():
    batches = ImagePreprocess(8, 8, "bicubic", HALF, HALF).batches(
        np.zeros((400, 9, 9), np.uint8), 16
    )

    def consume():
        for _ in batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        consume()
    assert ahead_threads() != []  # the traceback holds the generator: its consumer must close it
    batches.close()
    assert ahead_threads() == []
    assert caught.type is KeyboardInterrupt


@pytest.fixture
def suffix():
    return "png"


@pytest.fixture
def folder(suffix, tmp_path):
    """48 images of many sizes, portrait and landscape, grey and colour, in two classes."""
    rng = np.random.default_rng(5)
    for number in range(48):
        shape = tuple(rng.integers(20, 90, 2)) + ((3,) if number % 3 else ())
        coarse = rng.integers(0, 256, shape).astype(np.uint8)
        path = tmp_path / "images" / "ab"[number % 2] / f"{number:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).save(path)
    return tmp_path / "images"


def one_by_one(model, items):
    """Preprocess with Pillow and run with torch, one image after the other, without threads."""
    import torch

    settings_ = model.preprocess.settings
    side, crop = settings_["resize_shorter_side"], settings_["centre_crop"]
    method = Image.Resampling[settings_["interpolation"].upper()]
    features = []
    for item in items:
        image = item.convert("RGB")
        scale = side / min(image.size)
        width, height = (
            side if edge == min(image.size) else int(edge * scale) for edge in image.size
        )
        image = image.resize((width, image.height), method).resize((width, height), method)
        left, top = round((width - crop) / 2), round((height - crop) / 2)
        image = image.crop((left, top, left + crop, top + crop))
        x = torch.from_numpy(np.asarray(image).copy()).movedim(2, 0)[None].float() / 255
        mean = torch.tensor(settings_["mean"]).view(3, 1, 1)
        std = torch.tensor(settings_["std"]).view(3, 1, 1)
        with torch.no_grad():
            maps = model.root.forward_features((x - mean) / std)
            features.append(model.root.forward_head(maps, pre_logits=True)[0].numpy())
    return np.stack(features)


@pytest.mark.parametrize(("suffix", "engine"), [("png", "torch"), ("jpg", "openvino")])
def test_features_equal_those_of_one_image_after_the_other(folder, tmp_path, engine):
    spec = f"imagefolder:{folder}"
    store = cm.extract(MODEL, spec, out=tmp_path / "s", engine=engine, batch_size=7, device="cpu")
    model, data = load_model(MODEL, device="cpu"), cm.load_dataset(spec)
    for split in store.splits:
        expected = one_by_one(model, list(data.splits[split].items))
        features = store.features(split).array()
        assert np.abs(features - expected).max() <= 1e-5 * np.abs(expected).max()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(("suffix", "stop"), [("png", 5), ("jpg", 30)])
def test_an_extraction_interrupted_in_preprocessing_gives_the_same_bytes(
    folder, tmp_path, monkeypatch, stop
):
    monkeypatch.setattr(features_writer.StoreWriter, "shard_rows", 16)
    options = {"engine": "openvino", "batch_size": 6, "device": "cpu"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    cm.extract(MODEL, f"imagefolder:{folder}", out=whole, **options)
    one, lock, count = ImagePreprocess._prepare_image, threading.Lock(), [0]

    def interrupted(self, item):
        with lock:
            count[0] += 1
            now = count[0]
        # After the check samples.
        if now == 16 + stop:
            raise KeyboardInterrupt
        return one(self, item)

    with monkeypatch.context() as patch:
        patch.setattr(ImagePreprocess, "_prepare_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cm.extract(MODEL, f"imagefolder:{folder}", out=parts, **options)
    assert ahead_threads() == []
    assert not (parts / "features" / "penultimate" / "test-00000.npy").exists()
    cm.extract(MODEL, f"imagefolder:{folder}", out=parts, **options)
    assert contents(parts) == contents(whole)


@pytest.mark.parametrize(("suffix", "engine"), [("png", "torch"), ("jpg", "openvino")])
def test_a_broken_image_is_named_and_no_thread_is_left(folder, tmp_path, engine):
    path = sorted(folder.rglob("*.*"))[40]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BrokenImageError, match=path.name) as caught:
        cm.extract(MODEL, f"imagefolder:{folder}", out=tmp_path / "s", engine=engine, device="cpu")
    # The traceback, and with it every frame, still exists here.
    assert ahead_threads() == []
    assert "\n" not in str(caught.value)


def test_an_engine_that_fails_leaves_no_thread(folder, tmp_path, monkeypatch):
    engines = importlib.import_module("criticalmass.extraction.engines.torch_engine")
    passes, original = [], engines.torch_pass

    def failing(*arguments):
        passes.append(1)
        if len(passes) == 3:
            raise RuntimeError("out of memory")
        return original(*arguments)

    monkeypatch.setattr(engines, "torch_pass", failing)
    said = r"does not run on its input \(out of memory\); use a smaller batch_size"
    with pytest.raises(CriticalMassError, match=said):
        cm.extract(
            MODEL, f"imagefolder:{folder}", out=tmp_path / "s",
            engine="torch", device="cpu", batch_size=4,
        )  # fmt: skip
    assert ahead_threads() == []
