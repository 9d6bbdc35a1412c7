"""Paragraphs of Wikipedia as text files, one an article: inputs for `unlabelled.sources`.

Reads MediaWiki's XML with the texts of pages (pages-articles), packed by bzip2 or not, or a JSON object of plain texts
by title, each an object with its `extract`, as MediaWiki's API gives the introductions of articles (TextExtracts). Of a
dump, what stands in templates, tables, references and captions is left out; of both, what has no sentence's beginning
and end. Needs mwparserfromhell, which is among the packages of the tests.
"""

import argparse
import bz2
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell

from stages.core.errors import InputError, clean_exit
from stages.core.files import whole_folder

WORDS = range(40, 251)  # of a paragraph; those of SQuAD have 20 to 650, about 120 on average
LAST_SECTIONS = "See also|References|Notes|Citations|Footnotes|Sources|Bibliography|Further reading|External links"
# Links that show no text of the sentence: pictures with their captions, categories, the same page in other languages.
NOT_TEXT = re.compile(r"\s*(?:(?i:File|Image|Media|Category)\s*:|[a-z]{2,3}(?:-[a-z]+)*:[^|]*$)")
NAME_BYTES = 200  # of a file's name; titles have up to 255, and file systems want room for the ending
DUMP, EXTRACTS = "a pages-articles file", "a file of extracts by title"  # what to name instead of what is none
REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)
SENTENCES = re.compile(r"[\"'(A-Z0-9][^|{}\[\]]*[.!?][\"')]*")


def articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Yield title and wikitext of each article that is no redirect; raises InputError for what is no such dump."""
    found = False
    with bz2.open(dump) if dump.suffix == ".bz2" else dump.open("rb") as file:
        try:
            events = ElementTree.iterparse(file, ("start", "end"))
            _, root = next(events)
            for event, element in events:
                if event == "start" or element.tag.rpartition("}")[2] != "page":
                    continue
                title, namespace, text = (element.findtext(f".//{{*}}{name}", "") for name in ("title", "ns", "text"))
                root.clear()  # a whole Wikipedia does not fit in memory
                found = True
                if namespace == "0" and not REDIRECT.match(text):
                    yield title, text
        except (ElementTree.ParseError, OSError, EOFError) as error:
            raise InputError(f"{dump}: not a MediaWiki dump, or not whole ({error}); name {DUMP}") from None
    if not found:
        raise InputError(f"{dump}: holds no page; name {DUMP}")


def paragraphs(wikitext: str) -> list[str]:
    """Return the paragraphs of an article that are running text, without markup, in their order."""
    code = mwparserfromhell.parse(wikitext)
    for section in code.get_sections(levels=[2], matches=rf"^\s*(?:{LAST_SECTIONS})\s*$"):
        code.remove(section)
    left_out = [
        *code.filter_tags(matches=lambda tag: str(tag.tag).lower() in ("ref", "table")),
        *code.filter_wikilinks(matches=lambda link: NOT_TEXT.match(str(link)[2:-2]) is not None),
    ]
    for node in left_out:
        if code.contains(node):  # else it went with one around it
            code.remove(node)
    return running_text(code.strip_code(normalize=True, collapse=True))


def running_text(text: str) -> list[str]:
    """Return the lines of a plain text that are sentences of a paragraph's length, without extra white space."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if len(line.split()) in WORDS and SENTENCES.fullmatch(line)]


def extracts(file: Path) -> Iterator[tuple[str, str]]:
    """Yield title and plain text of each article, in the file's order; raises InputError for what has no such texts."""
    try:
        pages = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({error}); name {EXTRACTS}") from None
    if not isinstance(pages, dict) or not pages:
        raise InputError(f"{file}: no object of articles by title; name {EXTRACTS}")
    for title, page in pages.items():
        if not isinstance(page, dict) or not isinstance(page.get("extract"), str):
            raise InputError(f"{file}: {title!r} has no text as its extract; name {EXTRACTS}")
        yield title, page["extract"]


def main() -> None:
    """Write a text file per article that has such a paragraph, named by its title, and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dump", type=Path, help="pages-articles XML, or XML.bz2")
    source.add_argument("--extracts", type=Path, help="JSON of plain texts by title")
    parser.add_argument("--out", type=Path, required=True, help="folder of the text files, made anew")
    options = parser.parse_args()
    file, wanted = (options.dump, DUMP) if options.dump else (options.extracts, EXTRACTS)
    if not file.is_file():
        raise InputError(f"{file}: no such file; name {wanted}")
    if options.dump:
        texts = ((title, paragraphs(wikitext)) for title, wikitext in articles(file))
    else:
        texts = ((title, running_text(text)) for title, text in extracts(file))
    written = count = 0
    with whole_folder(options.out) as folder:
        for title, found in texts:
            if found:
                name = title.replace("/", " ").encode()[:NAME_BYTES].decode(errors="ignore")
                with (folder / f"{name}.txt").open("a", encoding="utf-8") as file:  # two titles may have one name
                    file.write("\n\n".join(found) + "\n\n")
                written, count = written + 1, count + len(found)
    print(f"{options.out}: {count} paragraphs of {written} articles", file=sys.stderr)


if __name__ == "__main__":
    with clean_exit():
        main()
