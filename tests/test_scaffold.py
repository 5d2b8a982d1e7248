"""Rules of the project that no linter knows: purity of the core, docstrings of packages, locks, sleeps."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import serfmp

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "serfmp"
PURE = ("wire", "detector/swim", "detector/serf", "detector/core.py", "detector/effects.py")
IMPURE = frozenset({"socket", "time", "os", "zmq", "asyncio", "threading", "select", "subprocess", "signal", "secrets"})

# A nonce must come from the system: the one place of the pure packages where it is asked.
ALLOWED = frozenset({("wire/crypto.py", "secrets")})


def modules_of(*parts: str) -> Iterator[Path]:
    for part in parts:
        path = PACKAGE / part
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.exists() else []


def imported(tree: ast.Module) -> set[str]:
    """Names of all imported modules, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(PACKAGE))) for p in modules_of(*PURE)])
def test_the_core_touches_neither_the_system_nor_the_clock_nor_global_randomness(path: Path) -> None:
    tree = ast.parse(path.read_text())
    name = str(path.relative_to(PACKAGE))
    roots = {module.partition(".")[0] for module in imported(tree)}
    assert {root for root in roots & IMPURE if (name, root) not in ALLOWED} == set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"line {node.lineno}: random.{node.attr} is global"
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            assert {alias.name for alias in node.names} == {"Random"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(PACKAGE))) for p in modules_of("wire")])
def test_the_codec_imports_only_itself_and_the_errors(path: Path) -> None:
    ours = {module for module in imported(ast.parse(path.read_text())) if module.startswith("serfmp")}
    assert {module for module in ours if not module.startswith(("serfmp.wire", "serfmp.errors"))} == set()


def test_every_package_has_an_init_and_every_module_a_docstring() -> None:
    sources = sorted(PACKAGE.rglob("*.py"))
    folders = {path.parent for path in sources}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
    assert [str(path) for path in sources if not ast.get_docstring(ast.parse(path.read_text()))] == []
    assert (PACKAGE / "py.typed").exists()


def test_only_the_waiting_module_sleeps() -> None:
    sleeping = re.compile(r"(?:time|asyncio)\.sleep\(|from time import .*\bsleep\b")
    files = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]
    offenders = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        # A sleeping program in quotes is a handler, not the test.
        if sleeping.search(re.sub(r"""(["']).*\1""", "", line)) and path.name != "waiting.py"
    }
    assert offenders == set()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> dict[str, str]:
    """Exact versions by normalised name; any line that is something else is an error."""
    versions: dict[str, str] = {}
    for line in (ROOT / lock).read_text().splitlines():
        if line and not line.startswith("#") and line != "-r requirements.lock":
            name, version = line.split("==")
            versions[normal(name)] = version
    return versions


def test_the_locks_hold_exact_versions_of_all_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")

    def names(requirements: list[str]) -> set[str]:
        return {normal(re.split(r"[<>=!~ ;\[]", requirement)[0]) for requirement in requirements}

    assert names(project["project"]["dependencies"]) <= run.keys()
    assert names(project["dependency-groups"]["dev"]) <= dev.keys()
    assert run.keys().isdisjoint(dev)
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in [*run.values(), *dev.values()])


def test_the_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", serfmp.__version__)


@pytest.mark.parametrize("script", ["scripts/serfmp", "scripts/test", "scripts/setup", ".ci/run"])
def test_the_scripts_can_be_run(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111 == 0o111
