"""The arrows go one way, imports cost nothing until used, and files stay readable.

cli -> bench -> ring -> calls -> contract <- backends; the report reads records only. What is read
here is source text, so that a rule holds for imports inside functions and for typing too; what only
a run can show is asked of a fresh process.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.patience import limit

CHECKOUT = Path(__file__).parents[1]
ROOTS = {"ring_attn_bench": CHECKOUT, "ring_attn_backends": CHECKOUT / "backends"}

CORE = {
    "problem", "positions", "partition", "plan", "block", "lower", "errors", "backend", "peer",
    "registry", "tensors", "tunable",
}  # fmt: skip
CONTRACT = {
    "backend", "peer", "tunable", "block", "problem", "positions", "errors", "lower", "dropout",
    "relaunch", "tensors",
}  # fmt: skip
FORBIDDEN = {  # part of ring_attn_bench -> parts that it must not know
    "calls": {"ring", "one_device", "bench", "report", "cli", "__main__"},
    "ring": {"bench", "report", "cli", "__main__"},
    "launch": {"ring", "bench", "report", "cli", "__main__"},
    "relaunch": {"ring", "launch", "bench", "report", "cli", "__main__"},
    "oracle": {"bench", "report", "cli", "__main__"},
    "attention": {"bench", "report", "cli", "__main__"},
    "ring_attention": {"bench", "report", "cli", "__main__"},
    "bench": {"conformance", "probe", "tune", "report", "cli", "__main__"},
    "conformance": {"ring", "probe", "tune", "report", "cli", "__main__"},
    "probe": {"ring", "tune", "report", "cli", "__main__"},
    "tune": {"ring", "report", "cli", "__main__"},
}

USES = {"flag_gems": {"triton"}}  # FlagGems has no backward for a ring: it is given ours

MAX_LINES = 400
SOURCES = ("ring_attn_bench", "backends", "tests", "examples", "scripts")
SUFFIXES = {".py", ".cu", ".cuh", ".sh"}

KERNEL_PACKAGES = (
    "triton",
    "flash_attn",
    "flash_attn_interface",
    "cutlass",
    "ring_flash_attn",
    "yunchang",
)
READS_ENVIRONMENT = {  # everything else is told by argument
    "ring_attn_bench/cli.py": "the edge: what the caller set in the shell",
    "ring_attn_bench/bench/environment.py": "starts a process and hands its environment on",
    "ring_attn_bench/bench/group.py": "starts workers and makes their environment",
    "ring_attn_bench/bench/launch.py": "asks whether torchrun started this process",
    "ring_attn_bench/bench/quick.py": "turns the interpreters of backends on, for its process",
    "ring_attn_bench/bench/serve.py": "is started by torchrun, which tells the rank so",
    "ring_attn_bench/bench/team.py": "is started by torchrun, which tells the device so",
    "ring_attn_bench/probe/process.py": "starts a process and makes its environment",
}


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


def within(package: str) -> list[tuple[str, Import, str, str]]:
    """Imports made in that package: importer's part, the import, the target's package and part."""
    return [
        (split(found.importer)[1], found, *split(found.target))
        for found in imports()
        if split(found.importer)[0] == package
    ]


def names(violations: object) -> list[str]:
    return [str(violation) for violation in violations]


# the arrows


def test_the_core_knows_only_itself():
    violations = names(
        found
        for part, found, package, target in within("ring_attn_bench")
        if part in CORE and package == "ring_attn_bench" and target not in CORE
    )
    assert violations == []


def test_importing_the_core_runs_the_standard_library_only():
    violations = names(
        found
        for part, found, package, _ in within("ring_attn_bench")
        if part in CORE and found.at_import
        if package not in {*sys.stdlib_module_names, "ring_attn_bench"}
    )
    assert violations == []


def test_lower_layers_do_not_know_higher_ones():
    violations = names(
        found
        for part, found, package, target in within("ring_attn_bench")
        if package == "ring_attn_bench" and target in FORBIDDEN.get(part, ())
    )
    assert violations == []


def test_only_the_registry_knows_the_backends():
    violations = names(
        found
        for part, found, package, _ in within("ring_attn_bench")
        if package == "ring_attn_backends" and part != "registry"
    )
    assert violations == []


def test_the_report_reads_records_only():
    allowed = ("ring_attn_bench.report", "ring_attn_bench.suites", "ring_attn_bench.errors",
               "ring_attn_bench.bench.record", "ring_attn_bench.probe.finding",
               "ring_attn_bench.ring.options",  # what a record names; it imports no torch
               "ring_attn_bench.tune.outcome", "ring_attn_bench.tune.choose",
               "ring_attn_bench.conformance.features",
               "ring_attn_bench.conformance.verdict")  # fmt: skip
    violations = names(
        found
        for part, found, package, _ in within("ring_attn_bench")
        if part == "report"
        if package == "torch"
        or (package in ROOTS and not f"{found.target}.".startswith(tuple(f"{a}." for a in allowed)))
    )
    assert violations == []


def test_only_the_table_names_a_transport():
    from ring_attn_bench.registry import TRANSPORTS

    violations = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno} {node.value!r}"
        for module, path in modules().items()
        if module != "ring_attn_bench.registry"
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.Constant) and node.value in TRANSPORTS
    ]
    assert violations == []


def test_backends_know_the_contract_and_not_each_other():
    violations = names(
        found
        for part, found, package, target in within("ring_attn_backends")
        if (package == "ring_attn_bench" and target not in CONTRACT)
        or (package == "ring_attn_backends" and target not in {part, "shared", *USES.get(part, ())})
    )
    assert violations == []


def test_no_import_cycles():
    edges: dict[str, set[str]] = {module: set() for module in modules()}
    for found in imports():
        if found.at_import and found.target in edges and found.target != found.importer:
            edges[found.importer].add(found.target)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


# the tables of backends and peers


def table() -> dict[str, str]:
    """BACKENDS and PEERS, read without importing."""
    return _table("BACKENDS") | _table("PEERS")


def _table(name: str) -> dict[str, str]:
    for node in syntax("ring_attn_backends").body:
        if ast.unparse(node).startswith((f"{name} =", f"{name}:")):
            return ast.literal_eval(node.value)
    raise AssertionError(f"ring_attn_backends/__init__.py has no table {name}")


@pytest.mark.parametrize(("name", "target"), table().items())
def test_a_backend_of_the_table_is_a_class_in_a_file(name, target):
    module, _, attribute = target.partition(":")
    if module not in modules():
        pytest.fail(f"backend {name!r} is said to be in {module}, and there is no such file")
    exported = {found.target for found in imports() if found.importer == module}
    defined_in = {module} | {target for target in exported if target.startswith(f"{module}.")}
    classes = {
        node.name
        for source in defined_in
        for node in syntax(source).body
        if isinstance(node, ast.ClassDef)
    }
    assert attribute in classes


# fresh processes


def printed_by(code: str) -> str:
    """What a new Python prints when it runs the code from the checkout."""
    paths = [str(root) for root in ROOTS.values()]
    command = [sys.executable, "-c", f"import sys\nsys.path[:0] = {paths}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit(120))
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded when a new Python has run the code."""
    return set(printed_by(f"{code}\nprint(*sys.modules, sep='\\n')").split())


