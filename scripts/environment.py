"""Makes or renews `.venv` beside the checkout. Run by `scripts/setup`, which has found a fitting Python.

Rules:

* Only the standard library and pip are needed; what is installed stands in the lock files, exactly.
* The stamp of an environment is a copy of the lock that it was made from, so that the callers need nothing but `cmp`.
  It is written last: an interrupted set-up is done again. An environment without a stamp is adopted, not rebuilt.
* Two may run at once: a file lock lets one work and the other wait and find the work done.
* The project itself is not built: a `.pth` file, relative to the environment, names the checkout.
* Progress goes to stderr, so that the output of the program that asked for the environment stays its own.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
LOCKS = {"run": ("requirements.lock",), "dev": ("requirements.lock", "requirements-dev.lock")}
"""What each kind of environment holds; the last lock includes those before it."""

PIP_FOR_OTHERS = (22, 3)
"""The first pip that installs into another Python's environment (`pip --python`)."""

MISLEADING = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH")
"""Variables that would send the packages somewhere else."""


class SetupError(Exception):
    """The environment cannot be made; the text says why and what to do."""


def say(text: str) -> None:
    """One line of progress."""
    print(f"serfmp: {text}", file=sys.stderr, flush=True)


def stamp(lock: str) -> Path:
    """Where the environment keeps its copy of a lock."""
    return ENVIRONMENT / f".{lock}"


def is_current(kind: str) -> bool:
    """Whether the environment was made from the locks as they are now, and its Python still runs."""
    try:
        same = all(stamp(lock).read_bytes() == (ROOT / lock).read_bytes() for lock in LOCKS[kind])
    except FileNotFoundError:
        return False
    return same and environment_version() is not None


def environment_version() -> tuple[int, int] | None:
    """Python's version in the environment, as (major, minor); None if it does not run or has no packages."""
    if not PYTHON.exists():
        return None
    ask = "import sys, os, sysconfig; print(*sys.version_info[:2], os.path.isdir(sysconfig.get_path('purelib')))"
    answer = subprocess.run([PYTHON, "-I", "-c", ask], capture_output=True, text=True, check=False)
    words = answer.stdout.split()
    if answer.returncode != 0 or words[2] != "True":
        return None
    return int(words[0]), int(words[1])


@contextmanager
def alone() -> Iterator[None]:
    """Hold the set-up lock of this checkout. It is freed by the system should this process die."""
    with (ROOT / ".venv.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def has_module(python: Path | str, module: str) -> bool:
    """Whether a Python can import a module."""
    found = subprocess.run([python, "-I", "-c", f"import {module}"], capture_output=True, check=False)
    return found.returncode == 0


def own_pip_serves_others() -> bool:
    """Whether the pip of this Python can install into the new environment, which saves a second copy of pip."""
    try:
        numbers = importlib.metadata.version("pip").split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(numbers[0]), int(numbers[1])) >= PIP_FOR_OTHERS


def make() -> None:
    """Make an empty environment, in place of one that does not work."""
    import venv

    with_pip = not own_pip_serves_others()
    if with_pip and importlib.util.find_spec("ensurepip") is None:
        message = "pip is missing: install it (Debian: apt-get install python3-pip, or python3-venv), then try again"
        raise SetupError(message)
    say(f"making .venv with Python {sys.version.split()[0]}")
    venv.create(ENVIRONMENT, clear=True, symlinks=True, with_pip=with_pip)


def pip_command() -> list[str]:
    """How to call a pip that installs into the environment."""
    if has_module(PYTHON, "pip"):
        return [str(PYTHON), "-I", "-m", "pip"]
    if own_pip_serves_others():
        return [sys.executable, "-I", "-m", "pip", "--python", str(PYTHON)]
    message = f"pip is missing in .venv and in {sys.executable}: remove .venv or install pip, then try again"
    raise SetupError(message)


def install(lock: str) -> None:
    """Install exactly what a lock names."""
    say(f"installing what {lock} names (a minute at most, with a warm cache seconds)")
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    options = ["--quiet", "--no-input", "--no-deps", "--disable-pip-version-check", "--root-user-action=ignore"]
    command = [*pip_command(), "install", *options, "-r", str(ROOT / lock)]
    # pip's own words belong with ours on stderr.
    if subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode != 0:
        message = f"pip could not install what {lock} names; its reason stands above"
        raise SetupError(message)


def link_project(version: tuple[int, int]) -> None:
    """Put the checkout on the path of the environment, relative to it: both may be moved together."""
    packages = ENVIRONMENT / "lib" / f"python{version[0]}.{version[1]}" / "site-packages"
    (packages / "serfmp-checkout.pth").write_text(os.path.relpath(ROOT, packages) + "\n")


def remember(lock: str) -> None:
    """Write the stamp, whole or not at all."""
    new = stamp(lock).with_suffix(".new")
    new.write_bytes((ROOT / lock).read_bytes())
    new.replace(stamp(lock))


def set_up(kind: str) -> None:
    """Bring the environment up to its locks, unless it is."""
    with alone():
        if is_current(kind):
            return
        started = time.monotonic()
        if environment_version() is None:
            make()
        version = environment_version()
        if version is None:
            message = f"the new .venv does not work: {PYTHON} does not run"
            raise SetupError(message)
        locks = LOCKS[kind]
        for lock in LOCKS["dev"]:
            stamp(lock).unlink(missing_ok=True)
        install(locks[-1])
        link_project(version)
        for lock in locks:
            remember(lock)
        say(f".venv is ready ({time.monotonic() - started:.0f} s)")


def main() -> int:
    """Set up the kind of environment that the first argument names; the exit code."""
    kind = sys.argv[1] if len(sys.argv) == 2 else ""
    if kind not in LOCKS:
        say(f"usage: scripts/setup [{'|'.join(LOCKS)}]")
        return 2
    try:
        set_up(kind)
    except (SetupError, OSError, subprocess.SubprocessError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
