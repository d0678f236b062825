"""From a plan to a run under way: new, resumed, or only checked."""

import json
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from gentool.checkpoint.atomic import create_folder
from gentool.checkpoint.config import RunConfig, read_config, run_of
from gentool.checkpoint.load import (
    check_backend,
    check_frozen_encoder,
    find_checkpoint,
    frozen_encoder,
    load_checkpoint,
    needed,
)
from gentool.checkpoint.state import State
from gentool.checkpoint.tokenizer import find_tokenizer, read_tokenizer
from gentool.checkpoint.weights import load_sampling_tensors, sampling_tensors
from gentool.data.holdout import training_texts
from gentool.data.source import extent
from gentool.device import pick_device, use_bf16
from gentool.errors import BadCheckpointError, UsageError
from gentool.extras import extra
from gentool.protocol import Reporter
from gentool.registry import backend_class
from gentool.settings import flatten, to_tree
from gentool.tokenizers.config import PictureTokens, has_tokens, make
from gentool.tokenizers.pictures import PictureTokenizer
from gentool.training import stages
from gentool.training.loop import Limits, Trainer
from gentool.training.plan import Plan, Resolved, resolve
from gentool.training.run import FIRST, held

NO_MATTER = ("data.", "model.", "sample.", "tokenizer.", "train.")
"""Sections that may differ from those of the checkpoint that a run begins with."""


def train(
    plan: Plan,
    device: str,
    stop_at: int | None,
    deadline: float | None,
    reporter: Reporter,
) -> Path:
    """Train as planned and return the run's folder. Raises as the parts do."""
    with held(plan.run):
        return _train(plan, device, stop_at, deadline, reporter)


def _train(
    plan: Plan,
    device: str,
    stop_at: int | None,
    deadline: float | None,
    reporter: Reporter,
) -> Path:
    resolved = resolve(plan, reporter)
    _check_stop(resolved, stop_at)
    staged = _needs_tokenizer(resolved, plan)
    if staged and not _first_stage(resolved, plan, device, deadline, reporter):
        return resolved.run
    trainer = _trainer(resolved, plan, device, reporter)
    limits = Limits(stop_at, math.inf if deadline is None else deadline, plan.again)
    run = resolved.run
    try:
        if resolved.state and resolved.run_config:
            run_config = resolved.run_config
            _check_step(resolved.state, trainer)
            _check_data(run_config, trainer)
            run_config.config = to_tree(resolved.config)
            _restore(trainer, resolved.state, run)
            trainer.catch_up(run, run_config, limits)
            reporter.info(f"resuming {run} at step {trainer.step}")
        else:
            run_config = _new_run_config(plan.backend, resolved, trainer)
            if plan.init:
                run_config.init = _initialise(trainer, resolved.config, plan, reporter)
                trainer.accelerator.wait_for_everyone()  # it may be the run that is replaced now
            if trainer.accelerator.is_main_process:
                create_folder(
                    run,
                    lambda folder: _fill(folder, trainer, run_config, run, staged),
                    over=plan.overwrite or staged,  # its own first stage
                )
            reporter.info(f"new run in {run}")
        reporter.info(f"data: {extent(trainer.source)}")
        trainer.accelerator.wait_for_everyone()
        _track(trainer, run)
        trainer.fit(run, run_config, limits)
    finally:
        for tracker in trainer.accelerator.trackers:
            tracker.finish()
        trainer.loader.close()
    trainer.accelerator.free_memory()  # for a second stage; after an error it would take its time
    return run


def _track(trainer: Trainer, run: Path) -> None:
    """Begin telling the tracker, if there is one; RUN/gentool holds what tensorboard reads."""
    named = {"wandb": {"name": run.name, "dir": str(run)}}
    try:
        trainer.accelerator.init_trackers("gentool", init_kwargs=named)
    except Exception as error:  # whatever its library raises, of one who has no key, say
        raise UsageError(
            f"train.tracker {trainer.train.tracker}: {error}",
            "--resume latest goes on, also with --set train.tracker=none",
        ) from None


