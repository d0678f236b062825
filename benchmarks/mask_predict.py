"""Sentences per second of gentool's Mask-Predict, of the published loop, and of transformers.

    python benchmarks/mask_predict.py CHECKPOINT SOURCE,TARGET -n 200

The published loop runs the encoder once for each source and repeats its output for every length
candidate; all else it computes anew in each pass, in batches in the order of the lines, with logits
at every position. It has the checkpoint's own network. transformers' `generate` has a Marian of the
same layers, widths and vocabulary, with random weights and made to write as many tokens as the
references have, with a cache. All take turns in one process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import append
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from gentool.backends.mask_predict import DecodeConfig
from gentool.backends.mask_predict.algorithm import least, likely_lengths, n_masked
from gentool.backends.mask_predict.backend import Backend
from gentool.backends.mask_predict.network import padding_bias
from gentool.checkpoint.load import Loaded, load_checkpoint
from gentool.data.rows import padded
from gentool.evaluate.pairs import PairRequest
from gentool.evaluate.translation import scores
from gentool.translation import translate_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--length-beam", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    loaded = load_checkpoint(options.checkpoint, "mask-predict")
    settings = DecodeConfig(options.steps, options.length_beam)
    request = PairRequest(loaded, settings, options.data, options.n, 0, "cpu", 0, "fp32")
    pairs = request.held_out_records(request.held_out()[0])
    sources, references = [p.source or "" for p in pairs], [p.text for p in pairs]
    longest = max(len(loaded.backend.source_ids(line)) for line in sources)
    figures = []
    for n in options.batch:
        tokens = n * longest * options.length_beam
        sides = {
            "published loop": lambda n=n: published(loaded, sources, settings, n),
            "gentool": lambda tokens=tokens: ours(loaded, sources, settings, tokens),
            "gentool --fast": lambda tokens=tokens: ours(loaded, sources, settings, tokens, True),
            "transformers beam 5": generator(loaded, sources, references, n, beams=5),
            "transformers greedy": generator(loaded, sources, references, n, beams=1),
        }
        seconds, texts = alternate(sides, options.repeats)
        for name, taken in seconds.items():
            figure: dict[str, Any] = {
                "metric": f"sentences per second[{name}, batch {n}]",
                "value": round(len(sources) / taken, 2), "n": len(sources), "seed": 0,
                "ratio": round(seconds["published loop"] / taken, 3), "repeats": options.repeats,
                "threads": torch.get_num_threads(), **asdict(settings),
                "parameters": sum(p.numel() for p in loaded.network.parameters()),
            }  # fmt: skip
            if texts[name]:
                bleu = scores(texts[name], [references])["bleu"]
                same = sum(map(str.__eq__, texts[name], texts["published loop"]))
                figure |= {"bleu": bleu.value, "signature": bleu.signature, "same output": same}
            figures.append(figure)
            print(figure, flush=True)
    command = f"python benchmarks/mask_predict.py {options.checkpoint.name} -n {options.n}"
    append("mask-predict-speed", command, figures)


def alternate(
    sides: dict[str, Callable[[], list[str]]], repeats: int
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """The median seconds of each side, taken in turns after a warm-up, and what it wrote."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            began = time.perf_counter()
            texts[name] = run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(those[1:]) for name, those in times.items()}, texts


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
            is_masked = least(p.masked_fill(~is_token, torch.inf), n_masked(N, t, T))
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


def generator(
    loaded: Loaded, sources: list[str], references: list[str], n: int, beams: int
) -> Callable[[], list[str]]:
    """`generate` of a Marian of the same size, n lines at a time; its random weights say nothing
    worth reading."""
    backend, model = loaded.backend, loaded.config.model
    size = max(backend.tokenizer.size, backend.source.size)
    net = MarianMTModel(
        MarianConfig(
            vocab_size=size + 1, pad_token_id=size, decoder_start_token_id=size, eos_token_id=0,
            forced_eos_token_id=None, d_model=model.hidden, max_position_embeddings=512,
            encoder_layers=model.encoder_layers, decoder_layers=model.decoder_layers,
            encoder_ffn_dim=model.feedforward, decoder_ffn_dim=model.feedforward,
            encoder_attention_heads=model.heads, decoder_attention_heads=model.heads,
        )
    ).eval()  # fmt: skip

    def run() -> list[str]:
        for start in range(0, len(sources), n):
            rows = [backend.source_ids(line) for line in sources[start : start + n]]
            length = max(map(backend.target_length, references[start : start + n]))
            ids = padded(rows, size)
            net.generate(
                input_ids=ids, attention_mask=(ids != size).long(), num_beams=beams,
                do_sample=False, min_new_tokens=length, max_new_tokens=length,
            )  # fmt: skip
        return []

    return run


main()
