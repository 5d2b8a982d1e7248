"""Fields of decoded maps, checked: a field of the wrong type raises `ProtocolError`.

Text may hold bytes that are not UTF-8, as surrogate escapes. Bytes may come as text from older agents, and absent ones
as nil (spec agent.md 5.1).
"""

from __future__ import annotations

from typing import Any, TypeVar

from serfmp.client.errors import ProtocolError

T = TypeVar("T")


def field(fields: Any, name: str, kind: type[T]) -> T:
    """A field of a map, of this type; a missing or nil one is the zero value."""
    if not isinstance(fields, dict):
        raise ProtocolError(f"the agent sent a {type(fields).__name__} where a map belongs")
    value = fields.get(name)
    if value is None:
        return kind()
    if kind is bytes and isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if kind is str and isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, kind):
        raise ProtocolError(f"the agent sent a {type(value).__name__} as {name}")
    return value


def text(value: Any) -> str:
    """The text of a value that came as text or as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise ProtocolError(f"the agent sent a {type(value).__name__} where text belongs")
    return value