def _check_stop(resolved: Resolved, stop_at: int | None) -> None:
    if (stop_at or 0) > (steps := resolved.config.train.steps):
        raise UsageError(f"--stop-at {stop_at}: the run ends at {steps}", "--steps N sets its end")


def _needs_tokenizer(resolved: Resolved, plan: Plan) -> bool:
    """Whether a tokenizer of pictures has to be trained first."""
    tokens = getattr(resolved.config, "tokenizer", None)
    new = resolved.state is None and not plan.init
    return new and isinstance(tokens, PictureTokens) and not tokens.image


def _first_stage(
    resolved: Resolved, plan: Plan, device: str, deadline: float | None, reporter: Reporter
) -> bool:
    """Train the tokenizer, or go on with it; False if its last step is not reached in time."""
    out = resolved.run
    name, tree = stages.settings(resolved.config)
    # What is wrong with the second stage is told now, before an old run is replaced.
    second = _trainer(resolved, plan, device, reporter, dry=True)
    second.loader.close()
    if second.accelerator.is_main_process:
        wanted = RunConfig(plan.backend, resolved.recipe, to_tree(resolved.config), data={})
        resumed = bool(plan.resume and stages.begun(out))
        stages.begin(out, wanted, resumed, plan.overwrite)
    second.accelerator.wait_for_everyone()
    second.accelerator.free_memory()
    del second
    reporter.info(f"stage one of two: the image tokenizer, recipe {name}")
    folder = out / FIRST
    # Its data are given, not only the recipe's: of a run that goes on they may have been moved.
    given = {"data": tree["data"]}
    first = Plan("vq", name, tree, given, {}, True, folder, resume="auto", again=plan.again)
    train(first, device, None, deadline, reporter)
    done = stages.is_done(out)
    reporter.info(
        "stage two of two: the transformer"
        if done
        else f"stage one is not at its end: {plan.again}"
    )
    return done


def _fill(folder: Path, trainer: Trainer, run_config: RunConfig, run: Path, staged: bool) -> None:
    """What a new run's folder holds: its first stage, its tokenizer, and a state of step 0."""
    if staged:
        stages.keep(run, folder)
    if trainer.backend.tokenizer:
        trainer.backend.tokenizer.save(folder / "tokenizer")
    trainer.save(folder, run_config)


def describe(plan: Plan, device: str, stop_at: int | None, reporter: Reporter) -> list[str]:
    """What `train` would do, after checking all that can be checked without training."""
    resolved = resolve(plan, reporter)
    _check_stop(resolved, stop_at)
    trainer = _trainer(resolved, plan, device, reporter, dry=True)
    if resolved.state and resolved.run_config:
        _check_step(resolved.state, trainer)
        _check_data(resolved.run_config, trainer)
    if plan.init:
        _initialise(trainer, resolved.config, plan, reporter)
    trainer.loader.close()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    tokenizer = trainer.backend.tokenizer
    step = resolved.state.step if resolved.state else 0
    verb = f"resume at step {step}" if resolved.state else "new run"
    if plan.resume and not resolved.state and stages.begun(resolved.run):
        verb = "resume in stage one"
    facts = {
        "run": f"{resolved.run} ({verb})",
        "data": f"{extent(trainer.source)}, fingerprint {trainer.source.fingerprint}",
        "network": f"{parameters:,} parameters",
        **({"tokenizer": f"{tokenizer.kind}, {tokenizer.size} tokens"} if tokenizer else {}),
        "steps": f"{resolved.config.train.steps - step} of {trainer.per_step} "
        + (f"batches of {trainer.buckets.tokens} tokens" if trainer.buckets else "examples"),
        "device": f"{trainer.accelerator.device}, "
        + ("bf16" if trainer.accelerator.mixed_precision == "bf16" else "fp32"),
        "each state": f"about {4 * 4 * parameters / 1e6:.0f} MB on disk",
    }
    if _needs_tokenizer(resolved, plan):
        recipe = resolved.config.tokenizer.recipe
        facts = {"stage one": f"{recipe}, into {resolved.run / FIRST}"} | facts
    lines = [f"{name}: {value}" for name, value in facts.items()]
    return lines + [f"{k} = {json.dumps(v)}" for k, v in flatten(to_tree(resolved.config)).items()]


