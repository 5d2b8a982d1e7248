"""Checks of how gossip gets through: ports both ways, packets of full size, addresses, keys, names."""

from __future__ import annotations

import ipaddress
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence

import psutil

from serfmp.client import Client, ClientError, KeyResult, KeysError, Member
from serfmp.doctor import gossip
from serfmp.doctor.finding import Finding, Status
from serfmp.doctor.gossip import FULL_PACKET, Target
from serfmp.doctor.subject import Subject
from serfmp.wire.host_port import join_host_port

SHOWN = 5
"""Nodes that a line names."""


def look(subject: Subject, client: Client, limit: int) -> list[Finding]:
    """All checks of this module, with at most `limit` peers."""
    findings = [addresses(subject), advertised(subject)]
    peers = [Target(member.name, member.address, member.port) for member in subject.others(limit)]
    own = subject.own
    if subject.dress is None:
        return [
            *findings,
            Finding("ports", Status.SKIPPED, "to speak gossip", subject.why_naked),
            keys(subject, client),
        ]
    if own is None:
        return [*findings, Finding("ports", Status.SKIPPED, "to speak gossip", "the agent does not list itself")]
    me = Target(own.name, own.address, own.port)
    dress = subject.dress
    findings.append(own_ports(me, gossip.ping_all([me], dress)[me.name], gossip.streams([me], dress)[me.name]))
    findings.append(failed(subject, limit))
    if not peers:
        findings.append(Finding("ports", Status.SKIPPED, "other members", "none is alive", _lost_advice(subject)))
        return [*findings, keys(subject, client)]
    tables = gossip.streams(peers, dress)
    refused = {name: text for name, text in tables.items() if isinstance(text, str)}
    known = {name: table for name, table in tables.items() if not isinstance(table, str)}
    udp = gossip.ping_all(peers, dress)
    findings += [
        _ports("udp", peers, udp, "pinged {} by UDP", "let UDP through to the gossip port of these hosts"),
        _ports("tcp", peers, refused, "asked {} for the member list by TCP", _tcp_advice(refused)),
        _ports(
            "udp back",
            [peer for peer in peers if not udp[peer.name]],
            gossip.ping_through([peer for peer in peers if not udp[peer.name]], me, dress),
            f"let {{}} ping this agent at {join_host_port(me.host, me.port)}",
            "let UDP through from these hosts to this agent's gossip port; do they reach the advertised address?",
        ),
        _mtu([peer for peer in peers if not udp[peer.name]], subject),
        names(me, known),
        keys(subject, client),
    ]
    return findings


def failed(subject: Subject, limit: int) -> Finding:
    """Whether members that are held for failed answer from here."""
    lost = [Target(member.name, member.address, member.port) for member in subject.lost[:limit]]
    tried = f"pinged {len(lost)} of {len(subject.lost)} failed members by UDP"
    if not lost or subject.dress is None:
        return Finding("failed members", Status.OK, "looked for failed members", "there are none")
    answers = gossip.ping_all(lost, subject.dress)
    alive = {name: "it answers" for name, text in answers.items() if not text}
    if alive:
        return Finding(
            "failed members",
            Status.ERROR,
            tried,
            _listed(alive),
            "the agent does not reach what this program reaches from here: compare users' firewalls and its -bind; "
            "serfmp why NODE tells on what evidence it is held for failed",
        )
    return Finding(
        "failed members",
        Status.WARNING,
        tried,
        _listed(answers),
        "they are down, or the network between is; if they will not come back: serfmp force-leave NODE",
    )


def own_ports(me: Target, udp: str, tcp: object) -> Finding:
    """Whether the agent answers at the address that it tells others."""
    where = join_host_port(me.host, me.port)
    tried = f"pinged this agent at its advertised address {where}, by UDP and TCP"
    faults = [f"UDP: {udp}"] if udp else []
    faults += [f"TCP: {tcp}"] if isinstance(tcp, str) else []
    if not faults:
        return Finding("own ports", Status.OK, tried, "it answers")
    return Finding(
        "own ports",
        Status.ERROR,
        tried,
        "; ".join(faults),
        "is a firewall of this host in the way, or does the address lead somewhere else? See -advertise and -bind; "
        "behind NAT a host may not reach itself",
    )


def _ports(check: str, peers: Sequence[Target], faults: Mapping[str, str], tried: str, advice: str) -> Finding:
    told = tried.format(f"{len(peers)} members" if len(peers) != 1 else peers[0].name)
    if not peers:
        return Finding(check, Status.SKIPPED, told, "no member could be asked")
    wrong = {name: text for name, text in faults.items() if text}
    if not wrong:
        return Finding(check, Status.OK, told, "all answered" if len(peers) > 1 else "it answered")
    return Finding(check, Status.ERROR, told, _listed(wrong), advice)


def _tcp_advice(refused: Mapping[str, str]) -> str:
    if any("closed" in text or "refused:" in text or "cannot be read" in text for text in refused.values()):
        return "a node that takes connections and does not answer has other keys or another label: compare both"
    return "let TCP through to the gossip port of these hosts"


