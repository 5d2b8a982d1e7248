"""Disks that are full or cannot be written: a clear word, everything else goes on, and nothing is lost."""

import base64
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, eventually
from tests.harness.commands import run_command
from tests.harness.files import lines

DEADLINE_S = 30.0
KEYS = [base64.b64encode(bytes([number]) * 16).decode() for number in range(2)]

BLOCK = 4096


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room on it."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(BLOCK))

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def remount(self, mode: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A file system of 256 KiB; only root may make one."""
    place = Path(tempfile.mkdtemp(prefix="s"))
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "serfmp-test", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        place.rmdir()
        pytest.skip(f"a file system of its own needs root: {done.stderr.strip() if done else 'not root'}")
    yield Disk(place)
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


def start(launch: Launcher, tmp_path: Path, *extra: str) -> Agent:
    """An agent whose handler writes down the names of events."""
    agent = launch.serfmp("one", handlers=[f"user=echo $SERF_USER_EVENT >> {tmp_path / 'seen'}"], extra=extra)
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    return agent


def seen(tmp_path: Path) -> list[str]:
    """The events that were handled."""
    return lines(tmp_path / "seen")


def send(agent: Agent, tmp_path: Path, name: str) -> None:
    """An event, handled."""
    agent.event(name)
    eventually(lambda: name in seen(tmp_path), DEADLINE_S, f"{name} is handled")


def check_snapshot_over_trouble(
    agent: Agent, tmp_path: Path, file: Path, reason: str, begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """Let writing the snapshot fail for a while: it is told once, the agent goes on, and the file has it all later."""
    send(agent, tmp_path, "before")
    eventually(lambda: "event-clock: 1" in file.read_text(), DEADLINE_S, "the file is written")
    begin()
    for number in range(3):
        send(agent, tmp_path, f"meanwhile-{number}")
    told = f"Failed to update snapshot: {file}: {reason}; all of it is written anew once that works"
    agent.wait_log(told, DEADLINE_S)
    end()
    agent.wait_log(f"The snapshot {file} is written again", DEADLINE_S)
    eventually(lambda: "event-clock: 4" in file.read_text(), DEADLINE_S, "the file has what it missed")
    assert agent.log().count(told) == 1
    assert f"alive: one {agent.bind}" in file.read_text()


def test_a_snapshot_that_may_not_grow_is_written_anew_when_it_may_and_a_link_to_it_stays(
    launch: Launcher, tmp_path: Path
) -> None:
    file, link = tmp_path / "elsewhere" / "snapshot", tmp_path / "link"
    file.parent.mkdir()
    link.symlink_to(file)
    agent = start(launch, tmp_path, f"-snapshot={link}")
    (pid,) = agent.pids_by_role()["detector"]
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    def limit() -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))

    check_snapshot_over_trouble(
        agent, tmp_path, link, "file too large", limit, lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    )
    assert agent.pids_by_role()["detector"] == (pid,)
    assert link.is_symlink()


@pytest.mark.root
def test_a_snapshot_on_a_full_disk_is_written_anew_when_there_is_room(
    launch: Launcher, tmp_path: Path, disk: Disk
) -> None:
    file = disk.path / "snapshot"
    agent = start(launch, tmp_path, f"-snapshot={file}")

    def fill() -> None:
        # A file that ends within a block has room left.
        with file.open("ab") as end:
            end.write(b"#" * (BLOCK - 1 - file.stat().st_size % BLOCK) + b"\n")
        disk.fill()

    check_snapshot_over_trouble(agent, tmp_path, file, "no space left on device", fill, disk.free)


@pytest.mark.root
def test_a_key_that_a_full_disk_does_not_take_is_refused_and_nothing_has_changed(
    launch: Launcher, tmp_path: Path, disk: Disk
) -> None:
    file = disk.path / "keyring"
    file.write_text(json.dumps(KEYS[:1]))
    file.chmod(0o600)
    agent = start(launch, tmp_path, f"-keyring-file={file}")
    for hinder, allow, reason in (
        (disk.fill, disk.free, "no space left on device"),
        (lambda: disk.remount("ro"), lambda: disk.remount("rw"), "read-only file system"),
    ):
        hinder()
        assert command(agent, "keys", f"-install={KEYS[1]}") == (1, f"Failed to write keyring file: {reason}")
        assert json.loads(file.read_text()) == KEYS[:1]
        allow()
    code, _ = command(agent, "keys", f"-install={KEYS[1]}")
    assert code == 0
    assert json.loads(file.read_text()) == KEYS


def command(agent: Agent, name: str, *words: str) -> tuple[int, str]:
    """Exit code of a command, and the end of what it says about the node."""
    done = run_command(agent, name, *words)
    rows = [line for line in done.stdout.splitlines() if "one" in line.split()]
    return done.returncode, rows[0].partition("one")[2].strip() if rows else ""


@pytest.mark.root
def test_a_worker_that_starts_on_a_full_runtime_disk_waits_for_room_and_loses_nothing(
    launch: Launcher, tmp_path: Path, disk: Disk
) -> None:
    agent = start(launch, tmp_path, f"-runtime-dir={disk.path}", "-workers=1")
    send(agent, tmp_path, "before")
    with contextlib.ExitStack() as stack:
        # What the dead worker leaves is removed: its room shall not help the next one.
        for old in disk.path.rglob("claims.*"):
            stack.enter_context(old.open("rb"))
        disk.fill()
        os.kill(agent.pids_by_role()["worker"][0], signal.SIGKILL)
        agent.wait_log("worker-0 runs no script until it can write to", DEADLINE_S)
        assert ": no space left on device" in agent.log()
        agent.event("meanwhile")
        assert agent.statuses() == {"one": "alive"}
        disk.free()
    eventually(lambda: seen(tmp_path) == ["before", "meanwhile"], DEADLINE_S, "all is handled")


@pytest.mark.root
@pytest.mark.parametrize("flag", ["runtime-dir", "snapshot"])
def test_a_place_that_cannot_be_written_ends_the_start_with_the_reason(launch: Launcher, disk: Disk, flag: str) -> None:
    disk.remount("ro")
    agent = launch.serfmp("one", extra=[f"-{flag}={disk.path / 'x'}"], wait=False)
    assert agent.wait_exit(DEADLINE_S) == 1
    last = agent.log().splitlines()[-1].lower()
    assert last.startswith("==> ")
    assert str(disk.path / "x").lower() in last
    assert "read-only file system" in last
    disk.remount("rw")


def test_a_snapshot_must_be_a_file(launch: Launcher, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused = launch.serfmp("one", extra=[f"-snapshot={pipe}"], wait=False)
    assert refused.wait_exit(DEADLINE_S) == 1
    assert f"{pipe} is not a file; name one that may be replaced" in refused.log()


@pytest.mark.parametrize("output", ["full", "closed"])
def test_an_agent_that_can_print_nothing_works_and_leaves(launch: Launcher, tmp_path: Path, output: str) -> None:
    peer = launch.serfmp("peer")
    options = launch.options("one", join=[str(peer.bind)])
    redirect = ">/dev/full 2>/dev/full" if output == "full" else "<&- >&- 2>&-"
    words = [sys.executable, "-m", "serfmp", "agent", *options.flags()]
    with subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", *words, f"-runtime-dir={peer_runtime(peer)}"],
        cwd=Path(__file__).resolve().parents[2],
    ) as agent:
        try:
            peer.wait_statuses({"peer": "alive", "one": "alive"}, DEADLINE_S)
            agent.send_signal(signal.SIGINT)
            assert agent.wait(DEADLINE_S) == 0
        finally:
            agent.kill()
    peer.wait_statuses({"peer": "alive", "one": "left"}, DEADLINE_S)


def peer_runtime(agent: Agent) -> str:
    """The runtime directory that the harness gave it; several agents may share one."""
    return next(word.partition("=")[2] for word in agent.command if word.startswith("-runtime-dir="))
