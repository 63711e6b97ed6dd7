"""Contract of timm's networks: ``penultimate`` is what their classifiers read."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import criticalmass as cm
from criticalmass.extraction.datasets import Dataset, Split
from criticalmass.extraction.engines import run_torch
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.optional_imports import import_after_torchvision
from criticalmass.shrinking.export.backbone import Backbone, remove_classifier

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers", reason="timm's import needs the extra [torch]")
timm = import_after_torchvision("timm", "torch")

PIXELS = 64
# Small networks of timm whose classifier is not one linear layer, and two that have none.
NETS = """
import torch
from timm.models.crossvit import CrossVit
from timm.models.deit import VisionTransformerDistilled
from timm.models.efficientvim import EfficientViM, EfficientViMDistilled
from timm.models.levit import Levit, LevitDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import VisionTransformer

VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2}

def crossvit(**options):
    return CrossVit(
        img_size=32, img_scale=(1.0, 1.0), patch_size=(8, 16), embed_dim=(8, 16),
        depth=((1, 2, 0),), num_heads=(2, 2), mlp_ratio=(2.0, 2.0, 1.0), **options)

def levit(kind, **options):
    return kind(
        img_size=64, embed_dim=(8, 16), key_dim=4, depth=(1, 1), num_heads=(2, 2), **options)

def pit(**options):
    return PoolingVisionTransformer(
        img_size=32, patch_size=8, stride=8, stem_type="overlap", base_dims=(4, 4), depth=(1, 1),
        heads=(2, 4), mlp_ratio=2, distilled=True, **options)

def vim(kind, **options):
    return kind(embed_dim=(8, 8, 16), depths=(1, 1, 1), state_dim=(4, 4, 4), **options)

MAKERS = {
    "crossvit": crossvit,
    "crossvit_bare": lambda: crossvit(num_classes=0),
    "deit": lambda: VisionTransformerDistilled(**VIT),
    "deit_bare": lambda: VisionTransformerDistilled(**VIT, num_classes=0),
    "levit": lambda: levit(LevitDistilled),
    "levit_plain": lambda: levit(Levit),
    "pit": pit,
    "vim": lambda: vim(EfficientViM),
    "vim_distilled": lambda: vim(EfficientViMDistilled),
    "dino": lambda: VisionTransformer(**VIT, num_classes=0),
}

def seeded(make):
    def factory():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = make().eval()
            # Fresh networks have branches that are switched off.
            for weight in net.parameters():
                torch.nn.init.normal_(weight, std=0.5)
            return net
    return factory

factories = {f"make_{name}": seeded(make) for name, make in MAKERS.items()}
globals().update(factories)
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm")
    (folder / "timm_nets.py").write_text(NETS)
    sys.path.insert(0, str(folder))
    yield "module:timm_nets:make"
    sys.path.remove(str(folder))
    sys.modules.pop("timm_nets", None)


def photos(n: int, side: int) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)
    split = Split(pixels, np.arange(n) % 2, [str(i) for i in range(n)])
    return Dataset("photos", "photos", "image", {"test": split}, ("a", "b"))


def network_input(model, data):
    """The scaled images of a dataset that are of the network's size already."""
    pixels = np.moveaxis(data.splits["test"].items, 3, 1)
    assert model.preprocess.pixels == pixels.shape[2]
    scaled = (torch.from_numpy(pixels).float() / 255 - model.module.mean) / model.module.std
    return scaled.contiguous()


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_penultimate_is_what_the_classifier_reads(name, tmp_path):
    data = photos(4, PIXELS)
    model = load_model(f"timm:{name}?init=random&px={PIXELS}", device="cpu")
    # A fallback from OpenVINO would be a warning, which is an error here.
    store = cm.extract(model, data, out=tmp_path / "s", batch_size=4)
    net = model.root
    assert store.manifest["engine"]["name"] == "openvino"
    features = store.features("test").array()
    assert features.shape == (4, net.get_classifier().in_features)
    assert features.shape[1] in (net.num_features, net.head_hidden_size)
    with torch.no_grad():
        # timm's own preprocessing enlarges and crops; the network's input is compared, not that.
        _, batch = next(iter(model.preprocess.batches(data.splits["test"].items, None)))
        inputs = (torch.from_numpy(batch).float() / 255 - model.module.mean) / model.module.std
        expected = net.forward_head(net.forward_features(inputs), pre_logits=True).numpy()
    assert np.abs(features - expected).max() <= 1e-4 * np.abs(expected).max()


