"""Knowledge distillation of a corpus: the targets of pairs are replaced by a teacher's translations
(Kim and Rush 2016), as Mask-Predict is trained on.

The folder that is made:

    lines.jsonl   of each pair the source, the reference, what the teacher said, and its part
    source.txt    the sources
    target.txt    what to train on: the teacher's words, of the held-out pairs the references
    teacher/      the run of a teacher that was trained for it
    report.json   settings, how far it is, seconds, and at the end the figures

Pairs are held out by their sources alone, so a student on source.txt,target.txt holds out the
same, and is validated on references. Of a part of the data (`num`) a teacher that gentool trained
held out others: its BLEU on held-out pairs is of those that both did, or where there are none, as
of endless data, of pairs that it was trained on, and says so. What is decoded is kept window by
window.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gentool.checkpoint.atomic import write_file
from gentool.data.config import PairData
from gentool.data.holdout import split_texts
from gentool.data.source import Subset
from gentool.data.text import Text, is_pairs, open_texts
from gentool.errors import BadCheckpointError, BadDataError, UsageError
from gentool.evaluate.figures import Figure
from gentool.evaluate.translation import scores
from gentool.protocol import Reporter
from gentool.settings import Tree
from gentool.streams import one_line
from gentool.teacher.generate import Teacher

WINDOW = 512  # pairs that are decoded together, sorted by length, and written together
LINES, REPORT, SOURCES, TARGETS = "lines.jsonl", "report.json", "source.txt", "target.txt"
TEACHER = "teacher"  # a run in that folder, if the teacher was trained for this corpus
TRAIN, HELD_OUT = "train", "held out"  # parts


class Late(Exception):
    """For `poll`: there is no time left."""


@dataclass
class Corpus:
    """The pairs to decode: those that a model would be trained on, and those it would hold out."""

    source: Subset[Text]
    indices: list[int]  # of both, in the order of the data
    held_out: set[int]  # those of `indices` that are held out
    unseen: set[int]  # those of `held_out` that the teacher was not trained on, as far as is known


def open_pairs(data: PairData, num: int | None) -> Subset[Text]:
    """The pairs of `data`, the first `num` of them if that is given. Raises as the data do, and
    UsageError for single texts, and for endless data without a number."""
    if not is_pairs(data):
        raise UsageError(
            "a teacher translates the sources of pairs, and these data are single texts",
            "--data SOURCE,TARGET (parallel lines), or a table with --set data.source_column=NAME",
        )
    source = open_texts(data)
    if source.size is None and num is None:
        raise UsageError(f"{', '.join(data.spec)} have no end", "--num N decodes the first N")
    total = num if source.size is None else min(num or source.size, source.size)
    return Subset(source, range(total or 0))


def open_corpus(data: PairData, num: int | None, teacher_held_out: str = "unknown") -> Corpus:
    """The pairs of `data` in two parts. teacher_held_out: as a Teacher says; of other data than it
    was trained on too many count as seen. Raises as `open_pairs`."""
    source = open_pairs(data, num)
    trained, held = split_texts(source, data)
    whole, held_out = source.source, {*held.indices}
    unseen = held_out
    if teacher_held_out == "none" or (teacher_held_out == "some" and whole.size is None):
        unseen = set()  # endless ones are trained on as they come
    elif teacher_held_out == "some" and whole.size != source.size:
        its_own = split_texts(whole, replace(data, on_error="skip"))[1]
        unseen = held_out & {*its_own.indices}
    return Corpus(source, sorted({*trained.indices, *held.indices}), held_out, unseen)


def distill(
    teacher: Teacher,
    data: PairData,
    num: int | None,
    out: Path,
    *,
    beam: int,
    batch_tokens: int,
    overwrite: bool,
    poll: Callable[[], None],
    reporter: Reporter,
) -> list[Figure]:
    """Decode the corpus into `out`, or go on with what was begun there; the figures of its report.

    poll: is called after every batch, and raises to stop; the windows before are kept. Raises
    UsageError where `out` holds something else, BadDataError as the data do.
    """
    corpus = open_corpus(data, num, teacher.held_out)
    if corpus.held_out and not corpus.unseen:
        reporter.info(
            "the teacher may have been trained on all pairs that are held out here, and is "
            "measured on them"
        )
    settings = {
        "teacher": teacher.name,
        "teacher_sha256": teacher.hash,
        "data": corpus.source.fingerprint,
        "spec": list(data.spec),
        "pairs": len(corpus.indices),
        "beam": beam,
        "batch_tokens": batch_tokens,
        "bf16": teacher.bf16,
    }
    report = _begin(out, settings, overwrite)
    if report["done"]:
        reporter.info(f"going on with {out} at pair {report['done']} of {len(corpus.indices)}")
    _decode(teacher, corpus, out, report, poll, reporter)
    reporter.info(f"{len(corpus.indices)} pairs in {report['seconds']} s, beam {beam}")
    figures = _finish(out, settings, HELD_OUT if corpus.unseen else TRAIN)
    report["figures"] = [figure.record() for figure in figures]
    _write(out, report)
    return figures


def check_out(out: Path, overwrite: bool) -> None:
    """Raise UsageError if nothing can be distilled to `out`: it is something else, or done."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", "choose another --out")
    if not out.is_dir() or all(_of_teacher(path) for path in out.iterdir()):
        return
    if not (out / REPORT).is_file():
        raise UsageError(f"{out} exists and holds no distilled corpus", "choose another --out")
    if not overwrite and "figures" in _read(out):
        raise UsageError(
            f"{out} already holds a distilled corpus",
            "--overwrite replaces it, --out DIR goes elsewhere",
        )


