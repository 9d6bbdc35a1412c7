"""Attention kernels: which one a model computes with while it is trained, and which otherwise."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder, MPNetModel, MPNetSelfAttention

from stages.core.models.families import family_of

FULL_PRECISION = "sdpa_fp32"
MASKED = "sdpa_masked"


def full_precision_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute attention in torch's fused kernel and in fp32, under autocast too.

    Queries, keys and values are (B, heads, L, head width), the mask is (B, 1, L, L) and true where a token is read; the
    context, (B, L, heads, head width), has the queries' type again. See `set_training_kernel` for what it saves.
    """
    with torch.autocast(query.device.type, enabled=False):
        context, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return context.to(query.dtype), None


def whole_mask(*arguments: Any, **options: Any) -> Tensor | None:
    """Make the mask that torch's fused attention takes, (B, 1, L, L), for windows without padding too.

    To leave it out there, as transformers does, a GPU has to be asked whether there is any.
    """
    return sdpa_mask(*arguments, **{**options, "allow_is_bidirectional_skip": False})


AttentionInterface.register(FULL_PRECISION, full_precision_attention)
AttentionMaskInterface.register(FULL_PRECISION, sdpa_mask)
AttentionInterface.register(MASKED, sdpa_attention_forward)
AttentionMaskInterface.register(MASKED, whole_mask)


def set_training_kernel(model: nn.Module, device: torch.device) -> None:
    """Choose the attention kernel for training: a fused one, on a CPU in fp32; MPNet on a CPU keeps its plain one.

    On a GPU nothing in it makes the host wait, so that it can be recorded.

    A CPU's time goes into moving scores, (B, heads, L, L), which the fused kernel never writes down. Its bf16 version
    is the slower one backwards. `python -m profiles.update_times --beside eager` has the ratio.
    """
    model = cast(PreTrainedModel, model)
    on_cuda = device.type == "cuda"
    kernel = family_of(model).attention_kernel
    fused = MASKED if on_cuda else FULL_PRECISION
    model.set_attn_implementation(fused if kernel == "sdpa" else kernel)
    fuse_mpnet(model, on_cuda)


def set_inference_kernel(model: nn.Module) -> None:
    """Go back to the family's own kernel."""
    model = cast(PreTrainedModel, model)
    model.set_attn_implementation(family_of(model).attention_kernel)
    fuse_mpnet(model, False)


def fuse_mpnet(model: nn.Module, fused: bool) -> None:
    """Let an MPNet compute with torch's fused attention, or again as transformers does; other families are left alone.

    Transformers adds MPNet's position bias to the scores itself, in six passes over (B, heads, L, L), and has no other
    kernel. Nothing in the fused one is copied from the host, so that it can be recorded. Weights, hooks and copies of
    the model do not notice: only the classes of its modules change.
    """
    pairs = ((MPNetSelfAttention, FusedAttention), (MPNetEncoder, FusedEncoder), (MPNetModel, FusedModel))
    for module in model.modules():
        for plain, quick in pairs:
            if type(module) in (plain, quick):
                module.__class__ = quick if fused else plain


class FusedAttention(MPNetSelfAttention):
    """MPNet's attention in one kernel, which takes position bias and mask, added up, for its mask."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        output_attentions: bool = False,
        **_: Any,
    ) -> tuple[Tensor]:
        """Return the block's output (B, L, width) for states of that size.

        `position_bias` is (1, heads, L, L), `attention_mask` (B, 1, 1, L) and true where a token is read.
        """
        assert not output_attentions and position_bias is not None
        by_head = (*hidden_states.shape[:-1], -1, self.attention_head_size)
        query, key, value = (part(hidden_states).view(by_head).transpose(1, 2) for part in (self.q, self.k, self.v))
        # Rounded first: what is (B, heads, L, L) is then written once, and in two bytes under autocast.
        added = position_bias.to(query.dtype)
        if attention_mask is not None:
            added = added.masked_fill(~attention_mask, torch.finfo(added.dtype).min)
        dropped = self.dropout.p if self.training else 0.0
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropped)
        return (self.o(context.transpose(1, 2).flatten(2)),)


class FusedEncoder(MPNetEncoder):
    """MPNet's encoder with one position bias for all windows, not a copy for each."""

    def compute_position_bias(self, x: Tensor, position_ids: Tensor | None = None, num_buckets: int = 32) -> Tensor:
        """Return the bias, (1, heads, L, L), for states (B, L, width)."""
        assert position_ids is None
        places = torch.arange(x.shape[1], device=x.device)
        buckets = self.relative_position_bucket(places[None, :] - places[:, None], num_buckets=num_buckets)  # type: ignore[no-untyped-call]
        bias: Tensor = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        return bias


class FusedModel(MPNetModel):  # type: ignore[no-untyped-call]
    """MPNet's embeddings and encoder, with a mask of its own: for that of transformers a value comes from the host."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Take the mask, (B, L) and nonzero where a token is read, and hand it on in the shape of scores."""
        if attention_mask is not None:
            attention_mask = attention_mask[:, None, None, :].bool()
        return super().forward(input_ids, attention_mask=attention_mask, **options)
