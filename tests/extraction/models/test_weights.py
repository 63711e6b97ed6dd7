"""Weight files in the formats of the paper's models, with random weights."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from criticalmass.errors import CriticalMassError, DataUnavailableError
from criticalmass.extraction.models import load_model
from criticalmass.extraction.models.optional_imports import (
    import_after_torchvision,
    import_torchvision,
)
from criticalmass.extraction.models.weight_files import WeightFile, read_weights
from criticalmass.extraction.models.weight_names import load_into, rename_flax, rename_vgg

torch = pytest.importorskip("torch")
nn = torch.nn
PIXELS = 64
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def vision():
    return import_torchvision().models


def seeded(make, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return make(**options).eval()


def images(mean=IMAGENET[0], std=IMAGENET[1]):
    levels = np.random.default_rng(1).integers(0, 256, (2, 3, PIXELS, PIXELS)).astype(np.uint8)
    scale = (torch.tensor(one).view(1, -1, 1, 1) for one in (mean, std))
    centre, spread = scale
    batch = torch.from_numpy(levels)
    return batch, (batch.float() / 255 - centre) / spread


def logits(model, levels):
    with torch.no_grad():
        return model.module(levels)


def thin(make):
    """State of a large network, each weight one number: the names and shapes in a small file."""
    with torch.device("meta"):
        names = make().state_dict()
    rng = np.random.default_rng(0)
    return {
        name: torch.tensor(rng.random()).to(one.dtype).expand(one.shape)
        for name, one in names.items()
    }


def assert_same_weights(model, state, rename=None):
    """Assert that every weight has the value that its name says."""
    found = model.root.state_dict()
    expected = state if rename is None else rename(state)
    for name, value in expected.items():
        assert torch.equal(found[name].flatten()[:1], value.flatten()[:1]), name


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_resnets(vision, tmp_path, name):
    net = seeded(getattr(vision, name))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = load_model(f"timm:{name}.tv_in1k?px={PIXELS}&weights={tmp_path / 'net.pth'}")
    levels, scaled = images()
    with torch.no_grad():
        torch.testing.assert_close(logits(model, levels), net(scaled), atol=1e-4, rtol=1e-4)
    assert model.weights == "file net.pth"
    assert model.preprocessing["mean"] == list(IMAGENET[0])


@pytest.mark.parametrize("name", ["wide_resnet50_2", "wide_resnet50_4", "vgg16_bn"])
def test_the_large_networks_of_torchvisions_names(vision, tmp_path, name):
    from torchvision.models.resnet import Bottleneck, ResNet

    if name == "wide_resnet50_4":
        state = thin(lambda: ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=256))
    else:
        state = thin(getattr(vision, name))
    torch.save(state, tmp_path / "net.pth")
    model = load_model(f"timm:{name}?px={PIXELS}", weights=tmp_path / "net.pth")
    assert_same_weights(model, state, rename_vgg)
    assert model.preprocessing["mean"] == list(IMAGENET[0])
    assert model.penultimate.path == ("head.fc" if name == "vgg16_bn" else "fc")


def test_vggs_linear_layer_is_the_convolution():
    linear = seeded(lambda: nn.Linear(2 * 3 * 3, 4))
    state = {
        "features.0.weight": torch.zeros(2, 3, 3, 3),
        "classifier.0.weight": linear.weight,
        "classifier.0.bias": linear.bias,
        "classifier.6.bias": linear.bias,
    }
    renamed = rename_vgg(state)
    assert set(renamed) == {
        "features.0.weight", "pre_logits.fc1.weight", "pre_logits.fc1.bias", "head.fc.bias"
    }  # fmt: skip
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    convolved = nn.functional.conv2d(x, renamed["pre_logits.fc1.weight"], linear.bias)
    torch.testing.assert_close(convolved.flatten(1), linear(x.flatten(1)))


def augreg(patch, width, heads, depth, classes, *, thin=False):
    """The arrays of an AugReg archive, as its Flax code names and shapes them."""
    rng = np.random.default_rng(0)
    tokens, inner, each = (224 // patch) ** 2 + 1, 4 * width, width // heads
    shapes = {
        "cls": (1, 1, width),
        "embedding/kernel": (patch, patch, 3, width),
        "embedding/bias": (width,),
        "Transformer/posembed_input/pos_embedding": (1, tokens, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, classes),
        "head/bias": (classes,),
    }
    for number in range(depth):
        block = f"Transformer/encoderblock_{number}/"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}{norm}/{kind}": (width,) for kind in ("scale", "bias")}
        attention = f"{block}MultiHeadDotProductAttention_1/"
        for part in ("query", "key", "value"):
            shapes[f"{attention}{part}/kernel"] = (width, heads, each)
            shapes[f"{attention}{part}/bias"] = (heads, each)
        shapes[f"{attention}out/kernel"] = (heads, each, width)
        shapes[f"{attention}out/bias"] = (width,)
        for dense, (n_in, n_out) in enumerate([(width, inner), (inner, width)]):
            shapes[f"{block}MlpBlock_3/Dense_{dense}/kernel"] = (n_in, n_out)
            shapes[f"{block}MlpBlock_3/Dense_{dense}/bias"] = (n_out,)
    if thin:
        return {name: np.full(shape, rng.random(), np.float32) for name, shape in shapes.items()}
    return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}


def test_augreg_archives_load_as_timm_loads_them(tmp_path):
    timm = import_after_torchvision("timm", "torch")
    path = tmp_path / "S_32-i21k.npz"
    np.savez(path, **augreg(32, 384, 6, 12, 21843))
    model = load_model("timm:vit_small_patch32_224", weights=path)
    reference = timm.create_model("vit_small_patch32_224", pretrained=False, num_classes=21843)
    reference.load_pretrained(str(path))
    found = model.root.state_dict()
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
    assert model.preprocessing["mean"] == [0.5, 0.5, 0.5]


def test_the_archive_of_s16(tmp_path):
    arrays = augreg(16, 384, 6, 12, 1000, thin=True)
    np.savez(tmp_path / "S_16.npz", **arrays)
    model = load_model("timm:vit_small_patch16_224", weights=tmp_path / "S_16.npz")
    assert_same_weights(
        model, {name: torch.from_numpy(one) for name, one in arrays.items()}, rename_flax
    )
    assert model.penultimate.description == "input of 'head'"


def test_an_archive_for_another_network_lists_what_does_not_fit(tmp_path):
    arrays = augreg(16, 192, 3, 12, 10)
    arrays["pre_logits/kernel"] = arrays.pop("head/kernel")
    np.savez(tmp_path / "ti.npz", **arrays)
    with pytest.raises(CriticalMassError, match="1 not in the model: pre_logits/kernel") as caught:
        load_model("timm:vit_tiny_patch16_224", weights=tmp_path / "ti.npz")
    assert "1 missing: head.weight" in str(caught.value)
    assert rename_flax({"a": 1}) == {"a": 1}


def attacked(state, inner=""):
    """A checkpoint of MadryLab's robustness: the attacker's copies, scaling and training state."""
    mean, std = (torch.tensor(one)[:, None, None] for one in ((0.49, 0.48, 0.45), (0.2, 0.2, 0.3)))
    scaling = {"new_mean": mean, "new_std": std}
    return {
        "model": {
            **{f"module.normalizer.{k}": v for k, v in scaling.items()},
            **{f"module.model.{inner}{k}": v for k, v in state.items()},
            **{f"module.attacker.normalize.{k}": v for k, v in scaling.items()},
            **{f"module.attacker.model.{inner}{k}": v for k, v in state.items()},
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{}]},
        "schedule": {"lr_lambdas": [None], "last_epoch": 90},
        "epoch": 90,
        "amp": "N/A",
        "nat_prec1": np.float64(47.9),
    }


@pytest.mark.parametrize(("inner", "zipped"), [("", True), ("model.", False)])
def test_adversarially_trained_checkpoints(vision, tmp_path, inner, zipped):
    net = seeded(vision.resnet18)
    path = tmp_path / "resnet18_l2_eps3.ckpt"
    checkpoint = attacked(net.state_dict(), inner)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    model = load_model(f"timm:resnet18.tv_in1k?px={PIXELS}", weights=path)
    assert model.preprocessing["mean"] == [0.49, 0.48, 0.45]
    levels, scaled = images((0.49, 0.48, 0.45), (0.2, 0.2, 0.3))
    with torch.no_grad():
        torch.testing.assert_close(logits(model, levels), net(scaled), atol=1e-4, rtol=1e-4)


class Blurred(nn.Module):
    """What the FFCV training script wraps strided convolutions in."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        self.register_buffer("blur_filter", kernel.repeat(conv.in_channels, 1, 1, 1))

    def forward(self, x):
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        return self.conv(nn.functional.conv2d(padded, self.blur_filter, groups=x.shape[1]))


