"""Batches by tokens, of pairs of about one length, and the mean of the best states as weights."""

import json
from statistics import mean

import pytest
import torch
from conftest import log_of, states_of, weights_of

from gentool.checkpoint.state import read_state
from gentool.checkpoint.weights import load_tensors
from gentool.data import buckets
from gentool.data.buckets import Buckets
from gentool.data.config import PairData
from gentool.data.loader import Loader
from gentool.data.rows import Pair, batches
from gentool.data.stream import open_stream
from gentool.rng import generator

N, TOKENS = 500, 120


class Lengths:
    """Pairs of which the longer side has 1 to 30 tokens, most of them few."""

    size, labels, fingerprint = N, (), "lengths"

    def __getitem__(self, index):
        length = int(30 * torch.rand(2, generator=generator("length", index)).min()) + 1
        return Pair(str(index), [7] * length, [8])


def fed(rank=0, world=1, seed=3):
    loader = Loader(
        open_stream(Lengths(), seed), lambda source, i, rng: source[i], PairData(workers=2), print
    )
    return Buckets(loader, TOKENS, rank, world)


def keys(batch):
    return [(example.epoch, example.key) for example in batch]


def take(feed, n):
    found = [keys(feed.next()) for _ in range(n)]
    feed.loader.close()
    return found


def test_batches_hold_so_many_tokens_of_about_one_length():
    feed = fed()
    found = [feed.next() for _ in range(150)]
    feed.loader.close()
    sizes = [[example.value.size for example in batch] for batch in found]
    full = [len(row) * max(row) for row in sizes]
    assert max(full) <= TOKENS and mean(full) > 0.85 * TOKENS
    padding = 1 - sum(map(sum, sizes)) / sum(full)
    shuffled = [Lengths()[i].size for i in range(N)]
    groups = [shuffled[i : i + 15] for i in range(0, N - 15, 15)]
    unsorted = 1 - sum(map(sum, groups)) / sum(len(g) * max(g) for g in groups)
    assert padding < 0.12 < 0.3 < unsorted
    assert feed.examples == sum(map(len, found))
    # Long and short ones come in no order.
    longest = [max(row) for row in sizes]
    assert sum(a < b for a, b in zip(longest, longest[1:], strict=False)) > 40


def test_an_epoch_has_every_pair_once_and_the_next_one_in_another_order():
    feed = fed()
    seen = [key for batch in take(feed, 180) for key in batch]
    first = [key for epoch, key in seen if epoch == 0]
    assert len(first) == N and {*first} == {str(i) for i in range(N)}
    second = [key for epoch, key in seen if epoch == 1]
    assert len({*second}) == len(second) > 100 and second[:100] != first[:100]
    assert take(fed(), 60) == take(fed(), 60) != take(fed(seed=4), 60)


def test_going_on_from_a_cursor_anywhere_gives_what_would_have_come():
    whole = take(fed(), 90)
    for cut in (0, 1, 17, 40, 61):
        feed = fed()
        for _ in range(cut):
            feed.next()
        cursor = json.loads(json.dumps(feed.cursor))
        feed.loader.close()
        other = fed()
        other.seek(cursor)
        assert other.examples == feed.examples
        assert take(other, 90 - cut) == whole[cut:], cut