def by_parts(heads, features, widths):
    """The logits of each head for its part of the features."""
    parts = torch.split(features, widths, dim=1)
    return [head(part) for head, part in zip(heads, parts, strict=True)]


def vim_logits(heads, weights, features):
    logits = by_parts(heads, features, [8, 8, 16, 16])
    return sum(w * part for w, part in zip(weights.softmax(0), logits, strict=True))


# Network -> its logits, from the side by side inputs of its classifiers, by its published forward
# pass.
LOGITS = {
    "crossvit": lambda net, x: sum(by_parts(net.head, x, [8, 16])) / 2,
    "deit": lambda net, x: sum(by_parts([net.head, net.head_dist], x, [8, 8])) / 2,
    "levit": lambda net, x: (net.head(x) + net.head_dist(x)) / 2,
    "levit_plain": lambda net, x: net.head(x),
    "pit": lambda net, x: sum(by_parts([net.head, net.head_dist], x, [16, 16])) / 2,
    "vim": lambda net, x: vim_logits(net.heads, net.weights, x),
    "vim_distilled": lambda net, x: (
        (vim_logits(net.heads, net.weights, x) + vim_logits(net.heads_dist, net.weights_dist, x))
        / 2
    ),
}
# The networks that OpenVINO runs as well: several heads with different inputs, and with the same.
CONVERTED = ("crossvit", "levit", "vim_distilled")
WIDTHS = dict(zip(LOGITS, (24, 16, 16, 16, 32, 48, 48), strict=True))


@pytest.mark.parametrize("name", LOGITS)
def test_all_the_classifiers_of_a_network_are_read(nets, tmp_path, name):
    spec = f"{nets}_{name}?px={64 if 'levit' in name or 'vim' in name else 32}"
    model = load_model(spec, device="cpu")
    data = photos(4, model.preprocess.pixels)
    with torch.no_grad():
        expected = model.root(network_input(model, data)).numpy()
    for engine in ("torch", "auto") if name in CONVERTED else ("torch",):
        store = cm.extract(model, data, out=tmp_path / engine, engine=engine)
        features = store.features("test").array()
        assert features.shape == (4, WIDTHS[name])
        with torch.no_grad():
            logits = LOGITS[name](model.root, torch.from_numpy(np.array(features))).numpy()
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert store.manifest["engine"]["name"] == ("openvino" if name in CONVERTED else "torch")


@pytest.mark.parametrize(("name", "width"), [("crossvit_bare", 24), ("deit_bare", 8), ("dino", 8)])
def test_networks_without_classes_give_their_output(nets, tmp_path, name, width):
    spec = f"{nets}_{name}?px=32"
    model = load_model(spec, device="cpu")
    data = photos(4, 32)
    store = cm.extract(spec, data, out=tmp_path / "s", device="cpu")
    with torch.no_grad():
        expected = model.root(network_input(model, data)).numpy()
    assert expected.shape == (4, width)
    np.testing.assert_allclose(store.features("test").array(), expected, atol=1e-5)


def test_an_export_keeps_every_classifier_that_the_network_needs(nets):
    # CrossViT returns its tokens, and runs no head, if the first head is taken away.
    model = load_model(f"{nets}_crossvit?px=32", device="cpu")
    backbone = remove_classifier(Backbone(model, "timm", "penultimate"))
    batch = backbone.sample_batch()
    with torch.no_grad():
        vectors = backbone.build_module()(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(vectors, run_torch(model, "penultimate", batch), atol=1e-6)