def _of_teacher(path: Path) -> bool:
    """Whether it is there before there is a corpus; so is what a process that was killed while it
    trained leaves, which is hidden."""
    return path.name == TEACHER or path.name.startswith(".")


def _begin(out: Path, settings: Tree, overwrite: bool) -> Tree:
    """The report of `out` as it stands, its lines cut back to what that confirms; a new one where
    there is none."""
    check_out(out, overwrite)
    if overwrite:
        for name in (LINES, SOURCES, TARGETS, REPORT):  # the last says what the others are
            (out / name).unlink(missing_ok=True)
    if (out / REPORT).is_file():
        report = _read(out)
        then = report["settings"]
        if differing := [key for key in settings if settings[key] != then.get(key)]:
            listed = "; ".join(f"{k} was {then.get(k)!r}, is {settings[k]!r}" for k in differing)
            raise UsageError(
                f"{out} was begun with other settings: {listed}",
                "--overwrite begins anew, --out DIR goes elsewhere",
            )
    else:
        out.mkdir(parents=True, exist_ok=True)
        report = {"settings": settings, "done": 0, "bytes": 0, "seconds": 0.0}
        _write(out, report)
    (out / LINES).touch()
    if (out / LINES).stat().st_size < report["bytes"]:
        raise BadCheckpointError(f"{out / LINES} is shorter than it was", "--overwrite begins anew")
    os.truncate(out / LINES, report["bytes"])
    return report


def _decode(
    teacher: Teacher,
    corpus: Corpus,
    out: Path,
    report: Tree,
    poll: Callable[[], None],
    reporter: Reporter,
) -> None:
    """Decode what is left, a window at a time; after each the report confirms it."""
    total, settings = len(corpus.indices), report["settings"]
    with (out / LINES).open("a", encoding="utf-8") as file:
        while report["done"] < total:
            began = time.monotonic()
            window = corpus.indices[report["done"] : report["done"] + WINDOW]
            pairs = list(_readable(corpus, window, reporter))
            sources = [pair.source or "" for _, pair in pairs]
            made = teacher.translate(sources, settings["beam"], settings["batch_tokens"], poll)
            for (index, pair), said in zip(pairs, made, strict=True):
                part = HELD_OUT if index in corpus.held_out else TRAIN
                line = {
                    "source": pair.source, "reference": pair.text, "teacher": said, "part": part
                } | ({"unseen": index in corpus.unseen} if part == HELD_OUT else {})  # fmt: skip
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            report["done"] += len(window)
            report["bytes"] = file.tell()
            report["seconds"] = round(report["seconds"] + time.monotonic() - began, 1)
            _write(out, report)
            reporter.progress(report["done"], total, {"decoded": "pairs"})


def _readable(
    corpus: Corpus, window: Sequence[int], reporter: Reporter
) -> Iterator[tuple[int, Text]]:
    """The pairs of a window, each with its index; without those that `on_error` says to skip."""
    for index in window:
        try:
            yield index, corpus.source[index]
        except BadDataError as error:
            reporter.info(f"skipped: {error}")


def _finish(out: Path, settings: Tree, split: str) -> list[Figure]:
    """Write the corpus, and measure it. split: what the pairs held out here are to the teacher."""
    said: dict[str, list[str]] = {TRAIN: [], HELD_OUT: []}
    references: dict[str, list[str]] = {TRAIN: [], HELD_OUT: []}
    sources, targets = io.StringIO(), io.StringIO()
    kept = 0
    with (out / LINES).open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            part, reference = line["part"], line["reference"]
            if part == TRAIN or line.get("unseen", True) or split == TRAIN:
                said[part].append(line["teacher"] or "")
                references[part].append(reference)
            # Where the teacher could not read a source or has nothing to say, the reference stays.
            kept += part == TRAIN and not line["teacher"]
            distilled = (line["teacher"] if part == TRAIN else "") or reference
            sources.write(one_line(line["source"]) + "\n")
            targets.write(one_line(distilled) + "\n")
    write_file(out / SOURCES, sources.getvalue().encode())
    write_file(out / TARGETS, targets.getvalue().encode())

    figures = []
    for part, label in {HELD_OUT: "", TRAIN: f"[{TRAIN}]"}.items():
        n = len(said[part])
        for name, score in scores(said[part], [references[part]]).items() if n else ():
            with_ = settings | ({"signature": score.signature} if score.signature else {})
            of = split if part == HELD_OUT else TRAIN
            figures.append(Figure(name + label, score.value, n, None, of, with_))
    n = len(said[TRAIN])
    changed = sum(map(str.__ne__, said[TRAIN], references[TRAIN])) - kept
    for name, count in {"changed": changed, "kept": kept}.items():
        figures.append(Figure(name, count / n if n else None, n, None, TRAIN, settings))
    return figures


def _read(out: Path) -> Tree:
    """The report in `out`. Raises BadCheckpointError."""
    try:
        report: Tree = json.loads((out / REPORT).read_text(encoding="utf-8"))
        if not {"settings", "done", "bytes", "seconds"} <= report.keys():
            raise ValueError("it is not a report of `gentool distill`")
        return report
    except (ValueError, AttributeError) as error:
        raise BadCheckpointError(
            f"{out / REPORT} cannot be read: {error}", "--overwrite begins anew"
        ) from None


def _write(out: Path, report: Tree) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_file(out / REPORT, text.encode())
