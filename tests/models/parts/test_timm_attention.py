"""Attention weights of timm's vision transformers are those that their fused kernels mix values by."""

import pytest
import timm
import torch
from torch.nn import functional as F

from analysis.look.attention import class_attention
from data.errors import UserError
from models.parts.timm_attention import missing_attention, timm_attention_weights

# A class token alone, with another, with registers; norms of queries and keys; rotary and relative positions.
VITS = [
    ("vit_tiny_patch16_224", {"img_size": 64}, 1),
    ("test_vit", {}, 1),
    ("deit3_small_patch16_224", {"img_size": 64}, 1),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64}, 2),
    ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True, "scale_attn_norm": True}, 1),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, 5),
    ("vit_small_patch16_dinov3", {"img_size": 64, "global_pool": "token"}, 5),
    ("eva02_tiny_patch14_224", {"img_size": 56, "global_pool": "token"}, 1),
    ("beit_base_patch16_224", {"img_size": 64, "depth": 2, "global_pool": "token"}, 1),
    ("vit_relpos_base_patch16_clsgap_224", {"img_size": 64, "depth": 2, "global_pool": "token"}, 1),
]


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def make_vit(name, settings):
    """A ViT whose weights are so large that no attention is uniform, with two images."""
    vit = timm.create_model(name, pretrained=False, **settings).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return vit, torch.randn(2, *vit.default_cfg["input_size"][:1], *[settings.get("img_size", 160)] * 2)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("name", "settings", "num_prefix_tokens"), VITS)
def test_a_timm_vits_weights_are_those_of_its_fused_kernels(name, settings, num_prefix_tokens, monkeypatch):
    vit, images = make_vit(name, settings)
    calls = []  # values and result of each kernel of an ordinary forward pass
    fused = F.scaled_dot_product_attention

    def watched(q, k, v, **options):
        calls.append((v, fused(q, k, v, **options)))
        return calls[-1][1]

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watched)
        logits = vit(images)
    weights = timm_attention_weights(vit, images)
    assert len(weights) == len(calls) == len(vit.blocks)
    for ours, (v, mixed) in zip(weights, calls, strict=True):
        torch.testing.assert_close(ours.sum(dim=-1), torch.ones(ours.shape[:3]))
        torch.testing.assert_close(ours @ v, mixed, rtol=1e-4, atol=1e-4)
        assert ours.max() > 2 / ours.shape[-1]  # else any weights would agree
    assert vit.num_prefix_tokens == num_prefix_tokens
    assert class_attention(weights, num_prefix_tokens).shape[3] ** 2 == weights[0].shape[-1] - num_prefix_tokens
    assert torch.equal(vit(images), logits)  # the fused kernels are back, and no hook is left


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"qk_norm": True, "scale_attn_norm": True}])
def test_weights_times_values_projected_is_what_timms_attention_gives(settings):
    vit, images = make_vit("vit_tiny_patch16_224", {"img_size": 64, **settings})
    seen = []
    hooks = [
        block.attn.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out))) for block in vit.blocks
    ]
    vit(images)
    for hook in hooks:
        hook.remove()
    for block, weights, (x, out) in zip(vit.blocks, timm_attention_weights(vit, images), seen, strict=True):
        assert block.attn.fused_attn
        values = block.attn.qkv(x)[:, :, -192:]
        heads = [weights[:, head] @ values[:, :, 64 * head : 64 * (head + 1)] for head in range(3)]
        merged = block.attn.norm(torch.cat(heads, dim=2))
        torch.testing.assert_close(block.attn.proj(merged), out, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("resnet18", {}, "ResNet is no plain transformer"),
        ("swin_tiny_patch4_window7_224", {}, "SwinTransformer is no plain transformer"),
        ("test_vit2", {}, "VisionTransformer has no class token"),
        ("beitv2_base_patch16_224", {"depth": 2}, r"Beit has a head here \(global_pool='avg'\) that reads no class"),
        ("eva02_tiny_patch14_224", {"depth": 2}, "Eva has a head here .* that reads no class token"),
        ("xcit_nano_12_p16_224", {}, "Xcit is made of XCA"),
        ("vit_dwee_patch16_reg1_gap_256", {}, "made of DiffAttention"),
        ("vit_small_patch16_18x2_224", {}, "made of ParallelThingsBlock"),
        ("mixer_s32_224", {}, "made of MixerBlock"),
    ],
)
def test_a_timm_model_without_such_attention_says_in_one_line_what_is_missing(name, settings, named):
    net = timm.create_model(name, pretrained=False, **settings)
    with pytest.raises(UserError, match=named) as error:
        timm_attention_weights(net, torch.zeros(1, 3, 224, 224))
    assert "\n" not in str(error.value)
    assert missing_attention(net) in str(error.value)


@pytest.mark.slow
@torch.no_grad()
def test_timm_weights_are_float32_and_the_same_under_autocast():
    vit, images = make_vit("test_vit", {})
    expected = timm_attention_weights(vit, images)
    with torch.autocast("cpu", torch.bfloat16):
        weights = timm_attention_weights(vit, images)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, expected, strict=True))
    assert all(w.dtype == torch.float32 for w in timm_attention_weights(vit.bfloat16(), images))


def test_a_failing_forward_pass_leaves_the_fused_kernels_on():
    vit, images = make_vit("test_vit", {})
    with pytest.raises(RuntimeError):
        timm_attention_weights(vit, images[:, :2])
    assert all(block.attn.fused_attn for block in vit.blocks)
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in vit.blocks)


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_vit_gives_the_same_weights():
    vit, images = make_vit("test_vit", {"depth": 2})
    expected = timm_attention_weights(vit, images)
    vit.compile(backend="eager")
    vit(images)
    for ours, theirs in zip(timm_attention_weights(vit, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
