"""Bytes to pictures: what is decoded, how it is cut and scaled, and what cannot be read."""

import struct
import zlib

import numpy as np
import pytest
import torch
from images import encoded, picture, write
from PIL import Image

from gentool.data.config import ImageData
from gentool.data.decode import decode, fit
from gentool.data.images import first_pictures, open_images
from gentool.errors import BadDataError
from gentool.rng import generator

# Decoding


def test_damaged_files_are_named(tmp_path):
    whole = encoded(picture(0))
    write(tmp_path / "cat/cut.png", whole[: len(whole) // 2])
    write(tmp_path / "dog/text.jpg", b"<html>404</html>")
    write(tmp_path / "dog/empty.png", b"")
    source = open_images(ImageData(spec=(str(tmp_path),)))
    for i, message in enumerate(("^cat/cut.png: dam", "^dog/empty.png: not", "^dog/text.jpg: not")):
        with pytest.raises(BadDataError, match=message):
            source[i]
    for form in ("JPEG", "WEBP", "BMP"):
        data = encoded(picture(0), form)
        assert decode(data, "k").shape == (32, 32, 3)
        with pytest.raises(BadDataError, match="^k: damaged"):
            decode(data[: len(data) * 2 // 3], "k")
    with pytest.raises(BadDataError, match="not a PNG"):
        decode(encoded(picture(0), "GIF"), "k")


@pytest.mark.filterwarnings("error")  # as gentool.data.decode has it outside pytest
@pytest.mark.parametrize("side", [9_000, 12_000, 100_000])
def test_decompression_bomb(side):
    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(BadDataError, match="^k: more than 64 million pixels"):
        decode(bomb, "k")


def test_modes_become_grey_or_rgb():
    grey = np.array([[0, 100, 255]], dtype=np.uint8)
    assert decode(encoded(grey), "k")[:, :, 0].tolist() == [[0, 100, 255]]
    wide = np.array([[0, 25_700, 65_535]], dtype=np.uint16)
    assert decode(encoded(wide), "k")[:, :, 0].tolist() == [[0, 100, 255]]
    bits = Image.fromarray(grey).convert("1", dither=Image.Dither.NONE)
    assert decode(encoded(bits), "k")[:, :, 0].tolist() == [[0, 0, 255]]

    clear = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], dtype=np.uint8)
    assert decode(encoded(clear), "k").tolist() == [[[255] * 3, [10, 20, 30], [204] * 3]]
    assert decode(encoded(Image.fromarray(grey).convert("LA")), "k").shape == (1, 3, 1)

    palette = Image.fromarray(grey)
    palette.putpalette([v for i in range(256) for v in (i, 0, 0)])
    assert decode(encoded(palette), "k")[0, 1].tolist() == [100, 0, 0]
    assert decode(encoded(palette, transparency=100), "k")[0, 1].tolist() == [255] * 3

    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(encoded(red, "JPEG"), "k").astype(int) - [255, 0, 0]).max() < 10


def test_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    assert decode(encoded(picture(0, 2, 8), "JPEG", exif=exif), "k").shape == (8, 2, 3)


# Fitting


def test_fit_keeps_what_fits_and_averages_what_does_not():
    image = picture(0)
    assert np.array_equal(fit(image, ImageData(), None), image)
    blocks = picture(1).repeat(3, 0).repeat(3, 1)
    assert np.array_equal(fit(blocks, ImageData(), None), picture(1))
    wide = np.concatenate([np.zeros_like(image), image, np.zeros_like(image)], axis=1)
    assert np.array_equal(fit(wide, ImageData(), None), image)
    assert fit(np.zeros((1, 50_000, 3), np.uint8), ImageData(image_size=999), None).any() == 0
    grey = fit(image[:, :, :1], ImageData(channels=3), None)
    assert np.array_equal(grey[:, :, 0], grey[:, :, 2])
    assert fit(image, ImageData(channels=1, image_size=7), None).shape == (7, 7, 1)


def test_flip_and_crop_come_from_the_generator():
    config = ImageData(flip=True, crop="random")
    image = picture(0, 32, 64)
    results = [fit(image, config, generator(i)) for i in range(40)]
    assert all(np.array_equal(r, fit(image, config, generator(i))) for i, r in enumerate(results))
    assert len({r.tobytes() for r in results}) > 20
    flips = [fit(picture(0), ImageData(flip=True), generator(i)) for i in range(40)]
    assert 8 < sum(np.array_equal(f, picture(0)[:, ::-1]) for f in flips) < 32

    after = set()
    for case, shape in ((config, (32, 64)), (config, (32, 32)), (ImageData(), (9, 9))):
        rng = generator("after")
        fit(picture(0, *shape), case, rng)
        after.add(torch.rand((), generator=rng).item())
    assert len(after) == 1


def test_a_random_crop_reaches_both_ends():
    image = np.arange(10, dtype=np.uint8)[None, :, None].repeat(8, axis=0).repeat(3, axis=2)
    config = ImageData(crop="random", image_size=8)
    begins = [int(fit(image, config, generator(i))[0, 0, 0]) for i in range(300)]
    assert {begin: begins.count(begin) > 60 for begin in sorted(set(begins))} == {
        0: True, 1: True, 2: True,
    }  # fmt: skip


def test_previews_do_without_pictures_that_cannot_be_read(tmp_path):
    for number in range(5):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    source = open_images(ImageData(spec=(str(tmp_path),)))
    with pytest.raises(BadDataError, match="3.png"):
        first_pictures(source, 9, ImageData())
    skipping = ImageData(on_error="skip")
    assert len(first_pictures(source, 9, skipping)) == 4
    assert len(first_pictures(source, 2, skipping)) == 2
