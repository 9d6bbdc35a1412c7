"""Every command that the README shows is run here, in its order, on the toy repository."""

import re
from pathlib import Path

import pytest

from stages.core.report.variants import VARIANTS
from tests.toy_repository import ROOT, Repository

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
# What a reader types once to get a clone and a shell in it; the toy repository is that clone already.
SETTING_UP = {"git clone <this repository> distilqa", "cd distilqa", "source .venv/bin/activate"}


@pytest.mark.slow
def test_every_command_of_the_readme_runs(toy_repository: Repository) -> None:
    assert set(COMMANDS) > SETTING_UP
    for command in COMMANDS:
        if command not in SETTING_UP:
            toy_repository.shell(command)


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
