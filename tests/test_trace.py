"""`--trace`: one record of how samples came about, and the files that are made of it."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from test_console import on_a_terminal

from gentool.backends.diffusion_lm.algorithm import word_posterior
from gentool.pixels import to_uint8
from gentool.render import animation, records
from gentool.render.terminal import Player
from gentool.render.traces import write_trace
from gentool.trace import SAMPLES, STEPS, Frame, Recorder, Tokens, Trace, View

FACTS = {
    "verb": "gentool decode", "backend": "mvtm", "checkpoint": "runs/mine", "checkpoint_step": 7,
    "seed": 3, "command": "gentool decode mvtm --trace x", "settings": {"steps": 4}, "steps": 4,
}  # fmt: skip
PROMPT = "a red </script><b> & 红色"


def made_up():
    """Two samples of four steps, pictures, a grid and words, masked ones among them."""
    rng = np.random.default_rng(0)
    frames = []
    for sample in (0, 5):
        for step in range(1, 5):
            masked = np.arange(16).reshape(4, 4) >= 4 * step
            words = ("a", "red" if step > 2 else "blue", "cross", "")
            tokens = {
                "codes": Tokens(rng.random((4, 4)).round(4), masked),
                "words": Tokens(rng.random(4).round(4), np.arange(4) >= step, words),
            }
            picture = rng.integers(0, 256, (8, 8, 1), np.uint8)
            frames.append(Frame(sample, step, PROMPT, View({"picture": picture}, tokens)))
    return Trace(dict(FACTS), frames)


@pytest.fixture(scope="module")
def image_trace(tiny_run, tmp_path_factory):
    """The folder of `sample ddpm` with a trace of each kind."""
    from gentool.cli.main import run

    folder = tmp_path_factory.mktemp("trace")
    command = ["sample", "ddpm", "-c", str(tiny_run), "-n", "6", "--seed", "2", "-q"]
    for ending in ("jsonl", "html", "gif", "png"):
        arguments = ["--out", str(folder / "x.npy"), "--trace", str(folder / f"x.{ending}")]
        assert run(command + arguments) == 0
    assert run([*command, "--out", str(folder / "plain.npy")]) == 0
    return folder


def test_a_trace_changes_no_sample_and_ends_in_it(image_trace, tiny_run):
    drawn = (image_trace / "x.npy").read_bytes()
    assert drawn == (image_trace / "plain.npy").read_bytes()
    trace = records.read(image_trace / "x.jsonl")
    assert trace.facts["seed"] == 2 and trace.facts["steps"] == 5
    assert trace.facts["checkpoint"] == str(tiny_run) and trace.facts["checkpoint_step"] == 40
    assert trace.facts["command"].startswith("gentool sample ddpm -c ")
    assert trace.facts["settings"]["steps"] == 5
    ways = trace.samples()
    assert list(ways) == list(range(SAMPLES))
    pixels = to_uint8(torch.from_numpy(np.load(image_trace / "x.npy")))
    for sample, way in ways.items():
        assert [frame.step for frame in way] == [1, 2, 3, 4, 5]
        assert (way[-1].view.images["x_t"] == pixels[sample]).all()
        assert set(way[0].view.images) == {"x_t", "x_0_hat"}
        assert (way[0].view.images["x_t"] != way[-1].view.images["x_t"]).any()


def test_pictures_of_a_trace(image_trace):
    animation = Image.open(image_trace / "x.gif")
    assert animation.n_frames == 5
    shown = np.asarray(animation.convert("RGB")).astype(int)
    animation.seek(4)
    assert np.abs(np.asarray(animation.convert("RGB")).astype(int) - shown).mean() > 1
    strip = Image.open(image_trace / "x.png")
    assert strip.width > 5 * 96 and strip.height > SAMPLES * 2 * 96


def test_what_is_kept_is_enough_to_draw_it_anew(cli, image_trace, tmp_path):
    kept = image_trace / "x.jsonl"
    for ending in ("gif", "png"):
        result = cli("inspect", kept, "--plot", tmp_path / f"x.{ending}")
        assert result.code == 0 and result.out.strip() == str(tmp_path / f"x.{ending}")
        assert (tmp_path / f"x.{ending}").read_bytes() == (image_trace / f"x.{ending}").read_bytes()
    [facts] = cli("inspect", kept, "--json").records
    assert facts["samples"] == [0, 1, 2, 3] and facts["backend"] == "ddpm"
    assert cli("inspect", kept, "--plot", tmp_path / "x.mp4").code == 2
    assert cli("inspect", kept, kept, "--plot", tmp_path / "y.gif").code == 2
    for text in (
        "",
        "[]\n",
        '{"trace": 1}\n',
        '{"trace": 99}\n{}\n',
        '{"trace": 1}\n{"sample": 1}\n',
        kept.read_text().replace('"command"', '"order"', 1),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        result = cli("inspect", tmp_path / "bad.jsonl")
        assert result.code == 4 and len(result.err.splitlines()) <= 2, result.err


def test_a_skipped_line_costs_no_trace(cli, pairs_run, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("a small red circle\n" + 50 * "a large " + "\na small blue cross\n")
    trace = tmp_path / "x.jsonl"
    result = cli("decode", "mask-predict", lines, "-c", pairs_run, "--trace", trace)
    assert result.code == 4 and "1 of 3 lines skipped" in result.err
    assert len(result.out.splitlines()) == 3 and len(records.read(trace).samples()) == 2


def test_a_page_asks_for_nothing_and_says_where_it_is_from(image_trace, tiny_run):
    page = (image_trace / "x.html").read_text()
    assert "default-src 'none'" in page and "://" not in page
    for target in re.findall(r"(?:src|href)=\"([^\"]*)\"", page):
        assert target.startswith("data:image/png;base64,")
    facts = page.split("<main>")[0]
    assert str(tiny_run) in facts and "(step 40)" in facts and "<dd>2</dd>" in facts
    assert "gentool sample ddpm" in facts and "--seed 2" in facts
    assert "prefers-color-scheme: dark" in page and "ArrowRight" in page
    for name in ("x_t", "x_0_hat"):
        assert f'alt="Sample 3, {name} after step 5 of 5"' in page


def test_no_text_breaks_out_of_a_page(tmp_path):
    write_trace(made_up(), tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<b>" not in page
    assert "Sample 5: a red &lt;/script&gt;&lt;b&gt; &amp; 红色" in page
    data = page.split('class="frames">')[1].split("</script>")[0]
    frames = json.loads(data)
    assert [frame["step"] for frame in frames] == [1, 2, 3, 4] * 2
    assert frames[0]["tokens"]["words"]["masked"] == [False, True, True, True]
    # Without scripts: the words of the last step, in order, under their sample.
    assert '<p class="row" data-view="words">a red cross</p>' in page


def test_masks_and_confidences_come_back_from_a_file_and_are_drawn(tmp_path):
    trace = made_up()
    trace.facts["line"] = "an end of\u2028a line that is none of the file's"
    write_trace(trace, tmp_path / "x.jsonl")
    again = records.read(tmp_path / "x.jsonl")
    assert again.facts == trace.facts and len(again.frames) == 8
    for ours, theirs in zip(trace.frames, again.frames, strict=True):
        assert (ours.sample, ours.step, ours.prompt) == (
            theirs.sample, theirs.step, theirs.prompt
        )  # fmt: skip
        assert (ours.view.images["picture"] == theirs.view.images["picture"]).all()
        for name, tokens in ours.view.tokens.items():
            other = theirs.view.tokens[name]
            assert (tokens.masked == other.masked).all() and tokens.words == other.words
            assert (tokens.confidence == other.confidence).all()
    pictures = []
    for changed in (False, True):
        for frame in trace.frames if changed else ():
            for tokens in frame.view.tokens.values():
                tokens.masked[:] = False
        write_trace(trace, tmp_path / "x.png")
        write_trace(trace, tmp_path / "x.gif")
        pictures.append(np.asarray(Image.open(tmp_path / "x.png")))
    assert (pictures[0] != pictures[1]).any(), "what is masked looks like what is not"


def test_a_trace_of_words_ends_in_the_line_that_is_printed(cli, text_run, tmp_path):
    kept = tmp_path / "t.jsonl"
    command = ("sample", "diffusion-lm", "-c", text_run, "-n", 5, "-q")
    result = cli(*command, "--trace", kept)
    assert result.code == 0 and result.err == "" and result.out == cli(*command).out
    from gentool.checkpoint.load import load_checkpoint

    tokenizer = load_checkpoint(text_run, "diffusion-lm").tokenizer
    for sample, way in records.read(kept).samples().items():
        assert [frame.step for frame in way] == [1, 2, 3, 4, 5]
        last = way[-1].view.tokens["x_t"]
        assert set(way[-1].view.tokens) == {"x_t", "x_0_hat"} and len(last.words) == 24
        words = list(last.words)
        end = words.index("<eos>") if "<eos>" in words else len(words)
        ids = [
            i for word in words[:end] for i in range(tokenizer.size) if tokenizer.token(i) == word
        ]
        assert tokenizer.decode(ids) == result.out.splitlines()[sample]
        for tokens in way[0].view.tokens.values():
            assert not tokens.masked.any() and 0 <= tokens.confidence.min() <= 1
    assert cli(*command, "--mbr", 2, "--trace", kept).code == 2


def test_what_is_given_is_certain_and_the_line_is_the_prompt(cli, text_run, tmp_path):
    (tmp_path / "in.txt").write_text("a ___ circle\n\n___ cross\n")
    kept = tmp_path / "t.jsonl"
    result = cli(
        "decode", "diffusion-lm", tmp_path / "in.txt", "-c", text_run, "-n", 2, "--trace", kept
    )
    assert result.code == 0 and f"trace {kept}" in result.err
    ways = records.read(kept).samples()
    assert {sample: way[0].prompt for sample, way in ways.items()} == {
        0: "a ___ circle", 2: "___ cross"
    }  # fmt: skip
    for frame in ways[0]:
        assert len(ways[0]) == 5
        for tokens in frame.view.tokens.values():
            assert tokens.words[:2] == ("<bos>", "a") and tokens.words[3:5] == ("circle", "<eos>")
            assert (tokens.confidence[[0, 1, 3, 4]] == 1).all() and tokens.confidence[2] <= 1


def test_classes_and_edits_are_traced(cli, class_run, tmp_path):
    (tmp_path / "in.txt").write_text("cat\nnonesuch\nant\n")
    command = ("decode", "ddpm", "-c", class_run, "--out", tmp_path / "x.png")
    result = cli(*command, tmp_path / "in.txt", "--trace", tmp_path / "c.jsonl")
    assert result.code == 4
    ways = records.read(tmp_path / "c.jsonl").samples()
    assert {n: way[0].prompt for n, way in ways.items()} == {0: "cat", 2: "ant"}
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in.png")
    edit = ("--image", tmp_path / "in.png", "--box", "0,0,4,4", "--resample", 2, "--jump", 2)
    assert cli(*command, *edit, "--trace", tmp_path / "e.jsonl").code == 0
    trace = records.read(tmp_path / "e.jsonl")
    assert trace.facts["steps"] == 10 and [f.step for f in trace.frames] == list(range(1, 11))
    (tmp_path / "none.txt").write_text("nonesuch\n")
    result = cli(*command, tmp_path / "none.txt", "--trace", tmp_path / "n.jsonl")
    assert result.code == 4 and not (tmp_path / "n.jsonl").exists() and "no trace" in result.err


@pytest.mark.parametrize("verb", ["sample", "decode"])
@pytest.mark.parametrize("backend", ["ddpm", "diffusion-lm"])
def test_a_trace_of_an_unknown_kind_is_refused_before_any_work(cli, verb, backend):
    result = cli(verb, backend, "-c", "no-such-checkpoint", "--trace", "x.mp4")
    assert result.code == 2 and ".gif, .png, .html, .jsonl or -" in result.err


def test_it_plays_plainly_where_there_is_no_terminal(cli, tiny_run, text_run, tmp_path):
    result = cli("sample", "diffusion-lm", "-c", text_run, "-n", 2, "--trace", "-", "-q")
    assert "step 5 of 5" in result.err and "sample 1" in result.err and "\x1b" not in result.err
    assert len(result.out.splitlines()) == 2
    out = tmp_path / "x.png"
    result = cli("sample", "ddpm", "-c", tiny_run, "-n", 2, "--trace", "-", "-q", "--out", out)
    assert "x_0_hat" in result.err and "\x1b" not in result.err
    assert result.out.strip() == str(out)


def test_the_terminal_shows_what_is_masked(monkeypatch):
    stream = io.StringIO()
    player = Player(stream)
    frames = [frame for frame in made_up().frames if frame.sample == 0]
    player.play(frames[:1], 4)
    player.play(frames[3:], 4)
    first, last = stream.getvalue().split("step 4 of 4")
    assert "a [blue] [cross]" in first and "a red cross" in last and "[" not in last


def test_a_batch_leaves_what_was_printed_before_it():
    code = (
        "import sys; from test_trace import made_up; from gentool.render.terminal import Player;"
        "player = Player(sys.stderr); frames = made_up().frames;"
        "player.play(frames[3:4], 4); sys.stderr.write('an answer\\n'); sys.stderr.flush();"
        "player.play(frames[7:], 4)"
    )
    _, said = on_a_terminal(code, PYTHONPATH=str(Path(__file__).parent))
    after = said.partition(b"an answer")[2]
    assert b"step 4 of 4" in after and b"\x1b[2K" not in after.partition(b"step 4 of 4")[0]


def test_letters_that_no_font_has_are_told_of(monkeypatch, tmp_path):
    plain = ImageFont.load_default(animation.SIZE)
    monkeypatch.setattr(animation, "_font", lambda: plain)
    assert "红" in write_trace(made_up(), tmp_path / "x.png")
    latin = [replace(frame, prompt="a red cross") for frame in made_up().frames]
    assert write_trace(Trace(dict(FACTS), latin), tmp_path / "y.png") == ""


def test_a_recorder_looks_seldom():
    looks = []

    def look(rows):
        looks.append(list(rows))
        return [View() for _ in rows]

    recorder = Recorder()
    for batch in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
        for done in range(1, 1001):
            recorder.step(batch, done, 1000, look)
    trace = recorder.trace({})
    assert list(trace.samples()) == [0, 1, 2, 3] and trace.facts["steps"] == 1000
    for way in trace.samples().values():
        steps = [frame.step for frame in way]
        assert len(steps) == STEPS and steps[0] == 1 and steps[-1] == 1000
        assert max(np.diff(steps)) <= 22
    assert len(looks) == 2 * STEPS
    for total in (1, 2, 3, STEPS - 1, STEPS, STEPS + 1):
        recorder = Recorder()
        for done in range(1, total + 1):
            recorder.step([0], done, total, look)
        steps = [frame.step for frame in recorder.frames]
        assert len(steps) == min(total, STEPS) and steps[0] == 1 and steps[-1] == total


def test_large_pictures_are_kept_reduced():
    recorder = Recorder()
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[:150] = 90
    recorder.step([0], 1, 1, lambda rows: [View({"x_t": picture})])
    kept = recorder.frames[0].view.images["x_t"]
    assert kept.shape == (100, 100, 3) and (kept[:50] == 90).all() and (kept[50:] == 0).all()


def test_the_posterior_of_words_is_bayes_rule():
    g = torch.Generator().manual_seed(0)
    E = torch.randn(5, 3, generator=g, dtype=torch.float64)
    alpha_bar, sigma_0 = 0.6, 0.2
    x_t = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    scale = (alpha_bar * sigma_0**2 + 1 - alpha_bar) ** 0.5
    density = torch.distributions.Normal(alpha_bar**0.5 * E, scale).log_prob(x_t[:, :, None])
    wanted = density.sum(dim=-1).exp()
    wanted /= wanted.sum(dim=-1, keepdim=True)
    found = word_posterior(x_t.float(), E.float(), alpha_bar, sigma_0)
    assert torch.allclose(found, wanted.float(), atol=1e-5)
    assert (word_posterior(E.float(), E.float(), 1.0, 0.05).argmax(1) == torch.arange(5)).all()


def test_a_trace_of_translations_masks_fewer_tokens_each_pass(cli, pairs_run, tmp_path):
    lines = tmp_path / "in.txt"
    lines.write_text("a small red circle in the top left\n\na large blue cross in the center\n")
    plain = cli("decode", "mask-predict", lines, "-c", pairs_run, "--steps", "4")
    how = tmp_path / "how.jsonl"
    traced = cli("decode", "mask-predict", lines, "-c", pairs_run, "--steps", "4", "--trace", how)
    assert traced.out == plain.out
    head, *frames = map(json.loads, how.read_text().splitlines())
    assert head["seed"] is None and head["command"].startswith("gentool decode mask-predict")
    assert [frame["sample"] for frame in frames] == [0] * 4 + [2] * 4  # an empty line has none
    for sample, line in ((0, 0), (2, 2)):
        mine = [frame for frame in frames if frame["sample"] == sample]
        rows = [frame["tokens"]["y"] for frame in mine]
        masked = [sum(row["masked"]) for row in rows]
        assert masked == sorted(masked, reverse=True) and masked[0] > masked[-1] == 0
        last = "".join(word for word in rows[-1]["words"] if not word.startswith("<"))
        assert last.replace(" ", "") == traced.out.splitlines()[line].replace(" ", "")
        assert mine[0]["prompt"].startswith("a ")


def test_fast_decoding_has_no_trace(cli, pairs_run, tmp_path):
    result = cli("decode", "mask-predict", "-c", pairs_run, "--fast", "--trace", tmp_path / "x.gif")
    assert result.code == 2 and "--fast" in result.err
