"""The teacher for the training loop, and what it makes of sources."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.data.rows import Pair, padded
from gentool.pairs import OfPairs
from gentool.protocol import Batch
from gentool.rng import BatchRng
from gentool.teacher import Config
from gentool.teacher.generate import Teacher
from gentool.teacher.network import TeacherTransformer
from gentool.tokenizers import Tokenizer


class Backend(OfPairs):
    """Implements gentool.protocol.Backend, and `teacher` for what translates with it."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        super().__init__(config.data, tokenizer)
        self.config = config

    def network(self) -> nn.Module:
        return TeacherTransformer(
            self.config.model,
            tgt_size=self.tokenizer.size,
            src_size=0 if self.joint else self.source.size,
            length=self.data.length,
            specials=(self.pad, self.tokenizer.special("bos"), self.tokenizer.special("eos")),
        )

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

    def texts(
        self, network: nn.Module, lines: Sequence[str], poll: Callable[[], None] | None = None
    ) -> list[str]:
        """What it makes of sources, greedily; nothing of one that is too long."""
        made = self.teacher(network).translate(lines, beam=1, poll=poll or (lambda: None))
        return [text or "" for text in made]

    def teacher(self, network: Any, name: str = "", hash: str = "") -> Teacher:
        """`network`, ready to translate."""
        return Teacher(
            name,
            hash,
            network.eval().marian,
            self.source_row,
            self.tokenizer.decode,
            self.src_pad,
            self.data.length,
        )
