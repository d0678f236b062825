"""mask-predict for the shared layers: the only file that sees both algorithm and network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gentool import trace
from gentool.backends.mask_predict import Config, DecodeConfig
from gentool.backends.mask_predict.algorithm import (
    fast_mask_predict,
    gold_lengths,
    likely_lengths,
    mask_predict,
    masked_positions,
    score,
    training_loss,
)
from gentool.backends.mask_predict.network import MaskPredictTransformer
from gentool.data.rows import Pair, batches, padded
from gentool.errors import BadDataError
from gentool.pairs import OfPairs
from gentool.protocol import Batch, Hypothesis
from gentool.rng import BatchRng
from gentool.tokenizers import Tokenizer
from gentool.trace import OnStep, View

BATCH_TOKENS = 4096  # decoded at a time in training, candidates and padding included


class Backend(OfPairs):
    """Implements gentool.protocol.Backend, and `translate` for the text verbs."""

    called = "decoder.0"

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        super().__init__(config.data, tokenizer)
        self.config, self.mask = config, tokenizer.special("mask")
        self.most_steps = config.data.length  # each fixes a token at least

    def network(self) -> nn.Module:
        return MaskPredictTransformer(
            self.config.model,
            tgt_size=self.tokenizer.size,
            src_size=0 if self.joint else self.source.size,
            length=self.data.length,
            pads=(self.src_pad, self.pad),
        )

    def collate(self, examples: Sequence[Pair], rng: BatchRng) -> Batch:
        tgt_ids = padded([example.tgt_ids for example in examples], self.pad)
        N = torch.tensor([len(example.tgt_ids) for example in examples])
        # As many draws for each example whatever its batch is padded to.
        u, order = rng.uniform(), rng.uniform(self.data.length)
        return {
            "src_ids": padded([e.src_ids for e in examples], self.src_pad),
            "tgt_ids": tgt_ids,
            "is_masked": masked_positions(N, tgt_ids.shape[1], u, order),
            "N": N,
        }

    def loss(self, network: Callable[..., Any], batch: Batch) -> dict[str, Tensor]:
        tgt_ids, is_masked = batch["tgt_ids"], batch["is_masked"]
        observed = tgt_ids.masked_fill(is_masked, self.mask)
        logits, length_logits = network(batch["src_ids"], observed, is_masked)
        return training_loss(
            logits, length_logits, tgt_ids, is_masked, batch["N"], self.config.loss.smoothing
        )

    def texts(
        self, network: nn.Module, lines: Sequence[str], poll: Callable[[], None] | None = None
    ) -> list[str]:
        """What it makes of sources, by the settings that are the run's defaults; nothing of one
        that is too long."""
        decode = self.config.sample
        rows = [self.source_row(line) for line in lines]
        fits = [i for i, row in enumerate(rows) if len(row) <= self.data.length]
        made = [""] * len(lines)
        for batch in batches([len(rows[i]) for i in fits], BATCH_TOKENS // decode.length_beam):
            numbers = [fits[place] for place in batch]
            found = self.translate(
                network, [rows[i] for i in numbers], decode,
                on_step=(lambda *_: poll()) if poll else None,
            )  # fmt: skip
            for i, [best, *_] in zip(numbers, found, strict=True):
                made[i] = best.text
        return made

    def source_ids(self, line: str) -> list[int]:
        """A source, ready for `translate`. Raises BadDataError for one that is too long."""
        ids = self.source_row(line)
        if len(ids) > self.data.length:
            raise BadDataError(
                f"{len(ids)} tokens with the end, this model reads {self.data.length}",
                "shorten it",
            )
        return ids

    def target_length(self, line: str) -> int:
        """The length of a reference, its end included."""
        return len(self.tokenizer.encode(line)) + 1

    @torch.inference_mode()
    def translate(
        self,
        network: nn.Module,
        src_ids: Sequence[Sequence[int]],
        decode: DecodeConfig,
        *,
        gold: Sequence[int] | None = None,
        n_best: int = 1,
        dedup: bool = False,
        fast: bool = False,
        on_step: OnStep | None = None,
    ) -> list[list[Hypothesis]]:
        """For each source its `n_best` hypotheses, the best first.

        gold: the lengths of references, around which lengths are tried in place of predicted ones.
        dedup: of equal tokens side by side one is kept. fast: not the paper's method, and one
        hypothesis alone; see `fast_mask_predict`. on_step: hears of all passes of each source's
        best hypothesis after the last, when it is known which that is; not with `fast`.
        """
        core: Any = network.eval() if network.training else network
        device = next(network.parameters()).device
        memory = core.encode(padded(src_ids, self.src_pad).to(device))
        seen: list[tuple[Tensor, ...]] = []  # of each pass: ids, probabilities, what was masked
        B, beam, T = len(src_ids), decode.length_beam, decode.steps
        if gold is None:
            N = likely_lengths(memory.length_logits, beam)
        else:
            N = gold_lengths(torch.tensor(gold, device=device), beam, self.data.length)
        if fast:
            length_log_p = memory.length_logits.log_softmax(dim=1).gather(1, N)
            if gold is not None:
                length_log_p.zero_()  # the references have the say
            ids, log_p, N, passes = fast_mask_predict(
                lambda of, ids, is_masked: core.decode(ids, is_masked, memory.of(of)),
                N, length_log_p, T, self.mask, self.pad,
            )  # fmt: skip
        else:
            N = N.flatten()
            ids, log_p = mask_predict(
                lambda ids, is_masked: core.decode(ids, is_masked, memory),
                N, T, self.mask, self.pad,
                (lambda t, *told: seen.append(told)) if on_step else None,
            )  # fmt: skip
            passes = torch.full_like(N, T)
            if on_step:
                best = score(log_p, N).view(B, beam).argmax(dim=1)
                best += beam * torch.arange(B, device=device)
                for t in range(T):
                    on_step(partial(self._views, seen, t, best))
        found = zip(
            ids.tolist(), N.tolist(), score(log_p, N).tolist(), passes.tolist(), strict=True
        )
        made = [
            Hypothesis(self._text(row[:n], dedup), mean, n, taken) for row, n, mean, taken in found
        ]
        each = len(made) // B
        candidates = [made[start : start + each] for start in range(0, len(made), each)]
        return [sorted(those, key=lambda h: -h.score)[:n_best] for those in candidates]

    def _views(
        self, seen: Sequence[tuple[Tensor, ...]], t: int, best: Tensor, rows: Sequence[int]
    ) -> list[View]:
        """The hypotheses `best` [B] of some sources after pass t, those tokens masked that the next
        pass predicts again."""
        mine = best[list(rows)]
        ids, p, is_masked = (x[mine].cpu() for x in seen[t])
        again = seen[t + 1][2][mine].cpu() if t + 1 < len(seen) else torch.zeros_like(is_masked)
        views = []
        for row, confidence, masked in zip(ids.tolist(), p.float(), again, strict=True):
            words = tuple("" if id == self.pad else self.tokenizer.token(id) for id in row)
            views.append(
                View(tokens={"y": trace.Tokens(confidence.numpy(), masked.numpy(), words)})
            )
        return views

    def _text(self, ids: list[int], dedup: bool) -> str:
        if dedup:
            ids = [id for id, before in zip(ids, [None, *ids], strict=False) if id != before]
        return self.tokenizer.decode(ids)
