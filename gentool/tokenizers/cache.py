"""Tokens of a data set, made once: training reads them in place of pictures.

A folder: tokens.npy [n, views, N], each view of a picture cut and mirrored in another way;
records.jsonl with key, label and caption; about.json with the hash of the tokenizer, written last.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gentool.checkpoint.atomic import write_file
from gentool.data.config import ImageData
from gentool.data.holdout import train_and_validation
from gentool.data.images import picture
from gentool.data.source import Sharded
from gentool.errors import BadDataError, NotFoundError, UsageError
from gentool.rng import generator
from gentool.tokenizers.vq.tokenizer import VQTokenizer

BATCH = 64
ABOUT, TOKENS, RECORDS = "about.json", "tokens.npy", "records.jsonl"


@dataclass(frozen=True)
class Tokens:
    """One picture of a cache."""

    key: str
    views: np.ndarray  # [views, N]
    label: int | None
    caption: str


class TokenCache:
    """A source of `Tokens`. What was cached is the part of the data to train on."""

    def __init__(self, folder: Path, tokenizer: VQTokenizer, fingerprint: str) -> None:
        """fingerprint: of the data the run is on. Raises NotFoundError for a folder without a whole
        cache, and BadDataError for one of another tokenizer or of other data."""
        if not (folder / ABOUT).is_file():
            raise NotFoundError(f"no token cache in {folder}", "gentool tokenizer cache makes one")
        try:
            about = json.loads((folder / ABOUT).read_text())
            tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
            lines = (folder / RECORDS).read_text(encoding="utf-8").split("\n")[:-1]
            self.records = [json.loads(line) for line in lines]
            made_by, made_of = about["tokenizer"], about["data"]
            self.labels: tuple[str, ...] = tuple(about["labels"])
            self.size: int | None = len(self.records)
            if tokens.shape != (self.size, about["views"], tokenizer.length):
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
        self.tokens = tokens
        self.fingerprint = f"{fingerprint}-cached-{self.size}-{about['views']}"

    def __getitem__(self, index: int) -> Tokens:
        record = self.records[index]
        return Tokens(record["key"], self.tokens[index], record["label"], record["caption"])


def build(
    folder: Path,
    tokenizer: VQTokenizer,
    config: ImageData,
    views: int,
    n: int | None,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> int:
    """Write the cache of the first n pictures (all of them, where they have an end) of the part of
    the data that is trained on; how many there are. Raises UsageError and BadDataError."""
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
    n = min(n or source.size or 0, source.size or n or 0)
    kind = np.uint16 if tokenizer.size <= 1 << 16 else np.int32
    folder.mkdir(parents=True, exist_ok=True)
    header = (n, views, tokenizer.length)
    tokens = np.lib.format.open_memmap(folder / TOKENS, "w+", kind, header)
    with (folder / RECORDS).open("w", encoding="utf-8") as records:
        for start in range(0, n, BATCH):
            end = min(n, start + BATCH)
            for view in range(views):
                rngs = [generator("view", view, i) for i in range(start, end)]
                found = [picture(source, i, config, rng, augment=True)
                         for i, rng in zip(range(start, end), rngs, strict=True)]  # fmt: skip
                x = torch.stack([example.image for example in found]).to(device)
                tokens[start:end, view] = tokenizer.encode(x).cpu().numpy()
            for example in found:
                record = {"key": example.key, "label": example.label, "caption": example.caption}
                records.write(json.dumps(record, ensure_ascii=False) + "\n")
            progress(end, n)
    tokens.flush()
    about = {
        "tokenizer": tokenizer.hash, "data": source.fingerprint, "labels": list(source.labels),
        "views": views, "size": n,
    }  # fmt: skip
    write_file(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    return n
