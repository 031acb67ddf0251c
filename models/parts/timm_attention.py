"""The attention weights of timm's vision transformers, which normally use fused kernels that never store them."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from data.errors import UserError

READING_POOLS = ("token", "map")  # of timm's `global_pool`: those by which the class token reaches the head


def missing_attention(vit: nn.Module) -> str:
    """Return why the attention weights of a network's class token cannot be read out; "" if they can.

    They can for ViT, DeiT, DINO, CLIP's and hybrid ViTs, and, with rotary or relative positions, for CLIP's EVA-02.
    Where the head takes the mean of the patches, as of EVA-02, DINOv3 and BEiT, nobody reads the class token.
    """
    from timm.layers import Attention, AttentionRope  # imported late: timm takes a second
    from timm.models import beit, eva, vision_transformer_relpos

    # These pass the attention weights to their module `attn_drop` if `fused_attn` is off.
    known = (Attention, AttentionRope, eva.EvaAttention, beit.Attention, vision_transformer_relpos.RelPosAttention)
    blocks = getattr(vit, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or isinstance(blocks[0], nn.Sequential):  # stages
        return f"{type(vit).__name__} is no plain transformer: it has no sequence of blocks that see every patch"
    for block in blocks:
        attention = getattr(block, "attn", None)
        if not isinstance(attention, known):
            kind = type(block if attention is None else attention).__name__
            return f"{type(vit).__name__} is made of {kind}, which shows no weights of every token for every other"
    if getattr(vit, "cls_token", None) is None:
        return f"{type(vit).__name__} has no class token here, whose attention it would be"
    if vit.global_pool not in READING_POOLS:
        return f"{type(vit).__name__} has a head here (global_pool={vit.global_pool!r}) that reads no class token"
    return ""


def timm_attention_weights(vit: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention weights of each block of a timm vision transformer, lowest first.

    The network's own code computes them, with fused kernels and autocast turned off, so that they include all of its
    norms, scales, rotary positions and biases.

    Args:
        vit: the network, in evaluation mode, compiled or not; `missing_attention` must return "" for it.
        images: [B, 3, H, W], normalised as the network expects.

    Returns:
        For each block [B, heads, T, T] float32, whose rows sum to 1. The first `vit.num_prefix_tokens` tokens are the
        class token and others such as registers; the rest are the patches, row by row.

    Raises:
        UserError: the network's attention weights cannot be read out; the message says why.
    """
    if missing := missing_attention(vit):
        raise UserError(f"{missing}: take a ViT with a class token, such as vit_base_patch16_224")
    weights: list[Tensor] = []
    layers = [block.attn for block in vit.blocks]  # type: ignore[union-attr]
    was_fused = [layer.fused_attn for layer in layers]
    with ExitStack() as stack, torch.autocast(images.device.type, enabled=False):
        for layer, fused in zip(layers, was_fused, strict=True):
            stack.callback(setattr, layer, "fused_attn", fused)
            layer.fused_attn = False
            hook = layer.attn_drop.register_forward_pre_hook(lambda _, inputs: weights.append(inputs[0].float()))
            stack.callback(hook.remove)
        vit.forward_features(images.to(next(vit.parameters()).dtype))  # type: ignore[operator]
    return weights
