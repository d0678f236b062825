"""The teacher for the training loop, and what it makes of sources."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.data.holdout import text_train_and_validation
from gentool.data.rows import Pair, padded, pair
from gentool.data.source import Data, Source
from gentool.data.text import Text, is_pairs
from gentool.errors import UsageError
from gentool.protocol import Batch
from gentool.rng import BatchRng
from gentool.teacher import Config
from gentool.teacher.generate import Teacher
from gentool.teacher.network import TeacherTransformer
from gentool.tokenizers import Tokenizer, source_side

SHOWN = 16  # sentences of a preview


class Backend:
    """Implements gentool.protocol.Backend, and `teacher` for what translates with it."""

    captions = None
    called = ""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.source = source_side(tokenizer)
        self.src_pad, self.pad = self.source.special("pad"), tokenizer.special("pad")
        if not is_pairs(config.data):
            raise UsageError(
                "a teacher learns from pairs of texts, and these data are single texts",
                "--data SOURCE,TARGET (parallel lines), or a table with --set "
                "data.source_column=NAME",
            )

    def network(self) -> nn.Module:
        joint = self.source is self.tokenizer
        return TeacherTransformer(
            self.config.model,
            tgt_size=self.tokenizer.size,
            src_size=0 if joint else self.source.size,
            length=self.config.data.length,
            specials=(self.pad, self.tokenizer.special("bos"), self.tokenizer.special("eos")),
        )

    def sources(self) -> tuple[Data, Data]:
        return text_train_and_validation(self.config.data)

    def prepare(
        self, source: Source[Text], index: int, rng: torch.Generator, augment: bool
    ) -> Pair:
        return pair(source, index, self.tokenizer, self.config.data)

    def collate(self, examples: Sequence[Pair], rng: BatchRng) -> Batch:
        src_ids = padded([example.src_ids for example in examples], self.src_pad)
        tgt_ids = padded([example.tgt_ids for example in examples], self.pad)
        begin = torch.full((len(examples), 1), self.tokenizer.special("bos"))
        n = torch.tensor([len(example.tgt_ids) for example in examples])
        return {
            "src_ids": src_ids,
            "is_source": src_ids != self.src_pad,
            "before": torch.cat([begin, tgt_ids[:, :-1]], dim=1),
            "tgt_ids": tgt_ids,
            "is_target": torch.arange(tgt_ids.shape[1]) < n[:, None],
        }

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        logits = network(batch["src_ids"], batch["is_source"], batch["before"])  # [B, L, V]
        each = F.cross_entropy(
            logits.float().flatten(0, 1),
            batch["tgt_ids"].flatten(),
            reduction="none",
            label_smoothing=self.config.loss.smoothing,
        ).view_as(batch["tgt_ids"])
        is_target = batch["is_target"]
        # The mean over the batch is that over its tokens, so that each counts the same.
        return {"tokens": (each * is_target).sum(dim=1) / is_target.sum() * len(each)}

    def watch(self, network: nn.Module) -> tuple[dict[str, float], str]:
        return {}, ""

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        _, held_out = text_train_and_validation(self.config.data)
        lines = [held_out[i].source or "" for i in range(min(SHOWN, held_out.size or SHOWN))]
        made = zip(lines, self.texts(network, lines, poll), strict=True)
        (folder / f"{stem}.txt").write_text("".join(f"{a}\t{b}\n" for a, b in made), "utf-8")

    def texts(
        self, network: nn.Module, lines: Sequence[str], poll: Callable[[], None] = lambda: None
    ) -> list[str]:
        """What it makes of sources, greedily; nothing of one that is too long."""
        made = self.teacher(network).translate(lines, beam=1, poll=poll)
        return [text or "" for text in made]

    def teacher(self, network: Any, name: str = "", hash: str = "") -> Teacher:
        """`network`, ready to translate."""
        eos = self.source.special("eos")
        return Teacher(
            name,
            hash,
            network.eval().marian,
            lambda line: [*self.source.encode(line), eos],
            self.tokenizer.decode,
            self.src_pad,
            self.config.data.length,
        )
