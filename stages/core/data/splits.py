"""Train, dev and test from their sources: checked, no paragraph on two sides, nor an article where dev is cut out."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.core.data.examples import (
    CANNOT_BE_CUT,
    FAULTS,
    Example,
    Fault,
    Refusal,
    check,
    cut_all,
    describe_faults,
    one_line,
)
from stages.core.data.sources import read_source
from stages.core.errors import InputError

Dropped = Counter[str]  # records left out, by reason


def read_sources(
    sources: Sequence[str], corpus: Path, on_bad_record: str, refuse: Refusal = cut_all
) -> tuple[list[Example], Dropped]:
    """Return the sound examples of all sources and the count of records dropped by kind of fault.

    `refuse` says why one cannot be cut into windows, if so. Raises InputError, a line per kind of fault, if there is
    one and `on_bad_record` is "error".
    """
    examples, faults = check((record for source in sources for record in read_source(source, corpus)), refuse)
    dropped = drop_faults(faults, on_bad_record)
    if not examples:
        raise InputError(f"params.yaml: data: no sound question in {', '.join(sources)}")
    return examples, dropped


def drop_faults(faults: Sequence[Fault], on_bad_record: str) -> Dropped:
    """Tell of the faults, a line per kind, and return their counts; raises InputError with those lines on "error"."""
    lines = describe_faults(faults)
    if faults and on_bad_record == "error":
        raise InputError("\n".join([*lines, "data.on_bad_record is error; set it to skip to leave these records out"]))
    for line in lines:
        print(f"skipped: {line}")
    return Counter(fault.kind for fault in faults)


def without_contexts_of(
    examples: Iterable[Example], others: Iterable[Example], *, split: str, other: str
) -> tuple[list[Example], Dropped]:
    """Return the examples of `split` whose paragraph is none of the others', of `other`, and how many were dropped.

    Paragraphs that differ in white space alone are one. Tells of what is dropped; raises InputError if none is left.
    """
    taken = {one_line(example.context) for example in others}
    rows = list(examples)
    kept = [example for example in rows if one_line(example.context) not in taken]
    if not kept:
        raise InputError(f"params.yaml: data: all paragraphs of {split} are in {other} too; name other sources")
    if dropped := len(rows) - len(kept):
        print(f"skipped: {dropped} of {len(rows)} questions of {split}, whose paragraph {other} has too")
    return kept, Counter(context_on_two_sides=dropped)


def count_dropped(*parts: Dropped) -> dict[str, int]:
    """Add up counts, with a zero for each reason that did not occur, so that the keys are always the same."""
    total = sum(parts, Counter[str]())
    return {reason: total[reason] for reason in (*FAULTS, CANNOT_BE_CUT, "context_on_two_sides")}


def split_by_article(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split into (rest, held out), about `fraction` of the questions held out, no article or paragraph on both sides.

    Articles that share a paragraph's text move together. Raises InputError if there is only one article to split.
    """
    groups = _linked_articles(examples)
    counts = Counter(groups[example.title] for example in examples)
    if len(counts) < 2:
        raise InputError("params.yaml: data.dev: train is one article and cannot be split; name a source for dev")
    order = sorted(counts)
    random.Random(seed).shuffle(order)
    held = {order.pop()}
    while len(order) > 1 and sum(counts[group] for group in held) < fraction * len(examples):
        held.add(order.pop())
    rest = [example for example in examples if groups[example.title] not in held]
    return rest, [example for example in examples if groups[example.title] in held]


def _linked_articles(examples: Iterable[Example]) -> dict[str, str]:
    """Map each title to one title of those it is linked to by shared paragraphs (union-find)."""
    parent: dict[str, str] = {}

    def root(title: str) -> str:
        while parent[title] != title:
            title = parent[title]
        return title

    owner: dict[str, str] = {}
    for example in examples:
        parent.setdefault(example.title, example.title)
        first = owner.setdefault(one_line(example.context), example.title)
        parent[root(example.title)] = root(first)
    return {title: root(title) for title in parent}
