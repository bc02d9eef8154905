"""The arrows go one way, and files stay readable.

`LAYERS` in source_tree.py is the list of rooms, the lowest first; backends stand beside it, and the
report reads records only. What is read here is source text, so that a rule holds for imports inside
functions and for typing too; what only a run can show is in test_laziness.py.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.source_tree import (
    CHECKOUT,
    FOR_BACKENDS,
    LAYERS,
    NO_TORCH,
    ROOTS,
    TORCH,
    Import,
    imports,
    modules,
    split,
    syntax,
    table,
)

USES = {
    "flag_gems": {"triton"},  # FlagGems has no backward for a ring: it is given ours
    "peers": {"triton"},  # others' rings with our kernels inside
}
AS_USERS = {"peers": {"flash_attn"}}  # those rings call flash-attn's functions, and are given ours

MAX_LINES = 400
SOURCES = ("ring_attn_bench", "backends", "tests", "examples", "scripts")
SUFFIXES = {".py", ".cu", ".cuh", ".sh"}

READS_ENVIRONMENT = {  # everything else is told by argument
    "ring_attn_bench/cli/ending.py": "the edge: what the caller set in the shell",
    "ring_attn_bench/machine/environment.py": "asks which commit a copied checkout is of",
    "ring_attn_bench/bench/start.py": "asks whether torchrun started this process",
    "ring_attn_bench/bench/quick.py": "turns the interpreters of backends on, for its process",
    "ring_attn_bench/bench/team.py": "is started by torchrun, which tells the device so",
    "ring_attn_bench/report/matplotlib_backend.py": "puts MPLBACKEND out of the way of its import",
    "ring_attn_bench/selftest/run.py": "starts processes and makes their environment",
    "ring_attn_bench/workers/group.py": "starts workers and makes their environment",
    "ring_attn_bench/workers/member.py": "is started by torchrun, which tells the rank so",
    "ring_attn_bench/workers/process.py": "starts a process and makes its environment",
}


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


def test_every_part_is_in_one_layer():
    parts = [split(module)[1] for module in modules() if split(module)[0] == "ring_attn_bench"]
    layered = [part for layer in LAYERS for part in layer]
    assert sorted(layered) == sorted(set(parts))


def test_each_layer_imports_lower_ones_only():
    height = {part: at for at, layer in enumerate(LAYERS) for part in layer}
    violations = names(
        found
        for part, found, package, target in within("ring_attn_bench")
        if package == "ring_attn_bench" and target != part and height[target] >= height[part]
    )
    assert violations == []


def test_what_needs_no_torch_loads_the_standard_library_only():
    violations = names(
        found
        for part, found, package, _ in within("ring_attn_bench")
        if part in NO_TORCH and found.importer not in TORCH and found.at_import
        if package not in {*sys.stdlib_module_names, "ring_attn_bench"}
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
    allowed = ("ring_attn_bench.report", "ring_attn_bench.records", "ring_attn_bench.errors",
               "ring_attn_bench.text",
               "ring_attn_bench.ring.options",  # what a record names; it imports no torch
               "ring_attn_bench.registry",  # which names are peers'; nor does it
               "ring_attn_bench.conformance.features")  # fmt: skip
    violations = names(
        found
        for part, found, package, _ in within("ring_attn_bench")
        if part == "report"
        if package == "torch"
        or (package in ROOTS and not f"{found.target}.".startswith(tuple(f"{a}." for a in allowed)))
    )
    assert violations == []


def test_tables_for_people_are_made_in_one_room():
    """But for a padded one of a page, which is read as text too."""
    users = {found.importer for found in imports() if found.target.split(".")[0] == "tabulate"}
    assert {user for user in users if not user.startswith("ring_attn_bench.text.")} == {
        "ring_attn_bench.report.coverage.markdown"
    }


def test_only_the_table_and_what_was_measured_name_a_transport():
    from ring_attn_bench.registry import TRANSPORTS

    violations = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno} {node.value!r}"
        for module, path in modules().items()
        if module not in ("ring_attn_bench.registry", "ring_attn_bench.plan.measured")
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.Constant) and node.value in TRANSPORTS
    ]
    assert violations == []


def test_backends_know_the_contract_and_not_each_other():
    violations = names(
        found
        for part, found, package, target in within("ring_attn_backends")
        if (package == "ring_attn_bench" and target not in FOR_BACKENDS | AS_USERS.get(part, set()))
        or (package == "ring_attn_backends" and target not in {part, "shared", *USES.get(part, ())})
    )
    assert violations == []


def test_no_import_cycles():
    edges: dict[str, set[str]] = {module: set() for module in modules()}
    for found in imports():
        if found.at_import and found.target in edges and found.target != found.importer:
            edges[found.importer].update({found.target} | _run_before(found))
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def _run_before(found: Import) -> set[str]:
    """The packages around what is imported, but for those that the importer lies in."""
    parts = found.target.split(".")
    around = {".".join(parts[:count]) for count in range(1, len(parts))}
    return {package for package in around if not f"{found.importer}.".startswith(f"{package}.")}


def test_what_these_rules_look_for_has_one_name_everywhere():
    """They read names: under another one an import, or a variable of the environment, escapes."""
    looked_for = {"os", "import_module", "importlib", "__import__", *ROOTS}
    violations = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module in modules()
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.name in looked_for and alias.asname is not None
    ]
    assert violations == []


# the tables of backends and peers


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
