"""Sentences per second of gentool's Mask-Predict, of the published loop, and of transformers.

    python benchmarks/mask_predict.py
    python benchmarks/mask_predict.py -c runs/mine --data test.en,test.de --twin runs/teacher -n 200
    python benchmarks/mask_predict.py --untrained -n 16

The published loop runs the encoder once for each source and repeats its output for every length
candidate; all else it computes anew in each pass, in batches in the order of the lines, with logits
at every position. It has the checkpoint's own network. transformers' `generate`, with a cache, has
the twin, whose BLEU stands beside; without one a Marian of the same layers, widths and vocabulary,
with random weights and made to write as many tokens as the references have. --untrained takes
random weights of the paper's base model and random sentences of 20 tokens, for the speed alone; it
is sure of nothing, so that --fast takes all passes.

All take turns in one process, after a first turn that is not timed, in which floating point
operations are counted.
"""

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import append
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import MarianConfig, MarianMTModel

from gentool.backends.mask_predict import Config, DecodeConfig
from gentool.backends.mask_predict.algorithm import likely_lengths, lowest, n_masked
from gentool.backends.mask_predict.backend import Backend
from gentool.backends.mask_predict.network import padding_bias
from gentool.checkpoint.config import RunConfig
from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.data.rows import padded
from gentool.evaluate.pairs import PairRequest
from gentool.evaluate.translation import scores
from gentool.rng import generator, torch_seed
from gentool.teacher.generate import Teacher, open_teacher
from gentool.tokenizers import train
from gentool.translation import translate_lines

VOCABULARY, LENGTH = 10_000, 20  # of the untrained model and its sentences

