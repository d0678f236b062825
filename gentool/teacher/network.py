"""The Marian of transformers as the teacher's network."""

from typing import Any

from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from gentool.nn.config import EncoderDecoderConfig


class TeacherTransformer(nn.Module):
    """logits = TeacherTransformer(src_ids, is_source, tgt_ids): those of the token after each of
    tgt_ids [B, L], [B, L, V]; src_ids [B, S], is_source bool [B, S] (no padding).

    Embeddings of the targets and the output are one table, with a joint vocabulary also that of the
    sources. A state dict holds each table once.
    """

    def __init__(
        self,
        config: EncoderDecoderConfig,
        tgt_size: int,
        src_size: int,
        length: int,
        specials: tuple[int, int, int],
    ) -> None:
        """src_size: tokens of the sources' own vocabulary, 0 if it is that of the targets. length:
        tokens of a source or target at the most. specials: ids of padding, begin and end."""
        super().__init__()
        pad, bos, eos = specials
        self.marian: Any = MarianMTModel(
            MarianConfig(
                vocab_size=src_size or tgt_size,
                decoder_vocab_size=tgt_size,
                share_encoder_decoder_embeddings=not src_size,
                d_model=config.hidden,
                encoder_ffn_dim=config.feedforward,
                decoder_ffn_dim=config.feedforward,
                encoder_layers=config.encoder_layers,
                decoder_layers=config.decoder_layers,
                encoder_attention_heads=config.heads,
                decoder_attention_heads=config.heads,
                dropout=config.dropout,
                attention_dropout=0.0,
                activation_dropout=0.0,
                activation_function="gelu",
                scale_embedding=True,
                max_position_embeddings=length + 1,  # a target begins with bos
                pad_token_id=pad,
                bos_token_id=bos,
                decoder_start_token_id=bos,
                eos_token_id=eos,
                forced_eos_token_id=None,
            )
        )
        self._joint = not src_size
        self.register_state_dict_post_hook(_leave_out)
        self.register_load_state_dict_pre_hook(_put_back)

    def forward(self, src_ids: Tensor, is_source: Tensor, tgt_ids: Tensor) -> Tensor:
        logits: Tensor = self.marian(
            input_ids=src_ids,
            attention_mask=is_source.long(),
            decoder_input_ids=tgt_ids,
            use_cache=False,
        ).logits
        return logits

    def doubled(self) -> dict[str, str]:
        """Names of a state dict that are left out, and those under which their tensors are."""
        targets = "marian.model.decoder.embed_tokens.weight"
        if not self._joint:
            return {"marian.lm_head.weight": targets}
        sources = "marian.model.encoder.embed_tokens.weight"
        others = ("marian.lm_head.weight", sources, targets)
        return dict.fromkeys(others, "marian.model.shared.weight")


def _leave_out(
    network: nn.Module, state: dict[str, Tensor], prefix: str, local_metadata: object
) -> None:
    assert isinstance(network, TeacherTransformer)
    for name in network.doubled():
        del state[prefix + name]


def _put_back(network: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    assert isinstance(network, TeacherTransformer)
    for name, other in network.doubled().items():
        if prefix + other in state:
            state[prefix + name] = state[prefix + other]