def _mtu(peers: Sequence[Target], subject: Subject) -> Finding:
    tried = f"pinged {len(peers)} members with UDP packets of {FULL_PACKET} bytes that must not be cut up"
    if not peers or subject.dress is None:
        return Finding("mtu", Status.SKIPPED, tried, "no member could be asked")
    wrong = {name: text for name, text in gossip.ping_all(peers, subject.dress, size=FULL_PACKET).items() if text}
    if not wrong:
        return Finding("mtu", Status.OK, tried, "all answered")
    return Finding(
        "mtu",
        Status.ERROR,
        tried,
        _listed(wrong),
        "short packets get through and full ones do not: a tunnel or overlay on the way has a smaller MTU; enlarge it, "
        "or let ICMP 'fragmentation needed' through",
    )


def addresses(subject: Subject) -> Finding:
    """Whether two members claim one address."""
    held: dict[tuple[str, int], list[str]] = defaultdict(list)
    for member in subject.members:
        if member.status in {"alive", "leaving"}:
            held[member.address, member.port].append(member.name)
    tried = f"compared the addresses of {len(subject.members)} members"
    double = {join_host_port(*where): sorted(nodes) for where, nodes in held.items() if len(nodes) > 1}
    if not double:
        return Finding("addresses", Status.OK, tried, "each has its own")
    seen = "; ".join(f"{where} is claimed by {', '.join(nodes)}" for where, nodes in sorted(double.items())[:SHOWN])
    return Finding(
        "addresses",
        Status.ERROR,
        tried,
        seen,
        "a host was renamed, or several advertise one address (NAT): give each an address and port of its own with "
        "-advertise, and remove old names with force-leave",
    )


def advertised(subject: Subject) -> Finding:
    """Whether the address that the agent tells others is one that they can use."""
    tried = "compared the advertised address with the host's interfaces and the other members"
    own = subject.own
    if own is None or not own.address:
        return Finding("advertised address", Status.SKIPPED, tried, "the agent does not list itself")
    address = ipaddress.ip_address(own.address)
    local = {
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    }
    far = [member for member in subject.members if not _is_loopback(member) and member.name != own.name]
    if address.is_unspecified or (address.is_loopback and far):
        return Finding(
            "advertised address",
            Status.ERROR,
            tried,
            f"it tells others {own.address}, which leads them to themselves",
            "name an address of this host with -bind or -advertise",
        )
    if own.address not in local and not address.is_loopback:
        return Finding(
            "advertised address",
            Status.WARNING,
            tried,
            f"{own.address} is on no interface of this host",
            "right if NAT leads it here (UDP and TCP, same port); else correct -advertise",
        )
    return Finding("advertised address", Status.OK, tried, f"{join_host_port(own.address, own.port)}")


def names(me: Target, known: Mapping[str, Mapping[str, tuple[str, int]]]) -> Finding:
    """Whether others hold another host for the bearer of this agent's name."""
    tried = f"looked for the name '{me.name}' in the member lists of {len(known)} members"
    if not known:
        return Finding("name clash", Status.SKIPPED, tried, "no list could be read")
    other = {
        node: f"holds {join_host_port(*table[me.name])} for it"
        for node, table in known.items()
        if me.name in table and table[me.name] != (me.host, me.port)
    }
    if other:
        return Finding(
            "name clash",
            Status.ERROR,
            tried,
            _listed(other),
            f"two hosts have one name, or this one's address has just changed: rename one of them (-node); it is "
            f"{join_host_port(me.host, me.port)} here",
        )
    missing = [node for node, table in known.items() if me.name not in table]
    if missing:
        return Finding(
            "name clash",
            Status.WARNING,
            tried,
            f"{', '.join(sorted(missing)[:SHOWN])} do not know it yet",
            "if that lasts, the news of this agent does not get through: look at the checks of ports",
        )
    return Finding("name clash", Status.OK, tried, "all hold this host for it")


def keys(subject: Subject, client: Client) -> Finding:
    """Whether all members have the same keys."""
    tried = "asked all members for their keys"
    if not subject.encrypted:
        return Finding("keys", Status.OK, "looked whether gossip is encrypted", "it is not")
    try:
        result = client.list_keys()
        failed = ""
    except KeysError as error:
        result, failed = error.result, str(error)
    except ClientError as error:
        return Finding("keys", Status.SKIPPED, tried, str(error))
    partial = [key for key, count in result.keys.items() if count < result.nodes]
    if failed:
        return Finding(
            "keys",
            Status.ERROR,
            tried,
            failed + _messages(result),
            "a node that does not answer may have other keys: compare its keyring file",
        )
    if partial:
        return Finding(
            "keys",
            Status.WARNING,
            tried,
            f"{len(partial)} of {len(result.keys)} keys are not on all {result.nodes} nodes",
            "finish the rotation: serfmp keys -install on all of them, -use the new one, -remove the old one",
        )
    return Finding("keys", Status.OK, tried, f"{len(result.keys)} keys, all on all {result.nodes} nodes")


def _messages(result: KeyResult) -> str:
    return f" ({_listed(result.messages)})" if result.messages else ""


def _lost_advice(subject: Subject) -> str:
    if not subject.lost:
        return "join one: serfmp join ADDRESS"
    return f"{len(subject.lost)} are failed; serfmp why NODE tells on what evidence"


def _is_loopback(member: Member) -> bool:
    return not member.address or ipaddress.ip_address(member.address).is_loopback


def _listed(texts: Mapping[str, str]) -> str:
    shown = [f"{name}: {text}" for name, text in sorted(texts.items())[:SHOWN]]
    more = len(texts) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
