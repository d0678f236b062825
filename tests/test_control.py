"""Plug-and-play control: steering where the answer is known, the classifier, and the commands."""

import json
import re
import shutil

import pytest
import torch
import torch.nn.functional as F
from conftest import log_of, trained, weights_of

from gentool.backends.diffusion_lm.algorithm import denoiser, nearest
from gentool.backends.diffusion_lm.control import adagrad_step, steering
from gentool.checkpoint.load import load_checkpoint
from gentool.control import Controls, holds, success
from gentool.data.scenes import SceneTexts, attributes, parse_caption
from gentool.diffusion.config import Denoising
from gentool.diffusion.gaussian import Gaussian
from gentool.diffusion.samplers import sample as walk
from gentool.diffusion.schedules import sqrt_betas
from gentool.rng import BatchRng, generator
from gentool.tokenizers.words import Words

L, D, T = 3, 4, 40
SAMPLERS = ("ancestral", "ddim", "dpm++")


@pytest.fixture
def chain():
    return Gaussian(sqrt_betas(T))


class TwoWords:
    """A language of two words, +e and -e, each as likely at every place: all is known of it."""

    def __init__(self, chain):
        self.chain = chain
        self.E = torch.stack([torch.ones(D), -torch.ones(D)]) * 0.5

    def logit(self, x_t, t):
        """log p(first word | x_t) - log p(second | x_t), [B, L]."""
        a, v = (table[t].float()[:, None] for table in (self.chain.alpha_bar.sqrt(),
                                                        1 - self.chain.alpha_bar))  # fmt: skip
        return 2 * a * (x_t @ self.E[0]) / v

    def model_fn(self, x_t, t):
        p = self.logit(x_t, t).sigmoid()[:, :, None]
        return p * self.E[0] + (1 - p) * self.E[1]

    def nll(self, place, word=0):
        """-log p(that word stands at `place` | x_t)."""
        sign = 1 - 2 * word
        return lambda x_t, t: -F.logsigmoid(sign * self.logit(x_t, t)[:, place])

    def draw(self, steer=None, n=200, how=None):
        denoise = denoiser(self.model_fn, self.E, self.chain, clamp=0.0)
        rng = BatchRng.for_samples(0, range(n))
        x = walk(
            denoise, rng.normal(L, D), self.chain, rng, how or Denoising(steps=T),
            variance="fixed_small", steer=steer,
        )  # fmt: skip
        return nearest(x, self.E)


# --- the algorithm


def test_the_word_that_is_asked_for_is_written_where_it_is_asked_for_and_nowhere_else(chain):
    world = TwoWords(chain)
    plain = (world.draw() == 0).float().mean(dim=0)
    assert (plain - 0.5).abs().max() < 0.15
    steered = (world.draw(steering(world.nll(1), chain)) == 0).float().mean(dim=0)
    assert steered[1] > 0.95 and (steered[[0, 2]] - 0.5).abs().max() < 0.15
    other = (world.draw(steering(world.nll(1, word=1), chain)) == 0).float().mean(dim=0)
    assert other[1] < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("idle", [{"steps": 0}, {"rate": 0.0}])
def test_without_a_step_it_is_the_plain_sampler_bit_for_bit(chain, sampler, idle):
    world, how = TwoWords(chain), Denoising(steps=T, sampler=sampler, eta=1.0)
    draws = [
        walk(
            denoiser(world.model_fn, world.E, chain, clamp=0.0), torch.zeros(8, L, D), chain,
            BatchRng.for_samples(0, range(8)), how, variance="fixed_small", steer=steer,
        )
        for steer in (None, steering(world.nll(1), chain, **idle))
    ]  # fmt: skip
    assert torch.equal(*draws)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_steered(chain, sampler):
    world, how = TwoWords(chain), Denoising(steps=T, sampler=sampler)
    steered = world.draw(steering(world.nll(0), chain), how=how)
    assert (steered[:, 0] == 0).float().mean() > 0.9


def test_several_controls_are_a_sum(chain):
    world = TwoWords(chain)
    both = lambda x_t, t: world.nll(0)(x_t, t) + world.nll(2, word=1)(x_t, t)  # noqa: E731
    steered = (world.draw(steering(both, chain)) == 0).float().mean(dim=0)
    assert steered[0] > 0.95 and steered[2] < 0.05 and 0.3 < steered[1] < 0.7


