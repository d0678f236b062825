"""mvtm beside diffusers' aMUSEd, and what its checkpoint of scenes can do.

    python benchmarks/mvtm.py loop forward cache           # speed, on a CPU or a GPU
    python benchmarks/mvtm.py steps inpaint --checkpoint runs/mvtm-scenes --num 200

loop: drawing with guidance, the transformer and the decoding loop of each, the same tokens and
steps, in turns. Ours at their parameters, its reader of captions counted and run, theirs (CLIP)
neither; at their parameters without a reader; and at their FLOPs. forward: one pass of the paper's
transformer over 8 × 256 tokens, and of the default recipe's over 64 pictures and captions, as a
share of a matrix product's rate. cache: a training step of each
recipe from pictures and from cached tokens. steps: scene_accuracy for numbers of steps, with
shuffled captions and an untrained network as controls. inpaint: held-out scenes with one thing
covered.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from results import append
from timing import alternate
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from gentool.backends.mvtm import Config, DecodeConfig, ModelConfig
from gentool.backends.mvtm.algorithm import decode, guided
from gentool.backends.mvtm.backend import Backend
from gentool.backends.mvtm.network import MaskedTransformer
from gentool.checkpoint.load import find_checkpoint, load_checkpoint
from gentool.data.images import Picture
from gentool.data.scenes import Scenes, draw_scene, read_scene, render
from gentool.data.scenes.draw import corners
from gentool.data.scenes.language import LANGUAGES, caption
from gentool.device import has_bf16, pick_device
from gentool.nn.text import Encoded, TextEncoder
from gentool.pixels import to_uint8
from gentool.resources import read_recipe
from gentool.rng import BatchRng, torch_seed
from gentool.sampling import draw_samples, sample_settings
from gentool.settings import build
from gentool.tokenizers import train as train_tokenizer
from gentool.tokenizers.pictures import PictureTokenizer
from gentool.training import stages
from gentool.training.optimizer import make_optimizer

CACHED = {"mvtm-scenes": 32, "mvtm-cifar10": 32, "mvtm-imagenet256": 4}  # recipe: pictures a step
K, SIDE, WORDS, B = 1024, 16, 16, 2  # codes, tokens a side, tokens of a caption, pictures
VOCABULARY = 1000  # of captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkpoint")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    options = parser.parse_args()
    for part in options.parts:
        facts = {"threads": torch.get_num_threads(), "device": str(pick_device("auto"))}
        figures = [figure | facts for figure in PARTS[part](options)]
        append(f"mvtm-{part}", f"python benchmarks/mvtm.py {part}", figures)
        for figure in figures:
            print(figure, flush=True)


# Speed ------------------------------------------------------------------------------------------


@torch.no_grad()
def loop(options: Any) -> list[dict[str, Any]]:
    """8 steps with guidance, of 2 pictures of 16 × 16 tokens, from captions of 16."""
    from diffusers import AmusedScheduler, UVit2DModel

    device, steps, width = pick_device("auto"), 8, 512
    torch.manual_seed(0)

    def transformer(layers: int, reading: int) -> MaskedTransformer:
        text = {"encoder": "transformer", "width": width, "heads": 8, "layers": reading or 1,
                "length": WORDS}  # fmt: skip
        config = build(ModelConfig, {"hidden": width, "layers": layers, "heads": 8, "text": text,
                                     "feed_forward": 2048, "dropout": 0.0})  # fmt: skip
        reader = TextEncoder(config.text, VOCABULARY) if reading else torch.nn.Identity()
        network = MaskedTransformer(config, K + 1, SIDE**2, reader)  # type: ignore[arg-type]
        return network.to(device).eval()

    ours = {
        "": transformer(5, reading=6),
        ", without a reader": transformer(12, reading=0),
        ", 7 layers without a reader": transformer(7, reading=0),
    }
    theirs = UVit2DModel(
        hidden_size=width, cond_embed_dim=width, micro_cond_encode_dim=64, micro_cond_embed_dim=320,
        encoder_hidden_size=width, vocab_size=K + 1, codebook_size=K, in_channels=width // 2,
        block_out_channels=width // 2, num_res_blocks=1, block_num_heads=4, num_hidden_layers=6,
        num_attention_heads=8, intermediate_size=1280, sample_size=SIDE,
    ).to(device).eval()  # fmt: skip
    sequence = torch.randn(2 * B, WORDS, width, device=device)
    pooled = torch.randn(2 * B, width, device=device)
    mask = torch.ones(2 * B, WORDS, dtype=torch.bool, device=device)
    encoded, captions = Encoded(sequence, mask, pooled), torch.zeros_like(mask, dtype=torch.long)
    micro = torch.tensor([[256, 256, 0, 0, 6]], device=device).expand(2 * B, -1)
    y = torch.full((B, SIDE**2), K, device=device)

    def run_ours(network: MaskedTransformer, dtype: torch.dtype) -> None:
        reads = isinstance(network.text, TextEncoder)

        def logits_fn(ids: Tensor, is_masked: Tensor, done: float) -> Tensor:
            logits = network(torch.cat([ids, ids]), torch.cat([is_masked, is_masked]), text=told)
            return guided(*logits.chunk(2), 3.0)

        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            told = network.text(captions, mask) if network.text and reads else encoded
            decode(logits_fn, y, BatchRng.for_samples(0, range(B)), K=K, mask_id=K, steps=steps)

    def run_theirs(dtype: torch.dtype) -> None:
        scheduler = AmusedScheduler(mask_token_id=K)
        scheduler.set_timesteps(steps, (2, 0), device)
        ids = y.view(B, SIDE, SIDE)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for t in scheduler.timesteps:
                logits = theirs(torch.cat([ids, ids]), sequence, pooled, micro)
                l_c, l_u = logits.chunk(2)
                ids = scheduler.step(l_u + 3.0 * (l_c - l_u), t, ids).prev_sample

    precisions = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if has_bf16(device) else {})
    sides: dict[str, Callable[[], object]] = {}
    networks: dict[str, torch.nn.Module] = {}
    for precision, dtype in precisions.items():
        sides[f"diffusers {precision}"] = partial(run_theirs, dtype)
        networks[f"diffusers {precision}"] = theirs
        for size, network in ours.items():
            sides[f"gentool {precision}{size}"] = partial(run_ours, network, dtype)
            networks[f"gentool {precision}{size}"] = network
    seconds = alternate(sides, options.repeats)
    figures = []
    for name, value in seconds.items():
        with FlopCounterMode(display=False) as counter:
            sides[name]()
        figures.append(
            {"metric": f"pictures per second[{name}]", "value": round(B / value, 3),
             "ratio": round(seconds["diffusers fp32"] / value, 3), "batch": B, "seed": 0,
             "parameters": sum(p.numel() for p in networks[name].parameters()),
             "gflop": round(counter.get_total_flops() / 1e9, 1), "repeats": options.repeats}
        )  # fmt: skip
    return figures


@torch.no_grad()
def forward(options: Any) -> list[dict[str, Any]]:
    """The paper's transformer over 8 × 256 tokens and the default recipe's over 64 × 64, all of
    them hidden, with captions encoded beforehand. The FLOPs are those of matrix products."""
    device = pick_device("auto")
    dtype = torch.bfloat16 if has_bf16(device) else torch.float32
    _, tree = read_recipe("mvtm-scenes")
    scenes = build(Config, {name: value for name, value in tree.items() if name != "backend"}).model
    width = scenes.text.width
    with torch.device(device):
        a = torch.randn(4096, 4096, dtype=dtype)
        networks = {
            "paper": (MaskedTransformer(Config().model, 2025, 256), (8, 256), None),
            "mvtm-scenes": (
                MaskedTransformer(scenes, 2049, 64, torch.nn.Identity()),  # type: ignore[arg-type]
                (64, 64),
                Encoded(
                    torch.randn(64, WORDS, width),
                    torch.ones(64, WORDS, dtype=torch.bool),
                    torch.randn(64, width),
                ),
            ),
        }

    def run(name: str) -> None:
        network, shape, text = networks[name]
        is_masked = torch.ones(shape, dtype=torch.bool, device=device)
        network.eval()(torch.zeros(shape, dtype=torch.long, device=device), is_masked, text=text)

    # As when drawing: weights are cast once for all steps.
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        sides: dict[str, Callable[[], object]] = {name: partial(run, name) for name in networks}
        seconds = alternate(sides | {"matmul": lambda: a @ a}, options.repeats)
        ceiling = 2 * 4096**3 / seconds["matmul"] / 1e9
        figures = []
        for name, (network, shape, text) in networks.items():
            gflop = forward_flops(network, *shape, text=text) / 1e9
            figures.append(
                {"metric": f"share of a matrix product[{name}, {str(dtype)[6:]}]",
                 "value": round(gflop / seconds[name] / ceiling, 3), "gflop": round(gflop, 1),
                 "matmul_gflops": round(ceiling, 1), "batch": shape[0],
                 "parameters": sum(p.numel() for p in network.parameters()),
                 "repeats": options.repeats}
            )  # fmt: skip
    return figures


def forward_flops(network: MaskedTransformer, B: int, N: int, text: Encoded | None) -> float:
    """Of matrix products, where all tokens are hidden; two a multiplication."""
    words = text.sequence.shape[1] if text else 0
    d, ff = network.embedding.embedding_dim, network.layers[0].up.out_features  # type: ignore
    L, V, last = N + words, network.embedding.num_embeddings, network.layers[-1:]
    qkv, rest = 3 * d * d, d * d + 2 * d * ff  # the last layer is worked out for the tokens alone
    total = len(network.layers) * L * (qkv + rest) - len(last) * words * rest
    total += len(network.layers) * 2 * L * L * d + N * d * (d + V)
    total += words * d * text.sequence.shape[2] if text else 0
    return 2.0 * B * total


def cache(options: Any) -> list[dict[str, Any]]:
    """A training step of each recipe on pictures, which are there already: of encoding and the
    update alone. Pictures are noise of the recipe's size, captions those of scenes."""
    device, source = pick_device("auto"), Scenes("train", "both")
    captions = [source[i].caption for i in range(2000)]
    words = train_tokenizer("words", captions)
    figures = []
    for recipe, n in CACHED.items():
        _, tree = read_recipe(recipe)
        config = build(Config, {name: value for name, value in tree.items() if name != "backend"})
        reads = config.model.text.encoder != "none"
        image = stages.untrained(config)
        backend = Backend(config, PictureTokenizer(image, words if reads else None))
        network = backend.network().to(device).train()
        optimizer = make_optimizer(network, config.train)
        rng = BatchRng.for_samples(0, range(n))
        noise = rng.normal(*image.shape).clamp(-1, 1)
        examples = [Picture("", x, 0, told) for x, told in zip(noise, captions, strict=False)]
        batch = {k: v.to(device) for k, v in backend.collate(examples, rng).items()}
        cached = {k: v for k, v in batch.items() if k != "x"}
        cached["ids"] = backend.image.encode(batch["x"])
        update = partial(one_update, backend, network, optimizer)
        sides = {"pictures": partial(update, batch), "cache": partial(update, cached)}
        seconds = alternate(sides, options.repeats)
        figures += [
            {"metric": f"examples per second[{recipe}, {name}]", "value": round(n / value, 2),
             "batch": n, "ratio": round(seconds["pictures"] / value, 3),
             "repeats": options.repeats}
            for name, value in seconds.items()
        ]  # fmt: skip
    return figures


