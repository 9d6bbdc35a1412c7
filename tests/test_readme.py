"""What the README says of files and figures; that its commands run is shown in test_dvc.py."""

import re
from pathlib import Path

from stages.core.report.variants import VARIANTS
from tests.toy_repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_the_table_of_results_is_that_of_the_report() -> None:
    shown = README.split("<!-- results of the default run: rows of metrics/report.md -->")[1]
    shown = shown.split("<!-- end of results -->")[0].strip()
    report = (ROOT / "metrics/report.md").read_text(encoding="utf-8")
    reported = {untimed(line) for line in report.splitlines() if line.startswith("|")}
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(VARIANTS) + 1
    assert {untimed(line) for line in rows} <= reported


def untimed(row: str) -> str:
    """A row of the table of results without its two last cells, which show timings and differ from run to run."""
    return "|".join(row.split("|")[:-3])


def test_the_table_of_stages_names_them_all() -> None:
    named = re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)
    scripts = {path.stem for path in Path(ROOT / "stages").glob("*.py")} - {"__init__"}
    assert set(named) == scripts