def test_fluency_holds_back_and_the_scale_of_the_control_pushes(chain):
    x, mean, sigma = torch.zeros(1, L, D), torch.zeros(1, L, D), torch.tensor(0.5)
    nll = lambda x_t, t: -x_t.sum(dim=(1, 2))  # noqa: E731  # the further the better

    def moved(**how):
        return steering(nll, chain, steps=50, **how)(20, x, mean, sigma).mean().item()

    # J is least where scale = 2 fluency x / sigma.
    assert moved(fluency=1.0, rate=0.01) == pytest.approx(0.25, abs=0.02)
    assert moved(fluency=1.0, guidance_scale=2.0, rate=0.02) == pytest.approx(0.5, abs=0.04)
    assert moved(fluency=0.0) == pytest.approx(5.0, rel=0.05), "fifty steps of 0.1"


def test_what_is_known_is_not_moved(chain):
    known = torch.tensor([[True, *[False] * (L - 1)]])
    x, sigma = torch.zeros(1, L, D), torch.tensor(0.5)
    nll = lambda x_t, t: -x_t.sum(dim=(1, 2))  # noqa: E731
    moved = steering(nll, chain, known=known)(20, x, x, sigma)
    assert (moved[:, 0] == 0).all() and (moved[:, 1:] > 0.2).all()


def test_the_level_is_that_of_what_was_drawn_and_the_last_steps_are_left_alone(chain):
    short, told = chain.respaced(20), []

    def nll(x_t, t):
        told.append(t.tolist())
        return x_t.sum(dim=(1, 2))

    steer = steering(nll, short, steps=1)
    x = torch.zeros(2, L, D)
    for i in reversed(range(1, 20)):
        assert not torch.equal(steer(i, x, x, torch.tensor(0.0)), x)
    assert told == [[int(short.timesteps[i - 1])] * 2 for i in reversed(range(1, 20))]
    assert torch.equal(steer(0, x, x, torch.tensor(0.0)), x) and len(told) == 19
    long = steering(nll, chain, steps=1)
    assert [torch.equal(long(i, x, x, torch.tensor(0.0)), x) for i in (0, 1, 2)] == [
        True, True, False,
    ]  # fmt: skip


def test_a_step_is_that_of_a_fresh_adagrad_but_for_gradients_that_are_nearly_nothing():
    g = torch.randn(2, L, D, generator=generator("g"))
    large = g.abs() > 0.2
    adagrad = g / (g.square().sqrt() + 1e-10)
    assert large.sum() > 10 and (adagrad_step(g) - adagrad)[large].abs().max() < 0.1
    near = g.clone()
    near[0, 0, 0] = 1e-7
    flipped = near.clone()
    flipped[0, 0, 0] = -1e-7
    assert (adagrad_step(near) - adagrad_step(flipped)).abs().max() < 1e-4
    assert not adagrad_step(torch.zeros(1, L, D)).any()


# --- whether a text obeys


def test_scenes_are_read_and_other_texts_searched():
    text = "a small red circle is above a large blue cross"
    for control, expected in {
        "shape=circle": True, "shape=cross": True, "color=blue": True, "size=large": True,
        "relation=above": True, "shape=square": False, "color=green": False, "place=center": False,
    }.items():  # fmt: skip
        assert holds(control, text, of_scenes=True) == expected, control
    assert not holds("shape=circle", "a circle", of_scenes=True), "no caption of a scene"
    place = "Near the City Centre, The Eagle serves food for less than £20."
    for control, expected in {
        "area=city centre": True, "name=The Eagle": True, "priceRange=less than £20": True,
        "name=Eagles": False, "food=English": False, "near=Centre, The": True,
    }.items():  # fmt: skip
        assert holds(control, place, of_scenes=False) == expected, control


def test_success_is_a_share_and_shuffled_words_have_none():
    source = SceneTexts("test", "en")
    texts = [source[i].text for i in range(200)]
    truth = [attributes(parse_caption(text)) for text in texts]
    controls = Controls(("shape=circle", "color=red"), {}, True)
    rates = success(controls, texts)
    assert rates["shape=circle"] == sum("circle" in t["shape"] for t in truth) / 200
    assert rates["all"] == sum("circle" in t["shape"] and "red" in t["color"] for t in truth) / 200
    backwards = [" ".join(reversed(text.split())) for text in texts]
    assert success(controls, backwards)["all"] == 0


# --- the commands

