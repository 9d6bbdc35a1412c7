"""Questions that a toy model learns in seconds: the answer is the one number word of its paragraph."""

import random
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from stages.core.data.examples import Answer, Example
from stages.core.data.prepared import Questions
from stages.core.data.windows import Windows, make_windows
from stages.core.models.families import FAMILIES
from tests.toy_models import toy_tokenizer

NUMBERS = ("two", "three", "hundred")
NOUNS = ("river", "town", "king", "bridge", "stone", "city", "castle", "sea", "trade", "ship", "queen", "war", "book")


def toy_examples(count: int, seed: int, *, articles: int = 1) -> list[Example]:
    """Draw `count` questions, two on each paragraph, of paragraphs of 8 to 20 words."""
    generator = random.Random(seed)
    examples: list[Example] = []
    while len(examples) < count:
        words = generator.choices(NOUNS, k=generator.randint(8, 20))
        place = generator.randrange(len(words))
        words[place] = generator.choice(NUMBERS)
        answer = Answer(words[place], len(" ".join(["", *words[:place]])))
        title = f"article {seed}.{len(examples) * articles // count}"
        for noun in generator.sample(NOUNS, 2):
            key = f"{seed}-{len(examples)}"
            examples.append(Example(key, title, " ".join(words), f"how many of the {noun} ?", (answer,)))
    return examples[:count]


def toy_questions(folder: Path, count: int, seed: int, *, family: str = "bert") -> Questions:
    """Draw questions with their windows; the tokenizer is written into `folder`."""
    examples = toy_examples(count, seed)
    return Questions(examples, windows_of_family(examples, folder, family, max_length=64, doc_stride=8))


def windows_of_family(
    examples: list[Example], folder: Path, family: str, *, max_length: int, doc_stride: int
) -> Windows:
    """Cut examples as a model of the family has them; the tokenizer is written into `folder`."""
    tokenizer, token_types = toy_tokenizer(folder, family), FAMILIES[family].token_types
    return make_windows(examples, tokenizer, max_length=max_length, doc_stride=doc_stride, token_types=token_types)


def toy_windows(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> Windows:
    return make_windows(examples, tokenizer, max_length=64, doc_stride=8, token_types=True)
