"""The classifier for the training loop, and for what it steers."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool import protocol
from gentool.backends.diffusion_lm.algorithm import level, sigma_0
from gentool.backends.diffusion_lm.classifier import Config
from gentool.backends.diffusion_lm.classifier.network import ControlClassifier
from gentool.backends.diffusion_lm.control import ControlNll
from gentool.checkpoint.load import find_checkpoint, load_checkpoint
from gentool.checkpoint.weights import tensors_hash
from gentool.data.holdout import text_train_and_validation
from gentool.data.rows import Row, row
from gentool.data.source import Data, Source
from gentool.data.text import Text
from gentool.diffusion.schedules import noise_chain
from gentool.errors import BadCheckpointError, UsageError, nearest
from gentool.protocol import Batch
from gentool.rng import BatchRng
from gentool.tokenizers import Tokenizer


class Backend(protocol.Backend):
    """Implements gentool.protocol.Backend, and `control_nll` for the diffusion-lm it is of."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.length = config.data.length
        self.chain = noise_chain(config.lm.schedule, config.lm.T)
        self.values = config.model.values

    def network(self) -> nn.Module:
        return ControlClassifier(self.config.model, self.config.lm.embedding, self.length)

    def sources(self) -> tuple[Data, Data]:
        return text_train_and_validation(self.config.data)

    def prepare(self, source: Source[Text], index: int, rng: torch.Generator, augment: bool) -> Row:
        return row(source, index, self.tokenizer, self.config.data)

    def collate(self, examples: Sequence[Row], rng: BatchRng) -> Batch:
        shape = (self.length, self.config.lm.embedding)
        true = [{f"{k}={v}" for k, vs in e.attributes.items() for v in vs} for e in examples]
        return {
            "ids": torch.tensor([example.ids for example in examples]),
            "y": torch.tensor([[float(value in mine) for value in self.values] for mine in true]),
            "t": rng.integers(self.chain.T),
            "z": rng.normal(*shape),
            "eps": rng.normal(*shape),
        }

    def loss(self, network: Callable[..., Tensor], batch: Batch) -> dict[str, Tensor]:
        m = F.embedding(batch["ids"], self._emb.to(batch["z"].device))
        x_0 = m + sigma_0(self.chain) * batch["z"]
        x_t = self.chain.q_sample(x_0, batch["t"], batch["eps"])
        logits = network(x_t, level(batch["t"], self.chain))
        # A text may have several values of an attribute, so each is a question of its own.
        each = F.binary_cross_entropy_with_logits(logits.float(), batch["y"], reduction="none")
        return {"nll": each.sum(dim=1)}

    def control_nll(self, network: nn.Module, controls: Sequence[str]) -> ControlNll:
        """-log p(all of `controls` | x_t), each "attribute=value". Raises UsageError for one that
        the training data did not have."""
        places = [self._place(control) for control in controls]
        network.eval().requires_grad_(False)

        def nll(x_t: Tensor, t: Tensor) -> Tensor:
            logits = network(x_t, level(t, self.chain))[:, places]
            return -F.logsigmoid(logits.float()).sum(dim=1)

        return nll

    def check(self, emb: Tensor) -> None:
        """Raise BadCheckpointError unless emb [V, d] are the embeddings it was trained on."""
        if tensors_hash({"E": emb}) != self.config.lm.embeddings:
            raise BadCheckpointError(
                "the classifier was trained on the embeddings of another diffusion-lm checkpoint",
                "`gentool train diffusion-lm-control --set lm.checkpoint=DIR` trains one for this",
            )

    def _place(self, control: str) -> int:
        """The number of the logit of "attribute=value"."""
        if control in self.values:
            return self.values.index(control)
        name, equals, value = control.partition("=")
        if not equals:
            raise UsageError(f"--control takes attribute=value, got {control!r}")
        names = {known.partition("=")[0] for known in self.values}
        if name not in names:
            raise UsageError(f"no control {name!r}", nearest(name, names))
        known = [k.partition("=")[2] for k in self.values if k.startswith(name + "=")]
        raise UsageError(
            f"--control {control!r}: that value was never seen in training", nearest(value, known)
        )

    @cached_property
    def _emb(self) -> Tensor:
        """The embeddings of the diffusion-lm, which stay as they are; for training alone."""
        path = find_checkpoint(
            self.config.lm.checkpoint or None, "diffusion-lm", "--set lm.checkpoint="
        )
        emb = load_checkpoint(path, "diffusion-lm").network.get_parameter("embedding.weight")
        self.check(emb)
        return emb.detach()
