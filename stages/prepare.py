"""Raw questions -> checked examples, article-wise splits and tokenised windows.

Reads the sources named in `data`; writes train, dev and test as SQuAD v1.1 JSON, the windows of the first two, and what
it counted. Where students have an encoder with another tokenizer, train and dev are cut for that one too. Inputs
without labels, which a teacher can answer all the same, are drawn where `unlabelled` asks for them, and cloze questions
with the phrase that answers them, which a teacher learns from before it sees a label, where `data` does. A record that
is not sound stops the stage or is dropped and counted; nothing is repaired. The stage fails if labels do not decode to
the gold text, or if windows, or the longest answer that may be given, cannot hold the answers: whatever is trained on
such data learns something else than it seems.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.data.settings import WindowsParams
from stages.core.data.sources import HUB_FORM, is_known_form
from stages.core.errors import clean_exit
from stages.core.models.source import EncoderParams, resolve_model
from stages.core.params import load_params, require
from stages.core.qa.decoding import DecodeParams
from stages.core.training.settings import StudentParams


@dataclass(frozen=True)
class DataParams:
    """The `data` section."""

    seed: int  # of the dev split, the subsets, cloze questions and the inputs without labels
    train: tuple[str, ...]  # sources, see stages/core/data/sources.py
    dev: tuple[str, ...]  # sources; empty: held out from train, whole articles
    test: tuple[str, ...]  # sources
    dev_fraction: float  # share of the training questions held out where dev names no source
    train_questions: int  # drawn at random; 0 = all
    dev_questions: int  # likewise
    test_questions: int  # likewise
    cloze_questions: int  # with their answers, for the teacher to learn first; on the paragraphs of unlabelled.cloze
    on_bad_record: str  # error or skip

    def check(self) -> None:
        """Vouch for ranges."""
        require(self.on_bad_record in ("error", "skip"), "on_bad_record", self.on_bad_record, "error or skip")
        require(0 < self.dev_fraction < 1, "dev_fraction", self.dev_fraction, "above 0 and below 1")
        for key in ("train_questions", "dev_questions", "test_questions"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 (all) or more")
        require(self.cloze_questions >= 0, "cloze_questions", self.cloze_questions, "0 or more")
        for key in ("train", "test"):
            require(len(getattr(self, key)) > 0, key, getattr(self, key), "at least one source")
        for key in ("train", "dev", "test"):
            for source in getattr(self, key):
                require(is_known_form(source), key, source, HUB_FORM)


@dataclass(frozen=True)
class UnlabelledParams:
    """The `unlabelled` section: inputs that students learn from the teacher's answers alone; 0 draws none of a kind."""

    other_offsets: int  # training questions on their paragraph without its first words
    other_paragraphs: int  # training questions on another paragraph of their article
    cloze: int  # questions made of the words around a phrase, on training paragraphs and those of `sources`
    sources: tuple[str, ...]  # of further paragraphs, with questions or without, see stages/core/data/sources.py
    paragraphs: int  # paragraphs of those, each asked a question of its own article or of another

    def check(self) -> None:
        """Vouch for ranges."""
        for source in self.sources:
            require(is_known_form(source), "sources", source, HUB_FORM)
        for key in ("other_offsets", "other_paragraphs", "cloze", "paragraphs"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        require(bool(self.sources) or self.paragraphs == 0, "paragraphs", self.paragraphs, "0 where sources is empty")


def run(
    params: DataParams,
    windows: WindowsParams,
    encoder: EncoderParams,
    student: StudentParams,
    unlabelled: UnlabelledParams,
    decode: DecodeParams,
    *,
    corpus: Path,
    out: Path,
    metrics: Path,
) -> None:
    """Read, check, split, sample, draw what is unlabelled, tokenise, verify, write."""
    source = resolve_model(encoder.model, encoder.sha256)
    models = list(dict.fromkeys([source, student.origin(source)]))
    from stages.core.data.cloze import cloze_questions
    from stages.core.data.cutting import load_cutter, refusal_of
    from stages.core.data.examples import Paragraph, sample
    from stages.core.data.prepared import CLOZE, TAUGHT
    from stages.core.data.splits import count_dropped, read_sources, split_by_article, without_contexts_of
    from stages.core.data.unlabelled import at_other_offsets, on_other_paragraphs, on_paragraphs, read_pool
    from stages.core.data.writing import write_split, write_unlabelled
    from stages.core.files import whole_folder, write_json

    cutters = [load_cutter(model, max_length=windows.max_length, doc_stride=windows.doc_stride) for model in models]
    refuse = refusal_of(cutters)
    test, bad_test = read_sources(params.test, corpus, params.on_bad_record, refuse)
    train, bad_train = read_sources(params.train, corpus, params.on_bad_record, refuse)
    train, in_test = without_contexts_of(train, test, split="train", other="test")
    if params.dev:
        dev, bad_dev = read_sources(params.dev, corpus, params.on_bad_record, refuse)
        dev, dev_in_test = without_contexts_of(dev, test, split="dev", other="test")
        train, in_dev = without_contexts_of(train, dev, split="train", other="dev")
        lost = [bad_test, bad_train, bad_dev, in_test, in_dev, dev_in_test]
    else:
        train, dev = split_by_article(train, params.dev_fraction, params.seed)
        lost = [bad_test, bad_train, in_test]
    splits = {
        "train": sample(train, params.train_questions, params.seed),
        "dev": sample(dev, params.dev_questions, params.seed),
        "test": sample(test, params.test_questions, params.seed),
    }
    taken, articles = {each.context for each in (*dev, *test)}, {each.title for each in (*dev, *test)}
    found, asked, bad_found = read_pool(
        unlabelled.sources, corpus, params.on_bad_record, refuse, taken=taken, articles=articles
    )
    of_train = [Paragraph(each.title, each.context) for each in train]
    # The teacher's first: how many the students have beside them changes nothing of the teacher.
    cloze = cloze_questions([*of_train, *found], params.cloze_questions + unlabelled.cloze, params.seed, refuse)
    if params.cloze_questions:
        splits[CLOZE] = cloze[: params.cloze_questions]
    drawn = {
        "other_offsets": at_other_offsets(splits["train"], unlabelled.other_offsets, params.seed, taken=taken),
        "other_paragraphs": on_other_paragraphs(splits["train"], train, unlabelled.other_paragraphs, params.seed),
        "cloze": [replace(each, answers=()) for each in cloze[params.cloze_questions :]],
        "paragraphs": on_paragraphs(found, [*splits["train"], *asked], unlabelled.paragraphs, params.seed),
    }
    counts: dict[str, object] = {"dropped": count_dropped(*lost, bad_found)}
    with whole_folder(out) as folder:
        for name, examples in splits.items():
            read_by = cutters if name in TAUGHT else cutters[:1]
            counts |= write_split(folder, name, examples, read_by, decode.max_answer_length)
        counts |= write_unlabelled(folder, drawn, cutters)
    write_json(metrics, counts)


def main() -> None:
    """Take paths from the command line and values from params.yaml."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--corpus", "--out", "--metrics"):
        parser.add_argument(name, type=Path, required=True)
    paths = vars(parser.parse_args())
    data, windows = load_params("data", DataParams), load_params("windows", WindowsParams)
    encoder, student = load_params("encoder", EncoderParams), load_params("student", StudentParams)
    unlabelled, decode = load_params("unlabelled", UnlabelledParams), load_params("decode", DecodeParams)
    run(data, windows, encoder, student, unlabelled, decode, **paths)


if __name__ == "__main__":
    with clean_exit():
        main()
