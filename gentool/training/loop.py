"""The training loop of every backend: accumulate, clip, average, log, save, stop, go on.

All randomness is derived from (seed, epoch, example) or (seed, step), so a state needs no random
state beyond its step and cursor, and a run that was cut and resumed ends in the same bytes.
"""

import contextlib
import copy
import math
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from gentool.checkpoint.card import write_card
from gentool.checkpoint.config import RunConfig
from gentool.checkpoint.state import State, best, mean_weights, prune, sweep, write_state
from gentool.checkpoint.weights import sampling_tensors, write_weights
from gentool.data.buckets import Buckets
from gentool.data.loader import Loader, Prepared
from gentool.data.stream import open_stream
from gentool.errors import Interrupted, NonFiniteError, Terminated
from gentool.extras import extra
from gentool.protocol import Backend, Reporter
from gentool.rng import BatchRng, torch_seed
from gentool.training.config import TrainConfig
from gentool.training.optimizer import (
    learning_rate,
    load_optimizer,
    make_optimizer,
    update_average,
)
from gentool.training.run import Log
from gentool.training.signals import StopRequest, stop_request
from gentool.training.validation import validation_bleu, validation_loss

_ADVICE = (
    "the last state is untouched, but its settings lead here again: begin a new run with its "
    "weights, --init RUN --out NEW, a lower train.learning_rate, more train.warmup_steps or "
    "--precision fp32"
)


@dataclass
class Limits:
    """When this invocation ends before the last step of the run."""

    stop_at: int | None = None  # a step; the schedule stays that of train.steps
    deadline: float = math.inf  # time.monotonic() seconds
    again: str = ""  # what a user does to go on


