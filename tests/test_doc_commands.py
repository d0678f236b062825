"""Every command in README.md and docs/ is run: each page from top to bottom, in a folder with the
files that it names.

What makes a command long is made small by its own options (`shortened`), and recipes and shipped
checkpoints are small ones (desk.py). What cannot be run here is in ELSEWHERE, with the test that
does it, and only parsed.
"""

import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import desk
import pytest

from gentool import resources
from gentool.cli.main import run
from gentool.data import holdout

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
ELSEWHERE = {
    "gentool demo": "test_demo.py",
    "PYTHONPATH=plugins": "test_fifth_backend.py: needs an installed package",
    "accelerate launch": "test_processes.py: several processes, a GPU each, a cluster",
    "torchrun": "test_processes.py",
    "ddpm-photos --data /shared/photos": "test_processes.py, in a script of Slurm",
    "import diffusers": "test_convert.py: needs a folder of diffusers",
    "checkpoint cifar10 ": "test_convert.py: what that import makes",
    "export diffusers": "test_convert.py: takes networks without patches",
    "--features runs/": "test_distances.py: takes 50 pictures and more",
}
SMALLER = {  # option -> the greatest value that is quick
    "-n": 2, "--num": 2, "--views": 2, "--size": 100, "--min-count": 1, "--control-steps": 1,
}  # fmt: skip
ADDED = {  # verb -> what it is given where the command leaves it open
    "train": ("--steps", "2"),
    "sample": ("-n", "2"),
    "eval": ("--num", "2"),
    "bench": ("--num", "2", "--repeats", "1", "--steps", "1"),
}


def commands(page: Path) -> list[str]:
    """The lines of the blocks of a page in which gentool is called, comments and all."""
    found, fence = [], ""  # the one that began the block
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line.strip()
        elif fence == "```" and re.search(r"(^|[|&] |-m |plugins |')\s*gentool (?=[a-z-])", line):
            found.append(line)
    return found


def shortened(arguments: list[str]) -> list[str]:
    """The command with less to do: smaller numbers in place of its own, and some that it leaves to
    defaults."""
    short = list(arguments)
    for i, (option, value) in enumerate(zip(arguments, arguments[1:], strict=False), start=1):
        if option == "--steps":
            short[i] = ",".join(str(n + 1) for n in range(min(2, value.count(",") + 1)))
        elif option in SMALLER and value.isdigit():
            short[i] = str(min(int(value), SMALLER[option]))
    verb, what, *_ = *arguments, ""
    if what in ("scenes", "images", "text", "plot") or "--index" in arguments:
        return short
    added = ADDED.get(verb, ())
    for option, value in zip(added[::2], added[1::2], strict=True):
        known = {option, "-n"} if option == "--num" else {option}
        if not known & set(arguments):
            short += [option, value]
    if verb == "train" and not {"--resume", "--init"} & set(arguments):
        short.append("--overwrite")
    return short


def call(arguments: list[str], given: bytes) -> tuple[int, bytes, str]:
    """Run gentool in this process: exit code, standard output and standard error."""
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = io.TextIOWrapper(io.BytesIO(given))
    sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code, sys.stdout.buffer.getvalue(), sys.stderr.getvalue()
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def shell(line: str) -> None:
    """Run a line of `gentool`, `echo`, `printf` and `tee` in pipes, with files for < and >."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|<>&")
    words.whitespace_split = True
    stages: list[list[str]] = [[]]
    for word in words:
        if word in ("|", "&&"):
            stages.append([])
        else:
            stages[-1].append(word)
    data = b""
    for stage in stages:
        name, *arguments = stage
        into = None
        if "<" in arguments:
            data = Path(arguments[arguments.index("<") + 1]).read_bytes()
        if ">" in arguments:
            into = Path(arguments[arguments.index(">") + 1])
        arguments = arguments[: min(arguments.index(w) if w in arguments else 99 for w in "<>")]
        if name == "echo":
            data = (" ".join(arguments) + "\n").encode()
        elif name == "printf":
            data = arguments[0].replace("\\n", "\n").encode()
        elif name == "tee":
            Path(arguments[0]).write_bytes(data)
        elif name == "gentool":
            code, data, err = call(shortened(arguments), data)
            gated = "--gate" in arguments
            assert code == 0 or (gated and code == 7), f"{line}\n{code}: {err}"
        else:
            raise AssertionError(f"{line}: a shell is needed for {name}")
        if into:
            into.write_bytes(data)


def parsed(line: str) -> None:
    """Its options exist: help is asked for last."""
    text = line.split("#")[0]
    _, _, text = (
        text.partition("-m gentool ") if "-m gentool" in text else text.rpartition("gentool ")
    )
    arguments = [word for word in text.rstrip("' ").split() if word not in ("&&", "|")]
    code, _, err = call([*arguments, "--help"], b"")
    assert code == 0 or "No such command 'flow'" in err, f"{line}\n{err}"


@pytest.fixture(scope="module")
def laid(tmp_path_factory) -> Path:
    """What every page begins with: the files, and a package with small recipes and checkpoints."""
    folder = tmp_path_factory.mktemp("desk")
    desk.small_recipes(folder / "package" / "recipes")
    (folder / "files").mkdir()
    desk.fill(folder / "files")
    shipped = resources.shipped("checkpoints")
    # Those whose lines are to be judged, and what steers them.
    for name in ("diffusion-lm-scenes", "diffusion-lm-control-scenes", "mask-predict-scenes"):
        copy = shutil.copytree(shipped[name], folder / "package" / "checkpoints" / name)
        config = (copy / "config.json").read_text()
        (copy / "config.json").write_text(config.replace('"steps": 50,', '"steps": 20,'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "_PACKAGE", folder / "package")
        patch.setattr(holdout, "ENOUGH", 500)
        for name in ("ddpm", "mvtm", "judge", "teacher"):
            out = folder / "package" / "checkpoints" / f"{name}-scenes"
            assert run(["train", name, "--steps", "2", "--quiet", "--out", str(out)]) == 0
    for name, what in desk.RUNS.items():
        made = folder / "package" / "checkpoints" / f"{what}-scenes"
        shutil.copytree(made, folder / "files" / "runs" / name)
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_every_command_of(page, laid, tmp_path, monkeypatch):
    shutil.copytree(laid / "files", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resources, "_PACKAGE", laid / "package")
    monkeypatch.setattr(holdout, "ENOUGH", 500)  # texts that a tokenizer learns from
    for line in commands(page):
        (parsed if any(words in line for words in ELSEWHERE) else shell)(line)


def test_commands_are_found_and_the_list_of_exceptions_is_in_use():
    lines = [line for page in PAGES for line in commands(page)]
    assert len(lines) > 100
    for words, where in ELSEWHERE.items():
        assert any(words in line for line in lines), words
        assert (ROOT / "tests" / re.split("[:,]", where)[0]).is_file()


def test_a_wrong_command_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in (
        "gentool list nonesuch",
        "echo x | gentool decode nonesuch",
        "nonesuch | gentool list",
    ):
        with pytest.raises(AssertionError):
            shell(line)
    with pytest.raises(AssertionError):
        parsed("accelerate launch -m gentool train ddpm --nonesuch 3")
    shell("gentool list > all.txt   # all")
    assert "ddpm" in (tmp_path / "all.txt").read_text()