Side = Callable[[], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-c", "--checkpoint", help="default: mask-predict-scenes")
    parser.add_argument("--data", help="default: what the run held out")
    parser.add_argument("--twin", help="a run of train teacher, or a seq2seq checkpoint")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("-n", type=int, default=48)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--length-beam", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    settings = DecodeConfig(options.steps, options.length_beam)
    if options.untrained:
        loaded, sources = untrained(options.n)
        references = sources
    else:
        folder = find_checkpoint(options.checkpoint, "mask-predict")
        loaded = load_checkpoint(folder, "mask-predict")
        request = PairRequest(loaded, settings, options.data, options.n, 0, "cpu", 0, "fp32")
        pairs = request.held_out_texts(request.held_out[0])
        sources, references = [p.source or "" for p in pairs], [p.text for p in pairs]
    longest = max(len(loaded.backend.source_ids(line)) for line in sources)
    teacher = open_teacher(options.twin, "cpu", "fp32") if options.twin else None
    other: Any = teacher.model if teacher else marian(loaded)
    figures = []
    for n in options.batch:
        tokens = n * longest * options.length_beam
        sides: dict[str, Side] = {
            "published loop": partial(published, loaded, sources, settings, n),
            "gentool": partial(ours, loaded, sources, settings, tokens),
            "gentool --fast": partial(ours, loaded, sources, settings, tokens, True),
        }
        for name, beams in {"transformers beam 5": 5, "transformers greedy": 1}.items():
            sides[name] = (
                partial(translated, teacher, sources, beams, n)
                if teacher
                else partial(written, other, loaded, sources, references, beams, n)
            )
        seconds, texts, flops = alternate(sides, options.repeats)
        for name, taken in seconds.items():
            network = other if "transformers" in name else loaded.network
            figure: dict[str, Any] = {
                "metric": f"sentences per second[{name}, batch {n}]",
                "value": round(len(sources) / taken, 2), "n": len(sources), "seed": 0,
                "ratio": round(seconds["published loop"] / taken, 3), "repeats": options.repeats,
                "threads": torch.get_num_threads(), "precision": "fp32", **asdict(settings),
                "parameters": sum(p.numel() for p in network.parameters()),
                "gflop per sentence": round(flops[name] / len(sources) / 1e9, 4),
                "load": round(os.getloadavg()[0], 1),  # processes that wanted the machine's cores
            }  # fmt: skip
            if texts[name] and not options.untrained:
                bleu = scores(texts[name], [references])["bleu"]
                same = sum(map(str.__eq__, texts[name], texts["published loop"]))
                figure |= {"bleu": bleu.value, "signature": bleu.signature, "same output": same}
            figures.append(figure)
            print(figure, flush=True)
    command = shlex.join(["python", "benchmarks/mask_predict.py", *sys.argv[1:]])
    append(f"mask-predict-speed{'-untrained' * options.untrained}", command, figures)


def alternate(
    sides: dict[str, Side], repeats: int
) -> tuple[dict[str, float], dict[str, list[str]], dict[str, int]]:
    """The median seconds of each side, taken in turns, what it wrote, and in how many floating
    point operations, counted in a turn before."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    flops: dict[str, int] = {}
    for name, run in sides.items():
        with FlopCounterMode(display=False) as counter:
            texts[name] = run()
        flops[name] = counter.get_total_flops()
    for _ in range(repeats):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(those) for name, those in times.items()}, texts, flops


def untrained(n: int) -> tuple[Loaded, list[str]]:
    """The paper's base model with random weights, and n sentences of random words."""
    words = [f"w{number}" for number in range(VOCABULARY)]
    tokenizer = train("words", words)
    config = Config()
    backend = Backend(config, tokenizer)
    with torch_seed("benchmark"):
        network = backend.network().eval()
    drawn = torch.randint(VOCABULARY, (n, LENGTH - 1), generator=generator("sentences"))
    sentences = [" ".join(words[i] for i in row) for row in drawn.tolist()]
    # Lengths as if it had learned them: those around the sources' are the likeliest for any source.
    network.encoder[-1].feedforward_norm.bias.data.fill_(1.0)
    network.lengths.weight.data[LENGTH - 2 : LENGTH + 3] = 1.0
    run_config = RunConfig("mask-predict", "untrained", {}, {})
    return Loaded(Path("untrained"), run_config, config, backend, network, 0, tokenizer), sentences


def ours(
    loaded: Loaded, sources: list[str], settings: DecodeConfig, tokens: int, fast: bool = False
) -> list[str]:
    """What `gentool decode` does."""
    made = translate_lines(
        loaded, sources, settings, batch_tokens=tokens, device="cpu", precision="fp32", fast=fast
    )
    return [hypotheses[0].text for _, hypotheses in made]  # type: ignore[index]


@torch.no_grad()
def published(loaded: Loaded, sources: list[str], settings: DecodeConfig, n: int) -> list[str]:
    """The authors' loop, n lines at a time."""
    backend: Backend = loaded.backend
    texts = []
    for start in range(0, len(sources), n):
        rows = [backend.source_ids(line) for line in sources[start : start + n]]
        x, bias, lengths = encoded(loaded.network, padded(rows, backend.pad))
        T, beam = settings.steps, settings.length_beam
        N = likely_lengths(lengths, beam).flatten()
        x, bias = x.repeat_interleave(beam, 0), bias.repeat_interleave(beam, 0)
        is_token = torch.arange(int(N.max())) < N[:, None]
        ids = torch.where(is_token, backend.mask, backend.pad)
        p = torch.ones(ids.shape)
        for t in range(T):
            is_masked = lowest(p.masked_fill(~is_token, torch.inf), n_masked(N, t, T))
            ids = ids.masked_fill(is_masked, backend.mask)
            probabilities = decoded(loaded.network, ids, x, bias, backend.pad).softmax(dim=2)
            most, best = probabilities.max(dim=2)
            ids, p = torch.where(is_masked, best, ids), torch.where(is_masked, most, p)
        score = p.log().sum(dim=1) / N
        chosen = torch.arange(len(rows)) * beam + score.view(-1, beam).argmax(dim=1)
        texts += [
            backend.tokenizer.decode(row[:k])
            for row, k in zip(ids[chosen].tolist(), N[chosen].tolist(), strict=True)
        ]
    return texts


def encoded(network: nn.Module, src_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The encoder's output [B, S, D], its bias, and the logits of the lengths."""
    net: Any = network
    table = net.embedding if net.src_embedding is None else net.src_embedding
    bias = padding_bias(src_ids == net.src_pad)
    x = table(src_ids) + net.src_positions.weight[: src_ids.shape[1]]
    x = torch.cat([net.lengths.weight[0].expand(len(x), 1, -1), x], dim=1)
    for layer in net.encoder:
        x = layer(x, F.pad(bias, (1, 0)))
    lengths = F.linear(x[:, 0], net.lengths.weight)
    lengths[:, 0] = -torch.inf
    return x[:, 1:], bias, lengths


def decoded(network: nn.Module, ids: Tensor, x: Tensor, source_bias: Tensor, pad: int) -> Tensor:
    """Logits of all positions, [R, L, V], with everything computed anew."""
    net: Any = network
    h = net.embedding(ids) + net.tgt_positions.weight[: ids.shape[1]]
    bias = padding_bias(ids == pad)
    for layer in net.decoder:
        h = layer(h, bias, (layer.cross.keys_values(x), source_bias))
    return F.linear(h, net.embedding.weight)


def translated(teacher: Teacher, sources: list[str], beams: int, n: int) -> list[str]:
    """What the twin makes of the sources, n lines at a time."""
    made: list[str] = []
    for start in range(0, len(sources), n):
        lines = sources[start : start + n]
        tokens = n * beams * max(len(teacher.encode(line)) for line in lines)
        made += [text or "" for text in teacher.translate(lines, beams, tokens)]
    return made


def marian(loaded: Loaded) -> MarianMTModel:
    """A Marian of the same layers, widths and vocabulary, with random weights."""
    backend, model = loaded.backend, loaded.config.model
    size = max(backend.tokenizer.size, backend.source.size)
    config = MarianConfig(
        vocab_size=size + 1, pad_token_id=size, decoder_start_token_id=size, eos_token_id=0,
        forced_eos_token_id=None, d_model=model.hidden, max_position_embeddings=512,
        encoder_layers=model.encoder_layers, decoder_layers=model.decoder_layers,
        encoder_ffn_dim=model.feedforward, decoder_ffn_dim=model.feedforward,
        encoder_attention_heads=model.heads, decoder_attention_heads=model.heads,
    )  # fmt: skip
    with torch_seed("benchmark"):
        return MarianMTModel(config).eval()


def written(
    net: MarianMTModel,
    loaded: Loaded,
    sources: list[str],
    references: list[str],
    beams: int,
    n: int,
) -> list[str]:
    """`generate`, n lines at a time, as many tokens as the references have; random weights say
    nothing worth reading."""
    backend, pad = loaded.backend, net.config.pad_token_id
    for start in range(0, len(sources), n):
        rows = [backend.source_ids(line) for line in sources[start : start + n]]
        length = max(map(backend.target_length, references[start : start + n]))
        ids = padded(rows, pad)
        net.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), num_beams=beams,
            do_sample=False, min_new_tokens=length, max_new_tokens=length,
        )  # fmt: skip
    return []


main()
