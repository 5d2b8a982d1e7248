"""How a configuration is shown: keys, values and origins, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from serfmp.cli.output import go_json, say, table, visible

DURATIONS: Final = ("_grace", "_interval", "_period", "_timeout")
"""Keys that end so hold seconds."""


def show_settings(rows: Sequence[tuple[str, Any, str]], form: str) -> None:
    """Print the rows; `form` is text or json."""
    if form == "json":
        say(go_json({key: {"value": value, "origin": origin} for key, value, origin in rows}))
    else:
        texts = [[key, _shown(key, value), visible(origin)] for key, value, origin in rows]
        say(table([["key", "value", "from"], *texts]))


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.endswith(DURATIONS) and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}s"
    return visible(json.dumps(value, ensure_ascii=False))
