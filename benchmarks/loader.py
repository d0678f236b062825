"""One epoch of many small captioned pictures in shards: rate, memory, and the order after a cut.

    python benchmarks/loader.py [--shards 20] [--records 10000]

Writes the shards to a temporary folder: JPEGs of scenes, a caption and a field of numbers for each.
"""

import argparse
import io
import json
import os
import resource
import tarfile
import tempfile
import time
from array import array
from pathlib import Path

from PIL import Image
from results import append

from gentool.data.config import ImageData
from gentool.data.holdout import train_and_validation
from gentool.data.images import Picture, picture
from gentool.data.loader import Loader
from gentool.data.scenes import Scenes
from gentool.data.stream import open_stream
from gentool.rng import seed_of

BATCH = 256
CUTS = (0.137, 0.5, 0.861)  # of the epoch
AFTER = 3000  # records that are compared after each cut: some windows
DRAWN = 1000  # different pictures: keys and captions differ in all records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--records", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.shards, options.records)
        spec = f"{folder}/shard-{{000..{options.shards - 1:03d}}}.tar"
        config = ImageData(spec=(spec,), where=("n>=0",))
        held_out = train_and_validation(config)[1].size or 0
        figures = epoch(config, options.shards * options.records - held_out)
    command = f"python benchmarks/loader.py --shards {options.shards} --records {options.records}"
    append("loader", command, figures)
    for figure in figures:
        print(figure)


def write(folder: Path, shards: int, records: int) -> None:
    """The shards, as img2dataset would write them."""
    world = Scenes("train")
    pictures = []
    for i in range(DRAWN):
        buffer = io.BytesIO()
        Image.fromarray(world[i].image).save(buffer, "JPEG", quality=90)
        pictures.append((buffer.getvalue(), world[i].caption))
    for shard in range(shards):
        with tarfile.open(folder / f"shard-{shard:03d}.tar", "w") as tar:
            for i in range(records):
                number = shard * records + i
                image, caption = pictures[number % DRAWN]
                for ending, data in (
                    ("jpg", image),
                    ("txt", f"{caption}, number {number}".encode()),
                    ("json", json.dumps({"n": number}).encode()),
                ):
                    info = tarfile.TarInfo(f"{number:09d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def open_loader(config: ImageData) -> Loader[Picture]:
    """The loader of `gentool train`."""
    source, _ = train_and_validation(config)
    return Loader(
        open_stream(source, 0),
        lambda source, index, rng: picture(source, index, config, rng, True),
        config,
        print,
    )


def epoch(config: ImageData, n: int) -> list[dict[str, object]]:
    """Figures of n records, an epoch, and of loaders that go on in its middle."""
    loader = open_loader(config)
    cuts = [int(share * n) // BATCH * BATCH for share in CUTS]
    cursors: dict[int, str] = {}
    keys = array("Q")  # hashes, so that the list of them is small
    memory = []  # MiB after each tenth
    started = time.perf_counter()
    while len(keys) < n:
        batch = loader.next(min(BATCH, n - len(keys)))
        assert all(example.epoch == 0 and "number" in example.value.caption for example in batch)
        keys.extend(seed_of(example.key) for example in batch)
        if len(keys) in cuts:
            cursors[len(keys)] = json.dumps(loader.cursor)  # as a state keeps it
        if len(keys) * 10 // n > len(memory):
            memory.append(resident())
    seconds = time.perf_counter() - started
    assert loader.next(1)[0].epoch == 1, "the epoch has more records"
    loader.close()
    same = 0
    for place, cursor in cursors.items():
        again = open_loader(config)
        again.seek(json.loads(cursor))
        wanted = keys[place : place + AFTER]
        found = array("Q")
        while len(found) < len(wanted):
            batch = again.next(min(BATCH, len(wanted) - len(found)))
            found.extend(seed_of(example.key) for example in batch)
        same += found == wanted
        again.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    of = {"n": n, "seed": 0, "threads": config.workers}
    return [
        {"metric": "records per second", "value": round(n / seconds), **of},
        {"metric": "different records", "value": len(set(keys)), **of},
        {"metric": "MiB after a tenth", "value": round(memory[0]), **of},
        {"metric": "MiB after the epoch", "value": round(memory[-1]), **of},
        {"metric": "peak MiB", "value": round(peak), **of},
        {
            "metric": "cuts with the same order after them",
            "value": same,
            **of | {"n": len(cursors)},
        },
    ]


def resident() -> float:
    """MiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


main()
