"""Preprocessing is bit-equal to OpenCLIP's own transform, and refuses what it must."""

import base64
import functools
import itertools
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import numpy as np
import pytest
import skimage.data
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps, _imaging
from PIL.PngImagePlugin import PngImageFile

from gateway.errors import ImageError, TooLarge
from gateway.images import heap
from gateway.images.header import turn_of
from gateway.images.memory import MemoryBudget
from gateway.images.preprocess import (
    EXACT,
    FORMATS,
    DecodeOptions,
    ImageLimits,
    preprocess,
)
from gateway.images.sources import from_base64
from gateway.models.manifest import Preprocessing
from gateway.models.values import Pixels
from tests.gateway.hostile import jpeg_in_scans, png, png_chunk, tiff
from tests.items import encoded

ResizeMode = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]

INTERPOLATIONS: tuple[Interpolation, ...] = ("bicubic", "bilinear")
LIMITS = ImageLimits()
FAST = DecodeOptions(fast=True)
PHOTOS = ("astronaut", "cat", "coffee", "rocket", "camera", "coins", "brick", "page")
MODES = ("RGB", "L", "LA", "P", "RGBA", "CMYK", "I;16", "1")
SIZES = (
    (1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (63, 64), (64, 64), (65, 64), (224, 224),
    (225, 224), (223, 640), (640, 223), (333, 77), (500, 375), (3000, 2000),
)  # fmt: skip


def rules(
    size: int = 224, resize_mode: ResizeMode = "shortest", interpolation: Interpolation = "bicubic"
) -> Preprocessing:
    return Preprocessing(
        image_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=7,
    )


def reference(data: bytes, preprocessing: Preprocessing) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What OpenCLIP's transform makes of it, before ToTensor and Normalize."""
    transform = image_transform_v2(
        PreprocessCfg(
            size=preprocessing.image_size,
            resize_mode=preprocessing.resize_mode,
            interpolation=preprocessing.interpolation,
            fill_color=preprocessing.fill_color,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        is_train=False,
    )
    tensor = transform(Image.open(BytesIO(data)))
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
        (tensor * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    )
    return pixels


def assert_equal_to_openclip(data: bytes, preprocessing: Preprocessing) -> None:
    np.testing.assert_array_equal(
        preprocess(data, preprocessing, LIMITS), reference(data, preprocessing)
    )


@functools.cache
def noise_file(mode: str, width: int, height: int) -> bytes:
    image = noise(mode, width, height)
    return encoded(image, "TIFF") if mode == "CMYK" else encoded(image, "PNG", compress_level=0)


def noise(mode: str, width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * 10_007 + height)
    rows, columns = (np.arange(count, dtype=np.uint8) for count in (height, width))
    slope = np.add.outer(rows, columns)[..., None]
    pixels = slope // 2 + random.integers(0, 128, (height, width, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "CMYK":
        return Image.fromarray(pixels, "RGBA").convert("RGB").convert("CMYK")
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("photo", PHOTOS)
def test_real_photos(photo: str, resize_mode: ResizeMode) -> None:
    image = Image.fromarray(getattr(skimage.data, photo)())
    for interpolation in ("bicubic", "bilinear"):
        assert_equal_to_openclip(
            encoded(image, "JPEG", quality=85), rules(224, resize_mode, interpolation)
        )
    assert_equal_to_openclip(encoded(image, "PNG"), rules(384, resize_mode))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_every_mode_and_size(mode: str, resize_mode: ResizeMode) -> None:
    for width, height in SIZES:
        data = noise_file(mode, width, height)
        assert_equal_to_openclip(data, rules(64, resize_mode))
        assert_equal_to_openclip(data, rules(224, resize_mode))


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {"quality": 30}),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"quality": 60}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("AVIF", {}),
        ("JPEG2000", {}),
    ],
)
def test_every_format(format_: str, options: dict[str, Any]) -> None:
    image = Image.fromarray(skimage.data.astronaut()).crop((0, 0, 301, 203))
    assert_equal_to_openclip(encoded(image, format_, **options), rules())


def test_grey_and_cmyk_jpeg_and_palette_with_transparency() -> None:
    photo = Image.fromarray(skimage.data.cat())
    assert_equal_to_openclip(encoded(photo.convert("L"), "JPEG"), rules())
    assert_equal_to_openclip(encoded(photo.convert("CMYK"), "JPEG"), rules())
    palette = photo.quantize(31)
    assert_equal_to_openclip(encoded(palette, "PNG", transparency=3), rules())
    assert_equal_to_openclip(encoded(palette, "GIF"), rules(224, "longest"))


