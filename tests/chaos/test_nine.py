"""The short form of scripts/prove_nine.py: three of ours and two real agents, without a cluster to compare with.

The script runs as a program: it needs a network namespace of its own, which the test runner must not enter.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.prove_nine import hindrance

ROOT = Path(__file__).resolve().parent.parent.parent

ENDS_S = 150.0


@pytest.mark.root
@pytest.mark.timeout(200)
def test_under_light_loss_nobody_is_failed_falsely_and_a_death_of_either_kind_is_seen_by_all(tmp_path: Path) -> None:
    if why := hindrance():
        pytest.skip(why)
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "scripts.prove_nine", "--short", "--json", str(figures)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as script:
        try:
            said, _ = script.communicate(timeout=ENDS_S)
        finally:
            # Ends its agents, too; without effect once it has ended.
            script.terminate()
    assert script.returncode == 0, said
    assert json.loads(figures.read_text())["passed"]
