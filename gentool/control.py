"""Control of what a text model writes: attributes asked for, and whether a text has them.

A control is "attribute=value", of the attributes that the data carry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.data.scenes import attributes, parse_caption
from gentool.device import pick_device
from gentool.tokenizers.words import split

HELPER = "diffusion-lm-control"


@dataclass(frozen=True)
class Controls:
    """What every sample is asked for."""

    wanted: tuple[str, ...]  # "attribute=value"
    shared: Mapping[str, Any]  # for gentool.sampling: what steers the draws
    of_scenes: bool  # whether the texts are captions of the built-in world

    def held(self, text: str) -> dict[str, bool]:
        """Which controls `text` obeys. A caption of a scene is read; of other texts the words of
        the value are looked for, whatever their case."""
        return {control: holds(control, text, self.of_scenes) for control in self.wanted}


def open_controls(
    loaded: Loaded, wanted: Sequence[str], classifier: str | None, device: str
) -> Controls:
    """Controls of samples of `loaded`, by the classifier in the checkpoint `classifier`.

    Raises as `load_checkpoint` does, UsageError for a control that the classifier does not know and
    BadCheckpointError for a classifier of another model.
    """
    found = load_checkpoint(find_checkpoint(classifier, HELPER, "--classifier"), HELPER)
    found.backend.check(loaded.network.get_parameter("embedding.weight"))
    network = found.network.to(pick_device(device))
    nll = found.backend.control_nll(network, wanted)
    return Controls(
        tuple(dict.fromkeys(wanted)), {"control_nll": nll}, "scenes" in loaded.config.data.spec
    )


def holds(control: str, text: str, of_scenes: bool) -> bool:
    """Whether `text` has the value that `control` asks for."""
    name, _, value = control.partition("=")
    if of_scenes:
        scene = parse_caption(text)
        return scene is not None and value in attributes(scene).get(name, ())
    words, phrase = split(text.lower()), split(value.lower())
    starts = range(len(words) - len(phrase) + 1)
    return any(words[i : i + len(phrase)] == phrase for i in starts)


def success(controls: Controls, texts: Sequence[str]) -> dict[str, float]:
    """The share of `texts` that obey each control, and all of them together as "all"."""
    held = [controls.held(text) for text in texts]
    rates = {c: sum(each[c] for each in held) / len(held) for c in controls.wanted}
    return rates | {"all": sum(all(each.values()) for each in held) / len(held)}
