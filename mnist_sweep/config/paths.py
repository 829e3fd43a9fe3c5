"""Paths and URLs of files as a user writes them: ``~`` is a home folder, also within ``sqlite:///~/FILE``."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(.*)", re.DOTALL)


def expanded(text: str) -> str:
    """A path, or a URL, with the home folder that ``~`` or ``~USER`` stands for; a ValueError where there is none."""
    url = _SQLITE.fullmatch(text)
    start, path = (url[1], url[2]) if url else ("", text)
    if not path.startswith("~"):
        return text
    if (found := os.path.expanduser(path)).startswith("~"):  # noqa: PTH111  # Path would take a // out of the rest
        raise ValueError(f"{path.split('/')[0]} is nobody's home folder here; allowed: ~/…, or ./~… for such a name")
    return start + found


def database_file(uri: str) -> Path | None:
    """The file of a database by its URL, ``sqlite:///FILE?timeout=60``; None where the URL is that of no file."""
    url = _SQLITE.fullmatch(expanded(uri))
    path = url[2].partition("?")[0] if url else ""
    return Path(path) if path and path != ":memory:" else None


#: A path of the config.
PathText = Annotated[str, Field(min_length=1), AfterValidator(expanded)]