def heavy(loaded: set[str], *packages: str) -> list[str]:
    """Of the modules loaded, those of the packages, and any backend."""
    backends = {name for name in loaded if name.startswith("ring_attn_backends.")}
    return sorted(backends | loaded.intersection(packages))


def importing(*parts: str) -> str:
    """Statements that import every module there is of those parts of ring_attn_bench."""
    wanted = [name for name in modules() if split(name)[0] == "ring_attn_bench"]
    return "\n".join(f"import {name}" for name in wanted if split(name)[1] in parts)


def test_importing_the_package_loads_no_torch_and_no_kernel():
    assert heavy(loaded_by("import ring_attn_bench"), "torch", *KERNEL_PACKAGES) == []


def test_importing_the_core_loads_no_torch_and_no_kernel():
    assert heavy(loaded_by(importing(*CORE)), "torch", *KERNEL_PACKAGES) == []


def test_importing_report_and_cli_loads_no_torch():
    assert heavy(loaded_by(importing("report", "suites", "cli")), "torch") == []


def test_touching_every_public_name_loads_no_kernel_and_no_cuda():
    code = """
import ring_attn_bench
for name in getattr(ring_attn_bench, "__all__", ()):
    getattr(ring_attn_bench, name)
torch = sys.modules.get("torch")
assert torch is None or not torch.cuda.is_initialized(), "CUDA was initialised"
"""
    assert heavy(loaded_by(code), *KERNEL_PACKAGES) == []


def test_reading_the_table_loads_no_backend():
    code = "from ring_attn_bench import registry\nassert registry.backends()"
    assert heavy(loaded_by(code), "torch") == []


@cache
def failed_imports() -> dict[str, str]:
    """What of the table cannot be imported without any kernel's package, and why.

    All in one process, because each imports torch; they do not import each other.
    """
    code = "".join(f"sys.modules[{package!r}] = None\n" for package in KERNEL_PACKAGES)
    code += f"""
import importlib, json
failed = {{}}
for target in {sorted(set(table().values()))!r}:
    module, _, attribute = target.partition(":")
    try:
        getattr(importlib.import_module(module), attribute)
    except BaseException as error:
        failed[target] = repr(error)
print(json.dumps(failed))
"""
    found: dict[str, str] = json.loads(printed_by(code).splitlines()[-1])
    return found


@pytest.mark.parametrize("target", table().values())
def test_a_backend_can_be_imported_where_its_kernel_is_not_installed(target):
    if target.partition(":")[0] not in modules():
        pytest.skip(f"there is no {target}")
    assert failed_imports().get(target) is None


# the state of the files


def sources() -> list[Path]:
    found = [path for folder in SOURCES for path in sorted((CHECKOUT / folder).rglob("*"))]
    return [path for path in found if path.suffix in SUFFIXES]


def test_files_are_short():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_public_modules_have_a_docstring():
    public = [
        module for module in modules() if not any(p.startswith("_") for p in module.split("."))
    ]
    assert [module for module in public if not ast.get_docstring(syntax(module))] == []


def test_environment_variables_are_read_at_the_edge_only():
    violations = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno} {ast.unparse(node)}"
        for module, path in modules().items()
        if str(path.relative_to(CHECKOUT)) not in READS_ENVIRONMENT
        for node in ast.walk(syntax(module))
        if _reads_environment(node)
    ]
    assert violations == []


def _reads_environment(node: ast.AST) -> bool:
    forbidden = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    match node:
        case ast.Attribute(value=ast.Name("os"), attr=name):
            return name in forbidden
        case ast.ImportFrom(module="os", names=aliases):
            return any(alias.name in forbidden for alias in aliases)
    return False