def kusupati(vision, head):
    net = seeded(vision.resnet50)
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv2 = Blurred(stage[0].conv2)
        stage[0].downsample[0] = Blurred(stage[0].downsample[0])
    net.fc = head
    return net.eval()


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        for number in range(9):
            setattr(self, f"nesting_classifier_{number}", nn.Linear(2 ** (3 + number), 1000))


def test_matryoshka_and_fixed_widths(vision, tmp_path):
    levels, scaled = images()
    net = kusupati(vision, nn.Identity())
    with torch.no_grad():
        features = net(scaled)
    for name, head, width in (
        ("resnet50_mrl", seeded(Nested), 2048),
        ("resnet50_ff8", nn.Linear(8, 1000), 8),
    ):
        net.fc = head
        state = {f"module.{key}": value for key, value in net.state_dict().items()}
        assert "module.layer2.0.conv2.blur_filter" in state
        torch.save(state, tmp_path / "final_weights.pt")
        model = load_model(f"timm:{name}?px={PIXELS}&weights={tmp_path / 'final_weights.pt'}")
        found = penultimate(model, levels)
        torch.testing.assert_close(found, features[:, :width], atol=1e-4, rtol=1e-4)
        assert_same_weights(model, {f"fc.{key}": value for key, value in head.state_dict().items()})
        if name == "resnet50_mrl":
            eighth = logits(model, levels)[0]
            torch.testing.assert_close(eighth, head.nesting_classifier_0(found[:, :8]))


