"""`serfmp monitor`: shows the agent's log and the events that reach it, as they come (spec agent.md 3.8).

Rules: first the last lines of the log from the level up, then new ones; events between them, as `Event Info:` and one
line for each field, in Serf's notation, sorted by name. Control characters in log lines are escaped, but for tabs and
line breaks. Interrupted: exit code 0, also where a shell has started it in the background, with interrupts ignored. The
agent goes away: exit code 1.
"""

from __future__ import annotations

import re
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.connection import connected, explained, rpc_flags
from serfmp.cli.flags import GoCommand, flag
from serfmp.cli.output import say
from serfmp.client import ClientError, MemberEvent, QueryEvent, UserEvent
from serfmp.wire.address import from_text

if TYPE_CHECKING:
    from serfmp.client import Event, Member

COMMAND: Final = GoCommand(
    "monitor",
    "monitor [options]",
    "Shows the log of the running agent, the last lines first, and the events that reach it, until interrupted.",
    [
        flag("log-level", "Lowest level of log lines: trace, debug, info, warn, err.", default="INFO"),
        *rpc_flags(),
    ],
)

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHORT_MAX: Final = 127
"""Numbers up to here travel in one byte; Serf's client shows longer ones in hexadecimal."""

_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Show log and events. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with connected(values) as client:
        with explained("Error starting stream"):
            stream = client.stream("*")
        with explained("Error starting monitor"):
            monitor = client.monitor(values["log_level"])
        try:
            for item in client.either(stream, monitor):
                say(_CONTROL.sub(_escaped, item) if isinstance(item, str) else described(item))
                if stream.arrival is None and monitor.arrival is None:
                    sys.stdout.flush()
        except ClientError:
            say("\nRemote side ended the monitor! This usually means that the\nremote side has exited or crashed.")
            return 1
        except KeyboardInterrupt:
            return 0
    return 0


def described(event: Event) -> str:
    """An event as Serf's `monitor` shows it."""
    fields: dict[str, str] = {}
    match event:
        case UserEvent():
            fields = {
                "Coalesce": _boolean(event.coalesce),
                "Event": quoted("user"),
                "LTime": _number(event.ltime),
                "Name": quoted(event.name),
                "Payload": _bytes("byte", event.payload),
            }
        case QueryEvent():
            fields = {
                "Event": quoted("query"),
                "ID": _number(event.id),
                "LTime": _number(event.ltime),
                "Name": quoted(event.name),
                "Payload": _bytes("byte", event.payload),
            }
        case MemberEvent(_, members):
            rows = ", ".join(map(_member, members))
            fields = {"Event": quoted(event.kind), "Members": f"[]interface {{}}{{{rows}}}"}
    return "\n".join(["Event Info:", *(f"\t{name}: {value}" for name, value in fields.items())])


def quoted(text: str) -> str:
    """The text in double quotes, as Go quotes it: what cannot be printed, and what is no UTF-8, escaped."""
    return f'"{"".join(map(_quoted, text))}"'


def _quoted(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _number(value: int) -> str:
    return str(value) if value <= _SHORT_MAX else f"{value:#x}"


def _bytes(kind: str, value: bytes) -> str:
    return f"[]{kind}{{{', '.join(f'{byte:#x}' for byte in value)}}}" if value else "<nil>"


def _map(fields: dict[str, str]) -> str:
    inner = ", ".join(f"{quoted(name)}:{value}" for name, value in fields.items())
    return f"map[interface {{}}]interface {{}}{{{inner}}}"


def _member(member: Member) -> str:
    return _map(
        {
            "Addr": _bytes("uint8", from_text(member.address) if member.address else b""),
            "DelegateCur": _number(member.delegate_cur),
            "DelegateMax": _number(member.delegate_max),
            "DelegateMin": _number(member.delegate_min),
            "Name": quoted(member.name),
            "Port": _number(member.port),
            "ProtocolCur": _number(member.protocol_cur),
            "ProtocolMax": _number(member.protocol_max),
            "ProtocolMin": _number(member.protocol_min),
            "Status": quoted(member.status),
            "Tags": _map({name: quoted(value) for name, value in sorted(member.tags.items())}),
        }
    )


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
