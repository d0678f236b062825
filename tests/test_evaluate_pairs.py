"""`gentool eval` of translations: figures with signatures, the same twice, whose controls score at
chance."""

import sys

import pytest

from gentool.data.scenes import SceneTexts
from gentool.errors import BadDataError
from gentool.evaluate.pairs import BEAMS, STEPS, scene_accuracy
from gentool.evaluate.translation import scores
from gentool.teacher.generate import open_teacher

PAIRS = [SceneTexts("test", "en-zh")[i] for i in range(60)]
ENGLISH, CHINESE = [p.source for p in PAIRS], [p.text for p in PAIRS]
# Another paraphrase of the same scenes: their captions in the other direction.
SAME = [SceneTexts("test", "zh-en")[i] for i in range(60)]


def values(found):
    return {name: score.value for name, score in found.items()}


def test_text_beside_itself_and_beside_the_wrong_references():
    right = scores(ENGLISH, [ENGLISH])
    assert values(right) == {"bleu": pytest.approx(100), "chrf": pytest.approx(100),
                             "repetition": 0}  # fmt: skip
    wrong = values(scores(ENGLISH, [ENGLISH[1:] + ENGLISH[:1]]))
    nothing = values(scores(["no such thing"] * 60, [ENGLISH]))
    assert nothing["bleu"] < 1 and nothing["chrf"] < 15 and wrong["bleu"] < 50
    both = values(scores(ENGLISH, [ENGLISH[1:] + ENGLISH[:1], ENGLISH]))
    assert both["bleu"] == pytest.approx(100), "the better of several references counts"


def test_signatures_say_how_words_were_found():
    assert "tok:13a" in scores(ENGLISH, [ENGLISH])["bleu"].signature
    assert "tok:zh" in scores(CHINESE, [CHINESE])["bleu"].signature
    assert "tok:char" in scores(CHINESE, [CHINESE], "char")["bleu"].signature
    assert "nc:6" in scores(CHINESE, [CHINESE])["chrf"].signature
    # Chinese has no spaces: with 13a a line is one word, right or wrong.
    almost = [text[:-1] + "x" for text in CHINESE]
    assert scores(almost, [CHINESE])["bleu"].value > 50
    assert scores(almost, [CHINESE], "13a")["bleu"].value < 5


def test_repetition_is_the_share_of_words_that_repeat_the_one_before():
    assert scores(["a a a b", "c"], [["a", "c"]])["repetition"].value == pytest.approx(2 / 3)
    assert scores(["c"], [["c"]])["repetition"].value is None
    assert scores(["红红色"], [["红色"]])["repetition"].value == 0.5


def test_scene_accuracy_takes_any_right_paraphrase_and_no_wrong_scene():
    assert scene_accuracy(ENGLISH, CHINESE) == 1
    other = [pair.text for pair in SAME]
    assert other != ENGLISH and scene_accuracy([pair.source for pair in SAME], other) == 1
    assert scene_accuracy(ENGLISH[1:] + ENGLISH[:1], CHINESE) < 0.1, "shuffled sources"
    assert scene_accuracy(ENGLISH, [text + "。" for text in CHINESE]) == 0
    assert scene_accuracy(ENGLISH, [""] * 60) == 0
    with pytest.raises(BadDataError, match="no scene"):
        scene_accuracy(["a small thing"], CHINESE[:1])


# --- eval mask-predict


@pytest.fixture
def figures(cli, pairs_run):
    """`figures("--metric", "loss")`: the records of the tiny run."""

    def call(*arguments):
        result = cli("eval", "mask-predict", "-c", pairs_run, "-q", "--json", *arguments)
        assert result.code == 0, result.err
        return result.records

    return call


def test_records_come_out_the_same_twice_and_an_untrained_model_is_at_chance(figures):
    records = figures("-n", 16)
    assert figures("-n", 16) == records
    for record in records:
        assert list(record) == ["metric", "value", "n", "seed", "split", "settings"]
        assert record["n"] == 16 and record["settings"]["checkpoint_step"] == 40
        assert not {"seconds", "time"} & record["settings"].keys()
    found = {record["metric"]: record["value"] for record in records}
    quality = ["bleu", "chrf", "repetition", "length_accuracy", "length_in_beam"]
    assert list(found) == ["loss", *quality, "scene_accuracy", "scene_accuracy[test-novel]"]
    assert found["scene_accuracy"] == found["scene_accuracy[test-novel]"] == 0
    assert found["bleu"] < 20 and 0 < found["repetition"] < 1
    assert 0 <= found["length_accuracy"] <= found["length_in_beam"] <= 1
    splits = {record["metric"]: record["split"] for record in records}
    assert splits["scene_accuracy"] == "test"
    assert splits["scene_accuracy[test-novel]"] == "test-novel"
    bleu = next(record for record in records if record["metric"] == "bleu")
    assert "tok:zh" in bleu["settings"]["signature"]
    assert (bleu["settings"]["steps"], bleu["settings"]["length_beam"]) == (10, 5)


def test_gold_lengths_are_right_and_fast_has_no_beam(figures):
    command = ("-n", 12, "--metric", "quality", "--length-beam", 1)
    found = {record["metric"]: record["value"] for record in figures(*command, "--gold-length")}
    assert found["length_accuracy"] == found["length_in_beam"] == 1
    predicted = {record["metric"]: record["value"] for record in figures(*command)}
    assert predicted["length_accuracy"] < 1
    fast = figures("-n", 12, "--metric", "quality", "--fast")
    assert "length_in_beam" not in {record["metric"] for record in fast}
    assert all(record["settings"]["fast"] for record in fast)


