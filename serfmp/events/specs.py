"""Which handler wants which event, and how it runs: Serf's handler texts, and objects of the configuration file.

    handler = script | filters "=" script          split at the first "="
    filters = filter *( "," filter )               nothing before "=" means "*"
    filter  = "*" | KIND | "user" | "query" | "user:" name | "query:" name

Rules of texts (spec agent.md 4.1): nothing is trimmed; names are exact; an empty name is no restriction. Every filter
that matches an event runs the script, so `user,*=x` runs `x` twice.

Rules of objects: `on` is a list of filters, `run` a shell line or a list of arguments; an event runs the handler once,
however many filters match. Every other key has a default (`serfmp.events.policy`). All that is wrong with an object is
told at once, each with its place.

A handler's `identity` is its name, or what it is made of: it stays the same over a reload that does not change it, and
tells apart entries that are equal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serfmp.detector.effects import Event, EventKind, MemberEvent
from serfmp.digest import short_name
from serfmp.durations import parse_duration
from serfmp.errors import UserError
from serfmp.events.policy import (
    BACKOFF,
    DEFAULT,
    GRACE,
    OBJECT_TIMEOUT,
    OUTPUT_LIMIT,
    QUEUE_LIMIT,
    SCRIPT_NICE,
    Order,
    Overflow,
    QueuePolicy,
    RunPolicy,
)

CONCURRENCY: Final = 4
"""Default of handlers whose invocations need not run one after another."""
CONCURRENCY_MAX: Final = 64
RETRIES_MAX: Final = 100
OUTPUT_MAX: Final = 1024 * 1024
NICE_MAX: Final = 19
QUEUE_MAX: Final = 1_000_000

_KINDS: Final = {kind.label: kind for kind in EventKind}
_NAMED: Final = frozenset({EventKind.USER, EventKind.QUERY})
_SIZES: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_KEYS: Final = (
    "name on run timeout grace concurrency order retries backoff nice limits env cwd output queue".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One filter. `kind` None: every kind. `name`: of the user event or query; empty: any."""

    kind: EventKind | None
    name: str

    def matches(self, event: Event) -> bool:
        """Whether the filter lets the event through."""
        if self.kind is None:
            return True
        if self.kind is not event.kind:
            return False
        return isinstance(event, MemberEvent) or self.name in {"", event.name}

    def __str__(self) -> str:
        """As it is written."""
        label = "*" if self.kind is None else self.kind.label
        return f"{label}:{self.name}" if self.name else label


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler. `command`: a line for `/bin/sh -c`, or the program and its arguments."""

    patterns: tuple[Pattern, ...]
    command: str | tuple[str, ...]
    name: str = ""
    is_object: bool = False
    run: RunPolicy = DEFAULT
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    occurrence: int = 0
    """How many equal entries stand before it."""
    identity: str = field(init=False, repr=False, compare=False)
    """See the module. Made once, as the title: they are asked for several times for every invocation."""
    title: str = field(init=False, repr=False, compare=False)
    """What people see: its name, or its command."""

    def __post_init__(self) -> None:
        """Make identity and title."""
        object.__setattr__(self, "identity", self._identity())
        object.__setattr__(self, "title", self.name or self.shown_command)

    def runs(self, event: Event) -> int:
        """How often the handler runs for this event."""
        matching = 0
        for pattern in self.patterns:
            if pattern.matches(event):
                matching += 1
        return min(matching, 1) if self.is_object else matching

    def _identity(self) -> str:
        if self.name:
            return self.name
        digest = short_name(json.dumps(self.to_plain(), sort_keys=True).encode())
        return f"{digest}.{self.occurrence}" if self.occurrence else digest

    @property
    def shown_command(self) -> str:
        """The command as one text."""
        return self.command if isinstance(self.command, str) else " ".join(self.command)

    def to_plain(self) -> dict[str, Any]:
        """As a map that msgpack and JSON carry."""
        queue = self.queue
        return {
            "on": [str(pattern) for pattern in self.patterns],
            "command": self.command if isinstance(self.command, str) else list(self.command),
            "name": self.name,
            "object": self.is_object,
            "run": self.run.to_plain(),
            "queue": [
                queue.order.value,
                queue.concurrency,
                queue.limit,
                queue.overflow.value,
                queue.retries,
                queue.backoff,
            ],
            "occurrence": self.occurrence,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> HandlerSpec:
        """The inverse of `to_plain`."""
        command = plain["command"]
        order, concurrency, limit, overflow, retries, backoff = plain["queue"]
        return cls(
            patterns=tuple(_pattern(text) or Pattern(None, "") for text in plain["on"]),
            command=command if isinstance(command, str) else tuple(command),
            name=plain["name"],
            is_object=plain["object"],
            run=RunPolicy.from_plain(plain["run"]),
            queue=QueuePolicy(Order(order), concurrency, limit, Overflow(overflow), retries, backoff),
            occurrence=plain["occurrence"],
        )


def parse_handlers(entries: Iterable[object], where: str = "event_handlers") -> tuple[HandlerSpec, ...]:
    """The handlers of these texts and objects, in order.

    Raises `UserError`: Serf's words for a filter of a text that is none; for objects all mistakes, each with its place.
    """
    specs: list[HandlerSpec] = []
    faults: list[str] = []
    for number, entry in enumerate(entries):
        if isinstance(entry, str):
            specs.append(parse_text(entry))
            continue
        try:
            specs.append(parse_handler_object(entry, f"{where}[{number}]"))
        except UserError as error:
            faults.append(str(error))
    names = Counter(spec.name for spec in specs if spec.name)
    faults += [f"{where}: {count} handlers have the name '{name}'" for name, count in names.items() if count > 1]
    if faults:
        raise UserError("\n".join(faults))
    return _told_apart(specs)


def _told_apart(specs: list[HandlerSpec]) -> tuple[HandlerSpec, ...]:
    seen: Counter[str] = Counter()
    result = []
    for spec in specs:
        same = json.dumps(spec.to_plain(), sort_keys=True)
        result.append(
            HandlerSpec(
                spec.patterns, spec.command, spec.name, spec.is_object, spec.run, spec.queue, occurrence=seen[same]
            )
        )
        seen[same] += 1
    return tuple(result)


# --- texts ------------------------------------------------------------------------------------------------------------


def parse_text(text: str) -> HandlerSpec:
    """The handler of a text in Serf's grammar. Raises `UserError` with Serf's words."""
    filters, separator, script = text.partition("=")
    if not separator:
        filters, script = "*", text
    patterns = []
    for found in (filters or "*").split(","):
        pattern = _pattern(found)
        if pattern is None:
            raise UserError(f"Invalid event script: Event '{found}' invoking '{script}'")
        patterns.append(pattern)
    return HandlerSpec(tuple(patterns), script)


def _pattern(text: str) -> Pattern | None:
    """A filter; None if it is none."""
    if text == "*":
        return Pattern(None, "")
    label, colon, name = text.partition(":")
    kind = _KINDS.get(label)
    if kind is None or (colon and kind not in _NAMED):
        return None
    return Pattern(kind, name)


# --- objects ----------------------------------------------------------------------------------------------------------


class _Fields:
    """The keys of one object: each is taken once, what is wrong is collected, what is left is unknown."""

    def __init__(self, value: object, where: str, known: Iterable[str], faults: list[str]) -> None:
        self.where = where
        self.faults = faults
        self._values: dict[str, Any] = {}
        if not isinstance(value, Mapping):
            faults.append(f"{where}: an object is expected, not {_kind(value)}")
            return
        names = list(known)
        known_text = ", ".join(names)
        faults += [f"{where}.{key}: unknown key; known are {known_text}" for key in value if key not in names]
        self._values = dict(value)

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def fault(self, key: str, text: str) -> None:
        self.faults.append(f"{self.where}.{key}: {text}")

    def number(self, key: str, default: int, lowest: int, highest: int) -> int:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            self.fault(key, f"a whole number is expected, not {_kind(value)}")
        elif not lowest <= value <= highest:
            self.fault(key, f"{value} is not between {lowest} and {highest}")
        else:
            return value
        return default

    def seconds(self, key: str, default: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, str):
            try:
                value = parse_duration(value)
            except UserError as error:
                self.fault(key, str(error))
                return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.fault(key, f"a duration such as 30s, or a number of seconds, is expected, not {_kind(value)}")
        elif value < 0:
            self.fault(key, f"{value} is negative")
        else:
            return float(value)
        return default

    def size(self, key: str, default: int, highest: int = 2**62) -> int:
        value = self.get(key)
        if isinstance(value, str):
            digits = value.rstrip("KMGiBkmgb ").strip()
            unit = _SIZES.get(value[len(digits) :].strip().upper())
            if not digits.isdigit() or unit is None:
                self.fault(key, f"'{value}' is no size; write bytes, or 64KiB, 512MiB, 2GiB")
                return default
            value = int(digits) * unit
            if value > highest:
                self.fault(key, f"{value} bytes are more than {highest}")
                return default
            return value
        return self.number(key, default, 0, highest)

    def text(self, key: str) -> str:
        value = self.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.fault(key, f"a text is expected, not {_kind(value)}")
        elif "\0" in value:
            self.fault(key, "it holds a NUL byte")
        else:
            return value
        return ""

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
            self.fault(key, f"a list of texts is expected, not {_kind(value)}")
            return None
        return tuple(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(key, f"true or false is expected, not {_kind(value)}")
            return default
        return value

    def choice(self, key: str, default: str, choices: Iterable[str]) -> str:
        value = self.get(key)
        if value is None:
            return default
        known = list(choices)
        if value not in known:
            self.fault(key, f"'{value}' is none of {', '.join(known)}")
            return default
        return str(value)

    def inner(self, key: str, known: Iterable[str]) -> _Fields:
        value = self.get(key)
        return _Fields({} if value is None else value, f"{self.where}.{key}", known, self.faults)


def _kind(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: f"'{value}'",
        list: "a list",
        dict: "an object",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def parse_handler_object(value: object, where: str) -> HandlerSpec:
    """The handler of a configuration object. Raises `UserError` that names every mistake with its place."""
    faults: list[str] = []
    fields = _Fields(value, where, _KEYS, faults)
    spec = _from_fields(fields) if isinstance(value, Mapping) else None
    if faults or spec is None:
        raise UserError("\n".join(faults))
    return spec


def _from_fields(fields: _Fields) -> HandlerSpec:
    limits = fields.inner("limits", ("address_space", "cpu_seconds", "open_files"))
    output = fields.inner("output", ("limit", "separate"))
    waiting = fields.inner("queue", ("limit", "policy"))
    order = Order(fields.choice("order", Order.HANDLER, [*Order]))
    ordered = order in {Order.HANDLER, Order.AGENT}
    run = RunPolicy(
        timeout=fields.seconds("timeout", OBJECT_TIMEOUT),
        grace=fields.seconds("grace", GRACE),
        nice=fields.number("nice", SCRIPT_NICE, 0, NICE_MAX),
        address_space=limits.size("address_space", 0),
        cpu_seconds=limits.number("cpu_seconds", 0, 0, 2**31),
        open_files=limits.number("open_files", 0, 0, 2**31),
        environment=_environment(fields),
        directory=_directory(fields),
        output_limit=output.size("limit", OUTPUT_LIMIT, OUTPUT_MAX),
        separate=output.flag("separate", default=True),
    )
    concurrency = fields.number("concurrency", 1 if ordered else CONCURRENCY, 1, CONCURRENCY_MAX)
    if order is Order.AGENT and concurrency != 1:
        fields.fault("concurrency", "with order 'agent' it is 1")
    queue = QueuePolicy(
        order=order,
        concurrency=concurrency,
        limit=waiting.number("limit", QUEUE_LIMIT, 1, QUEUE_MAX),
        overflow=Overflow(waiting.choice("policy", Overflow.DROP_OLDEST, [*Overflow])),
        retries=fields.number("retries", 0, 0, RETRIES_MAX),
        backoff=fields.seconds("backoff", BACKOFF),
    )
    patterns = _patterns(fields)
    if queue.overflow is Overflow.COALESCE and any(p.kind is None or p.kind in _NAMED for p in patterns):
        waiting.fault("policy", "coalesce is for member events only; 'on' also lets others through")
    return HandlerSpec(patterns, _command(fields), fields.text("name"), True, run, queue)


def _patterns(fields: _Fields) -> tuple[Pattern, ...]:
    texts = ("*",) if fields.get("on") is None else fields.texts("on")
    patterns = []
    for number, text in enumerate(texts or ()):
        pattern = _pattern(text)
        if pattern is None:
            fields.fault(f"on[{number}]", f"'{text}' is no filter; such as member-join, user:deploy, query, *")
        else:
            patterns.append(pattern)
    if texts == ():
        fields.fault("on", "the list is empty: the handler would never run")
    return tuple(patterns)


def _command(fields: _Fields) -> str | tuple[str, ...]:
    value = fields.get("run")
    if isinstance(value, list):
        words = fields.texts("run")
        if words is not None and not (words and words[0]):
            fields.fault("run", "the list is empty or names no program")
        return words or ()
    text = fields.text("run")
    if value is None or (isinstance(value, str) and not text.strip()):
        fields.fault("run", "what to run is missing: a shell line, or a list with a program and its arguments")
    return text


def _environment(fields: _Fields) -> tuple[str, ...] | None:
    value = fields.get("env")
    if value is None or value == "inherit":
        return None
    return fields.texts("env")


def _directory(fields: _Fields) -> str:
    path = fields.text("cwd")
    if path and not Path(path).is_dir():
        fields.fault("cwd", f"there is no directory '{path}'")
    return path
