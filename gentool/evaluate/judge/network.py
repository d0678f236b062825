"""The GPT-2 of transformers as the judge's network."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model

from gentool.evaluate.judge import ModelConfig


class JudgeTransformer(nn.Module):
    """logits = JudgeTransformer(ids): ids [B, L] -> [B, L, V], of the token after each position."""

    def __init__(self, config: ModelConfig, vocabulary: int, length: int) -> None:
        super().__init__()
        self.transformer = GPT2Model(
            GPT2Config(
                vocab_size=vocabulary,
                n_positions=length,
                n_embd=config.hidden,
                n_layer=config.layers,
                n_head=config.heads,
                resid_pdrop=config.dropout,
                embd_pdrop=config.dropout,
                attn_pdrop=config.dropout,
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    def forward(self, ids: Tensor) -> Tensor:
        h = self.transformer(input_ids=ids).last_hidden_state  # [B, L, H]
        # The head is the table of embeddings itself, as in GPT-2: one tensor, not two that share.
        return F.linear(h, self.transformer.wte.weight)