def one_update(
    backend: Backend, network: torch.nn.Module, optimizer: Optimizer, batch: dict[str, Tensor]
) -> None:
    backend.loss(network, batch)["nll"].mean().backward()
    optimizer.step()
    optimizer.zero_grad()


# Quality ----------------------------------------------------------------------------------------


def steps(options: Any) -> list[dict[str, Any]]:
    """scene_accuracy by split and language for each number of steps; and of shuffled captions."""
    figures = []
    for n in options.steps:
        command = [
            *(sys.executable, "-m", "gentool", "eval", "mvtm", "--metric", "scenes", "--quiet"),
            *("--num", str(options.num), "--steps", str(n), "--json"),
            *(("--checkpoint", options.checkpoint) if options.checkpoint else ()),
        ]
        started = time.perf_counter()
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = [json.loads(line) for line in run.stdout.splitlines()]
        found = [f for f in found if f["metric"].startswith("scene_accuracy")]
        took = round((time.perf_counter() - started) / options.num / len(found), 4)
        figures += [
            {"metric": f"{f['metric'][:-1]}, {n} steps]", "value": f["value"], "n": f["n"],
             "seed": 0, "seconds_per_sample": took}
            for f in found
        ]  # fmt: skip
    loaded = load_checkpoint(find_checkpoint(options.checkpoint, "mvtm"), "mvtm")
    source = Scenes("test")
    lines = [source[i].caption for i in range(options.num)]
    with torch_seed("untrained"):
        fresh = replace(loaded, network=loaded.backend.network().eval())
    for name, model, told in (
        ("shuffled captions", loaded, lines[1:] + lines[:1]),
        ("untrained", fresh, lines),
    ):
        text = {"text": loaded.backend.captions.rows(told)}
        pixels = drawn(model, options.num, sample_settings(loaded, {}), text)
        right = [read_scene(pixels[i]) == read_scene(source[i].image) for i in range(options.num)]
        value = float(np.mean(right))
        figures.append(
            {"metric": f"scene_accuracy[{name}]", "value": value, "n": options.num, "seed": 0}
        )
    return figures