def test_processes_take_turns_and_agree_on_the_cursor():
    whole = take(fed(), 90)
    feeds = [fed(rank, 3) for rank in range(3)]
    dealt = [[keys(feed.next()) for _ in range(30)] for feed in feeds]
    assert [dealt[i % 3][i // 3] for i in range(90)] == whole
    cursors = [feed.cursor for feed in feeds]
    assert cursors[0] == cursors[1] == cursors[2]
    alone = fed()
    alone.seek(cursors[0])
    assert take(alone, 3) == take(fed(), 93)[90:], "another number of processes goes on"
    for feed in feeds:
        feed.loader.close()


def test_a_row_longer_than_a_batch_is_one_alone():
    assert list(batches([3, 9, 2, 2], 6)) == [[1], [0, 2], [3]]
    assert list(batches([], 6)) == []


# --- train


TOKENS_SET = ("--set", "train.batch_tokens=150")


@pytest.mark.parametrize("backend", ["mask-predict", "teacher"])
def test_a_run_by_tokens_that_was_cut_ends_in_the_same_bytes(
    cli, backend, pairs_recipe, teacher_recipe, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(buckets, "WINDOW", 4)
    recipe = {"mask-predict": pairs_recipe, "teacher": teacher_recipe}[backend]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ("train", backend, "--recipe", recipe, "--data", corpus, "-q", *TOKENS_SET)
    command += ("--steps", 24, "--set", "train.accumulate=2", "--set", "train.save_every=10")
    assert cli(*command, "--out", whole).code == 0
    for stop in (7, 15, 24):
        given = ("--resume", "auto", "--out", cut, "--stop-at", stop)
        assert cli(*command, *given).code == 0
    assert weights_of(cut) == weights_of(whole) and log_of(cut) == log_of(whole)
    records = [record for record in log_of(whole) if "loss" in record]
    assert 24 * 2 * 4 < records[-1]["examples"] < 24 * 2 * 30
    other = cli(*command, "--out", cut, "--resume", "latest", "--set", "train.accumulate=3")
    assert other.code == 2 and "2 batches" in other.err
    dry = cli(*command, "--dry-run", "--out", tmp_path / "x")
    assert "24 of 2 batches of 150 tokens" in dry.out


def test_rows_of_one_length_know_no_buckets(cli, text_recipe, tmp_path):
    result = cli("train", "diffusion-lm", "--recipe", text_recipe, "--dry-run", *TOKENS_SET)
    assert result.code == 2 and "train.batch_tokens" in result.err


# --- averaging


AVERAGE = "train.average_best=2"
EVERY = ("--set", "train.validate_every=10", "--set", "train.save_every=5")


@pytest.fixture(scope="module")
def averaged(pairs_recipe, corpus, tmp_path_factory):
    """A run of which the two best of four validated states are averaged. Not to be changed."""
    from gentool.cli.main import run

    out = tmp_path_factory.mktemp("runs") / "averaged"
    command = ["train", "mask-predict", "--recipe", str(pairs_recipe), "--data", corpus, "-q"]
    assert run([*command, "--set", AVERAGE, *EVERY, "--out", str(out)]) == 0
    return out


def test_weights_are_the_mean_of_the_states_of_best_bleu(averaged):
    bleu = {r["step"]: r["val_bleu"] for r in log_of(averaged) if "val_bleu" in r}
    assert list(bleu) == [10, 20, 30, 40] and all(0 <= value <= 100 for value in bleu.values())
    best = sorted(bleu, key=lambda step: (-bleu[step], step))[:2]
    assert {*best} <= {*states_of(averaged)}, "they stay"
    found, header = load_tensors(averaged / "model.safetensors")
    states = [read_state(averaged / "state" / f"step-{step:08d}") for step in best]
    for name, tensor in found.items():
        expected = sum(state.tensors["model"][name].double() for state in states) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(found[name], states[0].tensors["ema"][name]) for name in found)
    assert header["step"] == "40"
    assert "2 states of best validation BLEU" in (averaged / "README.md").read_text()


def test_an_averaged_run_that_was_cut_ends_in_the_same_bytes(
    cli, averaged, pairs_recipe, corpus, tmp_path
):
    out = tmp_path / "cut"
    command = ("train", "mask-predict", "--recipe", pairs_recipe, "--data", corpus, "-q")
    command += ("--set", AVERAGE, *EVERY, "--out", out, "--resume", "auto")
    for stop in (13, 30, 37, 40):
        assert cli(*command, "--stop-at", stop).code == 0
    assert weights_of(out) == weights_of(averaged) and log_of(out) == log_of(averaged)


def test_a_validation_without_a_state_cannot_be_averaged(cli, pairs_recipe, tmp_path):
    command = ("train", "mask-predict", "--recipe", pairs_recipe, "--out", tmp_path / "x", "-q")
    for every in ("train.validate_every=15", "train.validate_every=0"):
        result = cli(*command, "--set", AVERAGE, "--set", every)
        assert result.code == 2 and "multiple" in result.err and not (tmp_path / "x").exists()
