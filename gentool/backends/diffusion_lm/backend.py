"""diffusion-lm for the shared layers: the only file that sees both algorithm and network."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gentool import protocol
from gentool.backends.diffusion_lm import Config, DecodeConfig, SampleConfig
from gentool.backends.diffusion_lm.algorithm import (
    ModelFn,
    denoiser,
    level,
    nearest,
    rounding_logits,
    sigma_0,
    training_loss,
    word_posterior,
)
from gentool.backends.diffusion_lm.bound import bound
from gentool.backends.diffusion_lm.control import ControlNll, steering
from gentool.backends.diffusion_lm.infill import Infill, parse
from gentool.backends.diffusion_lm.network import DiffusionTransformer
from gentool.data.holdout import text_train_and_validation
from gentool.data.rows import Row, row
from gentool.data.source import Data, Source
from gentool.data.text import Text, is_pairs
from gentool.diffusion.samplers import sample as walk
from gentool.diffusion.schedules import noise_chain
from gentool.errors import UsageError
from gentool.protocol import Batch, Line
from gentool.rng import BatchRng
from gentool.tokenizers import Tokenizer
from gentool.trace import OnStep, Tokens, View

# A token that leads by less than this in log-probability could as well be the second: a report on
# the model's rounding. (What may turn with the batch size is a tie within 1e-4.)
TIE = 0.1
CLOSE = 0.05  # embeddings nearer to one another than this share of their norm have collapsed


class Backend(protocol.Backend):
    """Implements gentool.protocol.Backend, and `draw` for the text verbs."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.length = config.data.length
        if is_pairs(config.data):
            raise UsageError(
                "diffusion-lm writes texts, and these data are pairs of them",
                "--data scenes, a file of texts or hf:NAME, without a source column",
            )
        self.chain = noise_chain(config.diffusion.schedule, config.diffusion.T)
        self.most_steps = self.chain.T

    @cached_property
    def _words(self) -> Tensor:
        """[V]: the tokens that say something; a blank becomes one of them."""
        ids = range(self.tokenizer.size)
        return torch.tensor([bool(self.tokenizer.decode([id]).strip()) for id in ids])

    def network(self) -> nn.Module:
        return DiffusionTransformer(self.config.model, self.tokenizer.size, self.length)

    def sources(self) -> tuple[Data, Data]:
        return text_train_and_validation(self.config.data)

    def prepare(self, source: Source[Text], index: int, rng: torch.Generator, augment: bool) -> Row:
        return row(source, index, self.tokenizer, self.config.data)

    def collate(self, examples: Sequence[Row], rng: BatchRng) -> Batch:
        shape = (self.length, self.config.model.embedding)
        return {
            "ids": torch.tensor([example.ids for example in examples]),
            "t": rng.integers(self.chain.T),
            "z": rng.normal(*shape),
            "eps": rng.normal(*shape),
        }

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        core: Any = getattr(network, "module", network)  # of several processes
        return training_loss(
            self._model_fn(network), core.embedding.weight, core.bias,
            batch["ids"], batch["t"], batch["z"], batch["eps"], self.chain,
        )  # fmt: skip

    def watch(self, network: nn.Module) -> tuple[dict[str, float], str]:
        """Of the embeddings: their mean norm and the least distance between two, for the log, and a
        warning where two words have become one."""
        emb = network.get_parameter("embedding.weight").detach().float()
        norm = emb.norm(dim=1).mean().item()
        # The nearest to each is itself. Not all at once: 50,000 words have a billion distances.
        apart = min(
            torch.cdist(rows, emb).topk(2, largest=False).values[:, 1].min().item()
            for rows in emb.split(1024)
        )
        warning = ""
        if apart < CLOSE * norm:
            warning = (
                f"two embeddings are {apart:.3g} apart, their norm is {norm:.3g}: they collapse, "
                "and rounding cannot tell them apart"
            )
        return {"embedding_norm": norm, "embedding_distance": apart}, warning

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        rng = BatchRng.for_samples(0, range(16))
        ids, margins = self.draw(network, rng, self.config.sample, lambda *_: poll())
        lines = "".join(self.line(*row).text + "\n" for row in zip(ids, margins, strict=True))
        (folder / f"{stem}.txt").write_text(lines, encoding="utf-8")

    @torch.no_grad()
    def draw(
        self,
        network: nn.Module,
        rng: BatchRng,
        sample: DecodeConfig,
        on_step: OnStep | None = None,
        *,
        ids: Tensor | None = None,
        known: Tensor | None = None,
        control_nll: ControlNll | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One row of tokens for each generator in `rng`: ids [B, L], and by how much the token of
        each position leads the second in log-probability, [B, L], on the CPU.

        ids [B, L] with known [B, L]: tokens that are given; the others become words. control_nll:
        what the rows are steered by; `sample` is a SampleConfig.
        Raises UsageError for what this model cannot do.
        """
        if ids is None and isinstance(sample, SampleConfig) and sample.length:
            ids, known = self._of_length(sample.length, len(rng))
        network.eval()
        emb, bias = network.get_parameter("embedding.weight"), network.get_parameter("bias")
        device = emb.device
        ids, known = (None if x is None else x.to(device) for x in (ids, known))
        chain = self.chain.respaced(sample.steps, sample.spacing)
        denoise = denoiser(
            self._model_fn(network), emb, chain,
            clamp=sample.clamp, known=known, ids=ids, noised=sample.given == "noised",
        )  # fmt: skip
        x = rng.normal(self.length, self.config.model.embedding).to(device)
        words = known is not None  # a blank is filled with words: the end of the sentence is given

        def after(i: int, x_t: Tensor, x_0_hat: Tensor) -> None:
            def look(rows: Sequence[int]) -> list[View]:
                mine = list(rows)
                if i == 0:
                    p_word = self._rounded(x_t[mine], emb, bias, words).softmax(dim=-1)
                else:
                    signal = float(chain.alpha_bar_prev[i])
                    p_word = word_posterior(x_t[mine], emb, signal, sigma_0(self.chain))
                given = None if ids is None or known is None else (ids[mine], known[mine])
                return self._views(p_word, nearest(x_0_hat[mine], emb), given)

            if on_step:
                on_step(look)

        steer = None
        if control_nll and isinstance(sample, SampleConfig):
            steer = steering(
                control_nll, chain, guidance_scale=sample.guidance_scale, fluency=sample.fluency,
                steps=sample.control_steps, rate=sample.control_rate, known=known,
            )  # fmt: skip
        x = walk(denoise, x, chain, rng, sample, variance="fixed_small", steer=steer, on_step=after)
        best = self._rounded(x, emb, bias, words).log_softmax(dim=-1).topk(2, dim=-1)
        found, margins = best.indices[..., 0], best.values[..., 0] - best.values[..., 1]
        if known is not None and ids is not None:
            found, margins = torch.where(known, ids, found), margins.masked_fill(known, torch.inf)
        return found.cpu(), margins.cpu()

    @torch.no_grad()
    def bound(
        self, network: nn.Module, examples: Sequence[Row], rng: BatchRng, sample: DecodeConfig
    ) -> Iterator[tuple[str, Tensor]]:
        """The terms of the bound on -log p(ids): (which part it belongs to, bits of each row [B]),
        one call of the network and one draw of noise for each step.

        With fewer steps than the chain's T it is the bound of that shorter chain.
        """
        network.eval()
        emb, bias = network.get_parameter("embedding.weight"), network.get_parameter("bias")
        ids = torch.tensor([example.ids for example in examples], device=emb.device)
        chain = self.chain.respaced(sample.steps, sample.spacing)
        denoise = denoiser(self._model_fn(network), emb, chain, clamp=sample.clamp)
        return bound(denoise, emb, bias, ids, chain, self.chain.alpha_bar[0], rng)

    def _rounded(self, x: Tensor, emb: Tensor, bias: Tensor, words: bool) -> Tensor:
        """The logits by which x [B, L, d] is read off, [B, L, V]; words: as nothing else."""
        logits = rounding_logits(x, emb, bias)
        if words:
            logits = logits.masked_fill(~self._words.to(logits.device), -torch.inf)
        return logits

    def _views(
        self, p_word: Tensor, lead: Tensor, given: tuple[Tensor, Tensor] | None
    ) -> list[View]:
        """The likeliest words of x_t by p_word [N, L, V], and those that x_0_hat leads to, [N, L],
        with how likely x_t makes them. given: ids and known [N, L], seen by the network instead."""
        found = {"x_t": p_word.argmax(dim=-1), "x_0_hat": lead}
        views: list[dict[str, Tokens]] = [{} for _ in lead]
        for name, words in found.items():
            p = p_word.gather(2, words[:, :, None])[:, :, 0]
            if given:
                ids, known = given
                words, p = torch.where(known, ids, words), p.masked_fill(known, 1.0)
            masked = np.zeros(p.shape, dtype=bool)
            rows = zip(views, p.float().cpu().numpy(), masked, words.tolist(), strict=True)
            for tokens, confidence, none, mine in rows:
                tokens[name] = Tokens(confidence, none, self._shown(mine))
        return [View(tokens=tokens) for tokens in views]

    def _shown(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Tokens as people see them; nothing for padding."""
        pad = self.tokenizer.special("pad")
        return tuple("" if id == pad else self.tokenizer.token(id) for id in ids)

    def line(self, ids: Tensor, margin: Tensor) -> Line:
        """A row of `draw` as text: its words up to the end of the sentence."""
        eos = self.tokenizer.special("eos")
        tokens = ids.tolist()
        end = tokens.index(eos) if eos in tokens else len(tokens)
        begin = int(tokens[0] == self.tokenizer.special("bos"))
        ties = int((margin[begin:end] < TIE).sum())
        return Line(self.tokenizer.decode(tokens[:end]), end - begin, ties)

    def blanks(self, line: str) -> Infill:
        """A line with blanks, ready for `draw`. Raises BadDataError."""
        return parse(line, self.tokenizer, self.length)

    def _of_length(self, words: int, n: int) -> tuple[Tensor, Tensor]:
        """Rows [n, L] in which begin, end and padding are given, for sentences of so many words."""
        if words + 2 > self.length:
            raise UsageError(
                f"--length {words}: this model's rows have room for {self.length - 2} tokens"
            )
        bos, eos, pad = (self.tokenizer.special(name) for name in ("bos", "eos", "pad"))
        ids = torch.full((n, self.length), pad)
        ids[:, 0], ids[:, words + 1] = bos, eos
        known = torch.ones(n, self.length, dtype=torch.bool)
        known[:, 1 : words + 1] = False
        return ids, known

    def _model_fn(self, network: Callable[..., Tensor]) -> ModelFn:
        return lambda x_t, t: network(x_t, level(t, self.chain))
