"""Flat logits: in the windows' order, without padding, whatever the batch."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stages.core.data.windows import Windows
from stages.core.qa.inference import evaluating, predict_logits

LENGTHS = [5, 9, 3, 9, 7]


class Echo(nn.Module):
    """Answers each token with a number of its own; in training mode, with noise."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        assert not torch.is_grad_enabled()
        assert attention_mask.shape == input_ids.shape
        logits = self.dropout(self.table(input_ids))
        return SimpleNamespace(start_logits=logits[..., 0], end_logits=logits[..., 1])


def windows() -> Windows:
    tokens = torch.arange(1, sum(LENGTHS) + 1, dtype=torch.int32)
    zeros = torch.zeros(len(LENGTHS), dtype=torch.int64)
    return Windows(
        question_ids=tuple(f"q{number}" for number in range(len(LENGTHS))),
        input_ids=tokens,
        token_type_ids=torch.zeros_like(tokens),
        offset_mapping=torch.zeros(len(tokens), 2, dtype=torch.int32),
        row_splits=torch.tensor([0, *LENGTHS]).cumsum(0),
        context_start=zeros + 1,
        context_stop=torch.tensor(LENGTHS) - 1,
        start_positions=zeros,
        end_positions=zeros,
        metadata={"pad_token_id": "0", "uses_token_types": "False"},
    )


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_token_has_its_own_logits(batch_size: int) -> None:
    model = Echo()
    start, end = predict_logits(model, windows(), batch_size=batch_size, device=torch.device("cpu"), precision="fp32")
    wanted = model.table.weight.detach()[1 : sum(LENGTHS) + 1]
    assert torch.equal(start, wanted[:, 0])
    assert torch.equal(end, wanted[:, 1])


def test_bf16_gives_float32_on_the_cpu() -> None:
    class Linear(Echo):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
            logits = self.table(input_ids) @ torch.eye(2)
            assert logits.dtype == torch.bfloat16
            return SimpleNamespace(start_logits=logits[..., 0], end_logits=logits[..., 1])

    start, end = predict_logits(Linear(), windows(), batch_size=4, device=torch.device("cpu"), precision="bf16")
    assert start.dtype == end.dtype == torch.float32


def test_each_module_gets_its_mode_back() -> None:
    model = Echo().train()
    model.table.eval()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert model.training
    assert model.dropout.training
    assert not model.table.training
