"""mvtm: its decoding loop against lookup tables in place of a network, and its training loss."""

import math

import pytest
import torch
from torch import Tensor

from gentool.backends.mvtm.algorithm import (
    RATIOS,
    categorical,
    cutoff,
    decode,
    doubt,
    entropy,
    grow,
    guidance,
    guided,
    halton,
    lowest,
    mask_count,
    nucleus,
    random_mask,
    training_loss,
    walk_loss,
)
from gentool.rng import BatchRng

K, MASK = 7, 9  # two more ids lie between: classes, say
COUNTS = {
    (256, 8): [251, 236, 212, 181, 142, 97, 49, 1],
    (256, 12): [253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33, 1],
    (1024, 12): [1015, 989, 946, 886, 812, 724, 623, 512, 391, 265, 133, 1],
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Table:
    """A network that knows one distribution for each position, and says what it was asked."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # [N, V]
        self.asked: list[Tensor] = []
        self.done: list[float] = []

    def __call__(self, y: Tensor, is_masked: Tensor, done: float) -> Tensor:
        assert torch.equal(is_masked, y == MASK)
        self.asked.append(is_masked.clone())
        self.done.append(done)
        return self.logits.expand(*y.shape, -1)[is_masked]


def masked(B: int, N: int) -> Tensor:
    return torch.full((B, N), MASK)


def run(table: Table, y: Tensor, steps: int, seed: int = 0, first: int = 0, **how):
    """ids, and what `on_step` heard."""
    heard = []
    rng = BatchRng.for_samples(seed, range(first, first + len(y)))
    ids = decode(
        table, y, rng, K=K, mask_id=MASK, steps=steps,
        on_step=lambda *said: heard.append(said), **how,
    )  # fmt: skip
    return ids, heard


@pytest.mark.parametrize("N, T", COUNTS)
def test_the_counts_of_the_reference(N, T):
    """As many tokens are masked after each step as in the authors' code, exactly."""
    _, heard = run(Table(normal(N, MASK + 1)), masked(2, N), T)
    assert [step for step, *_ in heard] == list(range(T))
    for place in range(2):
        assert [int(again[place].sum()) for *_, again, _ in heard] == COUNTS[N, T]


def test_each_step_keeps_one_and_masks_one():
    for N, T in ((3, 8), (2, 5), (1, 4), (5, 1)):
        _, heard = run(Table(normal(N, MASK + 1)), masked(1, N), T)
        left = [int(again.sum()) for *_, again, _ in heard]
        assert min(left) >= 1 and left[-1] == 1
        before = [N, *left]
        assert all(b > a or b == a == 1 for b, a in zip(before, left, strict=False))


def test_counts_are_of_what_was_masked_at_the_start():
    y = masked(2, 256)
    y[0, :128] = 3
    _, heard = run(Table(normal(256, MASK + 1)), y, 8)
    counts = [int(again[0].sum()) for *_, again, _ in heard]
    assert counts[:-1] == [math.floor(128 * math.cos(math.pi / 2 * t / 8)) for t in range(1, 8)]
    assert [int(again[1].sum()) for *_, again, _ in heard] == COUNTS[256, 8]


def test_known_tokens_stay_and_no_id_beyond_the_codes_is_drawn():
    logits = normal(64, MASK + 1)
    logits[:, K:] = 50.0  # a network that would rather say `mask`
    y = masked(3, 64)
    y[:, ::3] = 5
    ids, heard = run(Table(logits), y, 6, choice_temperature=100.0)
    assert torch.equal(ids[:, ::3], y[:, ::3]) and int(ids.max()) < K
    for _, _, confidence, again, _ in heard:
        assert confidence[:, ::3].isinf().all() and not again[:, ::3].any()


def test_nothing_to_draw_draws_nothing():
    y = torch.randint(K, (2, 16), generator=torch.Generator().manual_seed(0))
    table = Table(normal(16, MASK + 1))
    ids, heard = run(table, y, 4)
    assert torch.equal(ids, y) and not any(again.any() for *_, again, _ in heard)


def test_one_step_is_one_draw_and_the_last_ids_come_back():
    table = Table(normal(16, MASK + 1))
    ids, heard = run(table, masked(1, 16), 1)
    assert len(table.asked) == 1 and torch.equal(ids, heard[-1][1]) and int(ids.max()) < K
    ids, heard = run(table, masked(1, 16), 5)
    assert torch.equal(ids, heard[-1][1])  # not what the next step would see, masks in it
    assert table.done[1:] == [0, 0.25, 0.5, 0.75, 1]


def test_the_surest_are_kept_without_noise_and_the_noise_is_as_strong_as_asked():
    logits = torch.zeros(32, MASK + 1)
    logits[:, 0] = torch.arange(32.0)  # the further right, the surer
    _, heard = run(Table(logits), masked(1, 32), 4, choice_temperature=0.0)
    for _, ids, confidence, again, _ in heard:
        n = int(again.sum())
        known = confidence.isinf()
        order = confidence.masked_fill(known, torch.inf).argsort(dim=1, stable=True)[0, :n]
        assert torch.equal(again[0].nonzero()[:, 0], order.sort().values)
        p = logits[:, :K].log_softmax(-1).gather(1, ids[0, :, None])[:, 0]
        assert torch.allclose(confidence[~known].float(), p[~known[0]], atol=1e-5)
    # Gumbel noise of scale c (1 - (s + 1) / T): its deviation is pi / sqrt(6) of that.
    N, T, c = 20_000, 8, 4.5
    _, heard = run(Table(torch.zeros(N, MASK + 1)), masked(1, N), T, choice_temperature=c)
    for step, _, confidence, *_ in heard:
        noise = confidence[~confidence.isinf()]
        if step + 1 == T:
            assert torch.allclose(noise.float(), torch.tensor(-math.log(K)), atol=1e-4)
        elif step < 4:
            scale = noise.std().item() / (math.pi / math.sqrt(6))
            assert scale == pytest.approx(c * (1 - (step + 1) / T), rel=0.05)


def test_the_scales_of_the_gumbel_noise_are_those_of_the_reference():
    class Fixed:
        def uniform(self, *shape, dtype=torch.float32):
            return torch.full((1, *shape), math.exp(-math.exp(-1)), dtype=dtype)  # Gumbel noise 1

    heard = []
    decode(
        Table(torch.zeros(64, MASK + 1)), masked(1, 64), Fixed(), K=K, mask_id=MASK, steps=8,
        choice_temperature=4.5, on_step=lambda *said: heard.append(said),
    )  # fmt: skip
    noise = [c[~c.isinf()] + math.log(K) for _, _, c, *_ in heard]
    scales = [3.9375, 3.375, 2.8125, 2.25, 1.6875, 1.125, 0.5625, 0.0]
    for scale, found in zip(scales, noise, strict=True):
        assert (found - scale).abs().max() < 1e-6


def test_confidence_is_of_the_network_whatever_a_token_is_drawn_from():
    """Drawn from one token each, all would be as sure as can be, and the first places kept."""
    logits = torch.zeros(32, MASK + 1)
    logits[:, 0] = torch.arange(32.0) / 4  # the further right, the surer
    _, heard = run(Table(logits), masked(1, 32), 4, choice_temperature=0.0, top_p=1e-6)
    for *_, again, _ in heard:
        n = int(again.sum())
        assert again[0, :n].all() and not again[0, n:].any()


def test_draws_follow_the_distribution():
    """A chi-square test, of a table with unlikely tokens, some of them a millionth."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.049, 0.000999, 1e-6, 0.0])
    n = 400_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = categorical(p.log().expand(n, -1), u)
    counts = torch.bincount(ids, minlength=K).double()
    expected = (p.double() / p.double().sum()) * n
    chi = ((counts - expected)[:5] ** 2 / expected[:5]).sum().item()
    assert chi < 18.5 and counts[5] <= 5 and counts[6] == 0  # the 0.1 % quantile of 4 degrees
    wrong = ((counts[[1, 0, 2, 3, 4]] - expected[:5]) ** 2 / expected[:5]).sum().item()
    assert wrong > 1000  # the test sees a wrong distribution
    ends = categorical(p.log().expand(2, -1), torch.tensor([0.0, 1 - 2**-53]))
    assert ends.tolist() == [0, 5]


def test_the_gumbel_noise_has_its_distribution():
    """P(g <= x) = exp(-exp(-x)), also far out, where fp32 draws would end."""
    heard = []
    rng = BatchRng.for_samples(0, range(4))
    N = 100_000
    decode(
        Table(torch.zeros(N, MASK + 1)), masked(4, N), rng, K=K, mask_id=MASK, steps=2,
        choice_temperature=2.0, on_step=lambda *said: heard.append(said),
    )  # fmt: skip
    g = heard[0][2].flatten() + math.log(K)
    for x in (-2.0, -1.0, 0.0, 1.0, 3.0, 6.0):
        share, expected = (g <= x).double().mean().item(), math.exp(-math.exp(-x))
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / g.numel()) + 1e-6)
    assert g.isfinite().all()


def test_a_sample_is_the_same_in_any_batch():
    table = Table(normal(64, MASK + 1))
    whole, _ = run(table, masked(5, 64), 6)
    for i in range(5):
        alone, _ = run(table, masked(1, 64), 6, first=i)
        assert torch.equal(alone[0], whole[i])
    again, _ = run(table, masked(5, 64), 6)
    other, _ = run(table, masked(5, 64), 6, seed=1)
    assert torch.equal(again, whole) and not torch.equal(other, whole)


def test_ties_leave_no_one_out():
    c = torch.zeros(2, 8)
    assert lowest(c, torch.tensor([3, 0])).sum(dim=1).tolist() == [3, 0]
    assert lowest(c, torch.tensor([3, 0]))[0].tolist() == [True] * 3 + [False] * 5


def test_temperature_top_p_and_cutoff():
    logits = normal(2000, MASK + 1)
    hot, _ = run(Table(logits), masked(1, 2000), 1, temperature=100.0)
    cold, _ = run(Table(logits), masked(1, 2000), 1, temperature=1e-3)
    greedy = logits[:, :K].argmax(dim=1)
    assert (cold[0] == greedy).float().mean() > 0.99  # the rest nearly tie
    assert torch.bincount(hot[0], minlength=K).min() > 200
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    kept = [nucleus(p, top_p).isfinite().sum().item() for top_p in (0.4, 0.5, 0.6, 0.85, 1.0)]
    assert kept == [1, 1, 2, 3, 4]
    # exp(-H) is 0.311: 3.2 tokens seem open.
    kept = [cutoff(p, share).isfinite().sum().item() for share in (0.0, 0.32, 0.33, 0.97, 1.0)]
    assert kept == [4, 4, 2, 1, 1]
    even = torch.zeros(1, 4)  # all as likely as each other: at the threshold, and kept
    assert cutoff(even, 0.99).isfinite().all()
    one, _ = run(Table(logits), masked(1, 2000), 1, top_p=1e-6)
    assert torch.equal(one[0], greedy)
    drawn, _ = run(Table(logits), masked(1, 2000), 1, entropy_cutoff=0.9)
    likely = cutoff(logits[:, :K], 0.9).isfinite()
    assert 0.1 < likely.float().mean() < 0.9 and likely.gather(1, drawn[0][:, None]).all()


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])  # from nearly even to a few likely tokens
def test_the_nucleus_of_many_tokens_is_that_of_all_sorted(spread):
    logits = spread * normal(20, 300).double()
    p = logits.softmax(dim=1)
    ordered = p.sort(dim=1, descending=True).values
    for top_p in (0.05, 0.5, 0.9, 0.999):
        n = nucleus(logits, top_p).isfinite()
        fewest = (ordered.cumsum(dim=1) < top_p).sum(dim=1) + 1
        assert torch.equal(n.sum(dim=1), fewest)
        assert (p.masked_fill(~n, 2).amin(dim=1) > p.masked_fill(n, -1).amax(dim=1)).all()
        assert torch.equal(nucleus(logits, top_p)[n], logits[n])


def test_guidance():
    c, u = normal(3, K), normal(3, K, seed=1)
    assert torch.equal(guided(c, u, 0.0), u) and torch.allclose(guided(c, u, 1.0), c, atol=1e-6)
    assert torch.allclose(guided(c, u, 3.0), 3 * c - 2 * u, atol=1e-5)
    assert [guidance(3.0, "constant", done) for done in (0, 0.5)] == [3, 3]
    assert [guidance(3.0, "linear", done) for done in (0, 0.5, 1)] == [1, 2, 3]


def test_halton_order_is_kept_and_spreads():
    order = halton(8)
    assert sorted(order.tolist()) == list(range(64))
    assert order.argsort()[:3].tolist() == [2 * 8 + 4, 5 * 8 + 2, 0 * 8 + 6]  # 1/2, 1/3; 1/4, 2/3
    _, heard = run(Table(normal(64, MASK + 1)), masked(2, 64), 8, order="halton")
    for step, _, _, again, _ in heard:
        n = max(1, math.floor(64 * math.acos((step + 1) / 8) / (math.pi / 2)))
        assert torch.equal(again[0], order >= 64 - n) and torch.equal(again[0], again[1])
    quarters = torch.stack([*order.view(8, 8).split(4)]).view(2, 4, 2, 4)
    first = [(quarters[i, :, j] < 16).sum().item() for i in range(2) for j in range(2)]
    assert max(first) - min(first) <= 2  # the first quarter of the tokens: even over the picture


def test_the_least_decided_is_kept_one_a_step():
    logits = torch.zeros(16, MASK + 1)
    logits[:, 0] = torch.arange(16.0)  # the further right, the surer
    _, heard = run(Table(logits), masked(2, 16), 5, order="undecided", temperature=1e-3)
    for step, _, _, again, _ in heard[:4]:
        assert again.tolist() == 2 * [[place > step for place in range(16)]]
    # Most likely empty, else one of many, has more entropy, but is the surer of the two.
    p = torch.full((2, MASK + 1), 1e-9)
    p[0, 0], p[0, 1:K], p[1, :2] = 0.7, 0.05, torch.tensor([0.55, 0.45])
    assert entropy(p.log())[0] > entropy(p.log())[1]
    _, heard = run(Table(p.log()), masked(2, 2), 2, order="undecided")
    assert heard[0][3].tolist() == [[True, False]] * 2
    # What the network knows, not what the draw is made of: the tempered one has no doubts left.
    p = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert torch.allclose(doubt(p.log()), torch.tensor([0.5, 0.0]))
    assert torch.allclose(entropy(p.log()), torch.tensor([1.5 * math.log(2), 0.0]))


def test_it_draws_what_hangs_together_in_fewer_steps_than_by_confidence():
    """A picture with a thing in one of 16 places: each token alone had better be empty."""

    def thing(y: torch.Tensor, is_masked: torch.Tensor, done: float) -> torch.Tensor:
        B, N = y.shape
        found = (y == 1).any(dim=1, keepdim=True)
        left = (y == MASK).sum(dim=1, keepdim=True)
        p = torch.where(found, 0.0, 1 / left).expand(B, N)
        logits = torch.full((B, N, MASK + 1), -torch.inf)
        logits[..., 0], logits[..., 1] = (1 - p).log(), p.log()
        return logits[is_masked]

    def right(order: str, steps: int) -> float:
        rng = BatchRng.for_samples(0, range(200))
        ids = decode(thing, masked(200, 16), rng, K=K, mask_id=MASK, steps=steps, order=order)
        return float(((ids == 1).sum(dim=1) == 1).float().mean())

    assert right("undecided", 16) == 1
    assert right("undecided", 8) > right("confidence", 8) + 0.05


def test_counts_near_whole_numbers():
    one = torch.tensor([256])
    assert mask_count(one, one, math.cos(math.pi / 3)).item() == 128  # 0.5000000000000001 or less
    assert mask_count(torch.tensor([4]), torch.tensor([1]), 0.9).item() == 1
    assert mask_count(torch.tensor([0]), torch.tensor([0]), 0.9).item() == 0


def test_training_hides_the_share_of_its_schedule():
    N, rng = 64, BatchRng.for_samples(0, range(500))
    for schedule, gamma in RATIOS.items():
        r, scores = rng.uniform(), rng.uniform(N)
        is_masked = random_mask(r, scores, schedule)
        assert is_masked.sum(dim=1).tolist() == [max(1, math.ceil(gamma(float(x)) * N)) for x in r]
        for row, score in zip(is_masked, scores, strict=True):
            assert score[row].max() <= score[~row].min() if (~row).any() else True
    ends = random_mask(torch.tensor([0.0, 0.999999]), torch.rand(2, N), "cosine")
    assert ends.sum(dim=1).tolist() == [N, 1]
    means = {"cosine": 2 / math.pi, "arccos": 2 / math.pi, "square": 2 / 3, "cubic": 3 / 4}
    r, scores = rng.uniform(), rng.uniform(N)
    shares = {name: random_mask(r, scores, name).float().mean().item() for name in RATIOS}
    assert shares == pytest.approx(means, abs=0.04)


def test_the_loss_is_of_masked_tokens_and_each_picture_counts_alike():
    y = torch.randint(K, (3, 16), generator=torch.Generator().manual_seed(0))
    is_masked = torch.zeros(3, 16, dtype=torch.bool)
    is_masked[0, :8], is_masked[1, :1], is_masked[2] = True, True, True
    logits = normal(3, 16, MASK + 1)
    seen = []

    def logits_fn(ids: Tensor, where: Tensor) -> Tensor:
        seen.append(ids)
        return logits[where]

    loss = training_loss(logits_fn, y, is_masked, MASK)
    nll = -logits.log_softmax(dim=-1).gather(2, y[:, :, None])[:, :, 0]
    expected = [nll[0, :8].mean(), nll[1, 0], nll[2].mean()]
    assert torch.allclose(loss, torch.stack(expected))
    assert torch.equal(seen[0] == MASK, is_masked) and torch.equal(
        seen[0][~is_masked], y[~is_masked]
    )
    smooth = training_loss(logits_fn, y, is_masked, MASK, label_smoothing=0.1)
    even = -logits.log_softmax(dim=-1).mean(dim=-1)
    assert smooth[1] == pytest.approx((0.9 * nll[1, 0] + 0.1 * even[1, 0]).item(), rel=1e-5)
    changed = y.clone()
    changed[~is_masked] = (changed[~is_masked] + 1) % K  # what is shown is not scored
    assert torch.equal(training_loss(logits_fn, changed, is_masked, MASK), loss)


def test_a_region_grows_by_one_token():
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[0, 0, 1] = True
    assert grow(region)[0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]


class Copying:
    """A network whose distributions depend on what it sees: on the sum of the known tokens."""

    def __init__(self, N: int) -> None:
        self.tables = normal(11, N, MASK + 1)
        self.tables[..., K:] = -60.0

    def __call__(self, y: Tensor, is_masked: Tensor, done: float = 0.0) -> Tensor:
        known = y.masked_fill(is_masked, 0).sum(dim=1) % 11
        return self.tables[known][is_masked]


@pytest.mark.parametrize("N, steps", [(16, 8), (16, 1), (5, 5), (3, 8)])
def test_the_loss_of_a_walk_is_the_likelihood_of_what_is_decoded(N, steps):
    logits_fn = Copying(N)
    ids, heard = run(logits_fn, masked(6, N), steps, order="undecided")
    n = min(steps, N)  # with fewer tokens than steps the last one is drawn anew until the end
    log_p, is_masked = torch.zeros(6, dtype=torch.float64), torch.ones(6, N, dtype=torch.bool)
    for step, (*_, again, p) in enumerate(heard[: n - 1] + heard[-1:]):
        kept = is_masked & ~(again & (step < n - 1))
        log_p += p.log().masked_fill(~kept, 0).sum(dim=1)
        is_masked &= ~kept
    assert not is_masked.any()
    loss = walk_loss(logits_fn, ids, MASK, steps)
    torch.testing.assert_close(loss.double() * n, -log_p, rtol=1e-5, atol=1e-5)
    assert (walk_loss(logits_fn, (ids + 1) % K, MASK, steps) - loss).abs().min() > 1e-3
