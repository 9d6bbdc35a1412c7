"""Where trials are kept: every kind of URL opens or ends in one line."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from stages.core.errors import InputError
from stages.core.training import storage
from stages.core.training.storage import open_storage, without_password


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_what_one_process_writes_another_reads(tmp_path: Path, kind: str) -> None:
    url = f"{kind}:///{tmp_path}/trials"
    study = optuna.create_study(storage=open_storage(url), study_name="search")
    study.tell(study.ask(), 1.0)
    study.enqueue_trial({"alpha": 0.5}, user_attrs={"repeats": 0})
    again = optuna.load_study(storage=open_storage(url), study_name="search")
    assert [trial.value for trial in again.trials] == [1.0, None]
    assert again.trials[1].user_attrs == {"repeats": 0}


def test_a_database_that_others_make_at_this_moment_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a table is there that was not a moment ago: SQLite then refuses to make it."""
    there = Exception("table studies already exists")
    refusals: list[Exception] = [IntegrityError("insert", None, Exception()), OperationalError("create", None, there)]
    make = storage.RDBStorage

    def hindered(*given: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop(0)
        return make(*given, **options)

    monkeypatch.setattr(storage, "RDBStorage", hindered)
    monkeypatch.setattr(storage, "TRY_SECONDS", 0.0)
    optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/trials"))
    assert not refusals
    refusals = [OperationalError("open", None, Exception("unable to open database file")), KeyError("tried again")]
    with pytest.raises(InputError, match="unable to open database file"):
        open_storage(f"sqlite:///{tmp_path}/trials")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("shared", "shared cannot be opened"),
        ("nosuchdatabase://host/name", "nosuchdatabase://host/name cannot be opened"),
        ("postgresql+nosuchdriver://me:secret@host/name", r"postgresql\+nosuchdriver://me:\*\*\*@host/name cannot be"),
        ("oracle://me:secret@host/name", "No module named"),
        ("sqlite:////no/such/folder/trials.sqlite", "unable to open database file"),
        ("journal:////no/such/folder/trials", "No such file or directory"),
        ("sqlite:///{folder}/text", "file is not a database"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line_without_the_password(tmp_path: Path, url: str, fault: str) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(InputError, match=fault) as caught:
        open_storage(url.replace("{folder}", str(tmp_path)))
    message = str(caught.value)
    assert message.startswith("params.yaml: tune.storage: ")
    assert "\n" not in message
    assert "secret" not in message


def test_a_url_is_printed_without_its_password() -> None:
    assert without_password("mysql://me:se:cret@host:3306/name") == "mysql://me:***@host:3306/name"
    assert without_password("postgresql://me:se/cr@t@host/name") == "postgresql://me:***@host/name"
    assert without_password("mysql://me:secret@h:3306/db?opt=x@y") == "mysql://me:***@h:3306/db?opt=x@y"
    assert without_password("postgresql://host:1/n?password=secret&a=b@c") == "postgresql://host:1/n?password=***&a=b@c"
    assert without_password("postgresql://host:5432/name") == "postgresql://host:5432/name"
