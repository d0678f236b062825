"""What a training command asks for: a new run, or one that goes on, and its configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentool.checkpoint.atomic import recover_folder
from gentool.checkpoint.config import RunConfig, read_config, run_of
from gentool.checkpoint.state import State
from gentool.data.config import OF_SCENES
from gentool.errors import BadCheckpointError, NotFoundError, UsageError
from gentool.protocol import Reporter
from gentool.registry import options_module
from gentool.settings import Tree, build, flatten, free_keys, merge, to_tree
from gentool.training import stages
from gentool.training.run import check_new, check_same, find_state


@dataclass
class Plan:
    """A training command, parsed."""

    backend: str
    recipe: str
    tree: Tree  # the recipe's values
    given: Tree  # the command line's, which go over them
    environment: Tree  # what goes between the two where a run begins; one that goes on has its own
    recipe_given: bool  # named by the user, so that a resumed run must agree with it
    out: Path | None = None  # none: runs/RECIPE
    resume: str | None = None
    overwrite: bool = False
    init: str | None = None
    again: str = "--resume latest continues"  # what to do about a run that was stopped

    @property
    def folder(self) -> Path:
        """Where a new run goes."""
        return self.out or Path("runs") / self.recipe

    @property
    def run(self) -> Path:
        """The run that is trained, a new one or one that goes on."""
        if self.resume in (None, "", "auto", "latest"):
            return self.folder
        return run_of(Path(self.resume))


@dataclass
class Resolved:
    """A plan, held against what there is."""

    config: Any
    recipe: str
    run: Path
    state: State | None = None
    run_config: RunConfig | None = None  # of the run that is continued


def resolve(plan: Plan, reporter: Reporter) -> Resolved:
    """The configuration and, for a resumed run, where it goes on."""
    config_class = options_module(plan.backend).Config
    recover_folder(plan.folder)
    if plan.resume in ("auto", "latest"):
        if first := stages.begun(plan.folder):
            config = _continued(plan, plan.folder, first)
            return Resolved(config, first.recipe, plan.folder)
    elif plan.resume and stages.begun(Path(plan.resume)):
        hint = f"--out {plan.resume} --resume latest"
        raise NotFoundError(f"{plan.resume} holds a first stage and no run yet", hint)
    found = find_state(plan.folder, plan.resume, reporter.info) if plan.resume else None
    if found is None:
        begun_with = merge(plan.tree, plan.environment)
        config = _complete(plan, build(config_class, over(begun_with, plan.given)))
        check_new(plan.folder, plan.overwrite)
        return Resolved(config, plan.recipe, plan.folder)
    run, state = found
    if plan.out and run.resolve() != plan.out.resolve():
        raise UsageError(f"--resume {plan.resume} is not in --out {plan.out}", "drop --out")
    saved = read_config(run)
    config = _continued(plan, run, saved)
    if config.train.steps < state.step:
        raise UsageError(
            f"{run} is at step {state.step}, so it cannot end at {config.train.steps}",
            "--steps N, all steps from the first on",
        )
    return Resolved(config, saved.recipe, run, state, saved)


def _continued(plan: Plan, run: Path, saved: RunConfig) -> Any:
    """The configuration with which `run`, begun with `saved`, goes on. Raises as check_same."""
    config_class = options_module(plan.backend).Config
    if saved.backend != plan.backend:
        raise BadCheckpointError(f"{run} is a {saved.backend} run, not {plan.backend}")
    # A run that an earlier gentool began has the defaults of settings that came later.
    try:
        saved.config = to_tree(build(config_class, saved.config))
    except UsageError as error:  # none of this command: of what is written there
        raise BadCheckpointError(f"{run}/config.json: {error}", error.hint) from None
    free = free_keys(config_class)
    if plan.recipe_given:
        # What may differ, and what was found when it began, is the run's own.
        found = {"train.seed", "train.precision", "model.text.revision"}
        own = _only(saved.config, free | found)
        given = merge(own, plan.given)
        config = _complete(plan, build(config_class, over(plan.tree, given)))
    else:
        config = build(config_class, merge(saved.config, plan.given))
    check_same(run, saved, to_tree(config), free)
    return config


def _only(tree: Tree, keys: set[str], prefix: str = "") -> Tree:
    """`tree` with the values of `keys`, as `flatten` names them, alone."""
    return {
        name: _only(value, keys, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in tree.items()
        if isinstance(value, dict) or prefix + name in keys
    }


def over(tree: Tree, given: Tree) -> Tree:
    """The recipe's values with the given ones over them. What it says of scenes is not for other
    data."""
    data, spec = tree.get("data"), flatten(given).get("data.spec", ["scenes"])
    if isinstance(data, dict) and "scenes" not in (spec if isinstance(spec, list) else [spec]):
        kept = {key: value for key, value in data.items() if key not in OF_SCENES}
        tree = {**tree, "data": kept}
    return merge(tree, given)


def _complete(plan: Plan, config: Any) -> Any:
    """`config` with what is to be read from its data and from other checkpoints, if anything."""
    module = options_module(plan.backend)
    return module.completed(config) if hasattr(module, "completed") else config
