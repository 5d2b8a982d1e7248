"""Configuration files: reading them, checking every value, merging them with flags (spec agent.md 1.2 to 1.4).

Rules:

* Files and directories stand in one list, in the order of the command line. Of a directory the entries that end in
  `.json` or `.toml` are read, in byte order of their names, one level deep.
* A file is one JSON value, or TOML where its name ends so. Keys are matched ignoring letter case; unknown keys and
  wrong types are refused, all of a file at once, each with its place. `null` is nothing.
* Later sources win: a text, number or duration that is not empty or zero replaces, a boolean can only be switched on,
  lists are appended, tags are merged key by key. Flags are the last source.
* Every value knows where it came from: of a file of several lines, the line, too. Errors tell it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from serfmp.agent.toml_lines import toml_lines
from serfmp.durations import parse_duration
from serfmp.errors import UserError
from serfmp.events.specs import parse_handlers


class Kind(Enum):
    """What a key holds, by the names that errors use."""

    TEXT = "string"
    NUMBER = "int"
    SWITCH = "bool"
    DURATION = "duration"
    TEXTS = "slice"
    TAGS = "map"
    HANDLERS = "handlers"


KEYS: Final[Mapping[str, Kind]] = {
    "advertise": Kind.TEXT,
    "bind": Kind.TEXT,
    "broadcast_timeout": Kind.DURATION,
    "coalesce_period": Kind.DURATION,
    "disable_coalescing": Kind.SWITCH,
    "disable_coordinates": Kind.SWITCH,
    "disable_name_resolution": Kind.SWITCH,
    "discover": Kind.TEXT,
    "enable_compression": Kind.SWITCH,
    "enable_syslog": Kind.SWITCH,
    "encrypt_key": Kind.TEXT,
    "event_handlers": Kind.HANDLERS,
    "gossip_budget": Kind.NUMBER,
    "heal_interval": Kind.DURATION,
    "interface": Kind.TEXT,
    "keyring_file": Kind.TEXT,
    "label": Kind.TEXT,
    "leave_on_terminate": Kind.SWITCH,
    "log_file": Kind.TEXT,
    "log_json": Kind.SWITCH,
    "log_level": Kind.TEXT,
    "metrics_addr": Kind.TEXT,
    "monitor_group": Kind.TEXT,
    "mdns.disable_ipv4": Kind.SWITCH,
    "mdns.disable_ipv6": Kind.SWITCH,
    "mdns.interface": Kind.TEXT,
    "node_name": Kind.TEXT,
    "profile": Kind.TEXT,
    "protocol": Kind.NUMBER,
    "query_response_size_limit": Kind.NUMBER,
    "query_size_limit": Kind.NUMBER,
    "quiescent_period": Kind.DURATION,
    "reconnect_interval": Kind.DURATION,
    "reconnect_timeout": Kind.DURATION,
    "rejoin_after_leave": Kind.SWITCH,
    "replay_on_join": Kind.SWITCH,
    "retry_interval": Kind.DURATION,
    "retry_join": Kind.TEXTS,
    "retry_max_attempts": Kind.NUMBER,
    "role": Kind.TEXT,
    "rpc_addr": Kind.TEXT,
    "rpc_auth": Kind.TEXT,
    "rpc_tls_ca": Kind.TEXT,
    "rpc_tls_cert": Kind.TEXT,
    "rpc_tls_key": Kind.TEXT,
    "runtime_dir": Kind.TEXT,
    "script_grace": Kind.DURATION,
    "skip_leave_on_interrupt": Kind.SWITCH,
    "snapshot_path": Kind.TEXT,
    "start_join": Kind.TEXTS,
    "start_method": Kind.TEXT,
    "statsd_addr": Kind.TEXT,
    "statsite_addr": Kind.TEXT,
    "syslog_facility": Kind.TEXT,
    "syslog_socket": Kind.TEXT,
    "tags": Kind.TAGS,
    "tags_file": Kind.TEXT,
    "tombstone_timeout": Kind.DURATION,
    "user_event_size_limit": Kind.NUMBER,
    "validate_node_names": Kind.SWITCH,
    "workers": Kind.NUMBER,
}
"""All keys. Those that `docs/configuration.md` marks so are ours."""

SECTION: Final = "mdns"
"""The one key that holds a map of keys, which are called `mdns.NAME` here."""

SECRETS: Final = frozenset({"encrypt_key", "rpc_auth"})
"""Keys whose values are never shown."""

LARGEST_FILE: Final = 16 * 1024 * 1024
"""Bytes of a configuration file."""

_GO_TYPES: Final[Mapping[type, str]] = {
    bool: "bool",
    int: "float64",
    float: "float64",
    str: "string",
    list: "[]interface {}",
    dict: "map[string]interface {}",
}


class SettingError(UserError):
    """The value of this key cannot be used."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@dataclass(slots=True)
