"""Attention weights of timm's vision transformers, whose fused kernels never form them."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from data.errors import UserError


def missing_attention(vit: nn.Module) -> str:
    """What a timm network lacks for its class token's attention to be had; empty where it lacks nothing.

    ViT, DeiT, DINO, CLIP's and hybrid ViTs lack nothing, nor do EVA-02, DINOv3 and BEiT, with rotary or relative
    positions; whether the head reads the class token is another matter (`vit.global_pool`).
    """
    from timm.layers import Attention, AttentionRope  # imported late: timm takes a second
    from timm.models import beit, eva, vision_transformer_relpos

    # Those that hand each softmax to `attn_drop` where `fused_attn` is off.
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
    return ""


def timm_attention_weights(vit: nn.Module, images: Tensor) -> list[Tensor]:
    """Attention weights of every block of a timm vision transformer, lowest first.

    Its own code computes them, with the fused kernels off and outside autocast, so that norms, scales, rotary
    positions and biases are all in them.

    Args:
        vit: a network of which `missing_attention` says nothing, in evaluation mode; compiled or not.
        images: [B, 3, H, W], normalised as it expects.

    Returns:
        One [B, heads, T, T] float32 a block, whose rows sum to 1; the first `vit.num_prefix_tokens` tokens are the
        class token and the like, the others the patches, row by row.

    Raises:
        UserError: it has no such attention; the line says what is missing.
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
