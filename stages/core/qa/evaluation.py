"""A model and questions in, answers and quality out: what training judges on dev and evaluation on test."""

import torch
from torch import nn

from stages.core.data.batches import FlatLogits
from stages.core.data.prepared import Questions
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import Scores, score
from stages.core.qa.significance import bootstrap_interval
from stages.core.qa.spans import best_texts, predict_answers

DECODE_BATCH = 64  # windows whose spans are searched at once; no result depends on it


def answer(questions: Questions, logits: FlatLogits, decode: DecodeParams) -> dict[str, str]:
    """Return the best answer text of every question from the flat logits (N,) of its windows."""
    candidates = predict_answers(
        questions.examples,
        questions.windows,
        *logits,
        n_best=decode.n_best,
        max_answer_length=decode.max_answer_length,
        batch_size=DECODE_BATCH,
    )
    return best_texts(candidates)


def answer_with(
    model: nn.Module, questions: Questions, decode: DecodeParams, device: torch.device, batch_size: int
) -> dict[str, str]:
    """Let a model answer, in float32; returns id to text."""
    model.to(device)
    logits = predict_logits(model, questions.windows, batch_size=batch_size, device=device, precision="fp32")
    return answer(questions, logits, decode)


def score_model(
    model: nn.Module, questions: Questions, decode: DecodeParams, device: torch.device, batch_size: int
) -> Scores:
    """Let a model answer, in float32, and score its answers by the official SQuAD v1.1 definition."""
    return score(questions.examples, answer_with(model, questions, decode, device, batch_size))


def quality(scores: Scores) -> dict[str, float]:
    """Return exact_match and f1, the means over questions in percent, as every metrics file has them."""
    return {"exact_match": round(scores.mean_exact_match, 4), "f1": round(scores.mean_f1, 4)}


def quality_with_intervals(
    questions: Questions, answers: dict[str, str], *, resamples: int, seed: int
) -> dict[str, float]:
    """Return exact_match and f1 with the bounds of their 95 % intervals (paragraphs resampled), and questions."""
    scores = score(questions.examples, answers)
    paragraphs = [example.context for example in questions.examples]
    found: dict[str, float] = {"questions": len(questions.examples)}
    for name, values in (("exact_match", scores.exact_match), ("f1", scores.f1)):
        interval = bootstrap_interval(values, paragraphs, resamples=resamples, seed=seed)
        bounds = {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        found |= {key: round(value, 4) for key, value in bounds.items()}
    return found
