import subprocess
import sys

import psutil
import pytest

from tests.harness import eventually
from tests.harness.processes import is_running, kill_tree, role_of, tree

TITLED = "import setproctitle, sys; setproctitle.setproctitle(sys.argv[1]); sys.stdin.read()"


@pytest.mark.parametrize(
    ("title", "role"),
    [("serfmp: gossip (alpha)", "gossip"), ("serfmp: worker-1 (rpc)", "worker"), ("python -m serfmp: gossip", None)],
)
def test_the_title_tells_the_role(title: str, role: str | None) -> None:
    with subprocess.Popen([sys.executable, "-c", TITLED, title], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        eventually(lambda: " ".join(process.cmdline()).startswith(title), 10, "the title is set")
        assert role_of(process) == role


def test_killing_a_tree_ends_all_of_it() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "(sleep 600; true) & (sleep 600; true)"]) as child:
        root = psutil.Process(child.pid)
        eventually(lambda: len(tree(root)) == 5, 10, "two subshells and their sleeps run")
        doomed = kill_tree(root)
        child.wait(10)
    eventually(lambda: not any(map(is_running, doomed)), 10, "all are gone")
    assert len(doomed) == 5
