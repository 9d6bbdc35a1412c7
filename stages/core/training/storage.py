"""Where a search keeps its trials: a database that Optuna speaks to by URL, or a journal file."""

import re
import time

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import DBAPIError, IntegrityError

from stages.core.errors import InputError

JOURNAL = "journal:///"  # then a path, as in sqlite:///: one more slash for one from the root
SQLITE_PATIENCE_SECONDS = 60  # for another process's write to end
# Of processes that open a new database at once all but one may fail, for a table is there that was not a moment ago.
TRIES, TRY_SECONDS = 10, 0.3


def open_storage(url: str) -> BaseStorage:
    """Open the storage at `url` and make it if need be.

    sqlite:///FILE serves processes of one machine; journal:///FILE also those that share a network file system, whose
    file locks SQLite cannot rely on; postgresql://HOST/NAME and mysql://HOST/NAME need their driver installed. Raises
    InputError where it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if url.startswith(JOURNAL):
            return JournalStorage(JournalFileBackend(url.removeprefix(JOURNAL)))
        return _open_database(url)
    except Exception as error:  # each database driver raises its own
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise InputError(
            f"params.yaml: tune.storage: {without_password(url)} cannot be opened ({reason});"
            " correct the URL, start the database or install its driver"
        ) from None


def _open_database(url: str) -> BaseStorage:
    options = {"connect_args": {"timeout": SQLITE_PATIENCE_SECONDS}} if url.startswith("sqlite:") else {}
    for _ in range(TRIES - 1):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except DBAPIError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(TRY_SECONDS)
    return RDBStorage(url, engine_kwargs=options)


def without_password(url: str) -> str:
    """Return a URL fit to be printed; a password may hold slashes and more, or be one of the options."""
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(//[^/@:]*:)[^?]*@", r"\1***@", url))