class Settings:
    """Merged values, and the origin of each: `flag`, a file's name and line, or, for lists and tags, all of them."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def merge(self, source: str, given: Mapping[str, Any], lines: Mapping[str, int] | None = None) -> None:
        """Let a later source take effect. `lines` tells where in it each key stands, as far as that is known."""
        for key, value in given.items():
            kind = KEYS[key]
            if not value and not (key == "enable_compression" and value is False):
                continue
            if kind in {Kind.TEXTS, Kind.HANDLERS}:
                self.values[key] = [*self.values.get(key, []), *value]
            elif kind is Kind.TAGS:
                self.values[key] = {**self.values.get(key, {}), **value}
            else:
                self.values[key] = value
                self.origins.pop(key, None)
            line = _line(lines or {}, key)
            origin = source if line is None else f"{source}:{line}"
            before = self.origins.get(key)
            self.origins[key] = f"{before}, {origin}" if before and before != origin else origin

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        return self.values.get(key, default)

    def placed(self, error: UserError) -> UserError:
        """The error with the place in a file that it comes from, if it comes from one."""
        origin = self.origins.get(error.key, "flag") if isinstance(error, SettingError) else "flag"
        return error if origin == "flag" else UserError(f"{error} ({origin})")


def read_sources(paths: Iterable[str]) -> Settings:
    """The merged values of these files and directories. Raises `UserError` with everything that is wrong with one."""
    settings = Settings()
    for path in paths:
        for file in _files(path):
            settings.merge(file, *read_file(file))
    return settings


def _files(path: str) -> list[str]:
    place = Path(path)
    try:
        if not place.is_dir():
            return [path]
        names = sorted((entry.name for entry in place.iterdir() if entry.is_file()), key=lambda name: name.encode())
    except OSError as error:
        raise UserError(f"Error reading '{path}': {(error.strerror or str(error)).lower()}") from None
    return [str(place / name) for name in names if name.endswith((".json", ".toml"))]


def read_file(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The checked values of one file by their keys, and the lines of those that are known. Raises `UserError`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"Error reading '{path}': open {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST_FILE:
        raise UserError(f"Error reading '{path}': it has {len(data)} bytes, more than {LARGEST_FILE}")
    try:
        if path.endswith(".toml"):
            content, lines = _toml(data)
        else:
            content, lines = _json(data)
        return decode(content, lines), lines
    except UserError as error:
        raise UserError(f"Error decoding '{path}': {error}") from None


def _toml(data: bytes) -> tuple[Any, dict[str, int]]:
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
        value = tomllib.loads(text)
        found = toml_lines(text) if "\n" in text.rstrip() else {}
    except tomllib.TOMLDecodeError as error:
        raise UserError(str(error)) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"it is no UTF-8 (line {line})") from None
    except RecursionError:
        raise UserError("it is nested too deeply") from None
    return value, {name if name in KEYS else name.lower(): line for name, line in found.items()}


def _json(data: bytes) -> tuple[Any, dict[str, int]]:
    text = data.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip())
    if start == len(text):
        raise UserError("EOF")
    try:
        # What stands behind the value is ignored, as Serf does.
        value, end = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise UserError(_json_fault(text, error)) from None
    except RecursionError:
        raise UserError("it is nested too deeply") from None
    return value, _lines(text[:end]) if isinstance(value, dict) and "\n" in text[:end].strip() else {}


_GAP: Final = re.compile(r"[\s,:]*")


def _lines(text: str) -> dict[str, int]:
    """The lines of the keys of this JSON object, which is known to be one."""
    decoder = json.JSONDecoder()
    lines: dict[str, int] = {}
    at = text.index("{") + 1
    while True:
        at = _end_of_gap(text, at)
        if text[at] == "}":
            return lines
        name, end = decoder.raw_decode(text, at)
        key = name if name in KEYS else name.lower()
        lines[key] = text.count("\n", 0, at) + 1
        _value, at = decoder.raw_decode(text, _end_of_gap(text, end))


def _end_of_gap(text: str, at: int) -> int:
    found = _GAP.match(text, at)
    return at if found is None else found.end()


def _json_fault(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].lstrip()
    if not rest or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    if error.msg.startswith(("Expecting property name", "Illegal trailing")):
        return f"invalid character '{rest[0]}' looking for beginning of object key string"
    return f"{error.msg} at line {error.lineno}, column {error.colno}"


def decode(content: Any, lines: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The values of a file's content by their keys.

    Raises `UserError` that names every unknown key and wrong type, with its line where that is known.
    """
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"'' expected a map, got '{'slice' if isinstance(content, list) else _go_type(content)}'")
    values: dict[str, Any] = {}
    faults: list[str] = []
    unknown: list[str] = []
    known = lines or {}
    for name, key, value in _entries(content, faults):
        if key not in KEYS or (key != name and key in content) or key in values:
            unknown.append(f"{name}{_at(_line(known, key or name))}")
        elif value is not None:
            found: list[str] = []
            values[key] = _checked(key, KEYS[key], value, found)
            faults += [f"{fault}{_at(_line(known, key))}" for fault in found]
    if unknown:
        faults.append(f"'' has invalid keys: {', '.join(sorted(unknown))}")
    if faults:
        raise UserError(f"{len(faults)} error(s) decoding:\n\n" + "\n".join(f"* {fault}" for fault in faults))
    for key, value in values.items():
        try:
            if KEYS[key] is Kind.DURATION:
                values[key] = _duration(key, value)
            elif KEYS[key] is Kind.HANDLERS:
                parse_handlers(value)
        except UserError as error:
            raise UserError(f"{error}{_at(_line(known, key))}") from None
    return values


