"""Where the suite files are: `configs/` of a checkout, or the copy that a wheel carries."""

from __future__ import annotations

from pathlib import Path

from ring_attn_bench.errors import UnknownName


def suite_names() -> tuple[str, ...]:
    """The suites that come with the project, by name: "cpu" is configs/cpu.toml."""
    return tuple(sorted(_files(Path(__file__).parents[1])))


def suite_path(name: str) -> Path:
    """The file of a suite that comes with the project; raises UnknownName."""
    files = _files(Path(__file__).parents[1])
    if name not in files:
        raise UnknownName("suite", name, files)
    return files[name]


def _files(package: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder(package).glob("*.toml")}


def folder(package: Path = Path(__file__).parents[1]) -> Path:
    """A wheel has it inside the package, a checkout beside it."""
    inside, beside = package / "configs", package.parent / "configs"
    # inside first: what stands beside an installed package is somebody else's
    return inside if inside.is_dir() else beside
