"""flow for the shared layers: the only file that sees both the algorithm and the network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gentool.conditions import Conditioned
from gentool.data.holdout import train_and_validation
from gentool.data.images import Picture, picture
from gentool.data.source import Data, Example, Source
from gentool.errors import UsageError
from gentool.pixels import to_uint8
from gentool.protocol import Batch
from gentool.render import grid
from gentool.rng import BatchRng
from gentool.trace import OnStep, View
from gentool_flow import Config, SampleConfig
from gentool_flow.algorithm import sample as walk
from gentool_flow.algorithm import training_loss
from gentool_flow.network import Net


class Backend(Conditioned):
    """Implements gentool.protocol.Backend, and `draw` for the image verbs."""

    classes = 0  # nor captions
    drop_condition, drop_setting = 0.0, ""

    def __init__(self, config: Config) -> None:
        data, patch = config.data, config.model.patch_size
        if data.image_size % patch:
            raise UsageError(f"model.patch_size {patch} does not divide {data.image_size}")
        self.config, self.shape = config, (data.channels, data.image_size, data.image_size)

    def network(self) -> nn.Module:
        model = self.config.model
        return Net(self.shape[0], model.channels, model.patch_size)

    def sources(self) -> tuple[Data, Source]:
        return train_and_validation(self.config.data)

    def prepare(
        self, source: Source[Example], index: int, rng: torch.Generator, augment: bool
    ) -> Picture:
        return picture(source, index, self.config.data, rng, augment)

    def collate(self, examples: Sequence[Picture], rng: BatchRng) -> Batch:
        x_0 = torch.stack([example.image for example in examples])
        return {"x_0": x_0, "t": rng.uniform(), "eps": rng.normal(*self.shape)}

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"velocity": training_loss(network, batch["x_0"], batch["t"], batch["eps"])}

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        rng = BatchRng.for_samples(0, range(16))
        images = self.draw(network, rng, self.config.sample, lambda *_: poll())
        grid(to_uint8(images)).save(folder / f"{stem}.png")

    @torch.no_grad()
    def draw(
        self,
        network: nn.Module,
        rng: BatchRng,
        sample: SampleConfig,
        on_step: OnStep | None = None,
        *,
        x_T: Tensor | None = None,
        x_0: Tensor | None = None,
        hole: Tensor | None = None,
    ) -> Tensor:
        """One image for each generator in `rng`: float32 [B, C, H, W] in [-1, 1], on the CPU."""
        if x_0 is not None or hole is not None:
            raise UsageError("flow draws whole pictures and edits none")
        network.eval()
        device = next(network.parameters()).device
        noise = rng.normal(*self.shape) if x_T is None else x_T

        def after(x: Tensor) -> None:
            if on_step:
                on_step(lambda rows: [View({"x_t": p}) for p in to_uint8(x[list(rows)])])

        return walk(network, noise.to(device), sample.steps, after).float().cpu().clamp(-1, 1)
