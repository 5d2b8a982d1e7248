"""Starts real agents, of either kind, for tests and scripts, and watches them from outside.

Imports nothing of `serfmp`: what is tested must not be its own witness.
"""

from tests.harness.addresses import Endpoint, LoopbackAllocator
from tests.harness.agents import Agent, AgentOptions, start_serf, start_serfmp
from tests.harness.launcher import Launcher, needs_serf
from tests.harness.records import AnswerRecord, LogRecord, Member, MemberRecord, QueryRecord, Record, UserRecord
from tests.harness.rpc import ConnectionLost, RpcClient, RpcError, Stream
from tests.harness.sniffer import Captured, Sniffer, can_sniff
from tests.harness.waiting import NeverHeld, StoppedHolding, eventually, holds_throughout

__all__ = [
    "Agent",
    "AgentOptions",
    "AnswerRecord",
    "Captured",
    "ConnectionLost",
    "Endpoint",
    "Launcher",
    "LogRecord",
    "LoopbackAllocator",
    "Member",
    "MemberRecord",
    "NeverHeld",
    "QueryRecord",
    "Record",
    "RpcClient",
    "RpcError",
    "Sniffer",
    "StoppedHolding",
    "Stream",
    "UserRecord",
    "can_sniff",
    "eventually",
    "holds_throughout",
    "needs_serf",
    "start_serf",
    "start_serfmp",
]