def test_first_frame_and_exif_orientation_as_openclip() -> None:
    frames = [noise("RGB", 90, 60), noise("RGB", 90, 60).rotate(180)]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert_equal_to_openclip(animated, rules())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees; OpenCLIP ignores it
    turned = encoded(Image.fromarray(skimage.data.coffee()), "JPEG", exif=exif)
    assert_equal_to_openclip(turned, rules())


def test_a_photo_of_several_blocks_has_the_same_pixels() -> None:
    photo = Image.fromarray(skimage.data.coffee()).resize((1_600, 1_200))
    files = [encoded(photo, "JPEG"), encoded(photo, "PNG", compress_level=1)]
    expected = [reference(data, rules()) for data in files]
    heap.pin()
    assert _imaging.get_block_size() < min(1_600 * 1_200 * 4, heap.MMAP_THRESHOLD)
    for data, pixels in zip(files, expected, strict=True):
        np.testing.assert_array_equal(preprocess(data, rules(), LIMITS), pixels)


def truncations() -> Iterator[tuple[str, bytes]]:
    image = Image.fromarray(skimage.data.coffee())
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encoded(image, format_)
        for keep in (3, 30, len(data) // 3, len(data) // 2):
            yield f"{format_}-{keep}", data[:keep]


@pytest.mark.parametrize(("name", "data"), list(truncations()))
def test_truncated(name: str, data: bytes) -> None:
    with pytest.raises(ImageError):
        preprocess(data, rules(), LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7 " + bytes(100),
        bytes(1000),
        b"\xff\xd8\xff\xe0" + bytes(50),
    ],
)
def test_not_an_image(data: bytes) -> None:
    with pytest.raises(ImageError):
        preprocess(data, rules(), LIMITS)


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (9_000, 9_000), (100_000, 90_000)])
def test_too_many_pixels_are_refused_before_they_are_decoded(width: int, height: int) -> None:
    almost_nothing = png(width, height, 8, 2, data=bytes(9))
    with pytest.raises(TooLarge):
        preprocess(almost_nothing, rules(), LIMITS)


@pytest.mark.parametrize(("width", "height"), [(50_000, 3), (3, 50_000), (59_424, 3)])
def test_extreme_shapes_are_refused_by_what_the_resize_would_make(width: int, height: int) -> None:
    with pytest.raises(TooLarge, match=f"{width} x {height}"):
        preprocess(encoded(Image.new("RGB", (width, height)), "PNG"), rules(), LIMITS)


def test_longest_side_of_an_extreme_shape_leaves_nothing() -> None:
    with pytest.raises(ImageError, match="leave nothing"):
        preprocess(encoded(Image.new("RGB", (5_000, 3)), "PNG"), rules(224, "longest"), LIMITS)


def test_encoded_size_limit_names_its_setting() -> None:
    with pytest.raises(TooLarge, match="GATEWAY_MAX_IMAGE_BYTES"):
        preprocess(bytes(11), rules(), ImageLimits(max_bytes=10))


def test_base64() -> None:
    data = bytes(range(256)) * 3
    assert from_base64(base64.b64encode(data).decode()) == data
    assert from_base64(base64.encodebytes(data).decode()) == data  # with line breaks
    for wrong in ("AAA", "A*==", "äöü", "AAAA=AAA", "_-__"):
        with pytest.raises(ImageError, match="base64"):
            from_base64(wrong)


def test_every_accepted_format_is_one_that_pillow_reads() -> None:
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize_mode", ["shortest", "longest"])
def test_exif_orientation_where_it_is_set(orientation: int, resize_mode: ResizeMode) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(skimage.data.coffee()), "JPEG", exif=exif)
    upright = encoded(ImageOps.exif_transpose(Image.open(BytesIO(data))), "PNG")
    for size in (64, 224):
        pixels = preprocess(
            data, rules(size, resize_mode), LIMITS, DecodeOptions(exif_orientation=True)
        )
        np.testing.assert_array_equal(pixels, reference(upright, rules(size, resize_mode)))
    ignored = preprocess(data, rules(64, resize_mode), LIMITS)
    np.testing.assert_array_equal(ignored, reference(data, rules(64, resize_mode)))


