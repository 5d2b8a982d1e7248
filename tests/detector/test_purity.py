"""The core must not be able to act: no sockets, clocks, threads or hidden randomness."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "serfmp"
FORBIDDEN = {
    "asyncio",
    "datetime",
    "multiprocessing",
    "os",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "zmq",
}
ALLOWED_OF_OURS = ("serfmp.wire", "serfmp.errors", "serfmp.detector")
PURE = sorted(
    [
        *PACKAGE.glob("wire/*.py"),
        *PACKAGE.glob("detector/swim/*.py"),
        *PACKAGE.glob("detector/serf/*.py"),
        *(PACKAGE / "detector" / f"{name}.py" for name in ("core", "effects", "config", "records")),
    ]
)


def imports(path: Path) -> list[tuple[str, list[str]]]:
    """Modules that a file imports, with the names taken from them."""
    found: list[tuple[str, list[str]]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", [alias.name for alias in node.names]))
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_pure_module_imports_nothing_that_acts(path: Path) -> None:
    for module, names in imports(path):
        top = module.split(".")[0]
        if (path.stem, module) == ("crypto", "secrets"):
            continue  # a nonce must never repeat: that randomness cannot be injected
        assert top not in FORBIDDEN, f"{path.name} imports {module}"
        if top == "random":
            assert names == ["Random"], f"{path.name} uses the global random"
        if top == "serfmp":
            assert module.startswith(ALLOWED_OF_OURS), f"{path.name} imports {module}"


@pytest.mark.parametrize("path", [path for path in PURE if path.parent.name == "swim"], ids=lambda path: path.stem)
def test_swim_knows_nothing_of_serf(path: Path) -> None:
    assert not any(module.startswith("serfmp.detector.serf") for module, _ in imports(path))