def _line(lines: Mapping[str, int], key: str) -> int | None:
    return lines.get(key, lines.get(key.partition(".")[0]))


def _at(line: int | None) -> str:
    return "" if line is None else f" (line {line})"


def _entries(content: Mapping[str, Any], faults: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Names as they stand, the keys that they mean, and values, with those of the section in its place."""
    for name, value in content.items():
        key = name if name in KEYS else name.lower()
        if key != SECTION:
            yield name, "" if "." in name else key, value
        elif isinstance(value, dict):
            for inner, item in value.items():
                yield f"{name}.{inner}", f"{SECTION}.{inner.lower()}", item
        elif value is not None:
            faults.append(f"'{name}' expected a map, got '{_go_type(value)}'")


def _checked(key: str, kind: Kind, value: Any, faults: list[str]) -> Any:
    match kind:
        case Kind.TEXT | Kind.DURATION:
            return _expect(key, "string", str, value, faults)
        case Kind.SWITCH:
            return _expect(key, "bool", bool, value, faults)
        case Kind.NUMBER:
            if isinstance(value, float):
                return int(value)
            return _expect(key, "int", int, value, faults)
        case Kind.TAGS:
            if not isinstance(value, dict):
                faults.append(f"'{key}' expected a map, got '{_go_type(value)}'")
                return {}
            return {name: _expect(f"{key}[{name}]", "string", str, item, faults) for name, item in value.items()}
        case Kind.TEXTS | Kind.HANDLERS:
            if not isinstance(value, list):
                faults.append(f"'{key}': source data must be an array or slice, got {_go_type(value)}")
                return []
            if kind is Kind.HANDLERS:
                return value
            return [_expect(f"{key}[{number}]", "string", str, item, faults) for number, item in enumerate(value)]


def _expect(place: str, name: str, wanted: type, value: Any, faults: list[str]) -> Any:
    if isinstance(value, wanted) and (wanted is not int or not isinstance(value, bool)):
        return value
    shown = str(value).lower() if isinstance(value, bool) else value
    faults.append(f"'{place}' expected type '{name}', got unconvertible type '{_go_type(value)}', value: '{shown}'")
    return wanted()


def _go_type(value: Any) -> str:
    return _GO_TYPES.get(type(value), type(value).__name__)


def _duration(key: str, text: str) -> float:
    if not text:
        return 0.0
    seconds = parse_duration(text)
    if seconds < 0:
        raise UserError(f"'{key}': the duration {text} is negative")
    return seconds
