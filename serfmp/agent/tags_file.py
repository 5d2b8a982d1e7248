"""The tags file: tags that outlive the agent (spec agent.md 1.6).

Rules: a JSON object of texts. A missing file means no tags and is not made before the first change. Every change of
tags while the agent runs is written, all or nothing, before it holds; a change that is refused is not written. A reload
leaves the file alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from serfmp.errors import UserError

TAGS_MODE: Final = 0o600

_TYPES: Final = {dict: "map", list: "list", bool: "boolean", int: "number", float: "number", type(None): "null"}


def read_tags_file(path: str) -> dict[str, str]:
    """The tags of a file; none if there is no file. Raises `UserError`."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"Failed to read tags file: open {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        at_end = not error.doc[error.pos :].strip()
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _undecodable("unexpected end of JSON input" if at_end else place) from None
    except (UnicodeDecodeError, RecursionError):
        raise _undecodable("it is not JSON text") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _undecodable(f"it holds a {_TYPES.get(type(value), 'text')}, not a map of texts")
    for key, item in value.items():
        if not isinstance(item, str):
            raise _undecodable(f"the value of '{key}' is a {_TYPES[type(item)]}, not a text")
    return value


def _undecodable(reason: str) -> UserError:
    return UserError(f"Failed to decode tags file: {reason}")


def tags_file_content(tags: Mapping[str, str]) -> bytes:
    """A tags file as Serf writes it."""
    return json.dumps(dict(sorted(tags.items())), indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape")
