"""Whether the filters of a query match the local node (spec serf.md 10.2).

Rules:

* All filters must match. A filter that cannot be understood matches nobody, and is told in a warning.
* A node filter holds exact names. The expression of a tag filter is RE2, searched anywhere in the tag's value; a tag
  that is not there is an empty text. RE2 takes linear time and bounded memory: no peer can hold the node up with it.
* At most `FILTERS` filters are looked at; a query with more matches nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import re2

from serfmp.errors import RemoteError
from serfmp.wire.filters import NodeFilter, decode_filter

FILTERS: Final = 64
"""Filters of one query. Ours."""
EXPRESSION_MEMORY: Final = 1 << 20
"""Bytes that one compiled expression may take. Ours."""
EXPRESSIONS: Final = 64
"""Compiled expressions kept. Ours."""


def matches(filters: Sequence[bytes], node: str, tags: Mapping[str, str]) -> tuple[bool, str]:
    """Whether all filters match, and what is wrong with the one that could not be understood."""
    if len(filters) > FILTERS:
        return False, f"{len(filters)} filters, more than {FILTERS}"
    for encoded in filters:
        try:
            wanted = decode_filter(encoded)
        except RemoteError as fault:
            return False, str(fault)
        if isinstance(wanted, NodeFilter):
            if node not in wanted.names:
                return False, ""
            continue
        expression, fault_text = _compiled(wanted.expression)
        if expression is None:
            return False, fault_text
        if expression.search(_raw(tags.get(wanted.tag, ""))) is None:
            return False, ""
    return True, ""


@lru_cache(EXPRESSIONS)
def _compiled(text: str) -> tuple[Any, str]:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = EXPRESSION_MEMORY
    try:
        return re2.compile(_raw(text), options), ""
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be compiled"
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        return None, f"failed to compile filter regex ({text}): {shown}"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