def test_a_png_is_not_decoded_to_find_its_orientation(monkeypatch: pytest.MonkeyPatch) -> None:
    exif, decoded = Image.Exif(), list[tuple[int, int]]()
    exif[0x0112] = 6
    photo = Image.fromarray(skimage.data.coffee())
    data = encoded(photo, "PNG", exif=exif)
    upright = encoded(photo.transpose(Image.Transpose.ROTATE_270), "PNG")
    options = DecodeOptions(exif_orientation=True)
    np.testing.assert_array_equal(
        preprocess(data, rules(), LIMITS, options), reference(upright, rules())
    )

    monkeypatch.setattr(PngImageFile, "load", lambda image: decoded.append(image.size))
    with pytest.raises(TooLarge, match="GATEWAY_MAX_IMAGE_PIXELS"):
        preprocess(upright, rules(), ImageLimits(max_pixels=10_000), options)
    assert not decoded


def test_exif_data_that_may_hold_many_numbers_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    image, read = Image.new("RGB", (2, 2)), list[Image.Image]()

    def getexif(image: Image.Image) -> Image.Exif:
        read.append(image)
        return Image.Exif()

    monkeypatch.setattr(Image.Image, "getexif", getexif)
    for size, times in ((2**20, 1), (2**20 + 1, 0)):
        image.info["exif"] = bytes(size)
        assert turn_of(image) is None
        assert read == [image] * times
        read.clear()


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"alpha": True}])
def test_a_webp_whose_codes_may_be_large_is_decoded_alone(options: dict[str, bool]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (600, 600, 4), np.uint8)
    alpha = options.pop("alpha", False)
    data = encoded(Image.fromarray(noise if alpha else noise[..., :3]), "WEBP", **options)
    taken: list[int] = []

    class Watched(MemoryBudget):
        @contextmanager
        def taken(self, size: int) -> Iterator[None]:
            taken.append(size)
            yield

    preprocess(data, rules(), LIMITS, memory=Watched(1))
    assert (taken[0] > LIMITS.max_decode_bytes) == bool(alpha or options)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", bytes(40)])
def test_garbage_in_place_of_exif_changes_nothing(exif: bytes) -> None:
    data = encoded(Image.fromarray(skimage.data.coffee()), "JPEG", exif=exif)
    pixels = preprocess(data, rules(), LIMITS, DecodeOptions(exif_orientation=True))
    np.testing.assert_array_equal(pixels, reference(data, rules()))


def cosine(one: Pixels, other: Pixels) -> float:
    a, b = one.astype(float).ravel(), other.astype(float).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("photo", ["astronaut", "coffee", "rocket"])
def test_the_fast_way_is_close(photo: str, resize_mode: ResizeMode) -> None:
    small = Image.fromarray(getattr(skimage.data, photo)())
    for scale, format_ in ((0.2, "PNG"), (1, "JPEG"), (4, "BMP"), (4, "JPEG")):
        data = encoded(
            small.resize((round(small.width * scale), round(small.height * scale))), format_
        )
        for interpolation in INTERPOLATIONS:
            asked = rules(224, resize_mode, interpolation)
            exact, fast = (preprocess(data, asked, LIMITS, way) for way in (EXACT, FAST))
            assert not np.array_equal(fast, exact)
            assert fast.shape == exact.shape
            assert cosine(fast, exact) > 0.9998, (scale, format_, interpolation)


@pytest.mark.parametrize("mode", MODES)
def test_the_fast_way_takes_every_mode_and_size(mode: str) -> None:
    for (width, height), asked in itertools.product(SIZES, (rules(64), rules(64, "longest"))):
        data = noise_file(mode, width, height)
        exact, fast = (preprocess(data, asked, LIMITS, way) for way in (EXACT, FAST))
        if mode == "RGB":
            assert cosine(fast, exact) > 0.99, (width, height, asked.resize_mode)
        else:
            np.testing.assert_array_equal(fast, exact)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_fast_way_turns_pictures_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.fromarray(skimage.data.coffee()).resize((1_800, 1_200))
    data = encoded(photo, "JPEG", exif=exif)
    fast = preprocess(data, rules(), LIMITS, DecodeOptions(exif_orientation=True, fast=True))
    exact = preprocess(data, rules(), LIMITS, DecodeOptions(exif_orientation=True))
    assert cosine(fast, exact) > 0.9998


