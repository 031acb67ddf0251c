"""Layers beside independent computations."""

import numpy as np
import torch

from models.parts.layers import SelfAttention


@torch.no_grad()
def test_own_weights_under_bf16_are_a_float32_softmax():
    torch.manual_seed(0)
    layer, x = SelfAttention(dim=24, num_heads=3, dropout=0.5).eval(), torch.randn(2, 7, 24) * 8
    with torch.autocast("cpu", torch.bfloat16):
        weights = layer.weights(x)
        q, k, _ = layer.split_heads(x)
    assert q.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    scores = q.double() @ k.double().transpose(-2, -1) / np.sqrt(8)
    torch.testing.assert_close(weights.double(), scores.softmax(dim=-1), rtol=1e-4, atol=1e-6)
