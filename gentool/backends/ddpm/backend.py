"""ddpm for the shared layers: the only file that sees both the algorithm and the network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gentool.backends.ddpm import Config, SampleConfig
from gentool.backends.ddpm.algorithm import predict_x_0, training_loss
from gentool.backends.ddpm.network import UNet
from gentool.data.holdout import train_and_validation
from gentool.data.loader import Loaded
from gentool.data.source import Source
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import OnStep, ancestral, ddim
from gentool.diffusion.schedules import SCHEDULES
from gentool.errors import UsageError
from gentool.protocol import Batch
from gentool.render import grid, to_uint8
from gentool.rng import BatchRng


class Backend:
    """Implements gentool.protocol.Backend, and `draw` for the image verbs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.shape = (config.data.channels, config.data.image_size, config.data.image_size)
        _check(config)
        betas = SCHEDULES[config.diffusion.schedule](config.diffusion.T)
        try:
            self.chain = Gaussian(betas)
        except ValueError as error:
            raise UsageError(
                f"diffusion.T {config.diffusion.T} is too short for the "
                f"{config.diffusion.schedule} schedule: {error}",
                "a larger diffusion.T, or the cosine schedule",
            ) from None

    def network(self) -> nn.Module:
        return UNet(self.config.model, self.config.data.channels, self.config.data.image_size)

    def sources(self) -> tuple[Source, Source]:
        return train_and_validation(self.config.data)

    def collate(self, examples: Sequence[Loaded], rng: BatchRng) -> Batch:
        x_0 = torch.stack([example.image for example in examples])
        return {"x_0": x_0, "t": rng.integers(self.chain.T), "eps": rng.normal(*self.shape)}

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> Tensor:
        diffusion = self.config.diffusion
        return training_loss(
            network,
            batch["x_0"],
            batch["t"],
            batch["eps"],
            self.chain,
            prediction=diffusion.prediction,
            loss=diffusion.loss,
            snr_limit=diffusion.snr_limit,
        )

    def preview(
        self, network: nn.Module, folder: Path, stem: str, poll: Callable[[], None]
    ) -> None:
        rng = BatchRng.for_samples(0, range(16))
        images = self.draw(network, rng, self.config.sample, lambda *_: poll())
        grid(to_uint8(images)).save(folder / f"{stem}.png")

    @torch.no_grad()
    def draw(
        self, network: nn.Module, rng: BatchRng, sample: SampleConfig, on_step: OnStep | None = None
    ) -> Tensor:
        """One image for each generator in `rng`: float32 [B, C, H, W] in [-1, 1], on the CPU.

        Raises UsageError if `sample` asks for more steps than the chain has.
        """
        if sample.steps > self.chain.T:
            raise UsageError(
                f"--steps {sample.steps}: this model's chain has {self.chain.T} steps",
                f"--steps 1 to {self.chain.T}",
            )
        network.eval()
        device = next(network.parameters()).device
        chain = self.chain.respaced(sample.steps)
        predict = predict_x_0(network, chain, self.config.diffusion.prediction)
        x_T = rng.normal(*self.shape).to(device)
        scale = sample.noise_scale
        if sample.sampler == "ddim":
            x_0 = ddim(predict, x_T, chain, rng, eta=sample.eta, noise_scale=scale, on_step=on_step)
        else:
            x_0 = ancestral(
                predict, x_T, chain, rng,
                variance=sample.variance, noise_scale=scale, on_step=on_step,
            )  # fmt: skip
        return x_0.float().cpu().clamp(-1, 1)


def _check(config: Config) -> None:
    """Raise UsageError for settings that do not fit together, naming them."""
    model, resolution = config.model, config.data.image_size // config.model.patch_size
    factor = model.patch_size * 2 ** (len(model.multipliers) - 1)
    if not model.multipliers:
        raise UsageError("model.multipliers is empty", "one number per level, e.g. [1, 2, 2]")
    if config.data.image_size % factor:
        raise UsageError(
            f"data.image_size {config.data.image_size} is not a multiple of {factor}, which "
            f"model.patch_size {model.patch_size} and {len(model.multipliers)} levels need",
            "fewer model.multipliers, or another data.image_size",
        )
    if model.channels % 2:
        raise UsageError(f"model.channels {model.channels} is odd")
    resolutions = [resolution >> level for level in range(len(model.multipliers))]
    for wanted in model.attention:
        if wanted not in resolutions:
            raise UsageError(f"model.attention {wanted}: the levels have {resolutions}")
    for level, multiplier in enumerate(model.multipliers):
        width = model.channels * multiplier
        attends = resolutions[level] in model.attention or level == len(resolutions) - 1
        divisors = {"norm_groups": model.norm_groups}
        if attends and model.head_channels:
            divisors["head_channels"] = model.head_channels
        for name, divisor in divisors.items():
            if width % divisor:
                raise UsageError(f"model.{name} {divisor} does not divide a width of {width}")
    if config.sample.steps > config.diffusion.T:
        raise UsageError(
            f"sample.steps {config.sample.steps} is more than diffusion.T {config.diffusion.T}"
        )
