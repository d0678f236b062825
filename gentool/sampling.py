"""Drawing samples in batches: sample i of a seed is the same whatever the batch it is in."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.device import pick_device, use_bf16
from gentool.errors import BadDataError, UsageError
from gentool.extras import extra
from gentool.protocol import Line
from gentool.rng import BatchRng
from gentool.settings import OPTION, Tree, build, merge, refuse_idle
from gentool.trace import Look, Recorder

Item = TypeVar("Item")


def sample_settings(loaded: Loaded, given: Tree, section: type | None = None) -> Any:
    """The checkpoint's sampling defaults with `given` over them, as a `section` that extends the
    backend's sample section, if one is named. What was saved for another sampler, say, than the one
    given is not taken over. Raises UsageError, also for what is given and would do nothing."""
    section = section or type(loaded.config.sample)
    saved = loaded.run_config.config["sample"]
    changed = {name for name, value in given.items() if saved.get(name, value) != value}
    saved = {
        field.name: saved[field.name]
        for field in fields(section)
        if field.name in saved and field.metadata.get("of") not in changed
    }
    settings: Any = build(section, merge(saved, given), OPTION)
    refuse_idle(settings, given)
    most = loaded.backend.most_steps
    if settings.steps > most and "steps" in given:
        raise UsageError(
            f"--steps {settings.steps}: this model takes {most} at the most",
            f"--steps 1 to {most}",
        )
    return settings


def opened(
    checkpoint: str | None, backend: str, given: Tree, section: type | None = None
) -> tuple[Loaded, Any]:
    """A checkpoint of the backend, by folder or name, and how to sample from it. Raises as
    `find_checkpoint`, `load_checkpoint` and `sample_settings`."""
    loaded = load_checkpoint(find_checkpoint(checkpoint, backend), backend)
    return loaded, sample_settings(loaded, given, section)


def introduced(loaded: Loaded, settings: Any, but: Collection[str] = ()) -> str:
    """The checkpoint, its step and the settings but for some, in words."""
    return f"checkpoint {loaded.folder} (step {loaded.step}), {words(settings, but)}"


def class_names(loaded: Loaded) -> list[str]:
    """The classes that the model can be told of; its data may have some that it was not told."""
    return loaded.run_config.data.get("labels", []) if loaded.backend.null_class else []


def words(settings: Any, but: Collection[str] = ()) -> str:
    """ "steps 50, sampler ddim": sampling settings, but for some, for a line or a model card."""
    told = {name: value for name, value in asdict(settings).items() if name not in but}
    return ", ".join(f"{name} {value}" for name, value in told.items() if value != "")


def draw_samples(
    loaded: Loaded,
    indices: Sequence[int],
    seed: int,
    settings: Any,
    *,
    given: Mapping[str, Tensor] | None = None,
    shared: Mapping[str, Any] | None = None,
    passes: int = 1,
    candidate: int = 0,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
    recorder: Recorder | None = None,
) -> Iterator[tuple[Sequence[int], Any]]:
    """The samples `indices` of `seed`, batch by batch: (indices, what the backend's `draw` gives).

    given: what the backend's `draw` takes beside noise, a row for each of `indices`; shared: what
    it takes for all of them together. passes: times each step is walked. candidate: another draw of
    the same sample. progress is told of denoising steps done, recorder shown them; it is for one
    candidate of each sample.
    """
    chosen = pick_device(device)
    bf16 = use_bf16(precision, chosen)
    network = loaded.network.to(chosen)
    starts = range(0, len(indices), batch_size)
    each = settings.steps * passes
    total, done = len(starts) * each, 0
    batch: Sequence[int] = ()

    def on_step(look: Look) -> None:
        nonlocal done
        done += 1
        if recorder and candidate == 0:
            recorder.step(batch, (done - 1) % each + 1, each, look)
        progress(done, total)

    for start in starts:
        rows = slice(start, start + batch_size)
        batch = indices[rows]
        rng = BatchRng.for_samples(seed, batch, candidate)
        mine = {name: tensor[rows] for name, tensor in (given or {}).items()}
        with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
            drawn = loaded.backend.draw(network, rng, settings, on_step, **mine, **(shared or {}))
        _check_finite(drawn)
        yield batch, drawn


def _check_finite(drawn: Any) -> None:
    """Raise UsageError for pictures that are none."""
    if isinstance(drawn, Tensor) and not drawn.isfinite().all():
        raise UsageError(
            "what was drawn is not finite",
            "--precision fp32, or a smaller --noise-scale, --eta or --guidance-scale",
        )


def draw_texts(
    loaded: Loaded, indices: Sequence[int], seed: int, settings: Any, **how: Any
) -> Iterator[tuple[int, Line]]:
    """The samples `indices` of `seed`, one by one: (index, text). how: as for `draw_samples`.

    With settings.mbr above 1 each is the one of so many candidates that is most like the others.
    """
    if settings.mbr > 1:
        extra("sacrebleu", "--mbr")  # is it there? Not to be found out after all that drawing
    done = [0] * settings.mbr
    tell = how.pop("progress", lambda done, total: None)

    def progress_of(number: int, steps: int, total: int) -> None:
        done[number] = steps
        tell(sum(done), total * settings.mbr)

    candidates = [
        draw_samples(
            loaded,
            indices,
            seed,
            settings,
            candidate=number,
            progress=partial(progress_of, number),
            **how,
        )
        for number in range(settings.mbr)
    ]
    for drawn in zip(*candidates, strict=True):
        batch = drawn[0][0]
        lines = [
            [loaded.backend.line(*row) for row in zip(*rows, strict=True)] for _, rows in drawn
        ]
        for index, choices in zip(batch, zip(*lines, strict=True), strict=True):
            tokens = [loaded.backend.tokenizer.encode(line.text) for line in choices]
            yield index, choices[most_alike(tokens) if len(tokens) > 1 else 0]


def most_alike(candidates: Sequence[Sequence[int]]) -> int:
    """Minimum Bayes risk: the number of the candidate with the greatest BLEU against the others, on
    average. Candidates are tokens, as a language without spaces has no words to count."""
    bleu = extra("sacrebleu", "--mbr").sentence_bleu
    texts = [" ".join(map(str, ids)) for ids in candidates]
    scores = [
        sum(bleu(mine, [other], tokenize="none").score for other in texts[:i] + texts[i + 1 :])
        for i, mine in enumerate(texts)
    ]
    return max(range(len(texts)), key=scores.__getitem__)


def fill_lines(
    loaded: Loaded,
    lines: Iterable[str | BadDataError | None],
    seed: int,
    settings: Any,
    num: int,
    *,
    unknown: Callable[[int], None] | None = None,
    **how: Any,
) -> Iterator[tuple[int, list[str] | BadDataError]]:
    """Each line with its blanks filled in `num` ways, in order: (its number from 0, the texts), or
    in place of the texts why it cannot be filled. unknown: told of a line to be filled that has
    words which the model does not know, by its number from 1. how: as for `draw_samples`.

    Lines are taken `batch_size` at a time, so that input without end is no trouble. None among the
    lines: no other has come for a while, so those that are waiting are filled. Those that have no
    blanks cost nothing.
    """
    assert loaded.tokenizer is not None  # a model that fills lines has one
    unk = loaded.tokenizer.special("unk")
    for batch in _batched(lines, how["batch_size"]):
        jobs: list[tuple[int, Any]] = []
        for number, line in batch:
            try:
                if isinstance(line, BadDataError):
                    raise line
                job = loaded.backend.blanks(line)
                jobs.append((number, job))
                if unknown and job.blanks and unk in job.ids:
                    unknown(number + 1)
            except BadDataError as error:
                jobs.append((number, error))
        good = [(number, job) for number, job in jobs if not isinstance(job, BadDataError)]
        todo = [(number, job) for number, job in good if job.blanks]
        texts = {number: list(job.given) * num for number, job in good if not job.blanks}
        texts |= {number: [] for number, _ in todo}
        indices = [number for number, _ in todo]
        given = {
            "ids": torch.tensor([job.ids for _, job in todo]),
            "known": torch.tensor([job.known for _, job in todo]),
        }
        if recorder := how.get("recorder"):
            recorder.prompt = {number: str(line) for number, line in batch}.__getitem__
        for candidate in range(num):
            drawn = draw_samples(
                loaded, indices, seed, settings, given=given, candidate=candidate, **how
            )
            ids = [row for _, (rows, _) in drawn for row in rows.tolist()]
            for (number, job), row in zip(todo, ids, strict=True):
                texts[number].append(job.filled(row, loaded.tokenizer))
        for number, job in jobs:
            yield number, job if isinstance(job, BadDataError) else texts[number]


def _batched(lines: Iterable[Item | None], n: int) -> Iterator[list[tuple[int, Item]]]:
    """The lines with their numbers, n at a time, or those there were when None came."""
    batch: list[tuple[int, Item]] = []
    number = 0
    for line in lines:
        if line is not None:
            batch.append((number, line))
            number += 1
        if batch and (line is None or len(batch) == n):
            yield batch
            batch = []
    if batch:
        yield batch
