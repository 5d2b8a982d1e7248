"""`force-leave` without an agent: the words of the recorded runs of Serf, the rest is proved beside the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serfmp.cli.force_leave import COMMAND
from serfmp.cli.main import main

CASES = {
    case["id"]: case
    for case in json.loads((Path(__file__).parents[1] / "data/transcripts/force-leave.json").read_text())["cases"]
}


@pytest.mark.parametrize("name", ["none", "two-names"])
def test_it_wants_exactly_one_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    assert main(case["argv"][1:]) == case["exit_code"]
    shown = capsys.readouterr()
    first, _, rest = case["stdout"].partition("\n\n")
    assert rest.startswith("Usage:")
    assert shown.out == f"{first}\n\n{COMMAND.help_text()}\n"
    assert shown.err == ""


def test_without_an_agent_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES["no-agent"]
    argv = [*case["argv"][1:-1], f"-rpc-addr={case['env']['SERF_RPC_ADDR']}", case["argv"][-1]]
    assert main(argv) == case["exit_code"]
    assert capsys.readouterr().out == case["stdout"]


def test_it_has_serfs_flags() -> None:
    serfs = {line.split()[0].partition("=")[0] for line in CASES["none"]["stdout"].splitlines() if line[:3] == "  -"}
    ours = {option.opts[0] for option in COMMAND.params if not option.opts[0].startswith("-rpc-tls")}
    assert ours == serfs | {"-rpc-timeout"}
