"""ddpm for the shared layers: the only file that sees both the algorithm and the network."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from gentool.backends.ddpm import Config, DecodeConfig, SampleConfig
from gentool.backends.ddpm.algorithm import ModelFn, denoiser, guided, training_loss
from gentool.backends.ddpm.network import UNet
from gentool.conditions import Conditioned
from gentool.data.images import Picture, picture
from gentool.data.source import Example, Source
from gentool.diffusion.bound import prior_term, step_term
from gentool.diffusion.samplers import repaint
from gentool.diffusion.samplers import sample as walk
from gentool.diffusion.schedules import noise_chain
from gentool.errors import UsageError
from gentool.nn.text import Captions, Encoded
from gentool.pixels import to_uint8
from gentool.protocol import Batch
from gentool.rng import BatchRng
from gentool.tokenizers import Tokenizer
from gentool.trace import OnStep, View


class Backend(Conditioned):
    """Implements gentool.protocol.Backend, `draw` for the image verbs, and `bound` for eval."""

    drop_setting = "diffusion.drop_condition"

    def __init__(self, config: Config, tokenizer: Tokenizer | None = None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.captions = Captions(config.model.text, tokenizer) if tokenizer else None
        self.classes = config.model.classes
        self.drop_condition = config.diffusion.drop_condition
        self.shape = (config.data.channels, config.data.image_size, config.data.image_size)
        _check(config)
        diffusion = config.diffusion
        self.chain = noise_chain(diffusion.schedule, diffusion.T, diffusion.shift)
        self.most_steps = self.chain.T

    def network(self) -> nn.Module:
        C, H, _ = self.shape
        learned = self.config.diffusion.variance == "learned_range"
        text = self.captions.encoder() if self.captions else None
        return UNet(self.config.model, C, H, 2 * C if learned else C, text)

    def prepare(
        self, source: Source[Example], index: int, rng: torch.Generator, augment: bool
    ) -> Picture:
        return self.complete(picture(source, index, self.config.data, rng, augment))

    def collate(self, examples: Sequence[Picture], rng: BatchRng) -> Batch:
        x_0 = torch.stack([example.image for example in examples])
        batch = {"x_0": x_0, "t": rng.integers(self.chain.T), "eps": rng.normal(*self.shape)}
        return batch | self.conditions(examples, rng)

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        diffusion = self.config.diffusion
        y, text = batch.get("y"), batch.get("text")
        learned = diffusion.variance == "learned_range"
        told = self.captions.told(text) if self.captions and text is not None else None
        conditional = y is not None or told is not None
        return training_loss(
            (lambda x_t, t: network(x_t, t, y, told)) if conditional else network,
            batch["x_0"],
            batch["t"],
            batch["eps"],
            self.chain,
            prediction=diffusion.prediction,
            loss=diffusion.loss,
            snr_limit=diffusion.snr_limit,
            objective=diffusion.objective,
            variance="learned_range" if learned else self.variance(self.config.sample),
        )

    def variance(self, sample: SampleConfig) -> str:
        """Which variance of Gaussian.log_variance `sample` means for this model."""
        if sample.variance != "auto":
            return sample.variance
        learned = self.config.diffusion.variance == "learned_range"
        return "learned_range" if learned else "fixed_large"

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
        x_T: Tensor | None = None,
        x_0: Tensor | None = None,
        hole: Tensor | None = None,
    ) -> Tensor:
        """One image for each generator in `rng`: float32 [B, C, H, W] in [-1, 1], on the CPU.

        y: classes [B]; text: captions, rows [B, L] of `captions`; none draws without. x_T: noise
        [B, C, H, W] to start from. x_0 [B, C, H, W] with hole [B, 1, H, W]: an image to keep but
        for the hole; `sample` is a DecodeConfig.
        Raises UsageError for what this model cannot do.
        """
        self._check_sample(sample, y, text)
        network.eval()
        device = next(network.parameters()).device
        chain = self.chain.respaced(sample.steps, sample.spacing)
        model_fn = self._model_fn(network, y, text, len(rng), sample)
        denoise = denoiser(model_fn, chain, self.prediction)
        noise = rng.normal(*self.shape)  # drawn in any case: the draws after it are the same
        x = (noise if x_T is None else x_T).to(device)
        variance = self.variance(sample)

        def after(_: int, x_t: Tensor, x_0_hat: Tensor) -> None:
            if on_step:
                on_step(lambda rows: _views(rows, x_t, x_0_hat))

        if hole is not None and x_0 is not None:
            assert isinstance(sample, DecodeConfig)
            x = repaint(
                denoise, x, chain, rng, x_0=x_0.to(device), hole=hole.to(device),
                jump=sample.jump, resample=sample.resample, variance=variance,
                noise_scale=sample.noise_scale, on_step=after,
            )  # fmt: skip
        else:
            x = walk(denoise, x, chain, rng, sample, variance=variance, on_step=after)
        return x.float().cpu().clamp(-1, 1)

    @torch.no_grad()
    def bound(
        self, network: nn.Module, examples: Sequence[Picture], rng: BatchRng, sample: SampleConfig
    ) -> Iterator[Tensor]:
        """The terms of the bound on -log p(x_0) in bits per dimension, [B] each: L_T, then the
        steps from the noisiest to L_0, one call of the network and one draw of noise each.

        With fewer steps than the chain's T it is the bound of that shorter chain. Classes and
        captions are given where the model knows any.
        """
        network.eval()
        device = next(network.parameters()).device
        x_0 = torch.stack([example.image for example in examples]).to(device)
        y = torch.tensor([e.label for e in examples]) if self.config.model.classes else None
        text = self.captions.rows([e.caption for e in examples]) if self.captions else None
        self._check_sample(sample, y, text)
        chain = self.chain.respaced(sample.steps, sample.spacing)
        model_fn = self._model_fn(network, y, text, len(x_0), sample)
        denoise = denoiser(model_fn, chain, self.prediction)
        yield prior_term(chain, x_0)
        for i in reversed(range(chain.T)):
            t = torch.full((len(x_0),), i, device=x_0.device)
            x_t = chain.q_sample(x_0, t, rng.normal(*self.shape).to(x_0))
            x_0_hat, v = denoise(x_t, i)
            yield step_term(chain, x_0, x_t, t, x_0_hat, self.variance(sample), v)

    @property
    def prediction(self) -> str:
        """What the network returns: eps, x_0 or v."""
        return self.config.diffusion.prediction

    def _model_fn(
        self,
        network: nn.Module,
        y: Tensor | None,
        text: Tensor | None,
        n: int,
        sample: SampleConfig,
    ) -> ModelFn:
        """The network under n conditions, classes y [n] and captions [n, L]; under none, if neither
        is given. Captions are encoded here, once, not at every step."""
        if not self._conditional:
            return network
        device = next(network.parameters()).device
        given, null = list[Tensor](), list[Tensor]()
        if self.config.model.classes:
            null.append(torch.full((n,), self.null_class, device=device))
            given.append(null[0] if y is None else y.to(device))
        if self.captions:
            encode = network.get_submodule("text")
            none = self.captions.null if text is None else text
            away = self.captions.rows([sample.negative])
            for told, rows in ((given, none), (null, away)):
                encoded = encode(*self.captions.told(rows.to(device)))
                told += [tensor.expand(n, *tensor.shape[1:]) for tensor in encoded]

        def model_fn(x_t: Tensor, t: Tensor, *told: Tensor) -> Tensor:
            y = told[0] if self.config.model.classes else None
            return network(x_t, t, y, Encoded(*told[-3:]) if self.captions else None)

        guides = y is not None or text is not None or sample.negative
        T = self.chain.T - 1
        interval = (sample.guidance_from * T, sample.guidance_to * T)
        return guided(model_fn, given, null, sample.guidance_scale if guides else 1.0, interval)

    def _check_sample(self, sample: SampleConfig, y: Tensor | None, text: Tensor | None) -> None:
        """Raise UsageError for what this model cannot do, or what would do nothing."""
        scale = sample.guidance_scale
        if sample.negative and not self.captions:
            raise UsageError(f"--negative {sample.negative!r}: this model reads no captions")
        if sample.negative and scale == 1.0:
            raise UsageError("--negative does nothing without guidance", "--guidance-scale 3")
        if sample.guidance_from > sample.guidance_to:
            raise UsageError(
                f"--guidance-from {sample.guidance_from} is above --guidance-to "
                f"{sample.guidance_to}: no step would be guided"
            )
        self.check_guidance(scale, y, text, sample.negative)


def _views(rows: Sequence[int], x_t: Tensor, x_0_hat: Tensor) -> list[View]:
    """What is on its way and where it seems to lead."""
    pictures = [to_uint8(x[list(rows)]) for x in (x_t, x_0_hat)]
    return [View({"x_t": a, "x_0_hat": b}) for a, b in zip(*pictures, strict=True)]


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
    if model.time_channels % 2 or model.time_channels == 2:
        raise UsageError(f"model.time_channels {model.time_channels} is not 4, 6, 8, …, or 0")
    resolutions = [resolution >> level for level in range(len(model.multipliers))]
    for wanted in model.attention:
        if wanted not in resolutions:
            raise UsageError(
                f"model.attention {wanted}: the levels are {resolutions} wide",
                f"--set model.attention=[{resolutions[-1]}]; the first level is data.image_size by "
                "model.patch_size",
            )
    for level, multiplier in enumerate(model.multipliers):
        width = model.channels * multiplier
        attends = resolutions[level] in model.attention or level == len(resolutions) - 1
        divisors = {"norm_groups": model.norm_groups}
        if attends and model.head_channels:
            divisors["head_channels"] = model.head_channels
        for name, divisor in divisors.items():
            if width % divisor:
                raise UsageError(
                    f"model.{name} {divisor} does not divide a width of {width}",
                    f"another model.{name}, or other model.channels and model.multipliers",
                )
    if config.diffusion.objective == "hybrid" and config.diffusion.variance == "fixed":
        raise UsageError(
            "diffusion.objective hybrid trains a learned variance, which this model has not",
            'diffusion.variance = "learned_range"',
        )
    if config.diffusion.objective == "simple" and config.diffusion.variance == "learned_range":
        raise UsageError(
            "diffusion.objective simple does not train the learned variance",
            'diffusion.objective = "hybrid"',
        )
    guides = (model.classes or config.has_tokens) and config.diffusion.drop_condition
    if config.sample.guidance_scale != 1.0 and not guides:
        raise UsageError(
            f"sample.guidance_scale {config.sample.guidance_scale} needs a model that is taught "
            "classes or captions and their absence",
            "model.classes or model.text.encoder, and diffusion.drop_condition above 0",
        )
    if config.sample.steps > config.diffusion.T:
        raise UsageError(
            f"sample.steps {config.sample.steps} is more than diffusion.T {config.diffusion.T}"
        )
