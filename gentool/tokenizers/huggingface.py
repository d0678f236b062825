"""Any fast tokenizer of Hugging Face, by name or folder.

What it knows is kept as its `tokenizer.json`, which other libraries read too. transformers finds
and converts it the first time; from then on the small library beneath (tokenizers) is enough.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from gentool.errors import (
    BadCheckpointError,
    GentoolError,
    MachineError,
    NotFoundError,
    UsageError,
)
from gentool.streams import clean
from gentool.tokenizers import SPECIALS
from gentool.tokenizers.folder import Contents, Stored

# Who may claim a token first where a tokenizer has one for several purposes (GPT-2: <|endoftext|>).
_NAMES = {
    "eos": ("eos_token_id", "sep_token_id"),
    "bos": ("bos_token_id", "cls_token_id"),
    "pad": ("pad_token_id",),
    "mask": ("mask_token_id",),
    "unk": ("unk_token_id",),
}


class HuggingFace(Stored):
    """A tokenizer.json; special tokens it does not have come after its vocabulary."""

    def __init__(self, contents: Contents) -> None:
        """Raises BadCheckpointError if tokenizer.json is not one."""
        super().__init__(contents)
        try:
            self._model = tokenizers.Tokenizer.from_str(contents.data.decode("utf-8"))
        except Exception as error:  # the library raises no other class
            raise BadCheckpointError(f"tokenizer.json cannot be read: {error}") from None
        self._known = _vocabulary_end(self._model)
        if not self._known <= self.size <= self._known + len(SPECIALS):
            raise BadCheckpointError(f"tokenizer.json has {self._known} tokens, not {self.size}")
        self._model.encode_special_tokens = True  # as ordinary text
        self._unk = self._model.id_to_token(self.special("unk"))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without what the tokenizer would add around it."""
        return self._encode(clean(text))

    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer's own model wants before and after a text."""
        found = self._model.encode("a", add_special_tokens=True)
        is_text = [not special for special in found.special_tokens_mask]
        start, end = is_text.index(True), len(is_text) - is_text[::-1].index(True)
        return list(found.ids[:start]), list(found.ids[end:])

    def _encode(self, text: str) -> list[int]:
        found = self._model.encode(text, add_special_tokens=False)
        ids = list(found.ids)
        # Some models know special tokens as ordinary words too (T5: "</s>"). Cut in two, such a
        # word is text.
        cuts = [0]
        for place, (id, (start, end)) in enumerate(zip(ids, found.offsets, strict=True)):
            written = id in self._specials and (
                id != self.special("unk") or text[start:end].strip() == self._unk
            )
            if written and end - start > 1:
                cuts.append((start + end) // 2)
            elif written:
                ids[place] = self.special("unk")
        if len(cuts) == 1:
            return ids
        parts = zip(cuts, [*cuts[1:], len(text)], strict=True)
        return [id for start, end in parts for id in self._encode(text[start:end])]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens say nothing, nor those that only this kind has."""
        kept = [int(id) for id in ids if id not in self._specials]
        return str(self._model.decode(kept, skip_special_tokens=True))

    def _token(self, id: int) -> str:
        return self._model.id_to_token(id) or ""


def pretrained(name: str, revision: str) -> HuggingFace:
    """The tokenizer that `name` is on the Hub, or in the folder `name`. Runs none of its code.

    Raises NotFoundError, MachineError (no network), UsageError (it needs its own code) or
    BadCheckpointError.
    """
    import transformers

    local = Path(name).is_dir()
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            name,
            revision=revision or "main",
            use_fast=True,
            trust_remote_code=False,
            local_files_only=local,
        )
    except Exception as error:  # of transformers, huggingface_hub, tokenizers and the network
        raise translated(error, name, "tokenizer") from None
    if not getattr(found, "is_fast", False):
        raise UsageError(f"{name} has no fast tokenizer (tokenizer.json)", "choose another")
    model = tokenizers.Tokenizer.from_str(found.backend_tokenizer.to_str())
    model.no_truncation()
    model.no_padding()
    if getattr(model.model, "dropout", None):
        model.model.dropout = None  # BPE with random merges
    data = model.to_str(pretty=True).encode()
    size = _vocabulary_end(model)
    specials = _specials(found, json.loads(data)["model"], model)
    for special in SPECIALS:
        if special not in specials:
            specials[special] = size
            size += 1
    ordered = {special: specials[special] for special in SPECIALS}
    return HuggingFace(Contents("huggingface", size, ordered, {}, data))


def _specials(found: Any, description: dict[str, Any], model: Any) -> dict[str, int]:
    """Those of SPECIALS that the tokenizer has, each with an id of its own."""
    specials: dict[str, int] = {}
    # What the model writes for the unknown is `unk`, whatever it is called.
    unknown = description.get("unk_id")
    if unknown is None and description.get("unk_token"):
        unknown = model.token_to_id(description["unk_token"])
    if unknown is not None:
        specials["unk"] = unknown
    for special, attributes in _NAMES.items():
        for attribute in attributes:
            id = getattr(found, attribute, None)
            if special not in specials and id is not None and id not in specials.values():
                specials[special] = id
    return specials


def _vocabulary_end(model: Any) -> int:
    """One more than the largest id; there may be gaps."""
    return max(model.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def translated(error: BaseException, name: str, what: str) -> GentoolError:
    """What a failure of transformers to load `what` ("tokenizer") from `name` means to the user."""
    local = Path(name).is_dir()
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    classes = {type(cause).__name__ for cause in causes}
    message = next(iter(str(error).splitlines()), "") or type(error).__name__
    if "trust_remote_code" in str(error):
        return UsageError(f"{name} needs code that comes with it, which is never run")
    if local:
        return BadCheckpointError(f"{name} is no {what} of transformers: {message}")
    first, *rest = Path(name).parts
    in_folder = bool(rest) and Path(first).is_dir()  # a path, then, and no name on the Hub
    if in_folder or classes & {
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
        "HFValidationError",
    }:
        return NotFoundError(f"no {what} {name!r}, neither a folder nor on the Hub")
    if classes & {"GatedRepoError"}:
        return NotFoundError(f"{name} is for those who asked for access", "hf auth login")
    if classes & {"LocalEntryNotFoundError", "ConnectError", "ConnectionError", "ReadTimeout"}:
        return MachineError(f"{name} cannot be reached and is not cached", "is there a network?")
    return BadCheckpointError(f"{name} cannot be used as a {what}: {message}")