def penultimate(model, levels):
    inputs = []
    module = model.root.get_submodule(model.penultimate.path)
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    logits(model, levels)
    handle.remove()
    return inputs[0]


def test_without_blur_the_paper_networks_are_plain(vision, tmp_path):
    net = seeded(vision.resnet50)
    net.fc = nn.Linear(16, 1000)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    model = load_model("timm:resnet50_ff16", weights=tmp_path / "net.pt")
    assert "blur_filter" not in " ".join(model.root.state_dict())
    with pytest.raises(DataUnavailableError, match="no weights to fetch; give weights=FILE"):
        load_model("timm:resnet50_ff16")
    with pytest.raises(CriticalMassError, match="did you mean 'resnet50_mrl'"):
        load_model("timm:resnet50_mlr")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "npz", "module"])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, kind):
    trap, path = tmp_path / "trap", tmp_path / ("w.npz" if kind == "npz" else "w.pth")
    content = {"fc.weight": torch.zeros(2), "x": Evil(trap)}
    if kind in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(content["x"]))
    elif kind == "npz":
        np.savez(path, x=np.array([Evil(trap)], dtype=object))
    else:
        torch.save(nn.Linear(2, 2), path)
    refusal = (
        r"not a file of torch\.save" if kind == "pickle" else r"pickled code \(.+\), .* refused"
    )
    with pytest.raises(CriticalMassError, match=refusal) as caught:
        load_model("timm:resnet10t", weights=path)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


PREFIXES = ("module.", "model.", "_orig_mod.", "net.")


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from(PREFIXES), max_size=3), st.sampled_from(["", "model", "state_dict"])
)
def test_wrappers_are_taken_off(tmp_path_factory, prefixes, holder):
    # Its own weights are below "model." too, which is no wrapper then.
    net = seeded(lambda: nn.ModuleDict({"model": nn.Linear(3, 2)}))
    state = {"".join(prefixes) + key: value for key, value in net.state_dict().items()}
    path = tmp_path_factory.mktemp("w") / "w.pt"
    torch.save({holder: state, "epoch": 3} if holder else state, path)
    empty = nn.ModuleDict({"model": nn.Linear(3, 2)})
    load_into(empty, read_weights(path), "net")
    assert torch.equal(empty["model"].weight, net["model"].weight)


def test_half_precision_and_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file(
        {"weight": torch.full((2, 3), 0.5).half(), "bias": torch.ones(2)},
        tmp_path / "w.safetensors",
    )
    net = nn.Linear(3, 2)
    load_into(net, read_weights(tmp_path / "w.safetensors"), "net")
    assert net.weight.dtype == torch.float32
    assert float(net.weight.detach().min()) == 0.5
    (tmp_path / "bad.safetensors").write_bytes(b"rubbish")
    with pytest.raises(CriticalMassError, match="no readable weights"):
        read_weights(tmp_path / "bad.safetensors")


def test_a_mismatch_lists_the_keys(tmp_path):
    state = {"weight": torch.ones(2, 4), "scale": torch.ones(2)}
    with pytest.raises(CriticalMassError) as caught:
        load_into(nn.Linear(3, 2), WeightFile(tmp_path / "w.pt", state), "net")
    assert str(caught.value).endswith(
        "does not fit 'net': 1 missing: bias; 1 not in the model: scale; "
        "1 of another shape: weight (2, 4) for (2, 3)"
    )


@pytest.mark.parametrize("classes", [7, None])
def test_a_networks_classes_are_those_of_the_file(tmp_path, classes):
    timm = import_after_torchvision("timm", "torch")
    net = timm.create_model("resnet10t", num_classes=classes or 0)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = load_model("timm:resnet10t?px=32", weights=tmp_path / "w.pt")
    assert model.penultimate.description == "input of 'fc'"
    assert model.root.num_classes == (classes or 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no state dict"),
        ([1, 2], "no state dict"),
        ({"epoch": 3, "weight": torch.ones(2)}, "'epoch' is not a tensor"),
        ("absent", "no weight file"),
    ],
)
def test_files_without_weights(tmp_path, content, message):
    if content != "absent":
        torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CriticalMassError, match=message):
        read_weights(tmp_path / "w.pt")
