"""The layer rule: what a module may import, read from its source."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "llama_gossip"
MODULES = sorted(PACKAGE.rglob("*.py"))

PURE = ("protocol", "simulation", "openai_api")
IMPURE_NAMES = {"asyncio", "socket", "time", "torch", "logging", "llama_gossip._native", "random"}


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that the file imports, lazily or not, relative ones resolved."""
    here = ("llama_gossip", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = ".".join((*(here[:-level] if level else ()), *([module] if module else ())))
                yield base
                yield from (f"{base}.{alias.name}" for alias in names)


def uses(path: Path, name: str) -> bool:
    return any(found == name or found.startswith(name + ".") for found in imported(path))


def in_layer(path: Path, layer: str) -> bool:
    return path.relative_to(PACKAGE).with_suffix("").parts[0] == layer


def test_the_package_is_where_this_test_looks() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", [m for m in MODULES if any(in_layer(m, p) for p in PURE)], ids=str)
def test_a_pure_module_has_no_clock_socket_task_or_chance_of_its_own(path: Path) -> None:
    allowed = {"random"} if in_layer(path, "simulation") else set()
    if path.name == "__main__.py":
        allowed |= {"time"}
    if "random" in imported(path) and not in_layer(path, "simulation"):
        allowed |= {"random"} if only_the_random_type(path) else set()
    assert {name for name in IMPURE_NAMES - allowed if uses(path, name)} == set()


def only_the_random_type(path: Path) -> bool:
    """True when `random.Random` is named as a type and nothing of the module's own generator is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    }
    made = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "random"
    }
    return used <= {"Random"} and not made


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("llama_gossip._native", {"transport.py"}),
        ("torch", {"engine"}),
        ("transformers", {"engine"}),
        ("starlette", {"gateway"}),
        ("uvicorn", {"gateway"}),
        ("h11", {"gateway"}),
        ("prometheus_client", {"gateway"}),
        ("click", {"cli"}),
    ],
)
def test_a_library_is_imported_only_in_its_layer(library: str, homes: set[str]) -> None:
    strangers = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if uses(path, library) and path.relative_to(PACKAGE).parts[0] not in homes
    ]
    assert strangers == []


def test_modules_import_each_other_in_no_circle() -> None:
    names = {".".join(("llama_gossip", *m.relative_to(PACKAGE).with_suffix("").parts)): m for m in MODULES}
    edges = {name: {n for n in top_level(path) if n in names and n != name} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in edges[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def top_level(path: Path) -> set[str]:
    """Imports that run when the module is imported: not those inside functions or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


HTTP = ["starlette", "uvicorn", "h11", "prometheus_client"]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("llama_gossip", ["torch", "transformers", "numpy", *HTTP]),
        ("llama_gossip.gateway", ["llama_gossip._native", "asyncio", *HTTP]),
        ("llama_gossip.cli.client", ["torch", "transformers", "numpy", "llama_gossip._native", *HTTP]),
        ("llama_gossip.node", ["torch", "transformers", "numpy", *HTTP]),
        ("llama_gossip.cli.main", ["torch", "transformers", "numpy", "llama_gossip._native", *HTTP]),
        ("llama_gossip.engine", ["torch", "transformers", "llama_gossip._native"]),
        ("llama_gossip.engine.torch_engine", ["llama_gossip._native"]),
        ("llama_gossip.protocol.core", ["asyncio", "torch", "llama_gossip._native"]),
    ],
)
def test_an_import_brings_nothing_heavy_along(module: str, forbidden: list[str]) -> None:
    script = f"import sys, json, {module}; print(json.dumps([n for n in {forbidden!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
