"""`gentool demo`: every command of the tour runs, and one page shows what they did."""

import base64
import re
import shutil
from pathlib import Path

import desk
import pytest

from gentool import resources
from gentool.data import holdout
from gentool.render import records
from gentool.render.tour import Tour, Training, Verdicts, tour_page

SHIPPED = {"diffusion-lm-scenes", "mask-predict-scenes"}  # whose captions others can judge
BACKENDS = ("ddpm", "diffusion-lm", "mask-predict", "vq", "mvtm")


@pytest.fixture
def package(caption_run, tmp_path, monkeypatch) -> Path:
    """A package with small recipes under the names of the shipped ones, and without mvtm-scenes."""
    folder, shipped = tmp_path / "package", resources.shipped("checkpoints")
    desk.small_recipes(folder / "recipes")
    for name in SHIPPED:
        shutil.copytree(shipped[name], folder / "checkpoints" / name)
        config = folder / "checkpoints" / name / "config.json"
        config.write_text(config.read_text().replace('"steps": 50,', '"steps": 20,'))
    (folder / "checkpoints" / "ddpm-scenes").symlink_to(caption_run)
    monkeypatch.setattr(resources, "_PACKAGE", folder)
    monkeypatch.setattr(holdout, "ENOUGH", 500)  # the tokenizers know most words
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_tour_trains_and_draws_and_shows_it(cli, package, tiny_run):
    result = cli("demo", "--steps", 6, "-n", 2)
    assert result.code == 0, result.err
    assert result.out == "gentool-demo/tour.html\n"
    for name in BACKENDS:
        assert f"$ gentool train {name} --steps 6" in result.err
        assert Path("gentool-demo/trained-here", name, "model.safetensors").is_file()
    assert "warning: left out: no mvtm-scenes checkpoint is installed\n" in result.err
    pipe = Path("gentool-demo/pipe")
    page = Path("gentool-demo/tour.html").read_text()
    captions, translated = (pipe / f"captions.{end}" for end in ("txt", "zh"))
    for file in (captions, translated):
        assert len(file.read_text().splitlines()) == 2
        assert all(f">{line}<" in page for line in file.read_text().splitlines())
    drawn = [path.read_bytes() for path in sorted((pipe / "ddpm").iterdir())]
    assert len(drawn) == 2 and all(base64.b64encode(png).decode() in page for png in drawn)
    # The commands on the page are those that were run, and the figures those that they print.
    typed = [line[2:] for line in result.err.splitlines() if line.startswith("$ ")]
    told = re.sub(r"<[^>]*>", "", page.split('id="commands"')[1])
    assert len(typed) == 15 and all(c in told for c in typed if "mvtm.jsonl" not in c)
    figures = cli("eval", "scenes", "--images", pipe / "ddpm/", "--captions", captions, "--json")
    shares = [f"<td>{record['value']:.2f}</td>" for record in figures.records[:2]]
    assert all(share in page.split("<h2>Figures")[1] for share in shares)
    assert set(re.findall(r'class="backend" id="([^"]*)"', page)) == set(BACKENDS[:3])

    # Once more, with what was trained here shipped, and a ddpm that reads no captions.
    (package / "checkpoints" / "ddpm-scenes").unlink()
    (package / "checkpoints" / "ddpm-scenes").symlink_to(tiny_run)
    shutil.copytree("gentool-demo/trained-here/mvtm", package / "checkpoints" / "mvtm-scenes")
    again = cli("demo", "--steps", 1, "-n", 1, "--quiet")
    assert again.code == 0 and again.out == result.out
    assert "this model reads no captions" in again.err and "$" not in again.err
    last = records.read(pipe / "mvtm.jsonl").frames[-1].view.tokens["tokens"]
    assert not last.masked.any(), "tokens that no step draws again are shown as masked"
    page = Path("gentool-demo/tour.html").read_text()
    assert 'alt="mvtm: ' in page and 'alt="ddpm: ' not in page
    assert len(list((pipe / "mvtm").iterdir())) == 1 and "of 1 by mvtm" in page
    assert page.count('<div class="trace"') == 3 and page.count("<script>") == 1
    grids = [Path("gentool-demo/trained-here", f"{n}.png") for n in ("mvtm", "mvtm-shipped")]
    shown = page.split('<div class="grids">')
    assert all(base64.b64encode(grid.read_bytes()).decode() in shown[-1] for grid in grids)
    assert len(shown) == 3 and "ddpm, as shipped" in shown[1] and "mvtm, after 1 steps" in shown[2]
    assert "default-src 'none'" in page and "://" not in page
    for target in re.findall(r"(?:src|href)=\"([^\"]*)\"", page):
        assert target.startswith(("data:image/png;base64,", "#"))


def test_a_folder_in_use_is_left_alone(cli, tmp_path):
    (tmp_path / "mine").write_text("mine")
    result = cli("demo", "--out", tmp_path)
    assert result.code == 2 and "is in use" in result.err and len(list(tmp_path.iterdir())) == 1
    assert cli("demo", "--out", tmp_path / "mine").code == 2


def test_the_page_says_which_pictures_are_right():
    hostile = "a </script><b> & red circle"
    tour = Tour(
        commands=[("gentool sample x --out 'a b'", 61.0)],
        trainings=[Training("ddpm", 3.0, [(1, 2.0), (5, 0.5)])],
        captions=["a red cross", hostile],
        translations=["红色", "圆"],
        pictures={"ddpm": [b"first", b"second"]},
        verdicts={
            ("ddpm", "captions"): Verdicts({"scene_accuracy": 0.5}, [True, False], ["x", "y"]),
            ("ddpm", "translation"): Verdicts({"scene_accuracy": None}, [False, True], ["x", "y"]),
        },
    )
    page = tour_page(tour)
    assert "<b>" not in page and "&lt;/script&gt;&lt;b&gt;" in page and "1 min 1 s" in page
    first, second = page.split("<li>")[1:]
    assert 'class="right">as it says' in first and 'class="wrong"' not in first
    assert 'class="wrong">y, as the translation says' in second and 'class="right"' not in second
    assert "1 of 2 by ddpm" in page and "<td>0.50</td><td>undefined</td>" in page
    assert 'points="20.0,0.0 100.0,24.0"' in page and "<td>2</td><td>0.5</td>" in page
    assert "<h2" in tour_page(Tour()) and "Figures" not in tour_page(Tour())
