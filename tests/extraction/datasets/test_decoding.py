"""Decoded images: 16 bits, palettes, orientation and frames, from every source that decodes."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from criticalmass.core import progress
from criticalmass.errors import CriticalMassError
from criticalmass.extraction.datasets import load_dataset
from criticalmass.extraction.datasets.demo_images import read_drawings
from criticalmass.extraction.datasets.images import decode, read_header
from criticalmass.extraction.datasets.torchvision_data import TorchvisionImages, _images
from criticalmass.extraction.models.preprocess import ImagePreprocess
from criticalmass.extraction.pixels import BrokenImageError, to_rgb

GREY = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
ORIENTATION = 0x0112
# Orientation -> what is done to the upright array to store it so.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content):
    image = decode(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(array):
    return np.repeat(array[..., None], 3, axis=2)


def turned(orientation, kind="PNG", **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](COLOUR))
    return encoded(Image.fromarray(stored), kind, exif=exif, **options)


# 16 bits


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_the_same_picture_as_8_bits(kind):
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert image.mode == "I;16"
    np.testing.assert_array_equal(pixels(encoded(image, kind)), grey(GREY))


def test_big_endian_16_bits():
    levels = GREY.astype(">u2") * 257
    image = Image.frombytes("I;16B", (9, 6), levels.tobytes())
    np.testing.assert_array_equal(pixels(encoded(image, "TIFF")), grey(GREY))


@given(st.integers(0, 65535))
def test_16_bit_levels_are_divided_by_257_and_rounded(level):
    image = Image.fromarray(np.full((1, 1), level, np.uint16))
    (value,) = set(pixels(encoded(image, "TIFF")).ravel().tolist())
    assert abs(value - level / 257) <= 0.5


def test_integers_of_a_portable_greymap_have_16_bits():
    content = b"P5 3 1 65535\n" + np.array([0, 128 * 257, 65535], ">u2").tobytes()
    assert pixels(content)[0, :, 0].tolist() == [0, 128, 255]
    content = b"P5 3 1 1023\n" + np.array([0, 512, 1023], ">u2").tobytes()
    assert pixels(content)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("array", "word"),
    [(GREY.astype(np.float32) / 255, "floats"), (GREY.astype(np.int32) * 70000, "integers")],
)
def test_an_unknown_range_is_refused_in_one_line(tmp_path, array, word):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            save(tmp_path / name / f"{number}.png", number + 10 * (name == "b"))
    Image.fromarray(array).save(tmp_path / "a" / "x.tif")
    message = rf"1 of 7 images .*x\.tif' \(its pixels are 32-bit {word} of unknown range; save it"
    with pytest.raises(BrokenImageError, match=message) as caught:
        load_dataset(f"imagefolder:{tmp_path}")
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="left out 1 image"):
        data = load_dataset(f"imagefolder:{tmp_path}", skip_broken=True)
    assert sum(len(split) for split in data.splits.values()) == 6


def save(path, seed):
    array = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


# 8 bits


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_8_bits_are_what_pillow_makes_of_them(mode, kind):
    if (mode, kind) == ("CMYK", "PNG"):
        return
    content = encoded(Image.fromarray(COLOUR).convert(mode), kind)
    np.testing.assert_array_equal(
        pixels(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    )


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_a_transparent_palette_keeps_its_colours(recwarn, transparency):
    image = Image.frombytes("P", (3, 2), bytes([0, 1, 2, 2, 1, 0]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    content = encoded(image, transparency=transparency)
    assert "transparency" in Image.open(io.BytesIO(content)).info
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)
    np.testing.assert_array_equal(pixels(content), expected[[[0, 1, 2], [2, 1, 0]]])
    rgba = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    np.testing.assert_array_equal(pixels(content), rgba[..., :3])
    assert not recwarn.list


# Orientation


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_orientation_is_applied(orientation, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(turned(orientation, kind, **options)), COLOUR)


def test_the_orientation_of_16_bits_is_applied():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored = np.ascontiguousarray(np.rot90(GREY, 1)).astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(stored), exif=exif)), grey(GREY))


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\0\x09broken"])
def test_damaged_metadata_leave_the_pixels_as_they_are(recwarn, exif):
    content = encoded(Image.fromarray(COLOUR), exif=exif)
    np.testing.assert_array_equal(pixels(content), COLOUR)
    assert not recwarn.list


def folder_of_photos(tmp_path):
    for base, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for number in range(4):
            content = turned(6, pnginfo=comment(4 * base + number))
            (tmp_path / name / f"{number}.png").write_bytes(content)


def comment(number):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", str(number))
    return info


@pytest.mark.filterwarnings("ignore:.* are also training ")
def test_folders_tables_hub_and_drawings_apply_the_orientation(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "f").mkdir()
    folder_of_photos(tmp_path / "f")
    table = pd.DataFrame({"image": [turned(6)] * 8, "label": np.arange(8) % 2})
    table.to_parquet(tmp_path / "t.parquet")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {
        "image": [{"bytes": content, "path": None} for content in table["image"]],
        "label": table["label"].tolist(),
    }
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(tmp_path / "d")
    for spec in ("imagefolder:f", "parquet:t.parquet", "hf:d"):
        scheme, _, name = spec.partition(":")
        data = load_dataset(f"{scheme}:{tmp_path / name}")
        np.testing.assert_array_equal(np.asarray(data.splits["test"].items[0]), COLOUR)
    drawings, _ = read_drawings(tmp_path / "f")
    np.testing.assert_array_equal(np.asarray(drawings.items[0]), COLOUR)


def prepared(items):
    """Return what a model gets of images in memory, (n, side, side, 3)."""
    preprocess = ImagePreprocess(6, 6, "bilinear", (), ())
    return np.concatenate([batch for _, batch in preprocess.batches(items, None)]).transpose(
        0, 2, 3, 1
    )


def test_images_in_memory_are_decoded_like_files():
    upright = prepared([Image.fromarray(COLOUR)])
    with Image.open(io.BytesIO(turned(6))) as photo:
        np.testing.assert_array_equal(prepared([photo]), upright)
    # An image that was decoded already is not turned again.
    for kind in ("PNG", "JPEG", "TIFF"):
        (once,) = (decode(content) for content in [turned(6, kind)])
        np.testing.assert_array_equal(np.asarray(to_rgb(once)), np.asarray(once))
    levels = GREY.astype(np.uint16) * 257
    expected = prepared([GREY])
    np.testing.assert_array_equal(prepared([levels]), expected)
    np.testing.assert_array_equal(prepared([Image.fromarray(levels)]), expected)
    with pytest.raises(BrokenImageError, match=r"an image of the dataset .* 32-bit floats"):
        prepared([GREY.astype(np.float32) / 255])
    with pytest.raises(CriticalMassError, match=r"float64 and shape \(2, 2, 3\) is no image"):
        prepared([np.zeros((2, 2, 3))])


class Source:
    """A dataset as torchvision's: a list of files, read without their orientation."""

    def __init__(self, samples, has_files):
        self.files = samples
        if has_files:
            self.samples = samples

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        path, label = self.files[index]
        with Image.open(path) as image:
            return image.convert("RGB"), label


