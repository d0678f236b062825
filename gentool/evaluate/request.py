"""What a metric is asked to measure, and the held-out data to measure it on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.checkpoint.tokenizer import trained_tokenizer
from gentool.control import Controls
from gentool.data.holdout import elsewhere
from gentool.data.images import open_images
from gentool.data.loader import ON_BAD
from gentool.data.scenes.draw import CANVAS
from gentool.data.source import Data
from gentool.data.stream import open_stream
from gentool.data.text import Text, open_texts
from gentool.device import pick_device, use_bf16
from gentool.errors import BadDataError, UsageError
from gentool.evaluate.extractors import Extractor, load_extractor
from gentool.evaluate.figures import Figure
from gentool.registry import backend_options
from gentool.sampling import draw_texts
from gentool.teacher.generate import Teacher, open_teacher
from gentool.training.validation import SEED


@dataclass
class Request:
    """A checkpoint, how to sample from it, and how much to look at."""

    loaded: Loaded
    settings: Any  # the backend's sample section
    data: str | None  # in place of what the run held out
    num: int
    seed: int
    device: str
    batch_size: int
    precision: str
    judge: str | None = None  # a checkpoint that samples are judged by
    controls: Controls | None = None  # what samples are asked for
    features: str | None = None  # what FID and KID compare pictures by
    progress: Callable[[int, int], None] = lambda done, total: None
    pictures: Path | None = None  # where those go that a metric shows
    twin: str | None = None  # of pairs: an autoregressive model to compare with

    @property
    def kind(self) -> str:
        """What the backend makes: images or text."""
        return backend_options(self.loaded.run_config.backend).KIND

    @property
    def of_scenes(self) -> bool:
        """Whether the model is one of the built-in world, and what it makes can be read."""
        data = self.loaded.config.data
        if "scenes" not in data.spec:
            return False
        return self.kind == "text" or (data.channels, data.image_size) == (3, CANVAS)

    @property
    def draws(self) -> bool:
        """Whether there are samples; else the backend makes targets of sources."""
        return backend_options(self.loaded.run_config.backend).DRAWS

    @cached_property
    def texts(self) -> list[str]:
        """The samples of a text backend, drawn once for all metrics."""
        return [line.text for _, line in self.drawn(draw_texts)]

    @cached_property
    def extractor(self) -> Extractor:
        """What FID and KID compare pictures by. Raises as `load_extractor`."""
        return load_extractor(self.features, pick_device(self.device))

    @cached_property
    def judging(self) -> Loaded:
        """What samples are judged by. Raises as `find_checkpoint`."""
        return load_checkpoint(find_checkpoint(self.judge, "judge", "--judge"), "judge")

    @cached_property
    def image(self) -> Any:
        """The tokenizer of pictures; of a run of vq that is the run. Raises BadCheckpointError."""
        if self.loaded.run_config.backend == "vq":
            return trained_tokenizer(self.loaded)
        return self.loaded.backend.image

    @cached_property
    def teacher(self) -> Teacher:
        """The twin. Raises UsageError where none is named, else as `open_teacher`."""
        if self.twin is None:
            raise UsageError("metric 'twin' compares with an autoregressive model", "--twin DIR")
        return open_teacher(self.twin, self.device, self.precision)

    def drawn(
        self, draw: Callable[..., Iterator[Any]], given: Any = None, **other: Any
    ) -> Iterator[Any]:
        """The samples, as `draw` of gentool.sampling yields them for what is `given`; with other
        settings than the request's."""
        more = {} if given is None else {"given": given}
        return draw(
            self.loaded, range(self.num), self.seed, replace(self.settings, **other),
            batch_size=self.batch_size, device=self.device, precision=self.precision,
            progress=self.progress, shared=self.controls.shared if self.controls else {}, **more,
        )  # fmt: skip

    def drawn_with(self) -> dict[str, Any]:
        """What samples were drawn with, for the figures' settings."""
        asked = {"control": list(self.controls.wanted)} if self.controls else {}
        bf16 = use_bf16(self.precision, pick_device(self.device))
        made = {"checkpoint_step": self.loaded.step, "precision": "bf16" if bf16 else "fp32"}
        return made | asdict(self.settings) | asked

    def of_samples(
        self, values: Mapping[str, float | None], n: int | None = None, **other: Any
    ) -> list[Figure]:
        """`values`, measured on the samples, or on the first n of them, as figures; other: as for
        `drawn`."""
        n, made = self.num if n is None else n, self.drawn_with() | other
        return [Figure(k, v, n, self.seed, None, made) for k, v in values.items()]

    def held_out_texts(self, source: Data, least: int = 0) -> list[Text]:
        """`num` texts of the held-out data or `least` (all of them, if there are fewer), always the
        same, but for those that are empty or, by `on_error`, cannot be read. Raises BadDataError
        if none is left."""
        n = max(self.num, least)
        places = open_stream(source, SEED).next(min(n, source.size or n))
        found: list[Text] = []
        for place in places:
            try:
                found.append(place.source[place.index])
            except BadDataError as error:
                if self.loaded.config.data.on_error == "stop":
                    raise BadDataError(str(error), ON_BAD) from error
        if found := [text for text in found if not text.empty]:
            return found
        raise BadDataError(
            f"{self.data or 'the held-out data'}: none of {len(places)} texts can be used",
            "a larger --num",
        )

    @cached_property
    def trained_on(self) -> Any:
        """The data that the model was trained on."""
        return self.loaded.backend.sources()[0]

    @property
    def compared(self) -> int:
        """How many samples there are to compare with as many examples of the data."""
        size = self.held_out[0].size
        return self.num if size is None else min(self.num, size)

    @cached_property
    def held_out(self) -> tuple[Data, str]:
        """The data to measure on, and its split in words."""
        if self.data is None:
            return self.loaded.backend.sources()[1], "held out"
        config = self.loaded.config.data
        name, _, split = self.data.partition(":")
        opened = open_images if self.kind == "images" else open_texts
        if name == "scenes":
            chosen = elsewhere(config, ("scenes",), split)
            return opened(chosen), chosen.split
        return opened(elsewhere(config, (self.data,))), "all"
