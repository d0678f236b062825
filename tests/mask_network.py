"""A small network of Mask-Predict."""

import torch

from gentool.backends.mask_predict import ModelConfig
from gentool.backends.mask_predict.network import MaskPredictTransformer

PAD, MASK, V, LONGEST = 0, 4, 23, 12
SMALL = ModelConfig(hidden=16, feedforward=32, encoder_layers=2, decoder_layers=2, heads=4)


def network(seed=0, src_size=0):
    """A small network whose weights are large enough to prefer some tokens."""
    torch.manual_seed(seed)
    net = MaskPredictTransformer(SMALL, V, src_size, LONGEST, (PAD, PAD)).eval()
    for parameter in net.parameters():
        parameter.data *= 8
    return net