def test_what_the_fast_way_copies_counts_as_memory() -> None:
    data = encoded(Image.new("RGB", (600, 600)), "PNG")
    preprocess(data, rules(), ImageLimits(max_decode_bytes=600 * 600 * 2), EXACT)
    with pytest.raises(TooLarge, match=f"{600 * 600 * 10:,} bytes"):
        preprocess(data, rules(), ImageLimits(max_decode_bytes=600 * 600 * 2), FAST)


@pytest.mark.parametrize(
    ("format_", "size", "options"),
    [
        ("JPEG", (7_040, 4_688), {"progressive": True}),
        ("WEBP", (6_000, 4_000), {"method": 0}),
    ],
)
def test_large_pictures_are_taken_by_default(
    format_: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    data = encoded(Image.new("RGB", size), format_, **options)
    assert preprocess(data, rules(), ImageLimits()).shape == (224, 224, 3)


def test_what_takes_more_than_the_budget_is_decoded_alone() -> None:
    memory, held, seen = MemoryBudget(100), list[int](), list[list[int]]()

    def hold(size: int) -> None:
        with memory.taken(size):
            held.append(size)
            seen.append(held.copy())
            time.sleep(0.002)  # so that others would come in between
            held.remove(size)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, [200 if number % 5 == 0 else 30 for number in range(100)]))
    assert any(len(each) > 1 for each in seen)
    assert all(each == [200] or sum(each) <= 100 for each in seen)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "AVIF", "JPEG2000", "TIFF"])
def test_memory_that_decoding_would_take_is_bounded(format_: str) -> None:
    data = encoded(Image.new("RGB", (1_000, 1_000)), format_)
    limits = ImageLimits(max_decode_bytes=2_000_000)
    if format_ == "JPEG":
        preprocess(data, rules(), limits)
        data = encoded(Image.new("RGB", (1_000, 1_000)), format_, progressive=True)
    with pytest.raises(TooLarge, match="GATEWAY_MAX_DECODE_BYTES"):
        preprocess(data, rules(), limits)


def test_coefficients_of_a_jpeg_in_several_scans_count_as_memory() -> None:
    limits = ImageLimits(max_decode_bytes=1_000 * 1_000 * 4)
    preprocess(encoded(Image.new("RGB", (1_000, 1_000)), "JPEG"), rules(), limits)
    preprocess(jpeg_in_scans(800, 1_000), rules(), limits)
    with pytest.raises(TooLarge, match=f"{1_000 * 1_000 * 10:,} bytes"):
        preprocess(jpeg_in_scans(1_000, 1_000), rules(), limits)


def test_coefficients_of_a_jpeg_count_in_full_where_it_is_scaled_while_decoded() -> None:
    data = encoded(Image.new("RGB", (1_600, 1_600)), "JPEG", progressive=True)
    preprocess(data, rules(), ImageLimits(max_decode_bytes=1_600 * 1_600 * 5), FAST)
    with pytest.raises(TooLarge, match="GATEWAY_MAX_DECODE_BYTES"):
        preprocess(data, rules(), ImageLimits(max_decode_bytes=1_600 * 1_600 * 3), FAST)


def test_samples_of_16_bits_in_a_tiff_count_as_memory() -> None:
    pixels = zlib.compress(bytes(1_000 * 1_000 * 6))
    bits = struct.pack("<3H", 16, 16, 16)
    data = tiff(
        pixels + bits, _256=1_000, _257=1_000, _258=(3, 3, 8 + len(pixels)), _259=8, _262=2, _277=3,
        _273=8, _278=1_000, _279=len(pixels),
    )  # fmt: skip
    preprocess(data, rules(), LIMITS)
    with pytest.raises(TooLarge, match=f"{1_000 * 1_000 * 10:,} bytes"):
        preprocess(data, rules(), ImageLimits(max_decode_bytes=4_000_000))


def test_no_side_is_so_long_that_its_filter_would_fill_memory() -> None:
    data = png(1, 3_000_000, 8, 0, data=bytes(6_000_000))
    with pytest.raises(TooLarge, match="no side may have over"):
        preprocess(data, rules(224, "squash"), LIMITS)


@pytest.mark.parametrize("key", [b"Raw profile type exif", b"XML:com.adobe.xmp"])
def test_orientation_is_not_sought_in_a_very_long_text(key: bytes) -> None:
    text = png_chunk(b"iTXt", key + b"\0\0\0\0\0" + b"\n" * 2_000_000)
    with Image.open(BytesIO(png(4, 4, 8, 2, text, data=bytes(52)))) as image:
        assert turn_of(image) is None
        assert image._exif is None  # it was not even read
