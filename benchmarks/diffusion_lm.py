"""diffusion-lm: decoding beside the original's, the network beside the matrix product, and figures.

    python benchmarks/diffusion_lm.py speed clamp forward            # how fast
    python benchmarks/diffusion_lm.py quality infill --num 1000      # how good, of scenes
    python benchmarks/diffusion_lm.py control --control shape=circle --control color=red

speed: 200 steps against the original's way of decoding, which is 2,000 ancestral steps in fp32 with
the distances to the whole vocabulary at each; the same weights, in turns of --turn sentences,
judged by --judge; and DPM-Solver++'s 50 steps, also with twice the chain's noise, and those in 20.
clamp: what the clamp costs of a step. forward: the paper's network and that of --checkpoint, as
shares of the matrix product. quality: captions at 200, 50 and 20 steps as the checkpoint samples,
and at 200 ancestral ones, with untrained weights and shuffled words as controls. infill: held-out
captions with one to three words blank. control: each --control alone and all of them, and every
--length; both as the checkpoint samples.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import append
from timing import alternate, synchronize
from torch import Tensor

from gentool.backends.diffusion_lm import DecodeConfig, ModelConfig
from gentool.backends.diffusion_lm.algorithm import denoiser
from gentool.backends.diffusion_lm.network import DiffusionTransformer
from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.control import open_controls, success
from gentool.data.scenes import SceneTexts, parse_caption
from gentool.device import has_bf16, pick_device
from gentool.diffusion.samplers import Denoised, ancestral
from gentool.evaluate.request import Request
from gentool.evaluate.texts import diversity_figures, judge, scenes
from gentool.rng import BatchRng, torch_seed
from gentool.sampling import draw_texts, fill_lines, sample_settings

BATCH = 64  # samples at a time
Figures = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="+", choices=[*PARTS])
    parser.add_argument("--checkpoint", default="diffusion-lm-scenes")
    parser.add_argument("--judge")
    parser.add_argument("--classifier")
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3, help="of speed")
    parser.add_argument("--turn", type=int, default=16, help="sentences of a turn")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--control", action="append", default=[])
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--control-rate", type=float, default=0.1)
    parser.add_argument("--length", type=int, action="append", default=[])
    parser.add_argument("--name", help="that figures are recorded under; else the checkpoint's")
    options = parser.parse_args()
    for part in options.parts:
        loaded = load_checkpoint(find_checkpoint(options.checkpoint, "diffusion-lm"),
                                 "diffusion-lm")  # fmt: skip
        facts = {"threads": torch.get_num_threads(), "device": str(pick_device("auto"))}
        name = options.name or Path(options.checkpoint).name
        figures = [figure | facts for figure in PARTS[part](loaded, options)]
        append(f"{name}-{part}", f"python benchmarks/diffusion_lm.py {part}", figures)
        for figure in figures:
            print(figure)


# Decoding ---------------------------------------------------------------------------------------


def speed(loaded: Loaded, options: Any) -> Figures:
    """Sentences per second and the judge's likelihood of each way, batch by batch in turns."""
    backend = loaded.backend
    steps = backend.chain.T
    ways: dict[str, Callable[[list[int]], list[str]]] = {
        f"original, {steps} steps": lambda batch: original(loaded, batch)
    }
    plain = {"steps": 200, "sampler": "ancestral"}
    noisy = {"sampler": "dpm++", "eta": 2.0}
    for name, given, precision in (
        ("200 steps", plain, "fp32"),
        ("50 steps of dpm++", {"steps": 50, "sampler": "dpm++", "eta": 0.0}, "fp32"),
        ("50 steps of dpm++ with twice the noise", {"steps": 50, **noisy}, "fp32"),
        ("20 steps of dpm++ with twice the noise", {"steps": 20, **noisy}, "fp32"),
        ("200 steps", plain, "bf16"),
    ):
        if precision == "bf16" and not has_bf16(pick_device("auto")):
            continue
        settings = sample_settings(loaded, given)
        ways[f"gentool, {name}, {precision}"] = partial(
            lines, loaded, settings=settings, precision=precision
        )
    texts: dict[str, list[str]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for start in range(0, options.turns * options.turn, options.turn):
        for name, way in ways.items():
            synchronize()
            began = time.perf_counter()
            texts[name] += way(list(range(start, start + options.turn)))
            synchronize()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    nll = {name: judged(drawn, options) for name, drawn in texts.items()} if options.judge else {}
    first, *_ = ways
    parameters = sum(p.numel() for p in loaded.network.parameters())
    n = options.turn
    facts = {"batch": n, "repeats": len(seconds[first]), "seed": 0, "parameters": parameters}
    figures = []
    for name in ways:
        figures += [
            {"metric": f"sentences per second[{name}]", "value": round(n / medians[name], 3),
             "ratio": round(medians[first] / medians[name], 2), **facts}
        ]  # fmt: skip
    for name, value in nll.items():
        figures += [
            {"metric": f"judge_nll[{name}]", "value": value, "n": len(texts[name]),
             "ratio": round(value / nll[first], 4), "seed": 0}
        ]  # fmt: skip
    return figures


@torch.no_grad()
def original(loaded: Loaded, batch: list[int]) -> list[str]:
    """Samples `batch` as the authors' code draws them: every step, in fp32, with the distances of
    all positions to all embeddings sorted for the least."""
    backend, network = loaded.backend, loaded.network.to(pick_device("auto"))
    E, bias = network.get_parameter("embedding.weight"), network.get_parameter("bias")
    model_fn, chain = backend._model_fn(network), backend.chain

    def denoise(x_t: Tensor, i: int) -> Denoised:
        x_0_hat = model_fn(x_t, torch.full((len(x_t),), i, device=x_t.device))
        flat = x_0_hat.reshape(-1, E.shape[1])
        squares = E.square().sum(dim=1)[:, None] + flat.square().sum(dim=1)[None]
        distance = (squares - 2 * E @ flat.T).clamp(min=0)  # [V, B L]
        ids = (-distance).topk(1, dim=0).indices[0]
        return Denoised(E[ids].view_as(x_0_hat))

    rng = BatchRng.for_samples(0, batch)
    x = rng.normal(backend.length, E.shape[1]).to(E)
    x = ancestral(denoise, x, chain, rng, variance="fixed_small")
    ids = F.linear(x, E, bias).argmax(dim=-1).cpu()
    far = torch.full((backend.length,), 99.0)
    return [backend.line(row, far).text for row in ids]


def lines(loaded: Loaded, batch: list[int], settings: Any, precision: str) -> list[str]:
    how = {"batch_size": BATCH, "precision": precision}
    return [line.text for _, line in draw_texts(loaded, batch, 0, settings, **how)]


def judged(texts: list[str], options: Any) -> float:
    """-log p per token under the judge, in nats."""
    found = load_checkpoint(find_checkpoint(options.judge, "judge", "--judge"), "judge")
    nll, n = found.backend.judged(found.network, texts)
    return (nll.sum() / n.sum()).item()


def clamp(loaded: Loaded, options: Any) -> Figures:
    """A step with the clamp beside one without: of the checkpoint, and at the paper's size."""
    backend = loaded.backend
    paper = paper_network(821)
    pairs = {
        loaded.folder.name: (loaded.network, backend.length, backend.config.model.embedding),
        "paper": (paper, 64, 16),
    }
    figures = []
    for name, (network, L, d) in pairs.items():
        network = network.to(pick_device("auto")).eval()
        E = network.get_parameter("embedding.weight").detach()
        x = BatchRng.for_samples(0, range(options.turn)).normal(L, d).to(E)

        def step(share: float, f: Any = network, E: Tensor = E, x: Tensor = x) -> Callable[[], Any]:
            denoise = denoiser(f, E, backend.chain, clamp=share)
            return torch.no_grad()(lambda: denoise(x, 5))

        times = alternate({"clamped": step(1.0), "free": step(0.0)}, 3 * options.repeats)
        cost = times["clamped"] / times["free"] - 1
        figures.append({"metric": f"clamp, share of a step[{name}]", "value": round(cost, 4),
                        "batch": options.turn, "repeats": 3 * options.repeats})  # fmt: skip
    return figures


# The network ------------------------------------------------------------------------------------


def paper_network(vocabulary: int) -> DiffusionTransformer:
    torch.manual_seed(0)
    return DiffusionTransformer(ModelConfig(), vocabulary, 64)


def forward(loaded: Loaded, options: Any) -> Figures:
    """A forward of 64 sentences: GFLOP/s as a share of a 2048³ product of that precision, all in
    turns; bf16 where the device multiplies it in hardware."""
    device = pick_device("auto")
    networks = {
        "paper": (paper_network(821).to(device).eval(), ModelConfig(), 64),
        loaded.folder.name: (
            loaded.network.to(device), loaded.config.model, loaded.backend.length,
        ),
    }  # fmt: skip
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if has_bf16(device) else {})
    sides: dict[str, Callable[[], object]] = {}
    for precision, dtype in dtypes.items():
        a = torch.randn(2048, 2048, device=device, dtype=dtype)
        sides[f"matmul, {precision}"] = lambda a=a: a @ a
        for name, (network, model, L) in networks.items():
            x = torch.randn(BATCH, L, model.embedding, device=device)
            sides[f"{name}, {precision}"] = one_forward(network, x, dtype)
    seconds = alternate(sides, options.repeats)
    figures: Figures = []
    for precision in dtypes:
        ceiling = 2 * 2048**3 / seconds[f"matmul, {precision}"] / 1e9
        for name, (network, model, L) in networks.items():
            gflop = BATCH * flops(model, L) / 1e9
            share = gflop / seconds[f"{name}, {precision}"] / ceiling
            figures.append(
                {"metric": f"share of the {precision} product[{name}]", "value": round(share, 4),
                 "gflop": gflop, "matmul_gflops": round(ceiling, 1), "batch": BATCH,
                 "repeats": options.repeats,
                 "parameters": sum(p.numel() for p in network.parameters())}
            )  # fmt: skip
    return figures


