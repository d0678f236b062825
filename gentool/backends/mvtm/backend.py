"""mvtm for the shared layers: the only file that sees both the algorithm and the network."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.backends.mvtm import Config, DecodeConfig, SampleConfig
from gentool.backends.mvtm.algorithm import (
    OnWalk,
    categorical,
    decode,
    grow,
    guidance,
    guided,
    lowest,
    random_mask,
    training_loss,
    walk_loss,
)
from gentool.backends.mvtm.network import MaskedTransformer
from gentool.conditions import Conditioned
from gentool.data.images import Picture, picture
from gentool.data.source import Data, Source
from gentool.errors import UsageError
from gentool.nn.text import Captions
from gentool.pixels import to_uint8
from gentool.protocol import Batch
from gentool.rng import BatchRng
from gentool.tokenizers.cache import CachedPicture, TokenCache
from gentool.tokenizers.pictures import PictureTokenizer
from gentool.trace import OnStep, Tokens, View

EDGE = 0.25  # what a pixel in [-1, 1] beside a filled hole may be off by: a standard deviation


class Backend(Conditioned):
    """Implements gentool.protocol.Backend, and `draw` for the image verbs."""

    drop_setting = "masking.drop_condition"

    def __init__(self, config: Config, tokenizer: PictureTokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.image = tokenizer.image
        self.shape = self.image.shape
        self.K, self.L = self.image.size, self.image.length
        self.most_steps = self.L  # each fixes a token at least
        _check(config, self.shape, self.L)
        encoder = config.model.text.encoder
        self.captions = None
        if encoder != "none":
            assert tokenizer.text
            self.captions = Captions(config.model.text, tokenizer.text)
        self.classes = config.model.classes
        self.drop_condition = config.masking.drop_condition
        # The vocabulary: codes, classes, the class that stands for none, and the mask, the last.
        classes = config.model.classes
        self.vocabulary = self.K + classes + bool(classes and config.masking.drop_condition) + 1
        self.mask_id = self.vocabulary - 1

    def network(self) -> nn.Module:
        length = self.L + bool(self.config.model.classes)
        text = self.captions.encoder() if self.captions else None
        return MaskedTransformer(self.config.model, self.vocabulary, length, text)

    def sources(self) -> tuple[Data, Source]:
        train, held_out = super().sources()
        if cache := self.config.tokenizer.cache:
            data = self.config.data
            return TokenCache(Path(cache), self.image, data, train.fingerprint), held_out
        return train, held_out

    def prepare(
        self, source: Source[Any], index: int, rng: torch.Generator, augment: bool
    ) -> Picture | CachedPicture:
        if not isinstance(source, TokenCache):
            return self.complete(picture(source, index, self.config.data, rng, augment))
        found = self.complete(source[index])
        view = int(torch.randint(len(found.views), (), generator=rng))
        return replace(found, views=found.views[view : view + 1])

    def collate(self, examples: Sequence[Picture | CachedPicture], rng: BatchRng) -> Batch:
        masking = self.config.masking
        r, scores = rng.uniform(), rng.uniform(self.L)
        batch = {"is_masked": random_mask(r, scores, masking.schedule)}
        ids = [e.views[0].astype(np.int64) for e in examples if isinstance(e, CachedPicture)]
        if ids:
            batch["ids"] = torch.from_numpy(np.stack(ids))
        else:
            batch["x"] = torch.stack([e.image for e in examples if isinstance(e, Picture)])
        return batch | self.conditions(examples, rng)

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        ids = batch["ids"] if "ids" in batch else self.image.encode(batch["x"])  # [B, L]
        y, text = batch.get("y"), batch.get("text")
        logits_fn = partial(network, **self._told(y, text))
        masking = self.config.masking
        smoothing = masking.label_smoothing
        terms = {"nll": training_loss(logits_fn, ids, batch["is_masked"], self.mask_id, smoothing)}
        if masking.walk:
            n = max(1, round(masking.walk_share * len(ids)))
            told = self._told(*(x if x is None else x[:n] for x in (y, text)))
            walk = walk_loss(
                partial(network, **told), ids[:n], self.mask_id, self.config.sample.steps
            )
            terms["walk"] = masking.walk * walk
        return terms

    @torch.no_grad()
    def draw(
        self,
        network: nn.Module,
        rng: BatchRng,
        sample: SampleConfig,
        on_step: OnStep | None = None,
        *,
        y: Tensor | None = None,
        text: Tensor | None = None,
        x_0: Tensor | None = None,
        hole: Tensor | None = None,
    ) -> Tensor:
        """One image for each generator in `rng`: float32 [B, C, H, W] in [-1, 1], on the CPU.

        y: classes [B]; text: captions, rows [B, S] of `captions`; none draws without. x_0 [B, C,
        H, W] with hole [B, 1, H, W]: an image to keep but for the hole, in which `strength` of the
        tokens are drawn; `sample` is a DecodeConfig. Raises UsageError for what this model cannot
        do.
        """
        self.check_guidance(sample.guidance_scale, y, text)
        network.eval()
        device = next(network.parameters()).device
        # Tokens are drawn in fp64, which an MPS device has not.
        home = torch.device("cpu") if device.type == "mps" else device
        tokens = torch.full((len(rng), self.L), self.mask_id)
        if x_0 is not None and hole is not None:
            assert isinstance(sample, DecodeConfig)
            tokens = self.image.encode(x_0.to(device)).cpu()
            tokens[self._hidden(hole, sample.strength, rng)] = self.mask_id

        def after(step: int, ids: Tensor, _: Tensor, again: Tensor, p: Tensor) -> None:
            again = again & (step + 1 < sample.steps)  # what the last step drew stays
            if on_step:
                on_step(lambda rows: self._views(ids[list(rows)], p[list(rows)], again[list(rows)]))

        walk = partial(
            decode,
            self._guided(network, y, text, len(rng), sample),
            tokens.to(home),
            rng,
            K=self.K,
            mask_id=self.mask_id,
            steps=sample.steps,
            choice_temperature=sample.choice_temperature,
            temperature=sample.temperature,
            top_p=sample.top_p,
            entropy_cutoff=sample.entropy_cutoff,
            order=sample.order,
        )
        if x_0 is None or hole is None or not (isinstance(sample, DecodeConfig) and sample.blend):
            return self.image.decode(walk(on_step=after)).float().cpu()
        return self._blended(walk, x_0, hole, sample.candidates, rng, after)

    def _blended(
        self, walk: Callable[..., Tensor], x_0: Tensor, hole: Tensor, candidates: int,
        rng: BatchRng, after: OnWalk,
    ) -> Tensor:  # fmt: skip
        """x_0 [B, C, H, W] with its hole [B, 1, H, W] filled by one of so many walks, drawn by how
        likely each makes the pixels of x_0 outside. A token at the edge shows both sides, and what
        is drawn across the edge would be cut off there. `after` is told of the steps of that walk.

        Importance resampling (Rubin 1987): the likeliest would be empty more often than it should.
        """
        walks: list[list[tuple[Tensor, ...]]] = []
        pictures = []
        for _ in range(candidates):
            steps: list[tuple[Tensor, ...]] = []
            ids = walk(on_step=lambda _, *told, steps=steps: steps.append(told))
            walks.append(steps)
            pictures.append(self.image.decode(ids).float().cpu())
        x = torch.stack(pictures)  # [candidates, B, C, H, W]
        log_p = -((x - x_0).square() * ~hole).sum(dim=(2, 3, 4)) / (2 * EDGE**2)  # [candidates, B]
        chosen = categorical(log_p.T, rng.uniform())
        rows = torch.arange(len(x_0))
        for number, told in enumerate(zip(*walks, strict=True)):
            after(number, *(torch.stack(each)[chosen, rows] for each in zip(*told, strict=True)))
        return torch.where(hole, x[chosen, rows], x_0)

    def _views(self, ids: Tensor, p: Tensor, again: Tensor) -> list[View]:
        """The pictures of ids [n, L], of how likely each was, p [n, L], and which are masked again,
        bool [n, L]."""
        pictures = to_uint8(self.image.decode(ids).float().cpu())
        side = self.image.side
        p_side, again_side = (
            x.unflatten(1, (side, side)).cpu().numpy() for x in (p.float(), again)
        )
        return [
            View({"picture": image}, {"tokens": Tokens(confidence, masked)})
            for image, confidence, masked in zip(pictures, p_side, again_side, strict=True)
        ]

    def _hidden(self, hole: Tensor, strength: float, rng: BatchRng) -> Tensor:
        """The tokens [B, L] of an edit to draw anew: those that hole [B, 1, H, W] touches and, but
        for a local encoder, their neighbours, which it told of what was there; a random share of
        them."""
        model = self.image.model
        touched = F.max_pool2d(hole.float(), model.factor)[:, 0] > 0  # [B, h, w]
        region = (touched if model.local else grow(touched)).flatten(1)
        scores = rng.uniform(self.L).masked_fill(~region, torch.inf)
        n = (strength * region.sum(dim=1)).round().long()
        return lowest(scores, n)

    def _told(self, y: Tensor | None, text: Tensor | None) -> dict[str, Any]:
        """What the network is given of classes y [B] or of captions, rows [B, S]."""
        if y is not None and self.config.model.classes:
            return {"first": (self.K + y)[:, None]}
        if text is not None and self.captions:
            return {"text": self.captions.told(text)}
        return {}

    def _guided(
        self, network: nn.Module, y: Tensor | None, text: Tensor | None, n: int,
        sample: SampleConfig,
    ) -> Callable[[Tensor, Tensor, float], Tensor]:  # fmt: skip
        """The network under n conditions with guidance; without any under none. Captions are
        encoded here, once for all steps."""
        device = next(network.parameters()).device
        null = torch.full((n,), self.null_class) if self.config.model.classes else None
        null_text = self.captions.null.expand(n, -1) if self.captions else None
        given = y is not None or text is not None
        conditions = [(y, text)] if given else [(null, null_text)]
        if given and sample.guidance_scale != 1.0:
            conditions.append((null, null_text))
        told = self._told(*(
            torch.cat(same).to(device) if same[0] is not None else None
            for same in zip(*conditions, strict=True)
        ))  # fmt: skip
        if "text" in told:
            told["text"] = network.get_submodule("text")(*told["text"])

        def logits_fn(ids: Tensor, is_masked: Tensor, done: float) -> Tensor:
            n = len(conditions)
            logits = network(
                torch.cat([ids] * n).to(device), torch.cat([is_masked] * n).to(device), **told
            ).to(ids.device)
            if n == 1:
                return logits
            scale = guidance(sample.guidance_scale, sample.guidance_schedule, done)
            logits_c, logits_u = logits.float().chunk(2)  # bf16 would round the difference again
            return guided(logits_c, logits_u, scale)

        return logits_fn


def _check(config: Config, shape: tuple[int, int, int], L: int) -> None:
    """Raise UsageError for settings that do not fit together, naming them."""
    C, side, _ = shape
    for name, here, theirs in (
        ("image_size", config.data.image_size, side),
        ("channels", config.data.channels, C),
    ):
        if here != theirs:
            raise UsageError(
                f"data.{name} is {here}, the image tokenizer was trained with {theirs}",
                f"--set data.{name}={theirs}",
            )
    if config.sample.steps > L:
        raise UsageError(
            f"sample.steps {config.sample.steps} is more than the {L} tokens of a picture",
            f"--set sample.steps={L}, or fewer",
        )
    told = config.model.classes or config.model.text.encoder != "none"
    # Of a model that is told nothing the scale is idle: a recipe's is for those that are.
    if config.sample.guidance_scale != 1.0 and told and not config.masking.drop_condition:
        raise UsageError(
            f"sample.guidance_scale {config.sample.guidance_scale} needs a model that is taught "
            "the absence of classes or captions",
            "masking.drop_condition above 0",
        )
