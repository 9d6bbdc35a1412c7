"""One kind of error for everything a user can put right, told in one line a fault."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: each line of the message names the file, the place, the value and what to do."""


@contextmanager
def clean_exit() -> Iterator[None]:
    """Turn an `InputError` into its lines on standard error and exit status 2."""
    try:
        yield
    except InputError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