def _trainer(
    resolved: Resolved, plan: Plan, device: str, reporter: Reporter, dry: bool = False
) -> Trainer:
    config = resolved.config
    with needed() if resolved.run_config or plan.init else nullcontext():
        backend = _backend(resolved, plan, dry)
    if backend.captions and (encoder := backend.captions.pretrained):
        config.model.text.revision = encoder.revision  # so that the run finds it again
    chosen = pick_device(device)
    bf16 = use_bf16(config.train.precision, chosen)
    if chosen.type == "cuda" and chosen.index is not None:  # accelerate takes the one in use
        torch.cuda.set_device(chosen)
    tracker = config.train.tracker
    if tracker != "none":
        extra(tracker, "train.tracker")
    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        log_with=None if tracker == "none" else tracker,
        project_dir=resolved.run,
    )
    trainer = Trainer(backend, config, accelerator, reporter)
    if config.train.validate_every and accelerator.is_main_process:
        _ = trainer.held_out.size  # looked up now: that nothing is held out is not to be found late
    return trainer


def _cached(config: Any, plan: Plan, tokenizer: Any) -> bool:
    """Whether what is said of the tokenizer is only where its tokens are, and that it is the one
    that --init has."""
    given = plan.given["tokenizer"].keys()
    if "cache" not in given or given - {"image", "cache"}:
        return False
    return bool(stages.image_tokenizer(config, plan.folder).hash == tokenizer.image.hash)


def _backend(resolved: Resolved, plan: Plan, dry: bool) -> Any:
    """The backend, with the run's tokenizer, that of --init, or a new one: of the first stage, or
    made from the texts. dry: the first stage may not have been trained."""
    config, make_backend = resolved.config, backend_class(plan.backend)
    tokenizer: Any
    if not has_tokens(config):
        return make_backend(config)
    if resolved.run_config:
        tokenizer = read_tokenizer(resolved.run, resolved.run_config.data["tokenizer"])
    elif plan.init:
        folder = find_checkpoint(plan.init, plan.backend)
        check_backend(folder, read_config(folder), plan.backend)
        tokenizer = find_tokenizer(str(folder))
        if "tokenizer" in plan.given and not _cached(config, plan, tokenizer):
            raise UsageError("--init keeps the checkpoint's tokenizer", "drop --set tokenizer.…")
    elif isinstance(config.tokenizer, PictureTokens):
        untrained = dry and not config.tokenizer.image
        tokenizer = PictureTokenizer(
            stages.untrained(config) if untrained else stages.image_tokenizer(config, resolved.run),
            make(text.tokenizer(config.tokenizer), partial(training_texts, config.data))
            if (text := config.model.text).encoder != "none"
            else None,
        )
    else:
        tokenizer = make(config.tokenizer, partial(training_texts, config.data))
    return make_backend(config, tokenizer)


def _new_run_config(backend: str, resolved: Resolved, trainer: Trainer) -> RunConfig:
    source = trainer.source
    data = {
        "fingerprint": source.fingerprint,
        "size": source.size,
        "labels": list(getattr(source, "labels", ())),
    }
    if trainer.data.validation:
        data["validation"] = trainer.held_out.fingerprint
    if trainer.backend.tokenizer:
        data["tokenizer"] = trainer.backend.tokenizer.hash
    if text_encoder := frozen_encoder(trainer.backend):
        data["text_encoder"] = text_encoder
    return RunConfig(backend, resolved.recipe, to_tree(resolved.config), data)


