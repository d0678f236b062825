"""Tar shards for tests, and what a stream or a loader makes of them."""

import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from gentool.data.config import ImageData
from gentool.data.images import open_images, picture
from gentool.data.loader import Loader
from gentool.data.stream import open_stream

SIZES = (10, 3, 7)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value % 256, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def record(key: str, value: int = 0) -> list[tuple[str, bytes]]:
    """Members of a record whose pixels are `value`."""
    words = {"en": f"number {value}", "zh": f"第{value}", "none": None, "n": value}
    return [
        (f"{key}.png", png(value)),
        (f"{key}.txt", f"number {value}\n".encode()),
        (f"{key}.json", json.dumps(words).encode()),
    ]


def shards(folder: Path, sizes=SIZES) -> str:
    """shard-0.tar, ...; every record has its own pixels, in order."""
    values = itertools.count()
    for i, size in enumerate(sizes):
        members = [m for k in range(size) for m in record(f"{i}-{k}", next(values))]
        shard(folder / f"shard-{i}.tar", members)
    return str(folder / f"shard-{{0..{len(sizes) - 1}}}.tar")


def tars(*specs, **config):
    return open_images(ImageData(spec=tuple(map(str, specs)), image_size=4, **config))


def pictures(config):
    """What a loader of images prepares with."""
    return lambda source, index, rng: picture(source, index, config, rng, True)


def places(stream, n):
    return [
        (place.epoch, *place.identity, place.source.records[place.index].key)
        for place in stream.next(n)
    ]


def loaded(spec, n, **config):
    config = ImageData(spec=(str(spec),), image_size=4, **config)
    told: list[str] = []
    loader = Loader(open_stream(open_images(config), 0), pictures(config), config, told.append)
    try:
        return loader.next(n), loader, told
    finally:
        loader.close()
