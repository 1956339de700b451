"""The house: imports point one way, heavy packages have one home, start-up stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cvrbench"
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60
DISPATCHERS = ("build_strategy",)
"""One `match` with a case per configuration: they grow in width, not in depth."""

FLOORS = (
    {"errors"},
    {"rng", "metrics", "config", "environment", "files", "memory", "machine", "threads"},
    {"data", "stats"},
    {"spaces", "record"},
    {"evaluation", "run_files", "kernels", "lookup", "multiply_adds"},
    {"nn", "objectives", "balancing", "masks"},
    {"strategies"},
    {"training", "store", "studies"},
    {"tracking", "footprint"},
    {"experiment", "planning", "report", "trained"},
    {"serving", "reproduction"},
    {"launch"},
    {"sweep"},
    {"cli"},
)
"""From the ground up; a room may import from the floors below it and from itself."""

DOORWAYS = {"", "__main__"}
"""The package's face and `python -m cvrbench`: on no floor, and nothing imports them."""

HOMES = {
    "annotated_types": ("config",),
    "filelock": ("data.staging", "files"),
    "hydra": ("config",),
    "matplotlib": ("report.plots",),
    "mlflow": ("tracking.on_mlflow",),
    "omegaconf": ("config",),
    "onnx": ("serving.to_onnx",),
    "onnxruntime": (),
    "onnxscript": (),
    "optuna": ("sweep",),
    "pydantic": ("config",),
    "ray": ("launch.on_ray",),
    "rich": ("cli", "report.tables"),
    "sqlalchemy": ("sweep",),
    "submitit": ("launch.slurm",),
    "tensorboard": (),
    "torch": (
        "balancing",
        "data.batches",
        "data.sampler",
        "data.streaming",
        "device",
        "experiment",
        "footprint",
        "kernels",
        "launch.job",
        "lookup",
        "masks",
        "metrics.on_tensors",
        "multiply_adds",
        "nn",
        "objectives",
        "serving",
        "strategies",
        "threads",
        "tracking.on_tensorboard",
        "trained",
        "training",
    ),
    "typer": ("cli", "config.complete"),
    "wandb": ("tracking.on_wandb",),
    "yaml": ("config",),
}
"""The only modules that may import a heavy package; those below a named package are included."""

OPTIONAL = (
    "cmaes",
    "grpc",
    "mlflow",
    "mysql",
    "onnx",
    "postgresql",
    "ray",
    "submitit",
    "tensorboard",
    "wandb",
)
"""Extras that a user installs for one command. What they bring may be missing, so it is imported
where it is needed, in functions; the other extras are for development and not imported at all."""

BANNED = ("dill", "joblib", "pandas", "pickle", "sklearn")

HEAVY = ("torch", "polars", "hydra", "omegaconf", "matplotlib", "optuna", "numpy", "scipy")


