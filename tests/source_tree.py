"""This project's sources, read and not run: its modules, their imports, its tables of backends."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
ROOTS = {"ring_attn_bench": CHECKOUT, "ring_attn_backends": CHECKOUT / "backends"}


LAYERS = (
    {"errors", "_moved"},
    {"plan"},  # integers
    {"contract"},  # what plug-ins are written against
    {"registry", "relaunch", "truth"},
    {"calls"},
    {"document_sharding"},  # a batch as a value
    {"ring"},
    {"one_device"},
    {"cached"},
    {"ops"},  # all of these as torch's operators
    {"signatures"},
    {"attention", "cached_attention", "ring_attention", "sharding"},
    {"ring_documents"},  # what people import,
    {"modules"},
    {"signatures_varlen"},
    {"ring_varlen"},  # also under others' names,
    {"flash_attn"},  # and it all:
    {""},
    {"integrations"},  # where other libraries look for it
    {"text"},  # tables and numbers for people
    {"records"},  # words and files
    {"workers"},  # processes that may die
    {"machine"},  # what it has and lacks
    {"conformance"},  # questions
    {"bench"},
    {"probe", "tune", "selftest", "longest"},
    {"report"},
    {"advise", "compare"},
    {"cli"},  # what people type
    {"__main__"},
)
"""Parts of ring_attn_bench, the lowest first: each may import what stands before it here."""

FOR_BACKENDS = {"contract", "plan", "relaunch", "errors"}
NO_TORCH = {"errors", "plan", "contract", "registry"}
"""Parts that load the standard library alone, but for what they say needs torch:"""
TORCH = {"ring_attn_bench.contract.dropout"}


@dataclass(frozen=True)
class Import:
    """One imported module: where, and whether importing the importer is enough to run it."""

    importer: str
    line: int
    target: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its name."""
    found = {}
    for package, root in ROOTS.items():
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imports() -> tuple[Import, ...]:
    """Every import of every module of ours, `import_module("...")` too."""
    return tuple(found for module in modules() for found in _imports_of(module))


def _imports_of(module: str) -> Iterator[Import]:
    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for target in _targets(node, module):
            yield Import(module, node.lineno, target, at_import)
        inside = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            only_typing = (
                isinstance(node, ast.If)
                and "TYPE_CHECKING" in ast.unparse(node.test)
                and child in node.body
            )
            yield from visit(child, inside and not only_typing)

    return visit(syntax(module), True)


def _targets(node: ast.AST, module: str) -> list[str]:
    match node:
        case ast.Import(names):
            return [name.name for name in names]
        case ast.ImportFrom(base, names, level):
            base = _absolute(base or "", level, module)
            both = [(base, f"{base}.{name.name}") for name in names]
            return [longer if longer in modules() else shorter for shorter, longer in both]
        case ast.Call(args=[ast.Constant(str(target)), *_]):
            called = ast.unparse(node.func).rpartition(".")[2]
            return [target] if called in {"import_module", "__import__"} else []
    return []


def _absolute(base: str, level: int, module: str) -> str:
    if level == 0:
        return base
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{base}".rstrip(".")


def split(module: str) -> tuple[str, str]:
    """The package, and the part of it: "ring_attn_bench.ring.merge" gives its "ring"."""
    package, *rest = module.split(".")
    return package, rest[0] if rest else ""


def table() -> dict[str, str]:
    """BACKENDS and PEERS, read without importing."""
    return table_of("BACKENDS") | table_of("PEERS")


def table_of(name: str) -> dict[str, str]:
    """BACKENDS or PEERS."""
    for node in syntax("ring_attn_backends").body:
        if ast.unparse(node).startswith((f"{name} =", f"{name}:")):
            return ast.literal_eval(node.value)
    raise AssertionError(f"ring_attn_backends/__init__.py has no table {name}")
