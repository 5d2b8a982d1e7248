"""Every command of the real program and of ours, asked of an agent of either kind: both say the same, word for word.

What may differ: the order of rows, which is random in Serf; figures that change between two calls.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from serfmp.cli.main import COMMANDS
from tests.cli.recorded import Stage
from tests.harness import Agent, Launcher, eventually
from tests.harness.commands import SERF, SERFMP, run_command

ROOT: Final = Path(__file__).parents[2]
KEY: Final = "T9jncgl9mbLus+baTTa7q7nPSUrXwbDi2dhbtqir37s="

ASKED: Final[list[list[str]]] = [
    ["members"],
    ["members", "-detailed"],
    ["members", "-format=json"],
    ["members", "-format=json", "-name=b"],
    ["members", "-status=failed"],
    ["members", "-name=nobody", "-format=json"],
    ["members", "-tag", "role=w.b", "-role=web"],
    ["members", "-format=xml"],
    ["members", "-tag", "x"],
    ["info"],
    ["info", "-format=json"],
    ["info", "-format=xml"],
    ["rtt", "a", "b"],
    ["rtt", "b"],
    ["rtt", "nobody"],
    ["rtt"],
    ["event", "-coalesce=false", "deploy", "v1"],
    ["event", "deploy"],
    ["event", "big", "x" * 600],
    ["event"],
    ["query", "-timeout=2s", "load", "15m"],
    ["query", "-timeout=2s", "-no-ack", "-relay-factor=1", "load"],
    ["query", "-timeout=2s", "-format=json", "load", "15m"],
    ["query", "-timeout=2s", "-node=a", "-tag", "role=e", "load"],
    ["query", "-timeout=2s", "-format=json", "nothing"],
    ["query", "_serf_x"],
    ["query", "-format=xml", "load"],
    ["reachability"],
    ["reachability", "-verbose"],
    ["tags", "-set", "k=v", "-delete", "none"],
    ["tags", "-set", "long=" + "x" * 600],
    ["tags"],
    ["keys", "-list"],
    ["keys", f"-install={KEY}"],
    ["keys", f"-use={KEY}"],
    ["keys", f"-remove={KEY}"],
    ["keys", "-install=!!"],
    ["keys"],
    ["join", "127.0.0.1:1"],
    ["join"],
    ["force-leave", "nobody"],
    ["force-leave", "-prune", "nobody"],
    ["force-leave"],
    ["monitor", "-log-level=nope"],
]

OF_NOBODY: Final = 5
"""How often the real program may be asked again: real agents sometimes end a query with an ack or a response of nobody,
which it shows."""

ELSEWHERE: Final = {
    "agent": "tests/cli/test_recorded_agents.py",
    "keygen": "below",
    "leave": "below",
    "version": "below",
}
OURS_ALONE: Final = frozenset(COMMANDS) - {words[0] for words in ASKED} - ELSEWHERE.keys()


def run(program: tuple[str, ...], agent: Agent, words: list[str]) -> tuple[int, str, str]:
    """Exit code, normalised stdout and stderr."""
    done = run_command(agent, *words, program=program)
    return done.returncode, normal(done.stdout), normal(done.stderr)


def normal(text: str) -> str:
    text = re.sub(r"Usage: .*\Z", "--help--", text, flags=re.DOTALL)
    text = re.sub(r"\d+\.\d+ (ms|sec)", r"N \1", text)
    text = text.replace("role=web,dc=east", "dc=east,role=web")
    # Between two calls the first one's event is in the queue and the clock goes on.
    text = re.sub(r'((?:goroutines|\w+_queue|\w+_time|health_score|coordinate_resets)"?(?: = |: "))\d+', r"\1N", text)
    return "\n".join(sorted(line.rstrip(" ,") for line in text.splitlines()))


def knows_coordinate(agent: Agent, node: str) -> bool:
    return bool(agent.client().call("get-coordinate", {"Node": node})["Ok"])


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def pair(launch: Launcher) -> tuple[Agent, Agent]:
    ours = launch.serfmp("a", tags={"role": "web", "dc": "east"}, handlers=["query:load=cat"])
    real = launch.serf("b", tags={"role": "web"}, handlers=["query:load=cat"], join=[ours])
    for agent in (ours, real):
        agent.wait_statuses({"a": "alive", "b": "alive"}, 60)
    return ours, real


def test_all_commands_say_the_same_of_agents_of_both_kinds(launch: Launcher, tmp_path: Path) -> None:
    """Many at a time: most of what they take is waiting."""
    agents = pair(launch)
    for agent, peer in zip(agents, "ba", strict=True):
        eventually(partial(knows_coordinate, agent, peer), 60, f"{agent.kind} knows a coordinate of {peer}")
    different = []
    with ThreadPoolExecutor(4) as pool, Stage(tmp_path) as stage:
        for changing in (False, True):  # tags change what other commands show
            asked = [(words, agent) for words in ASKED for agent in agents if (words[0] == "tags") is changing]
            real = [pool.submit(run, SERF, agent, words) for words, agent in asked]
            lines = [(words, {"SERF_RPC_ADDR": str(agent.options.rpc)}) for words, agent in asked]
            ours = [outcome for some in batched(lines, 12) for outcome in stage.run(*some)]
            for (words, agent), expected, outcome in zip(asked, real, ours, strict=True):
                came = (outcome.code, normal(outcome.stdout), normal(outcome.stderr))
                wanted = expected.result()
                for _ in range(OF_NOBODY if agent.kind == "serf" and words[0] == "query" else 0):
                    if wanted != came:
                        wanted = run(SERF, agent, words)
                if wanted != came:
                    different.append((agent.kind, words, wanted, came))
    assert not different, "\n".join(map(str, different))


def test_joins_and_leaves_say_the_same(launch: Launcher) -> None:
    for program, kind in ((SERF, "serfmp"), (SERFMP, "serf")):
        agent, other = getattr(launch, kind)("a"), launch.serf("b")
        joined = (0, "Successfully joined cluster by contacting 1 nodes.", "")
        assert run(program, agent, ["join", str(other.bind)]) == joined
        assert run(program, agent, ["join", str(other.bind), "127.0.0.1:1"]) == joined
        agent.wait_statuses({"a": "alive", "b": "alive"}, 60)
        assert run(program, agent, ["leave"]) == (0, "Graceful leave complete", "")
        assert agent.wait_exit(60) == 0
        code, text, _ = run(program, agent, ["leave"])
        refused = f"Error connecting to Serf agent: dial tcp {agent.options.rpc}: connect: connection refused"
        assert (code, text) == (1, refused)


@pytest.mark.parametrize("command", ["version", "keygen"])
def test_commands_without_an_agent_have_the_same_form(command: str) -> None:
    forms = []
    for program in (SERF, SERFMP):
        done = subprocess.run([*program, command], capture_output=True, check=True, cwd=ROOT, text=True, timeout=60)
        forms.append((re.sub(r"\A[0-9.]+(-dev)?\n", "V\n", done.stdout), len(done.stdout)))
    if command == "version":
        assert forms[0][0] == forms[1][0]
    else:
        assert forms[0][1] == forms[1][1]


def test_no_command_of_the_real_program_is_left_out() -> None:
    done = subprocess.run([*SERF, "--help"], capture_output=True, check=False, text=True, timeout=60)
    listed = re.findall(r"^    (\S+)  ", done.stderr, flags=re.MULTILINE)
    assert listed
    assert set(listed) == {words[0] for words in ASKED} | ELSEWHERE.keys()
    assert set(listed) | OURS_ALONE == COMMANDS.keys()
