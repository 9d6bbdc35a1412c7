"""The self-tests that a broken QA pipeline does not pass: each catches mistakes that leave everything running.

(The first two, labels that decode and the windows' oracle, are measured on every run by `prepare`.)
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer, PreTrainedModel

from stages.core.data.batches import ordered_batches
from stages.core.data.examples import read_squad, sample
from stages.core.data.logits import load_logits, save_logits
from stages.core.data.prepared import Questions
from stages.core.data.windows import Windows, make_windows
from stages.core.models.encoder import build_qa_model, cut_layers, make_config
from stages.core.qa.chance import chance_floor
from stages.core.qa.decoding import DecodeParams
from stages.core.qa.evaluation import answer, quality, score_model
from stages.core.qa.inference import predict_logits
from stages.core.qa.scoring import score
from stages.core.runtime import seed_everything
from stages.core.training.fit import TrainingSet, fit
from stages.core.training.losses import DistillationLoss, IntermediateLoss, LabelLoss
from tests.toy_models import BERT_SPECIAL, VOCABULARY_SIZE, toy_config
from tests.toy_questions import toy_questions
from tests.toy_training import CPU, fit_params

DECODE = DecodeParams(n_best=20, max_answer_length=30)
PRIMER = Path(__file__).parents[1] / "data" / "primer" / "train.json"


def word_tokenizer(texts: list[str]) -> BertTokenizer:
    """A tokenizer that knows every word of the texts."""
    plain = BertTokenizer(vocab={piece: number for number, piece in enumerate(BERT_SPECIAL)}).backend_tokenizer
    words = {
        word for text in texts for word, _ in plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(text))
    }
    return BertTokenizer(vocab={piece: number for number, piece in enumerate([*BERT_SPECIAL, *sorted(words)])})


def primer_questions(count: int) -> tuple[Questions, int]:
    """Real questions drawn over all articles, and the size of the vocabulary."""
    examples = sample(read_squad(PRIMER), count, seed=1)
    tokenizer = word_tokenizer([text for example in examples for text in (example.context, example.question)])
    return Questions(examples, make_windows(examples, tokenizer, max_length=256, doc_stride=64, token_types=True)), len(
        tokenizer
    )


def small_model(vocabulary: int) -> PreTrainedModel:
    seed_everything(1)
    fields = toy_config("bert", layers=2, width=64, neurons=128).to_dict()
    torch.manual_seed(1)
    return build_qa_model(make_config({**fields, "vocab_size": vocabulary}))


@pytest.fixture(scope="module")
def overfit(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Questions]:
    questions, vocabulary = primer_questions(32)
    model = small_model(vocabulary)
    assert f1_of(model, questions) < 20, "knows the answers before it has learnt them"
    params = fit_params(epochs=25, batch_size=8, learning_rate=3e-3, checkpoint_steps=1000)
    scratch = tmp_path_factory.mktemp("overfit")
    fit(model, LabelLoss(), TrainingSet(questions.windows), params, CPU, scratch=scratch, name="run")
    return model, questions


def f1_of(model: PreTrainedModel, questions: Questions) -> float:
    return quality(score_model(model, questions, DECODE, CPU.device, 8))["f1"]


def test_32_examples_are_learnt_by_heart(overfit: tuple[PreTrainedModel, Questions]) -> None:
    assert f1_of(*overfit) > 95


@pytest.mark.parametrize(("max_length", "least_f1"), [(256, 95), (96, 15)])
def test_the_cache_answers_as_the_live_teacher(
    overfit: tuple[PreTrainedModel, Questions], tmp_path: Path, max_length: int, least_f1: float
) -> None:
    """Windows as learnt, then shorter ones, several a question, which the teacher is less sure of."""
    teacher, learnt = overfit
    tokenizer = word_tokenizer([text for each in learnt.examples for text in (each.context, each.question)])
    windows = make_windows(learnt.examples, tokenizer, max_length=max_length, doc_stride=16, token_types=True)
    questions = Questions(learnt.examples, windows)
    live = predict_logits(teacher, windows, batch_size=8, device=CPU.device, precision="fp32")
    save_logits(tmp_path / "cache.safetensors", live, windows, "teacher")
    cached = load_logits(tmp_path / "cache.safetensors", windows, "teacher")
    found = quality(score(questions.examples, answer(questions, cached, DECODE)))
    assert found == quality(score(questions.examples, answer(questions, live, DECODE)))
    assert found == quality(score_model(teacher, questions, DECODE, CPU.device, 3))
    assert found["f1"] > least_f1, "a teacher that knows nothing proves nothing"


def test_a_student_of_all_layers_is_its_teacher(overfit: tuple[PreTrainedModel, Questions]) -> None:
    teacher, questions = overfit
    student = cut_layers(teacher, range(2))
    live = predict_logits(teacher, questions.windows, batch_size=8, device=CPU.device, precision="fp32")
    halved = live[0].half(), live[1].half()
    for logits, most in ((live, 1e-9), (halved, 1e-4)):
        for batch in ordered_batches(questions.windows, 8, logits):
            loss = IntermediateLoss(DistillationLoss(2.0, 1.0), student, teacher, [(0, 0), (1, 1), (2, 2)], 1.0)
            terms = loss(student, batch)
            assert abs(terms["soft"].item()) <= most
            assert terms["hidden"].item() == 0
    assert f1_of(student, questions) == f1_of(teacher, questions)


def with_shuffled_labels(windows: Windows) -> Windows:
    """Give every window the answer position of another one, counted from the start of the paragraph."""
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(1))
    places = (windows.start_positions - windows.context_start)[order]
    positions = windows.context_start + places % (windows.context_stop - windows.context_start)
    return replace(windows, start_positions=positions, end_positions=positions)


@pytest.mark.parametrize("labels", ["true", "shuffled"])
def test_shuffled_labels_teach_no_more_than_chance(tmp_path: Path, labels: str) -> None:
    train, unseen = (toy_questions(tmp_path / "tokenizer", count, seed=count) for count in (300, 200))
    windows = train.windows if labels == "true" else with_shuffled_labels(train.windows)
    model = small_model(VOCABULARY_SIZE)
    params = fit_params(epochs=4, batch_size=8, learning_rate=3e-3, checkpoint_steps=1000)
    fit(model, LabelLoss(), TrainingSet(windows), params, CPU, scratch=tmp_path, name="run")
    floor = chance_floor(unseen.examples, draws=20, seed=1).f1
    assert 5 < floor < 10
    found = f1_of(model, unseen)
    assert found > 95 if labels == "true" else found < floor + 5