def one_forward(network: Any, x: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    t = torch.full((len(x),), 500, device=x.device)

    @torch.no_grad()
    def run() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            network(x, t)

    return run


def flops(model: ModelConfig, L: int) -> float:
    """FLOPs (two a multiplication) of one sentence's forward; the embedding is no product."""
    H, d = model.hidden, model.embedding
    layer = 2 * L * 12 * H * H + 4 * L * L * H  # projections and feed-forward; attention
    return float(model.layers * layer + 4 * L * (d * H + H * H))


# Figures ----------------------------------------------------------------------------------------


def request_of(loaded: Loaded, options: Any, given: dict[str, Any]) -> Request:
    settings = sample_settings(loaded, given)
    return Request(loaded, settings, None, options.num, 0, "auto", BATCH, "auto", options.judge)


def quality(loaded: Loaded, options: Any) -> Figures:
    """Captions drawn in several ways; the controls are at the first of them."""
    figures: Figures = []

    def measure(label: str, request: Request) -> None:
        for figure in [*scenes(request), *judge(request)]:
            if "split" not in figure.metric and "cut" not in figure.metric:
                metric = figure.metric.replace("]", f", {label}]")
                metric = metric if "]" in metric else f"{metric}[{label}]"
                figures.append({"metric": metric, "value": figure.value, "n": figure.n, "seed": 0})

    ways: dict[str, dict[str, Any]] = {f"{n} steps": {"steps": n} for n in (200, 50, 20)}
    ways["200 ancestral steps"] = {"steps": 200, "sampler": "ancestral"}
    for label, given in ways.items():
        request = request_of(loaded, options, given)
        began = time.perf_counter()
        texts = request.texts
        each = (time.perf_counter() - began) / len(texts)
        measure(label, request)
        figures.append({"metric": f"seconds per sample[{label}]", "value": each, "n": len(texts)})
        if label == "200 steps":
            shuffled = request_of(loaded, options, given)
            shuffled.texts = [shuffle(text, i) for i, text in enumerate(texts)]
            measure("words shuffled", shuffled)
    with torch_seed("untrained"):
        loaded.network = loaded.backend.network()
    measure("untrained", request_of(loaded, options, ways["20 steps"]))
    return figures


def shuffle(text: str, number: int) -> str:
    words = text.split()
    random.Random(number).shuffle(words)
    return " ".join(words)


def infill(loaded: Loaded, options: Any) -> Figures:
    """500 captions of the test split with one to three words blank, filled; the control has words
    of the vocabulary in the blanks, each as likely."""
    source = SceneTexts("test", "en")
    given, chance = [], []
    known = [loaded.tokenizer.token(i) for i in range(5, loaded.tokenizer.size)]  # type: ignore
    for number in range(500):
        rng = random.Random(number)
        words = source[number].text.split()
        for place in rng.sample(range(len(words)), rng.randint(1, 3)):
            words[place] = "___"
        given.append(words)
        chance.append([rng.choice(known) if word == "___" else word for word in words])
    lines = [" ".join(words) for words in given]
    values = {"grammatical[words at random]": grammatical(chance)}
    for seen in ("clean", "noised"):
        settings = sample_settings(loaded, {"given": seen}, DecodeConfig)
        drawn = fill_lines(loaded, lines, 0, settings, 1, batch_size=BATCH)
        filled = [texts[0].split() for _, texts in drawn]
        kept = [len(before) == len(after) and all(a in ("___", b) for a, b in
                                                  zip(before, after, strict=True))
                for before, after in zip(given, filled, strict=True)]  # fmt: skip
        values[f"given words kept[{seen}]"] = sum(kept) / 500
        values[f"grammatical[{seen}]"] = grammatical(filled)
    return [{"metric": k, "value": v, "n": 500, "seed": 0, "split": "test"}
            for k, v in values.items()]  # fmt: skip


def grammatical(lines: list[list[str]]) -> float:
    """The share of them that are captions."""
    return sum(parse_caption(" ".join(words)) is not None for words in lines) / len(lines)


def control(loaded: Loaded, options: Any) -> Figures:
    """Success, likelihood and variety of samples: plain, of each control, of all, of lengths."""
    wanted = [[one] for one in options.control]
    wanted += [options.control] if len(wanted) > 1 else []
    figures: Figures = []

    def measure(label: str, texts: list[str], rates: dict[str, float]) -> None:
        values = {f"success[{name}]": rate for name, rate in rates.items()}
        values |= {"judge_nll": judged(texts, options),
                   "distinct-2": diversity_figures(texts)["distinct-2"] or 0.0}  # fmt: skip
        figures.extend(
            {"metric": f"{name}, {label}", "value": value, "n": len(texts), "seed": 0}
            for name, value in values.items()
        )

    how = {"batch_size": BATCH, "device": "auto"}
    pushed = {"guidance_scale": options.guidance_scale, "control_rate": options.control_rate}
    settings = sample_settings(loaded, pushed)
    plain = [line.text for _, line in draw_texts(loaded, range(options.num), 0, settings, **how)]
    for controls in wanted:
        opened = open_controls(loaded, controls, options.classifier, "auto")
        drawn = draw_texts(loaded, range(options.num), 0, settings, shared=opened.shared, **how)
        texts = [line.text for _, line in drawn]
        label = " ".join(controls)
        measure(f"controlled: {label}", texts, success(opened, texts))
        measure(f"plain: {label}", plain, success(opened, plain))
    for length in options.length:
        settings = sample_settings(loaded, {"length": length})
        drawn = draw_texts(loaded, range(options.num), 0, settings, **how)
        texts = [line.text for _, line in drawn]
        right = [len(loaded.tokenizer.encode(text)) == length for text in texts]  # type: ignore
        measure(f"length {length}", texts, {"length": sum(right) / len(right)})
    return figures


PARTS: dict[str, Callable[[Loaded, Any], Figures]] = {
    "speed": speed,
    "clamp": clamp,
    "forward": forward,
    "quality": quality,
    "infill": infill,
    "control": control,
}
main()
