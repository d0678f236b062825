"""The judge for the training loop, and what it says of texts."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool import protocol
from gentool.data.holdout import text_train_and_validation
from gentool.data.rows import Row, row
from gentool.data.source import Data, Source
from gentool.data.text import Text, is_pairs
from gentool.errors import UsageError
from gentool.evaluate.judge import Config
from gentool.evaluate.judge.network import JudgeTransformer
from gentool.protocol import Batch
from gentool.rng import BatchRng
from gentool.tokenizers import Tokenizer

BATCH = 64  # texts judged at a time


class Backend(protocol.Backend):
    """Implements gentool.protocol.Backend, and `judged` for eval."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.length = config.data.length
        self.pad = tokenizer.special("pad")
        if is_pairs(config.data):
            raise UsageError(
                "a judge reads texts, and these data are pairs of them",
                "--data scenes, a file of texts or hf:NAME, without a source column",
            )

    def network(self) -> nn.Module:
        return JudgeTransformer(self.config.model, self.tokenizer.size, self.length)

    def sources(self) -> tuple[Data, Data]:
        return text_train_and_validation(self.config.data)

    def prepare(self, source: Source[Text], index: int, rng: torch.Generator, augment: bool) -> Row:
        return row(source, index, self.tokenizer, self.config.data)

    def collate(self, examples: Sequence[Row], rng: BatchRng) -> Batch:
        return {"ids": torch.tensor([example.ids for example in examples])}

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        nll, n = self._nll(network, batch["ids"])
        # The mean over the batch is that over its tokens, so that each counts the same.
        return {"nll": nll / n.float().mean()}

    @torch.no_grad()
    def judged(self, network: nn.Module, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-log p of each text in nats, [N] float64, and its number of tokens, [N].

        Tokens are those of the judge, the end of the text included; what of a text goes over the
        judge's rows is left out, its end with it.
        """
        network.eval()
        device = next(network.parameters()).device
        bos, eos = self.tokenizer.special("bos"), self.tokenizer.special("eos")
        rows = [[bos, *self.tokenizer.encode(text), eos][: self.length] for text in texts]
        ids = torch.tensor([row + [self.pad] * (self.length - len(row)) for row in rows])
        parts = [self._nll(network, part.to(device)) for part in ids.split(BATCH)]
        return (
            torch.cat([nll.cpu().double() for nll, _ in parts]),
            torch.cat([n.cpu() for _, n in parts]),
        )

    def _nll(self, network: Callable[..., Tensor], ids: Tensor) -> tuple[Tensor, Tensor]:
        """-log p of each row ids [B, L] after its first token, [B], and how many tokens, [B]."""
        logits, after = network(ids)[:, :-1], ids[:, 1:]
        each = F.cross_entropy(
            logits.float().flatten(0, 1), after.flatten(), ignore_index=self.pad, reduction="none"
        )
        return each.view_as(after).sum(dim=1), (after != self.pad).sum(dim=1)
