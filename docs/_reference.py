"""Write the pages of the API reference: one per group of rooms, every module of the package on one.

mkdocs calls `on_files` while it builds. A module that no page claims stops the build.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PAGES = {
    "config": ("Configuration", ("config",)),
    "data": ("Data", ("data",)),
    "metrics": ("Metrics", ("metrics", "spaces", "evaluation", "stats")),
    "blocks": (
        "Building blocks",
        (
            "nn",
            "multiply_adds",
            "objectives",
            "balancing",
            "masks",
            "rng",
            "errors",
        ),
    ),
    "strategies": ("Strategies", ("strategies",)),
    "training": ("Training", ("training",)),
    "runs": (
        "Runs and results",
        (
            "",
            "experiment",
            "planning",
            "reproduction",
            "launch",
            "sweep",
            "studies",
            "record",
            "run_files",
            "store",
            "tracking",
            "environment",
            "files",
            "memory_estimate",
            "machine",
            "memory",
            "threads",
        ),
    ),
    "serving": ("Serving", ("serving", "trained")),
    "report": ("Report", ("report",)),
    "cli": ("Command line", ("cli", "__main__")),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    package = Path(config.config_file_path).parent / "src" / "cvrbench"
    modules = {_name(path.relative_to(package)) for path in package.rglob("*.py")}
    for page, (title, rooms) in PAGES.items():
        here = sorted(name for name in modules if name.split(".")[0] in rooms)
        modules -= set(here)
        sections = [f"::: cvrbench.{name}" if name else "::: cvrbench" for name in here]
        # The package's own page must not list its rooms again.
        sections = [s + "\n    options:\n      show_submodules: false" for s in sections]
        content = "\n\n".join([f"# {title}", *sections])
        files.append(File.generated(config, f"reference/api/{page}.md", content=content))
    if modules:
        raise PluginError(f"docs/_reference.py: no page for {', '.join(sorted(modules))}")
    return files


def _name(path: Path) -> str:
    parts = list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
