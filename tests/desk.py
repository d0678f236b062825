"""A folder with all the files that commands in the docs name, and small recipes and checkpoints in
place of the shipped ones: the same settings but for size, so that a command takes a moment."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
from PIL import Image
from tars import shard

from gentool import resources
from gentool.data.scenes import Scenes
from gentool.settings import flatten, merge

TRAIN = {
    "batch_size": 4, "warmup_steps": 0, "log_every": 1, "validate_every": 0, "sample_every": 0,
    "validation_examples": 4,
}  # fmt: skip
TEXT = {"width": 16, "layers": 1, "heads": 2}
PAIR = {"hidden": 16, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
SMALL = {
    "ddpm": {
        "model": {
            "channels": 8, "multipliers": [1, 1], "blocks": 1, "norm_groups": 4, "patch_size": 4,
            "head_channels": 0, "attention": [8], "time_channels": 8, "text": TEXT,
        },
        "tokenizer": {"kind": "words", "size": 0},  # so few names have no thousand pieces
        "diffusion": {"T": 20},
        "sample": {"steps": 3},
    },
    "diffusion-lm": {
        "model": {"embedding": 8, "hidden": 16, "layers": 1, "heads": 2, "time_features": 8},
        "diffusion": {"T": 20},
        "sample": {"steps": 3},
    },
    "mask-predict": {"model": PAIR, "tokenizer": {"kind": "words", "min_count": 1}},
    "teacher": {"model": PAIR, "tokenizer": {"kind": "words", "min_count": 1}},
    "mvtm": {
        "model": {"hidden": 16, "layers": 1, "heads": 2, "feed_forward": 32, "text": TEXT},
        "sample": {"steps": 3},
    },
    "vq": {
        "model": {
            "channels": 8, "blocks": 1, "middle": 0, "norm_groups": 4, "codes": 16, "dimensions": 4,
        },
        "train": {"steps": 2},  # a first stage has those of its recipe
    },
    "diffusion-lm-control": {"model": {"hidden": 16, "layers": 1, "heads": 2, "time_features": 8}},
    "judge": {"model": {"hidden": 16, "layers": 1, "heads": 2}},
    "features": {"model": {"channels": 8, "levels": 1, "norm_groups": 4}},
}  # fmt: skip
CIFAR = "airplane automobile bird cat deer dog frog horse ship truck".split()
PAIRS = [("a man in a yard", "ein mann in einem hof"), ("two dogs run", "zwei hunde laufen")]
RUNS = {  # that pages take for granted: name -> what is trained
    **dict.fromkeys(("mine", "a", "b", "other", "ddpm-scenes-text"), "ddpm"),
    "mvtm-scenes": "mvtm", "judge-scenes": "judge", "t": "teacher",
}  # fmt: skip
N = 12  # pictures and captions


def small_recipes(folder: Path) -> None:
    """Each shipped recipe that fits SMALL, made small, in `folder`."""
    folder.mkdir(parents=True)
    for name, path in resources.shipped("recipes").items():
        tree = tomllib.loads(path.read_text())
        if tree["backend"] in SMALL:
            tree = merge(merge(tree, {"train": TRAIN}), SMALL[tree["backend"]])
            lines = [f"{key} = {json.dumps(value)}\n" for key, value in flatten(tree).items()]
            (folder / f"{name}.toml").write_text("# Small.\n" + "".join(lines))


def fill(desk: Path) -> None:
    """Write the files."""
    world = Scenes("train")
    captions = [world[i].caption for i in range(N)]
    write(desk / "captions.txt", captions)
    write(desk / "in.txt", captions[:3])
    write(desk / "sentences.en", captions)
    for side in (0, 1):
        for stem in ("train", "test"):
            write(desk / f"{stem}.{('en', 'de')[side]}", [pair[side] for pair in 10 * PAIRS])
    write(desk / "out.de", [pair[1] for pair in 10 * PAIRS])
    write(desk / "pairs.tsv", ["en\tde", *("\t".join(pair) for pair in 10 * PAIRS)])
    bodies = [json.dumps({"body": text, "stars": i % 5}) for i, text in enumerate(captions)]
    write(desk / "reviews.jsonl", bodies)
    rows = [f'"name[The Eagle {i}], area[riverside]",{text}' for i, text in enumerate(captions)]
    write(desk / "e2e.csv", ["mr,ref", *(4 * rows)])
    for name in ("trainset", "devset"):
        write(desk / "e2e" / f"{name}.csv", ["mr,ref", *(4 * rows)])
    for folder in ("photos", "drawn"):
        (desk / folder).mkdir()
        for i in range(N):
            Image.fromarray(world[i].image).save(desk / folder / f"{i:06d}.png")
    Image.fromarray(world[0].image).save(desk / "in.png")
    hole = np.zeros((32, 32), np.uint8)
    hole[8:24, 8:24] = 255
    for name in ("hole.png", "border.png"):
        Image.fromarray(hole).save(desk / name)
    pngs = [(desk / "photos" / f"{i:06d}.png").read_bytes() for i in range(N)]
    (desk / "cifar10").mkdir()
    labelled(desk / "cifar10" / "train.parquet", pngs)
    shutil.copy(desk / "cifar10" / "train.parquet", desk / "train.parquet")
    for number in range(4):
        shard(desk / f"emoji-{number:05d}.tar", records(number, pngs))
    for number in range(100):
        shard(desk / f"laion-{number:05d}.tar", records(number, pngs[:1]))


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def records(number: int, pngs: list[bytes]) -> list[tuple[str, bytes]]:
    """Members of a shard, with captions in two languages and figures to choose by."""
    facts = {"zh": "红色", "de": "ein rotes Kreuz", "similarity": 0.3 + number % 2, "width": 64}
    return [
        member
        for i, png in enumerate(pngs)
        for member in (
            (f"{number}-{i}.png", png),
            (f"{number}-{i}.txt", b"a red cross"),
            (f"{number}-{i}.json", json.dumps(facts).encode()),
        )
    ]


def labelled(path: Path, pngs: list[bytes]) -> None:
    """A table of pictures in the classes of CIFAR-10."""
    import datasets

    features = {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=CIFAR)}
    rows = [{"bytes": png, "path": None} for png in 2 * pngs]
    columns = {"image": rows, "label": [i % len(CIFAR) for i in range(len(rows))]}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    made.to_parquet(str(path))