@pytest.mark.parametrize("has_files", [True, False])
def test_torchvision_applies_the_orientation(tmp_path, has_files):
    folder_of_photos(tmp_path)
    paths = sorted(tmp_path.rglob("*.png"))
    images = _images(Source([(str(path), 0) for path in paths], has_files))
    assert isinstance(images, TorchvisionImages) != has_files
    np.testing.assert_array_equal(np.asarray(images[0]), COLOUR)
    if not has_files:
        assert next(iter(images.content())).endswith(COLOUR.tobytes())


def test_torchvision_reads_files_with_16_bits(tmp_path):
    for number in range(3):
        Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"{number}.png")
    images = _images(Source([(str(path), 0) for path in sorted(tmp_path.iterdir())], True))
    np.testing.assert_array_equal(np.asarray(images[0]), grey(GREY))


def test_an_upright_image_is_not_copied():
    image = Image.fromarray(COLOUR)
    assert to_rgb(image) is image


# Frames


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_is_used_and_said(tmp_path, capsys, kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert read_header(content).has_frames
    assert decode(content).getpixel((0, 0))[0] > 250
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            save(tmp_path / name / f"{number}.png", number + 10 * (name == "b"))
    (tmp_path / "b" / f"x.{kind.lower()}").write_bytes(content)
    with progress.display():
        data = load_dataset(f"imagefolder:{tmp_path}")
    assert data.notes["first_frame_of"] == 1
    assert "1 images of 'imagefolder:" in capsys.readouterr().err


def test_a_single_frame_is_not_mentioned():
    for kind in ("GIF", "TIFF", "PNG", "JPEG", "WEBP"):
        assert not read_header(encoded(Image.fromarray(COLOUR), kind)).has_frames
