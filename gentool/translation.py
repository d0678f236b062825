"""Texts of texts, line by line: in batches of sentences of about one length, out in their order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from gentool.checkpoint.load import Loaded
from gentool.data.rows import batches
from gentool.device import pick_device, use_bf16
from gentool.errors import BadDataError, UsageError
from gentool.protocol import Hypothesis
from gentool.trace import SAMPLES, Look, Recorder

WINDOW = 8  # batches' worth of lines that are sorted by length together


@dataclass
class _Job:
    """A line on its way."""

    number: int
    src_ids: list[int]
    gold: int | None = None  # length of its reference
    answer: list[Hypothesis] | BadDataError | None = None


def translate_lines(
    loaded: Loaded,
    lines: Iterable[str | BadDataError | None],
    settings: Any,
    *,
    batch_tokens: int = 4096,
    references: Iterable[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    recorder: Recorder | None = None,
    **how: Any,
) -> Iterator[tuple[int, list[Hypothesis] | BadDataError]]:
    """Each line with what is made of it, best first, in order: (its number from 0, hypotheses), or
    in place of them why it cannot be used. An empty line has none.

    None among the lines: no other has come for a while, so those that are waiting go on. So many
    lines are held as make WINDOW batches: input without end is no trouble. batch_tokens: the most
    of sources in a batch, padding included, times the length candidates. references: a line for
    each, whose lengths are taken instead of predicted ones. recorder: is shown the first lines.
    how: as for the backend's `translate`. Raises UsageError, and BadDataError where there are not
    as many references as lines.
    """
    if settings.length_beam > loaded.config.data.length:
        raise UsageError(
            f"--length-beam {settings.length_beam}: this model knows lengths up to "
            f"{loaded.config.data.length}"
        )
    chosen = pick_device(device)
    bf16 = use_bf16(precision, chosen)
    network = loaded.network.to(chosen)
    cost = settings.length_beam
    for window in _windows(_jobs(loaded, lines, references), WINDOW * batch_tokens // cost):
        waiting, pending = [job for job in window if job.answer is None], deque(window)
        yield from _answered(pending)
        for numbers in batches([len(job.src_ids) for job in waiting], batch_tokens // cost):
            batch = [waiting[number] for number in numbers]
            gold = [j.gold for j in batch] if references is not None else None
            with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
                answers = loaded.backend.translate(
                    network, [j.src_ids for j in batch], settings, gold=gold,
                    on_step=_watch(recorder, [j.number for j in batch], settings.steps), **how,
                )  # fmt: skip
            for job, answer in zip(batch, answers, strict=True):
                job.answer = answer
            yield from _answered(pending)


def _answered(pending: deque[_Job]) -> Iterator[tuple[int, list[Hypothesis] | BadDataError]]:
    """Takes away those of `pending` before the first that has no answer yet."""
    while pending and (answer := pending[0].answer) is not None:
        yield pending.popleft().number, answer


def _watch(
    recorder: Recorder | None, numbers: Sequence[int], steps: int
) -> Callable[[Look], None] | None:
    """What shows `recorder` those lines of a batch, by their numbers, that are among the first."""
    rows = [row for row, number in enumerate(numbers) if number < SAMPLES]
    if recorder is None or not rows:
        return None
    done = count(1)
    return lambda look: recorder.step(
        [numbers[row] for row in rows], next(done), steps,
        lambda chosen: look([rows[i] for i in chosen]),
    )  # fmt: skip


def _jobs(
    loaded: Loaded, lines: Iterable[str | BadDataError | None], references: Iterable[str] | None
) -> Iterator[_Job | None]:
    known = iter(references) if references is not None else None
    number = 0
    for line in lines:
        if line is None:
            yield None
            continue
        job = _Job(number, [])
        if known is not None and (reference := next(known, None)) is None:
            raise BadDataError(f"line {number + 1} has no reference: there are {number}")
        number += 1
        try:
            if isinstance(line, BadDataError):
                raise line
            if line.strip():
                job.src_ids = loaded.backend.source_ids(line)
                job.gold = None if known is None else loaded.backend.target_length(reference)
            else:
                job.answer = []
        except BadDataError as error:
            job.answer = error
        yield job
    if known is not None and next(known, None) is not None:
        raise BadDataError(f"there are more references than the {number} lines")


def _windows(jobs: Iterable[_Job | None], tokens: int) -> Iterator[list[_Job]]:
    """Jobs of `tokens` tokens together, or those there were when nothing came for a while."""
    window: list[_Job] = []
    held = 0
    for job in jobs:
        if job is not None:
            window.append(job)
            held += max(1, len(job.src_ids))
        if window and (job is None or held >= tokens):
            yield window
            window, held = [], 0
    if window:
        yield window
