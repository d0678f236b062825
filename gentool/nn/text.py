"""Captions for networks that draw: rows of tokens, and a vector per token and one per caption.

A caption is bos, its tokens, eos, padding. No caption is the empty one, which has no tokens between
bos and eos: it stands in where training drops a condition, and where sampling is given none.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UsageError
from gentool.nn.attention import EncoderLayer
from gentool.nn.config import TextConfig
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.huggingface import HuggingFace, translated


class Encoded(NamedTuple):
    """Captions as a network is told of them."""

    sequence: Tensor  # [B, L, D], a vector per token
    mask: Tensor  # bool [B, L], False at padding
    pooled: Tensor  # [B, D], a vector per caption


class Captions:
    """From captions to what a `TextEncoder` takes."""

    def __init__(self, config: TextConfig, tokenizer: Tokenizer) -> None:
        """Raises as `Pretrained` does, and UsageError for rows longer than that one reads."""
        self.config, self.tokenizer = config, tokenizer
        named = config.encoder == "pretrained"
        self.pretrained = Pretrained(config.name, config.revision) if named else None
        if self.pretrained and config.length > self.pretrained.longest:
            raise UsageError(
                f"model.text.length {config.length}: {config.name} reads at most "
                f"{self.pretrained.longest} tokens",
                f"--set model.text.length={self.pretrained.longest}",
            )
        # A pretrained encoder has begin and end tokens of its own; T5 has none to begin with.
        if isinstance(tokenizer, HuggingFace) and named:
            self._around = tokenizer.around()
        else:
            self._around = [tokenizer.special("bos")], [tokenizer.special("eos")]
        self.null = self.rows([""])  # [1, L], no caption

    def rows(self, captions: Sequence[str]) -> Tensor:
        """Token ids [B, L]. A caption that is too long loses what is before its end token."""
        before, after = self._around
        rows = torch.full((len(captions), self.config.length), self.tokenizer.special("pad"))
        for row, caption in zip(rows, captions, strict=True):
            ids = before + self.tokenizer.encode(caption)
            ids = ids[: self.config.length - len(after)] + after
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def told(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What `TextEncoder` is given of rows [B, L]: the ids, or with a pretrained encoder its
        vectors [B, L, F]; and the mask, bool [B, L]."""
        mask = rows != self.tokenizer.special("pad")
        return (self.pretrained.vectors(rows, mask) if self.pretrained else rows), mask

    def encoder(self) -> "TextEncoder":
        """A fresh network for these captions."""
        size = self.tokenizer.size
        return TextEncoder(self.config, size, self.pretrained.width if self.pretrained else 0)


class TextEncoder(nn.Module):
    """Encoded = TextEncoder(tokens, mask); tokens are ids [B, L], or vectors [B, L, F].

    Of ids: a convolution over neighbours and a small pre-norm transformer. Of vectors, which a
    pretrained encoder has made: a projection to the width that the network wants. The pooled
    vector is the mean over tokens.
    """

    def __init__(self, config: TextConfig, vocabulary: int, features: int = 0) -> None:
        """features: F; 0 for ids."""
        super().__init__()
        D = config.width
        if features:
            self.tokens: nn.Module = nn.Linear(features, D)
            self.layers = nn.ModuleList()
        else:
            self.tokens = nn.Embedding(vocabulary, D)
            self.positions = nn.Parameter(0.02 * torch.randn(config.length, D))
            # Which words belong together is a matter of neighbours. Attention alone, trained by
            # what a picture gives away of its caption, stays a bag of words for very long.
            self.nearby = nn.Conv1d(D, D, 9, padding=4)
            # Captions say how a picture is to be, in few words: there is nothing to drop out.
            self.layers = nn.ModuleList(
                EncoderLayer(D, config.heads, dropout=0.0, norm_first=True)
                for _ in range(config.layers)
            )
        self.norm = nn.LayerNorm(D)
        self.pool = nn.Linear(D, D)

    def forward(self, tokens: Tensor, mask: Tensor) -> Encoded:
        kept = mask[:, :, None]  # [B, L, 1]
        h = self.tokens(tokens)  # [B, L, D]
        if self.layers:
            h = (h + self.positions) * kept
            h = h + F.gelu(self.nearby(h.transpose(1, 2))).transpose(1, 2)
        for layer in self.layers:
            h = layer(h, ~mask)
        h = self.norm(h)
        mean = (h * kept).sum(dim=1) / kept.sum(dim=1)  # [B, D]
        return Encoded(h, mask, self.pool(mean))


class Pretrained:
    """A frozen text encoder of transformers; its weights are not part of any checkpoint."""

    def __init__(self, name: str, revision: str = "") -> None:
        """Raises NotFoundError, MachineError (no network) or BadCheckpointError."""
        self.model, commit = _load(name, revision)
        self.revision = commit or revision  # of a name on the Hub, where branches move
        self.width = int(self.model.config.hidden_size)
        # T5 has no positions of its own, and no limit.
        self.longest = int(getattr(self.model.config, "max_position_embeddings", 1 << 30))
        self.hash = _digest(self.model)  # SHA-256

    @torch.no_grad()
    def vectors(self, rows: Tensor, mask: Tensor) -> Tensor:
        """What it makes of token ids [B, L]: float32 [B, L, F], on the device of `rows`."""
        self.model.to(rows.device)
        with torch.autocast(rows.device.type, enabled=False):
            ids = rows.masked_fill(~mask, 0)  # our padding may be beyond its vocabulary
            found = self.model(input_ids=ids, attention_mask=mask.long())
        return found.last_hidden_state.float()


def _load(name: str, revision: str) -> tuple[Any, str | None]:
    """The model, and on the Hub the commit that it is of."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        file = transformers.utils.cached_file(name, "config.json", revision=revision or "main")
        commit = transformers.utils.extract_commit_hash(file, None)  # None of a folder
        given = {"revision": commit or revision or "main", "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(name, **given)
        # Of models of two parts, the one that reads text.
        encoder = {
            "t5": "T5EncoderModel",
            "clip": "CLIPTextModel",
            "clip_text_model": "CLIPTextModel",
        }
        kind = getattr(transformers, encoder.get(config.model_type, "AutoModel"))
        model = kind.from_pretrained(name, use_safetensors=True, **given)
    except Exception as error:  # of transformers, huggingface_hub, safetensors and the network
        raise translated(error, name, "text encoder") from None
    return model.float().eval().requires_grad_(False), commit


def _digest(model: Any) -> str:
    """SHA-256 over name, shape and bytes of every weight, in order of name."""
    made = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        made.update(f"{name}\0{tuple(tensor.shape)}\0".encode())
        made.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()