def _check_step(state: State, trainer: Trainer) -> None:
    """A step must see as much as before, however many processes it is dealt to."""
    train, world = trainer.train, trainer.accelerator.num_processes
    factors = [f"train.accumulate {train.accumulate}", f"processes {world}"]
    if trainer.buckets:
        what, each, then = "batches", 1, state.values["batches_per_step"]
    else:
        what, each = "examples", train.batch_size
        then = state.values["examples_per_step"]
        factors.insert(0, f"train.batch_size {train.batch_size}")
    if trainer.per_step != then:
        accumulate, rest = divmod(then, each * world)
        raise UsageError(
            f"a step of this run sees {then} {what}, but {' × '.join(factors)} = "
            f"{trainer.per_step}",
            f"choose others whose product is {then}"
            + ("" if rest else f", e.g. --set train.accumulate={accumulate}"),
        )


def _check_data(run_config: RunConfig, trainer: Trainer) -> None:
    """The data must be those the run was started on, wherever they are now: the order of examples
    depends on them."""
    if trainer.source.fingerprint != run_config.data["fingerprint"]:
        then, now = list(run_config.config["data"]["spec"]), list(trainer.data.spec)
        if then != now:
            raise UsageError(f"data.spec is {now}, but the run was started on other data, {then}")
        raise BadCheckpointError(
            f"the data have changed since the run was started (fingerprint "
            f"{trainer.source.fingerprint}, was {run_config.data['fingerprint']})",
            "put them back, or start a new run with --init",
        )
    validated = run_config.data.get("validation")
    if validated != (trainer.held_out.fingerprint if trainer.data.validation else None):
        raise UsageError(
            f"data.validation is {list(trainer.data.validation)}, but the run was "
            f"started with {list(run_config.config['data']['validation'])}, or those have changed",
            "a new run, with --init",
        )
    check_frozen_encoder(run_config, trainer.backend)


def _restore(trainer: Trainer, state: State, run: Path) -> None:
    try:
        trainer.restore(state)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpointError(
            f"step {state.step} of {run} is not a state of this run: {error}",
            "--resume RUN/state/step-... goes on from another one",
        ) from None


def _initialise(trainer: Trainer, config: Any, plan: Plan, reporter: Reporter) -> str:
    """Weights of another checkpoint, for training on in a new run; whose they are, in words.

    config: the new run's. Its model section must be theirs: weights may fit another network and
    mean something else in it. What else differs, but for data and training, is told.
    """
    assert plan.init
    loaded = load_checkpoint(find_checkpoint(plan.init, plan.backend), plan.backend)
    here, theirs = flatten(to_tree(config.model)), flatten(to_tree(loaded.config.model))
    if differing := [key for key in theirs if theirs[key] != here[key] and key != "dropout"]:
        values = {key: json.dumps(theirs[key], separators=(",", ":")) for key in differing}
        raise BadCheckpointError(
            f"--init {plan.init}: its network is another one than this run's",
            " ".join(f"--set model.{key}={value}" for key, value in values.items()),
        )
    try:
        for network in (trainer.model, trainer.ema):
            load_sampling_tensors(network, sampling_tensors(loaded.network))
    except RuntimeError:
        raise BadCheckpointError(
            f"--init {plan.init}: its network has another shape than this run's",
            f"its data section is {loaded.run_config.config['data']}",
        ) from None
    mine, before = flatten(to_tree(config)), flatten(to_tree(loaded.config))
    for key in sorted(mine.keys() & before.keys()):
        if mine[key] != before[key] and not key.startswith(NO_MATTER):
            reporter.info(f"{key} is {mine[key]}, those weights were trained with {before[key]}")
    whose = f"the weights of {run_of(loaded.folder).name}, step {loaded.step}"
    reporter.info(f"beginning with {whose}")
    return whose
