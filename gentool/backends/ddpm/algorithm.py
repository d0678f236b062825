"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020), the two algorithms.

`model_fn(x_t, t)` is the network: x_t [B, C, H, W] at noise level t [B], the index on the full
chain, 0 the least noisy. In the paper it returns eps_hat, the noise in x_t; named options let it
return x_0_hat or v_hat instead. Images are in [-1, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import PredictX0

ModelFn = Callable[[Tensor, Tensor], Tensor]


def training_loss(
    model_fn: ModelFn,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    chain: Gaussian,
    *,
    prediction: str = "eps",
    loss: str = "eps",
    snr_limit: float = 0.0,
) -> Tensor:
    """Algorithm 1, lines 2-5: L_simple (Eq. 14) of each example, [B].

    x_0 [B, C, H, W]; t [B] uniform in 0..T-1; eps [B, C, H, W] standard normal. prediction: what
    the network returns (`eps`, `x_0` or `v`); loss and snr_limit: see `loss_weight`.
    """
    x_t = chain.q_sample(x_0, t, eps)
    if prediction == "eps":
        target = eps
    else:
        target = x_0 if prediction == "x_0" else chain.v(x_0, t, eps)
    error = (target - model_fn(x_t, t)).square().mean(dim=(1, 2, 3))
    weight = loss_weight(chain, prediction, loss, snr_limit)
    return error * weight.to(error.device, error.dtype)[t]


def loss_weight(chain: Gaussian, prediction: str, loss: str, snr_limit: float) -> Tensor:
    """The factor on the squared error of `prediction` at each noise level, [T] float64.

    The same error is |x_0 - x_0_hat|^2, snr times that in eps and snr + 1 times that in v, so the
    network may return one of them and be trained on the error in another, `loss`. snr_limit > 0
    caps the weight on the error in x_0 (Hang et al. 2023, Min-SNR-gamma: there loss is `eps`).
    """
    weights = {"x_0": torch.ones_like(chain.snr), "eps": chain.snr, "v": chain.snr + 1}
    wanted = weights[loss].clamp(max=snr_limit) if snr_limit else weights[loss]
    return wanted / weights[prediction]


def predict_x_0(model_fn: ModelFn, chain: Gaussian, prediction: str = "eps") -> PredictX0:
    """What the samplers ask for: x_0_hat from the network's output, clipped to images' range.

    `chain` may be respaced: step i of it is `chain.timesteps[i]` to the network.
    """

    def predict(x_t: Tensor, i: int) -> Tensor:
        t = torch.full((len(x_t),), int(chain.timesteps[i]), device=x_t.device)
        out = model_fn(x_t, t)
        if prediction == "eps":
            out = chain.x_0_from_eps(x_t, i, out)
        elif prediction == "v":
            out = chain.x_0_from_v(x_t, i, out)
        return out.clamp(-1, 1)

    return predict