class Trainer:
    """One run, in one process of possibly several (`accelerate launch`)."""

    def __init__(
        self, backend: Backend, config: Any, accelerator: Accelerator, reporter: Reporter
    ) -> None:
        """config: the backend's; the loop reads its `train` and `data` sections."""
        self.backend, self.accelerator, self.reporter = backend, accelerator, reporter
        self.train: TrainConfig = config.train
        self.data = config.data
        with torch_seed("init", self.train.seed):
            self.model = backend.network()
        self.ema = copy.deepcopy(self.model)
        self.model.to(accelerator.device)
        self.ema.to(accelerator.device)
        self.optimizer = make_optimizer(self.model, self.train)
        self.forward = accelerator.prepare(self.model)  # autocast, and one process among several
        self.source, self.held_out = backend.sources()
        rank, world = accelerator.process_index, accelerator.num_processes
        tokens = getattr(self.train, "batch_tokens", 0)
        shared_out = (0, 1) if tokens else (rank, world)
        stream = open_stream(self.source, self.train.seed, *shared_out)
        prepare = partial(backend.prepare, augment=True)
        self.loader: Loader[Any] = Loader(stream, prepare, self.data, reporter.info)
        self.buckets = Buckets(self.loader, tokens, rank, world) if tokens else None
        self.average = getattr(self.train, "average_best", 0)
        if self.average:
            extra("sacrebleu", "train.average_best")  # is it there? Not to be found out later
        batches = self.train.accumulate * world
        # What a step sees: so many examples, or batches of so many tokens.
        self.per_step = batches if tokens else batches * self.train.batch_size
        self.step = 0
        self.sums: dict[str, float] = {}  # of the figures of the steps since the last log record

    @property
    def examples(self) -> int:
        """Examples seen so far, by all processes."""
        return self.buckets.examples if self.buckets else self.step * self.per_step

    def _next(self) -> list[Prepared[Any]]:
        """This process's next micro-batch."""
        return self.buckets.next() if self.buckets else self.loader.next(self.train.batch_size)

    # State ------------------------------------------------------------------------------------

    def state(self) -> State:
        """All that training needs to go on from here."""
        slots = self.optimizer.state_dict()["state"]
        tensors = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": {
                f"{i}.{name}": t for i, slot in slots.items() for name, t in slot.items()
            },
        }
        values = {
            "cursor": (self.buckets or self.loader).cursor,
            "sums": self.sums,
            "examples_per_step" if self.buckets is None else "batches_per_step": self.per_step,
        }
        return State(self.step, tensors, values)

    def restore(self, state: State) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state.tensors["model"])
        self.ema.load_state_dict(state.tensors["ema"])
        load_optimizer(self.optimizer, state.tensors["optimizer"])
        (self.buckets or self.loader).seek(state.values["cursor"])
        self.sums = dict(state.values["sums"])
        self.step = state.step

    def save(self, run: Path, run_config: RunConfig) -> None:
        """Write a state, then the files that sampling reads; a crash in between loses nothing.

        For the main process alone; the others need not wait.
        """
        self._check_weights()
        write_state(run, self.state())
        lowest = best(run, self.train.keep_best, Log(run).validated())
        prune(run, self.step, self.train.keep_last, [*lowest, *self._averaged(run)])
        self._write_weights(run, run_config)
        self._publish(run, run_config)

    def catch_up(self, run: Path, run_config: RunConfig, limits: Limits) -> None:
        """After `restore`: do what a crash right after that state was written left undone."""
        if self.accelerator.is_main_process:
            sweep(run)
            log = Log(run)
            log.cut_back(self.step)
            self._write_weights(run, run_config)
            self._publish(run, run_config)
            validated = self.step in log.validated()
            if self.step and self._due(self.train.validate_every) and not validated:
                self._validate(run, run_config)
            shown = any((run / "samples").glob(f"step-{self.step:08d}.*"))
            if self.step and self._due(self.train.sample_every) and not shown:
                self._preview(run, StopRequest(), limits)
        self.accelerator.wait_for_everyone()

    def _averaged(self, run: Path) -> list[int]:
        """The steps of the states whose mean is sampled from; none: the EMA is."""
        bleu = Log(run).validated("val_bleu") if self.average else {}
        return best(run, self.average, {step: -value for step, value in bleu.items()})

    def _write_weights(self, run: Path, run_config: RunConfig) -> None:
        tokenizer = self.backend.tokenizer
        steps = self._averaged(run)
        write_weights(
            run,
            mean_weights(run, steps) if steps else sampling_tensors(self.ema),
            self.step,
            run_config.config,
            tokenizer.hash if tokenizer else None,
        )

    def _publish(self, run: Path, run_config: RunConfig) -> None:
        """Bring config.json and the model card up to date with the log."""
        run_config.metrics = {"step": self.step, "examples": self.examples}
        for record in Log(run).records():
            told = ("loss", "val_loss", "val_bleu")
            run_config.metrics |= {k: record[k] for k in told if k in record}
        run_config.write(run)
        write_card(run, run_config)

    # The loop ---------------------------------------------------------------------------------

    def fit(self, run: Path, run_config: RunConfig, limits: Limits) -> None:
        """Train up to the last step or a limit; the run then holds a state of where it stands.

        Raises NonFiniteError, and Interrupted or Terminated after saving.
        """
        train = self.train
        end = min(train.steps, limits.stop_at or train.steps)
        first = saved = self.step
        seen = self.examples
        busy = rate = 0.0
        self._settle()
        with stop_request(self.reporter.info) as request:
            while self.step < end and not self._asked_to_stop(request, limits):
                began = time.monotonic()
                figures = self.optimizer_step()
                busy += time.monotonic() - began
                self.step += 1
                for name, value in (figures | {"steps": 1}).items():
                    self.sums[name] = self.sums.get(name, 0) + value
                rate = (self.examples - seen) / busy
                fields = {"loss": f"{figures['loss']:.4f}", "examples/s": f"{rate:.0f}"}
                self.reporter.progress(self.step, end, fields)
                if self._due(train.log_every) or self.step == 1:
                    self._log(run, rate)
                if self._due(train.save_every):
                    if self.accelerator.is_main_process:
                        self.save(run, run_config)
                    saved = self.step
                if self._due(train.validate_every):
                    self._validate(run, run_config)
                if self._due(train.sample_every):
                    self._preview(run, request, limits)
            if saved != self.step and self.accelerator.is_main_process:
                self.save(run, run_config)
            self.accelerator.wait_for_everyone()
        done = "saved" if self.step > first else "already at"
        self.reporter.info(f"{done} step {self.step} of {train.steps} in {run}")
        if request.number:
            stopped = Terminated if request.number == signal.SIGTERM else Interrupted
            raise stopped(f"stopped at step {self.step}, saved in {run}", limits.again)

    def optimizer_step(self) -> dict[str, float]:
        """One update from `accumulate` micro-batches: its mean loss, the loss's terms where it has
        several, and the gradient norm.

        Raises NonFiniteError; the weights are then those before the update.
        """
        train = self.train
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, train)
        micros: list[dict[str, Tensor]] = []
        keys = []
        for micro in range(train.accumulate):
            examples = self._next()
            keys += [example.key for example in examples]
            last = micro == train.accumulate - 1
            sync = contextlib.nullcontext() if last else self.accelerator.no_sync(self.forward)
            with sync:
                micros.append(self._backward(examples, micro))
        means = torch.stack([torch.stack(list(terms.values())) for terms in micros]).mean(dim=0)
        terms = dict(zip(micros[0], self.accelerator.reduce(means, reduction="mean"), strict=True))
        loss = torch.stack(list(terms.values())).sum()
        parameters = list(self.model.parameters())
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        figures = {"loss": loss, **(terms if len(terms) > 1 else {}), "grad_norm": norm}
        # A GPU is waited for once.
        told = dict(zip(figures, torch.stack(list(figures.values())).tolist(), strict=True))
        if not (math.isfinite(told["loss"]) and math.isfinite(told["grad_norm"])):
            raise self._non_finite(told["loss"], keys)  # clipping would make NaN of every gradient
        torch.nn.utils.clip_grads_with_norm_(parameters, train.clip_norm or math.inf, norm)
        if self.backend.in_parts:
            # What has no part in the loss of a step is not to be moved by momentum.
            with_grad = [parameter for parameter in parameters if parameter.grad is not None]
            largest = torch.stack(torch._foreach_norm(grads, math.inf)).tolist()
            for parameter, moves in zip(with_grad, largest, strict=True):
                if not moves:
                    parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_average(self.ema, self.model, self.step, train.ema_decay)
        return told

    def _backward(self, examples: list[Prepared[Any]], micro: int) -> dict[str, Tensor]:
        """Add the gradients of one micro-batch; the means of the terms of its loss."""
        rng = BatchRng([example.rng for example in examples])
        batch = self.backend.collate([example.value for example in examples], rng)
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        rank = self.accelerator.process_index
        with torch_seed("dropout", self.train.seed, self.step, micro, rank):
            terms = {k: v.mean() for k, v in self.backend.loss(self.forward, batch).items()}
            loss = torch.stack(list(terms.values())).sum()
            self.accelerator.backward(loss / self.train.accumulate)
        return {name: term.detach() for name, term in terms.items()}

    def _settle(self) -> None:
        """One backward pass for nothing, where several processes share gradients.

        After its first one torch lays the gradients out in another order, and with it changes how
        those of three processes or more are rounded: a resumed run would end in other bytes.
        """
        if self.accelerator.num_processes > 1:
            feed = self.buckets or self.loader
            cursor = feed.cursor
            buffers = [buffer.clone() for buffer in self.model.buffers()]
            self.model.train()
            self._backward(self._next()[:1], 0)
            self.optimizer.zero_grad()
            feed.seek(cursor)
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)  # those that training moves have not been trained

    def _check_weights(self) -> None:
        """Raise NonFiniteError if the last updates broke a weight: it must not reach a state."""
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise NonFiniteError(f"step {self.step}: {name} is not finite", _ADVICE)

    def _non_finite(self, loss: float, keys: list[str]) -> NonFiniteError:
        bad = [
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not parameter.grad.isfinite().all()
        ]
        keys = gather_object(keys)  # all processes come here: loss and gradients are of them all
        where = f"gradient of {bad[0]}" if bad else "no gradient"
        where += f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        named = ", ".join(keys[:4]) + (f", … ({len(keys)} examples)" if len(keys) > 4 else "")
        return NonFiniteError(
            f"step {self.step + 1}: loss {loss}, not finite: {where}; batch: {named}",
            _ADVICE,
        )

    def _due(self, interval: int) -> bool:
        return interval > 0 and (self.step % interval == 0 or self.step == self.train.steps)

    def _asked_to_stop(self, request: StopRequest, limits: Limits) -> bool:
        number, late = request.number, time.monotonic() >= limits.deadline
        if self.accelerator.num_processes > 1:
            # All processes stop at the same step and for the same reason, whichever was told to.
            asked = torch.tensor([[number, late]], device=self.accelerator.device)
            number, late = self.accelerator.gather(asked).amax(0).tolist()
            request.number = number or request.number  # one that came just now stays
        return bool(number or late)

    def _log(self, run: Path, rate: float) -> None:
        steps = self.sums.pop("steps")
        means = {name: total / steps for name, total in self.sums.items()}
        self.sums = {}
        record = {
            "step": self.step,
            **means,
            "learning_rate": learning_rate(self.step - 1, self.train),
            "examples": self.examples,
            "examples_per_second": round(rate, 1),
            "skipped": self.loader.skipped,
        }
        if self.loader.too_long:
            record["too_long"] = self.loader.too_long
        if self.accelerator.is_main_process:
            figures, warning = self.backend.watch(self.model)
            self._record(run, record | figures)
            if warning:
                self.reporter.info(f"step {self.step}: warning: {warning}")

    def _record(self, run: Path, record: dict[str, Any]) -> None:
        """A line of log.jsonl, of which the tracker is told too."""
        Log(run).append(record)
        self.accelerator.log({k: v for k, v in record.items() if k != "step"}, record["step"])

    def _validate(self, run: Path, run_config: RunConfig) -> None:
        if self.accelerator.is_main_process:
            n = self.train.validation_examples
            loss, n = validation_loss(self.backend, self.ema, self.held_out, self.data, n)
            if not math.isfinite(loss):
                raise NonFiniteError(f"step {self.step}: validation loss {loss}", _ADVICE)
            record = {"step": self.step, "val_loss": loss, "val_examples": n}
            told = f"validation loss {loss:.5f}"
            if self.average:
                record["val_bleu"] = validation_bleu(self.backend, self.model, self.held_out, n)
                told += f", BLEU {record['val_bleu']:.2f}"
            self._record(run, record)
            self.reporter.info(f"step {self.step}: {told}")
            if self.average:
                self._write_weights(run, run_config)
            self._publish(run, run_config)

    def _preview(self, run: Path, request: StopRequest, limits: Limits) -> None:
        """Samples for a look, from the same seed each time; given up when there is no time."""

        class Enough(Exception):
            pass

        def poll() -> None:
            if request.number or time.monotonic() >= limits.deadline:
                raise Enough

        if self.accelerator.is_main_process:
            folder = run / "samples"
            folder.mkdir(exist_ok=True)
            with contextlib.suppress(Enough):
                self.backend.preview(self.ema, folder, f"step-{self.step:08d}", poll)