CLASSIFIER = """\
backend = "diffusion-lm-control"
[lm]
checkpoint = "{lm}"
[model]
hidden = 16
layers = 1
heads = 2
time_features = 8
[train]
batch_size = 8
steps = 40
warmup_steps = 0
learning_rate = 0.01
ema_decay = 0.9
save_every = 20
validate_every = 0
"""


@pytest.fixture(scope="module")
def control_recipe(text_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "control.toml"
    path.write_text(CLASSIFIER.format(lm=text_run))
    return path


@pytest.fixture(scope="module")
def classifier(control_recipe, tmp_path_factory):
    """A classifier of the tiny run's embeddings. Not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "control"
    return trained("diffusion-lm-control", control_recipe, out)


@pytest.fixture
def sample(cli, text_run, classifier):
    """`sample("--control", "shape=circle")` samples from the tiny run."""

    def call(*arguments, classifier=classifier):
        given = () if classifier is None else ("--classifier", classifier)
        number = () if "--index" in arguments else ("-n", 4)
        return cli("sample", "diffusion-lm", "-c", text_run, *number, *given, *arguments)

    return call


def test_the_classifier_knows_the_values_of_its_data_and_what_it_took_from_the_model(
    classifier, text_run
):
    config = json.loads((classifier / "config.json").read_text())["config"]
    assert config["data"]["length"] == 24 and config["lm"]["T"] == 20
    assert config["lm"]["embedding"] == 8 and len(config["lm"]["embeddings"]) == 64
    values = config["model"]["values"]
    assert {"shape=circle", "color=red", "relation=above", "place=center"} <= set(values)
    assert len(values) == 4 + 6 + 2 + 9 + 2
    loaded = load_checkpoint(classifier, "diffusion-lm-control")
    assert loaded.tokenizer.hash == load_checkpoint(text_run, "diffusion-lm").tokenizer.hash


def test_a_classifier_that_was_cut_ends_in_the_same_bytes(
    cli, control_recipe, classifier, tmp_path
):
    given = ("train", "diffusion-lm-control", "--recipe", control_recipe, "--out", tmp_path / "run")
    assert cli(*given, "--stop-at", 7).code == 0
    assert cli(*given, "--resume", "latest").code == 0
    assert weights_of(tmp_path / "run") == weights_of(classifier)


def test_the_loss_asks_for_the_attributes_of_each_text_and_the_nll_is_of_all_controls(
    classifier, text_run
):
    loaded = load_checkpoint(classifier, "diffusion-lm-control")
    backend, source = loaded.backend, SceneTexts("test", "en")
    rng = BatchRng.for_samples(0, range(16))
    rows = [backend.prepare(source, i, rng.generators[0], False) for i in range(16)]
    batch = backend.collate(rows, rng)

    def oracle(x_t, t):  # knows the texts
        return torch.tensor([
            [20.0 if value in attributes(parse_caption(source[i].text)).get(name, ()) else -20.0
             for name, _, value in (known.partition("=") for known in backend.values)]
            for i in range(16)
        ])  # fmt: skip

    assert backend.loss(oracle, batch)["nll"].max() < 1e-3
    assert backend.loss(lambda x_t, t: -oracle(x_t, t), batch)["nll"].min() > 100
    first, *_, last = [record["loss"] for record in log_of(classifier)]
    assert last < 0.8 * first
    emb = load_checkpoint(text_run, "diffusion-lm").network.get_parameter("embedding.weight")
    backend.check(emb)
    x, t = emb.detach()[batch["ids"]], torch.zeros(16, dtype=torch.long)
    controls = ["relation=above", "place=center"]
    each = [backend.control_nll(loaded.network, [control])(x, t) for control in controls]
    assert torch.allclose(backend.control_nll(loaded.network, controls)(x, t), sum(each), atol=1e-5)
    logits = loaded.network(x, t)[:, backend.values.index("relation=above")]
    assert torch.allclose(each[0], -logits.sigmoid().log(), atol=1e-5)


def test_controlled_samples_tell_their_success(sample, monkeypatch):
    texts = 2 * [
        "a small red cross is above a large blue cross",
        "a large red circle in the center",
    ]
    written = iter(texts)
    monkeypatch.setattr(Words, "decode", lambda self, ids: next(written))
    result = sample("--control", "shape=circle", "--control", "color=red", "--json")
    assert result.code == 0, result.err
    assert [record["control"] for record in result.records] == 2 * [
        {"shape=circle": False, "color=red": True}, {"shape=circle": True, "color=red": True}
    ]  # fmt: skip
    assert re.search(r"of 4 samples .*shape=circle 2, color=red 4, all 2", result.err)
    monkeypatch.undo()
    assert "control" not in sample("--json", classifier=None).out


def test_control_changes_what_is_written_unless_it_takes_no_steps(sample):
    plain = sample(classifier=None).out
    given = ("--control", "shape=circle")
    assert sample(*given, "--control-steps", 0).out == plain
    strong = ("--control-rate", 0.5, "--guidance-scale", 100)
    assert sample(*given, *strong).out not in (plain, sample("--control", "size=small", *strong))
    long = sample(*given, *strong, "--length", 7, "--json")
    assert [record["tokens"] for record in long.records] == [7] * 4


def test_a_controlled_sample_is_the_same_in_any_batch(sample):
    given = ("--control", "shape=circle", "--control-rate", 0.3)
    whole = sample(*given).out
    assert sample(*given, "-b", 1).out == whole == sample(*given, "-b", 3).out
    assert sample(*given, "--index", 2).out == whole.splitlines(keepends=True)[2]


def test_eval_measures_controlled_samples(cli, text_run, classifier):
    command = ("eval", "diffusion-lm", "-c", text_run, "-n", 8, "--json", "--metric", "control")
    given = ("--control", "shape=circle", "--classifier", classifier)
    result = cli(*command, *given)
    assert result.code == 0, result.err
    values = {record["metric"]: record["value"] for record in result.records}
    assert values == {"control": 0, "control[shape=circle]": 0, "control[shape=circle, real]": 1}
    assert result.records[0]["settings"]["control"] == ["shape=circle"]
    assert cli(*command).code == 2


@pytest.mark.parametrize(
    "control, words",
    [
        ("shape=circel", ["never seen", "did you mean 'circle'"]),
        ("shpae=circle", ["no control 'shpae'", "did you mean 'shape'"]),
        ("circle", ["attribute=value"]),
        ("shape=", ["never seen"]),
    ],
)
def test_controls_that_are_not_known(sample, control, words):
    result = sample("--control", control, "-q")
    assert result.code == 2 and result.out == "" and len(result.err.splitlines()) <= 2
    assert all(word in result.err for word in words), result.err


def test_classifiers_that_do_not_fit(cli, sample, text_run, classifier, text_recipe, tmp_path):
    given = ("--control", "shape=circle", "-q")
    other = trained("diffusion-lm", text_recipe, tmp_path / "other")
    (tmp_path / "more").mkdir()
    command = ("sample", "diffusion-lm", "-n", 1, *given, "--classifier")
    again = tmp_path / "again"
    run = ("train", "diffusion-lm", "--recipe", text_recipe, "--seed", 1, "--steps", 2, "-q")
    assert cli(*run, "--out", again).code == 0
    result = cli(*command, classifier, "-c", again)
    assert result.code == 4 and "another diffusion-lm checkpoint" in result.err
    assert cli(*command, classifier, "-c", other).code == 0, "the same embeddings"
    assert cli(*command, text_run, "-c", text_run).code == 4
    assert cli(*command, tmp_path / "none", "-c", text_run).code == 3
    for idle in (("--guidance-scale", 2), ("--classifier", classifier)):
        result = cli("sample", "diffusion-lm", "-c", text_run, *idle, "-q")
        assert result.code == 2 and "without a control" in result.err


def test_training_without_a_model_or_attributes_to_learn(cli, control_recipe, text_run, tmp_path):
    def train(*arguments):
        return cli("train", "diffusion-lm-control", "--recipe", control_recipe,
                   "--out", tmp_path / "run", "-q", *arguments)  # fmt: skip

    texts = tmp_path / "texts.txt"
    texts.write_text("a red circle\na blue cross\n")
    assert train("--data", texts).code == 4
    assert train("--set", f"lm.checkpoint={tmp_path / 'no'}").code == 3
    assert train("--set", "data.layout=block").code == 2
    lm = shutil.copytree(text_run, tmp_path / "lm")
    state = lm / "state/step-00000040"
    result = train("--set", f"lm.checkpoint={state}", "--stop-at", 2)
    assert result.code == 0, result.err
    shutil.rmtree(lm)
    resumed = cli("train", "diffusion-lm-control", "--out", tmp_path / "run", "--resume", "latest")
    assert resumed.code in (3, 4) and "bug" not in resumed.err