def test_the_table_has_every_number_of_steps_and_lengths(figures):
    records = figures("-n", 6, "--metric", "table")
    names = {record["metric"] for record in records}
    for T in STEPS:
        for beam in BEAMS:
            assert {f"{name}[T={T},beam={beam}]" for name in ("bleu", "scene_accuracy")} <= names
    for record in records:
        settings = record["settings"]
        assert f"[T={settings['steps']},beam={settings['length_beam']}]" in record["metric"]


def test_other_data_gates_and_the_time_beside(cli, pairs_run, tmp_path):
    for name, lines in {"x.en": ENGLISH, "x.zh": CHINESE}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    spec = f"{tmp_path / 'x.en'},{tmp_path / 'x.zh'}"
    command = ("eval", "mask-predict", "-c", pairs_run, "--metric", "quality", "-n", 99)
    result = cli(*command, "--data", spec, "--json", "--gate", "bleu>=99")
    assert result.code == 7 and {record["n"] for record in result.records} == {60}
    assert "ms each" in result.err
    assert cli(*command, "--metric", "scenes", "--data", "scenes:test-novel", "-q").code == 0
    assert cli(*command, "--metric", "sharpness").code == 2
    assert cli(*command, "--length-beam", 31).code == 2


def test_the_twin_stands_beside_on_the_same_sentences(cli, teacher_run, tmp_path):
    command = ("eval", "mask-predict", "--twin", teacher_run, "-n", 10)
    result = cli(*command, "--metric", "quality", "--metric", "twin", "--json")
    assert result.code == 0, result.err
    found = {record["metric"]: record for record in result.records}
    names = ("bleu", "chrf", "repetition", "scene_accuracy")
    twin = [f"{name}[twin,{how}]" for how in ("greedy", "beam=5") for name in names]
    assert [name for name in found if "twin" in name] == twin
    student = found["bleu"]
    for name in twin:
        record = found[name]
        assert (record["n"], record["split"]) == (10, student["split"])
        assert record["settings"]["data"] == student["settings"]["data"]
        assert record["settings"]["beam"] == (1 if "greedy" in name else 5)
        assert not {"seconds", "time"} & record["settings"].keys()
    assert found["bleu[twin,beam=5]"]["settings"]["signature"] == student["settings"]["signature"]
    # The shipped student knows scenes, a twin of 120 steps on 57 pairs hardly does.
    assert student["value"] > found["bleu[twin,beam=5]"]["value"] + 10
    for how in ("4096 tokens at a time", "one at a time"):
        [line] = [line for line in result.err.splitlines() if f"per sentence, {how}" in line]
        assert all(f"{side} 0." in line for side in ("mask-predict", "twin greedy", "twin beam=5"))
    # With its own translations for references the twin is perfect, and so none else is.
    made = open_teacher(str(teacher_run), "cpu", "auto").translate(ENGLISH, 1)
    for name, lines in {"x.en": ENGLISH, "x.zh": made}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    spec = f"{tmp_path / 'x.en'},{tmp_path / 'x.zh'}"
    found = cli(*command, "--metric", "twin", "--data", spec, "--json", "-q").records
    values = {record["metric"]: record["value"] for record in found}
    assert values["bleu[twin,greedy]"] == pytest.approx(100)
    assert not any("scene" in name for name in values), "lines of a file may be of anything"


def test_a_twin_that_is_none(cli, pairs_run):
    command = ("eval", "mask-predict", "-c", pairs_run, "-n", 2, "-q", "--metric", "twin")
    for given, code, word in [
        ((), 2, "--twin DIR"),
        (("--twin", pairs_run), 4, "not teacher"),
    ]:
        result = cli(*command, *given)
        assert result.code == code and word in result.err and result.out == ""


# --- eval text


@pytest.fixture
def files(tmp_path):
    """Two files of texts."""
    for name, lines in {"hyp": CHINESE, "ref": CHINESE, "short": CHINESE[:3]}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return tmp_path / "hyp", tmp_path / "ref", tmp_path / "short"


def test_eval_text_scores_lines(cli, files):
    hyp, ref, _ = files
    result = cli("eval", "text", hyp, "--ref", ref, "--json", "--gate", "bleu>=99")
    assert result.code == 0 and result.err == ""
    assert [record["metric"] for record in result.records] == ["bleu", "chrf", "repetition"]
    assert result.records[0]["settings"]["references"] == ["ref"]
    told = cli("eval", "text", hyp, "--ref", ref, "--ref", ref, "--tokenize", "char")
    assert "tok:char" in told.err and "nrefs:2" in told.err and "100.0000" in told.out
    assert cli("eval", "text", hyp, "--ref", ref, "--gate", "bleu<=1").code == 7


def test_eval_text_s_wrong_inputs(cli, files, monkeypatch, tmp_path):
    hyp, ref, short = files

    def fails(code, *arguments, word):
        result = cli("eval", "text", *arguments, "-q")
        assert result.code == code and result.out == "", result.err
        assert word in result.err and "bug" not in result.err

    fails(4, hyp, "--ref", short, word="60 lines")
    fails(3, tmp_path / "absent", "--ref", ref, word="absent")
    fails(2, hyp, "--ref", ref, "--tokenize", "klingon", word="13a")
    fails(2, "-", "--ref", "-", word="standard input")
    (tmp_path / "empty").touch()
    fails(4, tmp_path / "empty", "--ref", tmp_path / "empty", word="no lines")
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    fails(2, hyp, "--ref", ref, word="pip install sacrebleu")
