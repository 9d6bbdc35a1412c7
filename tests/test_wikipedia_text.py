"""Running text out of a Wikipedia dump: which paragraphs are kept, and what of their markup is left."""

import bz2
import json
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from profiles.wikipedia_text import articles, main, paragraphs
from stages.core.errors import InputError

LONG = " ".join(f"word{number}" for number in range(45))
KEPT = f"The old {LONG} ended."


def dump(path: Path, *pages: tuple[str, str, str]) -> Path:
    """A dump of pages (title, namespace, wikitext)."""
    body = "".join(
        f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>1</id>"
        f"<revision><id>2</id><text xml:space='preserve'>{escape(text)}</text></revision></page>"
        for title, namespace, text in pages
    )
    text = f"<mediawiki xmlns='http://www.mediawiki.org/xml/export-0.10/'><siteinfo/>{body}</mediawiki>".encode()
    path.write_bytes(bz2.compress(text) if path.suffix == ".bz2" else text)
    return path


@pytest.mark.parametrize("name", ["pages.xml", "pages.xml.bz2"])
def test_articles_are_pages_of_the_main_namespace_without_redirects(name: str, tmp_path: Path) -> None:
    pages = [
        ("Old Kings", "0", "text & more"),
        ("Talk:Old Kings", "1", "chat"),
        ("Kings", "0", "#REDIRECT [[Old Kings]]"),
        ("Rest", "0", "#not a redirect"),
    ]
    assert list(articles(dump(tmp_path / name, *pages))) == [("Old Kings", "text & more"), ("Rest", "#not a redirect")]


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("[[Queen|queens]] and '''[[king]]s''' ", "queens and kings "),
        ("[[Terminator: Genisys|film]] and [[wikt:king|kings]] ", "film and kings "),
        ("[[Terminator: Genisys]] ", "Terminator: Genisys "),
        ("[[Category:Kings]]kings ", "kings "),
        ("kings{{citation needed|date=May}}<ref name=a>A book, p. 3.</ref><ref name='b'/> ", "kings "),
        ("[[File:King.png|thumb|A king.<ref>A.</ref>]]kings [[de:König]]", "kings "),
        ("kings<ref>[[File:Book.png]]</ref> ", "kings "),
        ("kings<!-- not queens --> ", "kings "),
        ("the &ndash; kings&nbsp;ruled ", "the – kings ruled "),
    ],
)
def test_markup_is_gone(markup: str, text: str) -> None:
    assert paragraphs(f"In it {markup}{LONG}.") == [f"In it {text}{LONG}."]


def test_only_running_text_of_a_paragraph_s_length_is_kept() -> None:
    wikitext = [
        KEPT,
        "Too short.",
        "The old " + " ".join(f"word{number}" for number in range(300)) + ".",
        f"begins small {LONG}.",
        f"No end {LONG}",
        "{| class='wikitable'\n|-\n| " + KEPT + "\n|}",
        f'"Kings {LONG}."',
        "== History ==",
        f"History {LONG}.",
        "=== References of kings ===",
        f"Later {LONG}.",
        "== See also ==",
        f"Also {LONG}.",
        "=== More ===",
        f"More {LONG}.",
        "==References==",
        f"Book {LONG}.",
    ]
    assert paragraphs("\n\n".join(wikitext)) == [
        KEPT,
        f'"Kings {LONG}."',
        f"History {LONG}.",
        f"Later {LONG}.",
    ]


def run(monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, kind: str = "dump") -> None:
    monkeypatch.setattr(sys, "argv", ["wikipedia_text.py", f"--{kind}", str(source), "--out", str(out)])
    main()


def test_a_text_file_per_article_that_has_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [("Old/New Kings", "0", f"{KEPT}\n\n{KEPT}\n"), ("Short", "0", "Too short."), ("A", "0", KEPT)]
    pages += [("Old New Kings", "0", KEPT), ("ä" * 120, "0", KEPT)]
    out = tmp_path / "text"
    run(monkeypatch, dump(tmp_path / "pages.xml", *pages), out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "Old New Kings.txt": f"{KEPT}\n\n" * 3,
        "A.txt": f"{KEPT}\n\n",
        f"{'ä' * 100}.txt": f"{KEPT}\n\n",
    }
    assert capsys.readouterr().err == f"{out}: 5 paragraphs of 4 articles\n"


def test_what_is_no_dump_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dump(tmp_path / "pages.xml.bz2", ("Kings", "0", KEPT)).read_bytes()
    files = {
        "missing.xml": None,
        "text.xml": b"no markup",
        "text.bz2": b"not packed",
        "cut.bz2": whole[: len(whole) // 2],
        "empty.xml": b"<mediawiki/>",
    }
    for name, content in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            run(monkeypatch, tmp_path / name, tmp_path / "out")
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
        assert "name a pages-articles file" in str(caught.value)
        assert not list(tmp_path.glob("*out*"))


def test_extracts_are_plain_texts_by_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "extracts.json", tmp_path / "text"
    texts = {"AC/DC": f'{KEPT}\nToo short.\n"Kings  {LONG}."', "Gap": f"In {{x}} {LONG}.", "Äon": KEPT}
    pages = {title: {"title": title, "extract": text} for title, text in texts.items()}
    source.write_text(json.dumps(pages, ensure_ascii=False), "utf-8")
    run(monkeypatch, source, out, "extracts")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "AC DC.txt": f'{KEPT}\n\n"Kings {LONG}."\n\n',
        "Äon.txt": f"{KEPT}\n\n",
    }
    assert capsys.readouterr().err == f"{out}: 3 paragraphs of 2 articles\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"{", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object"),
        (b"{}", "no object"),
        (b'{"Kings": "text"}', "'Kings' has no text"),
        (b'{"Kings": {"extract": null}}', "'Kings' has no text"),
    ],
)
def test_what_is_no_file_of_extracts_is_named_and_leaves_nothing(
    content: bytes | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "extracts.json"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(InputError) as caught:
        run(monkeypatch, source, tmp_path / "out", "extracts")
    assert str(caught.value).startswith(f"{source}: {says}")
    assert str(caught.value).endswith("name a file of extracts by title")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*out*"))
