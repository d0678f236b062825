"""Training the tokenizer of pictures: the glue between quantiser and network."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gentool import protocol
from gentool.data.holdout import train_and_validation
from gentool.data.images import NoPictures, Picture, first_pictures, picture
from gentool.data.source import Data, Example, Source
from gentool.pixels import to_uint8
from gentool.protocol import Batch
from gentool.render import pairs
from gentool.rng import BatchRng
from gentool.tokenizers.vq import Config
from gentool.tokenizers.vq.adversarial import adversarial_terms
from gentool.tokenizers.vq.algorithm import commitment, entropy_loss, processes
from gentool.tokenizers.vq.network import VQ, Quantized

COLLAPSED = 0.5  # share of the codes in use below which a warning is due
SHOWN = 16  # pictures of a preview


class Backend(protocol.Backend):
    """Implements gentool.protocol.Backend: `gentool train vq`."""

    in_parts = True  # the encoder may come to rest, the discriminator begin late

    def __init__(self, config: Config) -> None:
        self.config = config

    def network(self) -> nn.Module:
        config, train, quantizer = self.config, self.config.train, self.config.quantizer
        start = round(quantizer.start * train.steps)
        per_step = train.batch_size * train.accumulate * processes()
        C = config.data.channels
        return VQ(config.model, C, quantizer, config.adversarial, start, per_step)

    def sources(self) -> tuple[Data, Source]:
        train, self._held_out = train_and_validation(self.config.data)
        return train, self._held_out

    def prepare(
        self, source: Source[Example], index: int, rng: torch.Generator, augment: bool
    ) -> Picture:
        return picture(source, index, self.config.data, rng, augment)

    def collate(self, examples: Sequence[Picture], rng: BatchRng) -> Batch:
        return {"x": torch.stack([example.image for example in examples])}

    def loss(self, network: Callable[..., Quantized], batch: Batch) -> dict[str, Tensor]:
        quantizer, x = self.config.quantizer, batch["x"]
        out = network(x)
        terms = {
            "reconstruction": (x - out.x_hat).square().flatten(1).mean(dim=1),
            "commitment": quantizer.commitment * commitment(out.z, out.e_id),
        }
        if quantizer.entropy:
            entropy = entropy_loss(out.d, quantizer.temperature)
            terms["entropy"] = quantizer.entropy * entropy
        core: Any = getattr(network, "module", network)  # of several processes
        if self.config.adversarial.weight and core.training:
            terms |= self._adversarial(core, x, out.x_hat, terms["reconstruction"])
        return terms

    def _adversarial(
        self, network: VQ, x: Tensor, x_hat: Tensor, reconstruction: Tensor
    ) -> dict[str, Tensor]:
        """The terms of generator and discriminator; before their first step none, or of several
        processes 0: there every parameter has a gradient in every step."""
        adversarial = self.config.adversarial
        begun = int(network.seen) > adversarial.start * network.per_step
        if not begun and processes() == 1:
            return {}
        terms = adversarial_terms(
            network.discriminator, x, x_hat, reconstruction, network.last_layer, adversarial.weight
        )
        return {name: term * begun for name, term in terms.items()}

    def watch(self, network: nn.Module) -> tuple[dict[str, float], str]:
        """Of the codebook: the share of codes chosen in the last `revive_every` steps, and the
        perplexity of the choice; a warning where most are never chosen."""
        assert isinstance(network, VQ)
        if not network.n.any():
            return {}, ""  # there are no codes yet
        every, K = self.config.quantizer.revive_every, len(network.e)
        usage = (network.idle < every * network.per_step).float().mean().item()
        p = network.n / network.n.sum()
        perplexity = (-(p * p.clamp(min=1e-12).log()).sum()).exp().item()
        warning = ""
        if usage < COLLAPSED:
            warning = (
                f"the codebook collapses: {usage * K:.0f} of {K} codes were chosen in the last "
                f"{every} steps"
            )
        return {"codebook_usage": usage, "codebook_perplexity": perplexity}, warning

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        """Held-out pictures, each with its reconstruction to the right; nothing where none is."""
        poll()
        try:
            examples = first_pictures(self._held_out, SHOWN, self.config.data)
        except NoPictures:  # a validation tells of it
            return
        x = torch.stack([example.image for example in examples])
        x_hat = reconstruct(network, x)
        pairs(to_uint8(x), to_uint8(x_hat)).save(folder / f"{stem}.png")


@torch.no_grad()
def reconstruct(network: nn.Module, x: Tensor) -> Tensor:
    """Pictures x [B, C, H, W] to tokens and back, on the CPU, in [-1, 1]."""
    assert isinstance(network, VQ)
    network.eval()
    device = next(network.parameters()).device
    return network(x.to(device)).x_hat.clamp(-1, 1).cpu()