def module_name(path: Path) -> str:
    """`data.batches` of .../cvrbench/data/batches.py, `data` of its `__init__`, "" at the top."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(source: str) -> frozenset[str]:
    """Every dotted name that a source imports, at any depth, `from a import b` as `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def floor(module: str) -> int:
    room = module.split(".")[0]
    floors = [level for level, rooms in enumerate(FLOORS) if room in rooms]
    assert floors, f"cvrbench.{module} has no floor: give it one in {Path(__file__).name}"
    return floors[0]


def own(name: str) -> str | None:
    """`data.schema.Task` of cvrbench.data.schema.Task, None of other packages' names."""
    return name.removeprefix("cvrbench").lstrip(".") if is_within(name, "cvrbench") else None


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def upward(module: str, source: str) -> list[str]:
    """Imports that do not point down the house."""
    if module in DOORWAYS:
        return []
    room = module.split(".")[0]
    names = [name for name in map(own, imported(source)) if name]
    return sorted(
        name
        for name in names
        # `from cvrbench import metrics` and a plain name of the face, as __version__
        if name != "__version__" and name.split(".")[0] != room and floor(name) >= floor(module)
    )


def homeless(module: str, source: str) -> list[str]:
    """Heavy packages imported outside their home, and banned ones anywhere."""
    found = set()
    for name in imported(source):
        package = name.split(".")[0]
        homes = HOMES.get(package)
        if homes is not None and not any(is_within(module, home) for home in homes):
            found.add(package)
        if package in BANNED:
            found.add(package)
    return sorted(found)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda name: name or "cvrbench")


def test_every_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_whole_package_is_looked_at():
    assert {"errors", "metrics", "strategies.ncs", "training.fit", "cli.app"} <= set(MODULES)
    assert len(MODULES) == len(list(PACKAGE.rglob("*.py")))


@every_module
def test_imports_point_down(module):
    assert upward(module, MODULES[module].read_text()) == []


@every_module
def test_heavy_packages_stay_at_home(module):
    assert homeless(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("training")])
def test_training_knows_no_strategy_by_name(module):
    strategies = {n for n in imported(MODULES[module].read_text()) if "cvrbench.strateg" in n}
    assert all(is_within(name, "cvrbench.strategies.base") for name in strategies)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("report")])
def test_report_reads_records_and_runs_nothing(module):
    names = {name for name in map(own, imported(MODULES[module].read_text())) if name}
    rooms = {name.split(".")[0] for name in names}
    assert not rooms & {"training", "strategies", "experiment", "nn", "objectives", "masks"}


@every_module
def test_modules_and_functions_stay_short(module):
    source = MODULES[module].read_text()
    assert len(source.splitlines()) <= MAX_MODULE_LINES
    too_long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name not in DISPATCHERS
        and node.end_lineno - node.lineno + 1 - docstring_lines(node) > MAX_FUNCTION_LINES
    ]
    assert too_long == []


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len(ast.get_docstring(node).splitlines()) if ast.get_docstring(node) else 0


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("metrics", "from cvrbench.training.fit import fit", ["training.fit.fit"]),
        ("data.batches", "import cvrbench.strategies", ["strategies"]),
        ("training.fit", "from cvrbench.store import write", ["store.write"]),
        ("data.raw", "def f():\n    from cvrbench import experiment", ["experiment"]),
        ("strategies.ncs", "from cvrbench.strategies.base import Fit", []),
        ("experiment", "from cvrbench.data.schema import Task\nimport torch", []),
    ],
)
def test_the_floor_check_can_fail(module, source, found):
    assert upward(module, source) == found


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("data.schema", "import torch.nn as nn", ["torch"]),
        ("data.batches_more", "from torch import Tensor", ["torch"]),
        ("data.batches", "from torch import Tensor", []),
        ("report.tables", "def f():\n    import matplotlib.pyplot", ["matplotlib"]),
        ("cli.app", "from hydra import compose", ["hydra"]),
        ("metrics", "import pandas as pd", ["pandas"]),
    ],
)
def test_the_home_check_can_fail(module, source, found):
    assert homeless(module, source) == found


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after `code`."""
    tail = f"\nimport sys; print('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["report", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from cvrbench.cli.app import main
sys.argv = ["cvrbench", *{arguments!r}]
try:
    code = main()
except SystemExit as done:
    code = done.code
assert not code, code
"""
    assert loaded_after(code) == set()


def test_report_never_loads_torch():
    modules = [f"cvrbench.{name}" for name in MODULES if name.startswith("report")]
    assert modules
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in modules))


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import cvrbench") == set()


def test_the_load_check_can_fail():
    assert loaded_after("import numpy") == {"numpy"}


def test_declared_dependencies_are_exactly_the_imported_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    packages = {n.split(".")[0] for path in MODULES.values() for n in imported(path.read_text())}
    outside = packages - set(sys.stdlib_module_names) - {"cvrbench"}
    by_package = metadata.packages_distributions()
    used = {by_package[package][0].lower().replace("_", "-") for package in outside}
    assert used - optional_packages() == declared


@every_module
def test_what_may_be_missing_is_imported_where_it_is_needed(module):
    assert eager(MODULES[module].read_text()) & optional_packages() == set()


def test_the_check_of_optional_imports_can_fail():
    assert eager("import onnx.checker\nfrom torch import onnx") == {"onnx", "torch"}
    assert eager("def f():\n    import onnx") == set()
    assert "onnx" in optional_packages()


@cache
def optional_packages() -> frozenset[str]:
    """What the extras of single commands bring."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    lines = (line for name in OPTIONAL for line in extras[name])
    return frozenset(re.match(r"[\w-]+", line).group() for line in lines)


def eager(source: str) -> set[str]:
    """Packages that are imported as soon as the module is: all but those within functions."""
    tree = ast.parse(source)
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    inside = {id(node) for function in functions for node in ast.walk(function)}
    found = (node for node in ast.walk(tree) if id(node) not in inside)
    lines = "\n".join(
        ast.unparse(node) for node in found if isinstance(node, ast.Import | ast.ImportFrom)
    )
    return {name.split(".")[0] for name in imported(lines)}


def test_every_dependency_is_pinned_and_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    named = {re.match(r"[\w-]+", n).group() for n in [*project["dependencies"], *lines]}
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    justified = (ROOT / "docs" / "dependencies.md").read_text()
    assert named - {"cvrbench"} <= set(pinned)
    assert [name for name in sorted(named - {"cvrbench"}) if f"`{name}`" not in justified] == []


def test_the_version_is_told_once():
    code = "import cvrbench; print(cvrbench.__version__)"
    told = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert told == metadata.version("cvrbench")
