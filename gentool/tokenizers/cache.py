"""Tokens of a data set, made once: training reads them in place of pictures.

A folder: tokens.npy [n, views, N], each view of a picture cut and mirrored in another way;
records.jsonl with key, label and caption; about.json with the hash of the tokenizer, written last.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from gentool.checkpoint.atomic import create_folder, write_file
from gentool.data.config import ImageData
from gentool.data.holdout import train_and_validation
from gentool.data.images import Picture, picture
from gentool.data.loader import ON_BAD
from gentool.data.source import Example, Sharded, Source
from gentool.errors import BadDataError, NotFoundError, UsageError
from gentool.rng import generator
from gentool.tokenizers.vq.tokenizer import VQTokenizer

BATCH = 64
ABOUT, TOKENS, RECORDS = "about.json", "tokens.npy", "records.jsonl"


@dataclass(frozen=True)
class CachedPicture:
    """One picture of a cache."""

    key: str
    views: np.ndarray  # [views, N]
    label: int | None
    caption: str


class TokenCache:
    """A source of `CachedPicture`. What was cached is the part of the data to train on."""

    def __init__(
        self, folder: Path, tokenizer: VQTokenizer, config: ImageData, fingerprint: str
    ) -> None:
        """config, fingerprint: of the data the run is on. Raises NotFoundError for a folder without
        a whole cache, and BadDataError for one of another tokenizer, of other data or of other
        views of them."""
        if not (folder / ABOUT).is_file():
            raise NotFoundError(f"no token cache in {folder}", "gentool tokenizer cache makes one")
        try:
            about = json.loads((folder / ABOUT).read_text())
            tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
            lines = (folder / RECORDS).read_text(encoding="utf-8").split("\n")[:-1]
            self.records = [json.loads(line) for line in lines]
            made_by, made_of, made_with = about["tokenizer"], about["data"], about["columns"]
            viewed = dict(about.get("views_by", {}))  # an earlier gentool did not say
            self.labels: tuple[str, ...] = tuple(about["labels"])
            self.size: int | None = len(self.records)
            whole = tokens.shape[:2] == (self.size, about["views"]) and tokens.ndim == 3
            if not whole or (made_by == tokenizer.hash and tokens.shape[2] != tokenizer.length):
                raise ValueError(f"{TOKENS} is {list(tokens.shape)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadDataError(f"{folder} is not a whole token cache: {error}") from None
        if made_by != tokenizer.hash:
            raise BadDataError(
                f"{folder} holds tokens of another tokenizer ({made_by[:12]}…, the model's is "
                f"{tokenizer.hash[:12]}…)",
                "gentool tokenizer cache makes one of this tokenizer",
            )
        if made_of != fingerprint:
            raise BadDataError(f"{folder} holds tokens of other data ({made_of})")
        if made_with != _columns(config):
            raise BadDataError(
                f"{folder} was made of other parts of the data: {made_with}, not {_columns(config)}"
            )
        if viewed and viewed != _views_by(config):
            theirs, ours = _options(viewed), _options(_views_by(config))
            raise BadDataError(
                f"{folder} was made with {theirs}, the run has {ours}",
                f"{theirs} here too, or gentool tokenizer cache {ours} makes another",
            )
        self.tokens = tokens
        self.fingerprint = f"{fingerprint}-cached-{self.size}-{about['views']}"

    def __getitem__(self, index: int) -> CachedPicture:
        record = self.records[index]
        return CachedPicture(record["key"], self.tokens[index], record["label"], record["caption"])


def build(
    folder: Path,
    tokenizer: VQTokenizer,
    config: ImageData,
    views: int,
    n: int | None,
    device: torch.device,
    progress: Callable[[int, int], None],
    report: Callable[[str], None],
) -> int:
    """Write the cache of the first n pictures (all of them, where they have an end) of the part of
    the data that is trained on; how many there are. The folder appears when it is whole. Pictures
    that cannot be read are left out and told to `report` where `on_error` says so. Raises
    UsageError and BadDataError."""
    source, _ = train_and_validation(config)
    if isinstance(source, Sharded):
        raise UsageError("shards are read in passing and have no numbers, so they are not cached")
    if (config.channels, config.image_size) != tokenizer.shape[:2]:
        C, side, _ = tokenizer.shape
        raise UsageError(
            f"the tokenizer is of {side} × {side} pictures with {C} channels",
            f"--set image_size={side} --set channels={C}",
        )
    if source.size is None and n is None:
        raise UsageError("scenes are endless: say how many", "--num 50000")
    n = min(size for size in (n, source.size) if size is not None)
    made = 0

    def fill(beside: Path) -> None:
        nonlocal made
        made = _encode(beside, tokenizer, source, config, views, n, device, progress, report)

    create_folder(folder, fill)
    return made


def _encode(
    folder: Path,
    tokenizer: VQTokenizer,
    source: Source[Example],
    config: ImageData,
    views: int,
    n: int,
    device: torch.device,
    progress: Callable[[int, int], None],
    report: Callable[[str], None],
) -> int:
    """What a cache holds, of the first n pictures; of how many. Raises BadDataError."""
    kind = np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<i4")
    made = 0
    # Not a memory map: on a full disk that kills the process.
    with (
        (folder / RECORDS).open("w", encoding="utf-8") as records,
        (folder / TOKENS).open("wb") as tokens,
        ThreadPoolExecutor(config.workers) as threads,
    ):
        _header(tokens, kind, (n, views, tokenizer.length))

        def read(start: int) -> list[Future[list[Picture]]]:
            numbers = range(start, min(n, start + BATCH))
            return [threads.submit(_views, source, i, config, views) for i in numbers]

        coming = read(0)
        for start in range(0, n, BATCH):
            reads, coming = coming, read(start + BATCH)  # while these become tokens
            found = [f for future in reads if (f := _usable(future, config.on_error, report))]
            if found:
                x = torch.stack([picture.image for each in found for picture in each])
                for part in x.split(BATCH):
                    ids = tokenizer.encode(part.to(device)).cpu().numpy()
                    tokens.write(ids.astype(kind).tobytes())
            for example, *_ in found:
                record = {"key": example.key, "label": example.label}
                record["caption"] = example.caption
                records.write(json.dumps(record, ensure_ascii=False) + "\n")
            made += len(found)
            progress(min(n, start + BATCH), n)
        if not made:
            raise BadDataError(f"none of {n} pictures can be read")
        tokens.seek(0)
        _header(tokens, kind, (made, views, tokenizer.length))
    about = {
        "tokenizer": tokenizer.hash, "data": source.fingerprint, "views": views,
        "columns": _columns(config), "views_by": _views_by(config),
        "labels": list(source.labels),
    }  # fmt: skip
    write_file(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    return made


def _header(file: BinaryIO, kind: np.dtype, shape: tuple[int, ...]) -> None:
    """Of a .npy file; as long whatever the shape is."""
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _views(source: Source[Example], index: int, config: ImageData, views: int) -> list[Picture]:
    """So many views of a picture. Raises BadDataError."""
    rngs = [generator("view", view, index) for view in range(views)]
    return [picture(source, index, config, rng, augment=True) for rng in rngs]


def _usable(
    reading: Future[list[Picture]], on_error: str, report: Callable[[str], None]
) -> list[Picture]:
    """The views of a picture; none where it cannot be read and may be left out."""
    try:
        return reading.result()
    except BadDataError as error:
        if on_error == "stop":
            raise BadDataError(str(error), ON_BAD) from error
        report(f"skipped: {error}")
        return []


def _columns(config: ImageData) -> dict[str, str]:
    """What the data's fingerprint does not tell: which of their columns are read, and whether all
    of them are trained on."""
    names = ("image_column", "label_column", "caption_column")
    held = {"held out": "none"} if config.validation else {}
    return {name: getattr(config, name) for name in names if getattr(config, name)} | held


def _views_by(config: ImageData) -> dict[str, bool | str]:
    """What makes the views of a picture differ."""
    return {"flip": config.flip, "crop": config.crop}


def _options(views_by: dict[str, bool | str]) -> str:
    return " ".join(f"--set data.{name}={str(v).lower()}" for name, v in views_by.items())
