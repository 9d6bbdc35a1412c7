"""Small models of all five families with random weights, and small real tokenizers to go with them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import (
    BertTokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from stages.core.models.encoder import build_qa_model, load_tokenizer, make_config
from stages.core.models.families import FAMILIES
from stages.core.models.shapes import shrink

FAMILY_NAMES = tuple(FAMILIES)
TEXT = (
    "the a of in and to is was who what when where which did how many river town king bridge stone year built city "
    "it on by from north south old new first last two three hundred castle sea trade ship queen war book school"
)
WORDS = TEXT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
VOCABULARY_SIZE = 400  # room for any toy tokenizer
POSITIONS = 256
MPNET_SPECIAL = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# Each family with each attention kernel it has: MPNet has no fused one.
FAMILY_KERNELS = [
    (family, kernel) for family in FAMILY_NAMES for kernel in sorted({"eager", FAMILIES[family].attention_kernel})
]


def toy_config(family: str, *, layers: int = 3, width: int = 32, heads: int = 4, neurons: int = 64) -> PreTrainedConfig:
    """A config of `family` small enough for milliseconds a forward."""
    sizes: dict[str, int] = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": neurons,
    }
    if family == "distilbert":
        sizes = {"n_layers": layers, "dim": width, "n_heads": heads, "hidden_dim": neurons}
    if family == "electra":
        sizes["embedding_size"] = width // 2  # so that its extra projection is there
    if family == "roberta":
        sizes["type_vocab_size"] = 1
    sizes["pad_token_id"] = 1 if family in ("roberta", "mpnet") else 0
    return make_config(
        {"model_type": family, "vocab_size": VOCABULARY_SIZE, "max_position_embeddings": POSITIONS, **sizes}
    )


def toy_qa_model(
    family: str, seed: int, layers: int = 3, width: int = 32, heads: int = 4, neurons: int = 64, kernel: str = ""
) -> PreTrainedModel:
    """A model of `family` in eval mode, every weight drawn from `seed` and large enough to matter."""
    model = build_qa_model(toy_config(family, layers=layers, width=width, heads=heads, neurons=neurons))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            centre = 1.0 if "LayerNorm.weight" in name or "layer_norm.weight" in name else 0.0
            weight.copy_(torch.empty(weight.shape).normal_(centre, 0.2, generator=generator))
    if kernel:
        model.set_attn_implementation(kernel)
    return model


def toy_pruned_model(family: str, seed: int) -> PreTrainedModel:
    """A toy model whose three layers have different numbers of heads and neurons."""
    model = toy_qa_model(family, seed)
    shrink(model, [[1, 3], [0, 1, 2, 3], [2]], [range(0, 64, 2), range(8), range(64)])
    return model


def toy_emptied_model(family: str, seed: int) -> PreTrainedModel:
    """A toy model whose first layer has no neurons left, whose second has no heads, and whose third has neither."""
    model = toy_qa_model(family, seed)
    shrink(model, [[1, 3], [], []], [[], range(8), []])
    return model


def toy_inputs(family: str, seed: int = 0, lengths: tuple[int, ...] = (12, 7, 3)) -> dict[str, Tensor]:
    """Model inputs of windows of these lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    tokens = torch.randint(5, VOCABULARY_SIZE, mask.shape, generator=generator)
    padding = 1 if family in ("roberta", "mpnet") else 0
    return {"input_ids": torch.where(mask.bool(), tokens, padding), "attention_mask": mask}


def toy_tokenizer(folder: Path, family: str) -> PreTrainedTokenizerFast:
    """Write a small real tokenizer of `family` into `folder` and load it from there."""
    made = _byte_level() if family == "roberta" else _word_pieces(family)
    made.save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) <= VOCABULARY_SIZE
    return tokenizer


def _word_pieces(family: str) -> PreTrainedTokenizerFast:
    kinds: dict[str, tuple[tuple[str, ...], type[PreTrainedTokenizerFast]]] = {
        "distilbert": (BERT_SPECIAL, DistilBertTokenizer),
        "mpnet": (MPNET_SPECIAL, MPNetTokenizer),
    }
    special, kind = kinds.get(family, (BERT_SPECIAL, BertTokenizer))
    # MPNet's lacks some, so that it cuts text otherwise than BERT's.
    words = [word for number, word in enumerate(WORDS) if number % 10 or family != "mpnet"]
    pieces = [*special, *".,?!'-", *LETTERS, *(f"##{letter}" for letter in LETTERS), *words]
    return kind(
        vocab={piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, model_max_length=POSITIONS - 2
    )


def _byte_level() -> PreTrainedTokenizerFast:
    learned = Tokenizer(BPE())
    learned.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=360, initial_alphabet=ByteLevel.alphabet(), special_tokens=list(ROBERTA_SPECIAL), show_progress=False
    )
    learned.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    model = json.loads(learned.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizer(vocab=model["vocab"], merges=merges, model_max_length=POSITIONS - 2)
