"""Paragraphs of a Wikipedia dump as text files, one an article: inputs for `unlabelled.sources`.

Reads MediaWiki's XML with the texts of pages (pages-articles), packed by bzip2 or not; needs mwparserfromhell, which is
among the packages of the tests. What stands in templates, tables, references and captions is left out, with what has
no sentence's beginning and end.
"""

import argparse
import bz2
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
            raise InputError(
                f"{dump}: not a MediaWiki dump, or not whole ({error}); name a pages-articles file"
            ) from None
    if not found:
        raise InputError(f"{dump}: holds no page; name a pages-articles file")


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
    lines = (" ".join(line.split()) for line in code.strip_code(normalize=True, collapse=True).splitlines())
    return [line for line in lines if len(line.split()) in WORDS and SENTENCES.fullmatch(line)]


def main() -> None:
    """Write a text file per article that has such a paragraph, named by its title, and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dump", type=Path, required=True, help="pages-articles XML, or XML.bz2")
    parser.add_argument("--out", type=Path, required=True, help="folder of the text files, made anew")
    options = parser.parse_args()
    if not options.dump.is_file():
        raise InputError(f"{options.dump}: no such file; name a pages-articles file")
    written = count = 0
    with whole_folder(options.out) as folder:
        for title, wikitext in articles(options.dump):
            if found := paragraphs(wikitext):
                name = title.replace("/", " ").encode()[:NAME_BYTES].decode(errors="ignore")
                with (folder / f"{name}.txt").open("a", encoding="utf-8") as file:  # two titles may have one name
                    file.write("\n\n".join(found) + "\n\n")
                written, count = written + 1, count + len(found)
    print(f"{options.out}: {count} paragraphs of {written} articles", file=sys.stderr)


if __name__ == "__main__":
    with clean_exit():
        main()