def inpaint(options: Any) -> list[dict[str, Any]]:
    """Held-out scenes with one thing covered by a grey box; redrawn with caption and without, as
    `decode mvtm --blend` does (by one of several candidates), and by the loop alone."""
    loaded = load_checkpoint(find_checkpoint(options.checkpoint, "mvtm"), "mvtm")
    rng, n = np.random.default_rng(0), options.num
    pictures, scenes = [], []
    lines: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    hole = torch.zeros(n, 1, 32, 32, dtype=torch.bool)
    for i in range(n):
        scene, layout = draw_scene(rng, "test")
        image = render(scene, layout).copy()
        top, left = corners(layout)[int(rng.integers(len(scene.things)))]
        box = (slice(max(top - 1, 0), top + 9), slice(max(left - 1, 0), left + 9))
        image[box] = 128
        hole[i, 0][box] = True
        pictures.append(torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1)
        scenes.append(scene.canonical())
        for language, told in lines.items():
            told.append(caption(scene, language, rng))
    x_0 = torch.stack(pictures)
    given = {"x_0": x_0, "hole": hole}
    before = to_uint8(x_0)
    outside = ~hole.permute(0, 2, 3, 1).numpy().repeat(3, axis=3)
    figures = []

    def tell(what: str, value: Any, **settings: int) -> None:
        facts = {"value": float(value), "n": n, "seed": 0} | settings
        figures.append({"metric": f"inpaint[{what}]"} | facts)

    tell("valid while covered", np.mean([read_scene(image) is not None for image in before]))
    usual = sample_settings(loaded, {"blend": True}, DecodeConfig)
    for settings in (usual, replace(usual, candidates=1)):
        made = {"candidates": settings.candidates, "steps": settings.steps}
        for language, told in lines.items():
            text = {"text": loaded.backend.captions.rows(told)}
            images = drawn(loaded, n, settings, given | text)
            right = [
                (seen := read_scene(image)) is not None and seen.canonical() == scene
                for image, scene in zip(images, scenes, strict=True)
            ]
            name = f"with its caption, {language}, {settings.candidates} candidates"
            tell(f"right {name}", np.mean(right), **made)
            tell(
                f"pixels outside that changed {name}", np.mean((images != before)[outside]), **made
            )
        free = drawn(loaded, n, settings, given)
        valid = np.mean([read_scene(image) is not None for image in free])
        tell(f"valid without one, {settings.candidates} candidates", valid, **made)
    return figures


def drawn(loaded: Any, n: int, settings: Any, given: dict[str, Tensor]) -> np.ndarray:
    """Samples 0 to n - 1 of seed 0, uint8 [n, 32, 32, 3]."""
    batches = draw_samples(loaded, range(n), 0, settings, given=given, batch_size=64)
    return np.concatenate([to_uint8(images) for _, images in batches])


PARTS: dict[str, Callable[[Any], list[dict[str, Any]]]] = {
    "loop": loop,
    "forward": forward,
    "cache": cache,
    "steps": steps,
    "inpaint": inpaint,
}
main()
