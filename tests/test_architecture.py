"""The layers: imports point down, heavy packages have one home, start-up stays light.

One test per rule; a failure lists every module that breaks it.
"""

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
THE_STEP = "training.step"
"""The only module that takes a training step; a search or diagnosis asks for a gradient, which
`torch.autograd.grad` returns without touching a parameter."""
PEERS = "training.peers"
"""What other libraries do, in benchmarks."""
DISPATCHERS = ("build_strategy",)
"""One `match` with a case per configuration: they grow in width, not in depth."""

LAYERS = """
errors
system metrics
config
data stats
metrics.spaces runs.environment
runs.record
metrics.evaluation runs.store
nn
objectives masks
strategies balancing
training runs.study
tracking runs.memory
runs.experiment report runs.load
serving runs
launch
sweep
cli
"""
"""One layer a line, the lowest first: folders and modules below `cvrbench`, by dotted name.

A module stands where the longest name it lies within stands, so `runs.record` may be lower than
the rest of `runs`. It may import from lower layers and from its own name. A name without a module
does no harm.
"""

DOORWAYS = {"", "__main__"}
"""The package's face and `python -m cvrbench`: in no layer, and nothing imports them."""

HOMES = {
    "annotated_types": "config runs.record",
    "filelock": "data system.files",
    "hydra": "config",
    "jinja2": "report.page",
    "markupsafe": "report.page",
    "matplotlib": "report.figures report.results",
    "mlflow": "tracking",
    "omegaconf": "config",
    "onnx": "serving.export",
    "onnxruntime": "",
    "onnxscript": "",
    "optuna": "report.figures.sweep sweep",
    "pydantic": """
        config data.dataset data.schema report.checks runs.record runs.store runs.study
    """,
    "ray": "launch.engines",
    "rich": "cli report.tables",
    "sqlalchemy": "sweep",
    "submitit": "launch.engines",
    "tensorboard": "",
    "torchjd": "balancing.gradients",
    "torch": """
        balancing data device launch.job masks metrics.on_tensors nn objectives
        runs.experiment runs.load runs.memory serving strategies tracking training
    """,
    "typer": "cli",
    "wandb": "tracking",
    "yaml": "config",
}
"""The only modules that may import a heavy package; those below a named package are included."""

OPTIONAL = "balancing cmaes grpc mlflow mysql onnx postgresql ray submitit tensorboard wandb"
"""Extras that a user installs for one command. What they bring may be missing, so it is imported
where it is needed, in functions; the other extras are for development and not imported at all."""

BANNED = ("dill", "joblib", "pandas", "pickle", "sklearn")

HEAVY = ("torch", "polars", "hydra", "omegaconf", "matplotlib", "optuna", "numpy", "scipy")

WITHOUT_TORCH = ("report", "stats", "data.sources")
"""Rooms that never load torch, neither themselves nor through what they import."""


def module_name(path: Path) -> str:
    """`data.batches` of .../cvrbench/data/batches.py, `data` of its `__init__`, "" at the top."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ALONE = PACKAGE / "serving" / "score.py"
"""A file that `export` copies, to run where cvrbench is not: no module of the package."""

MODULES = {module_name(p): p.read_text() for p in sorted(PACKAGE.rglob("*.py")) if p != ALONE}
"""Every module's source by its dotted name below `cvrbench`."""

Offenders = dict[str, list[str]]
"""What breaks a rule, by module; empty if nothing does."""


def offenders(rule, modules=MODULES) -> Offenders:
    found = {module: rule(module, source) for module, source in modules.items()}
    return {module: sorted(names) for module, names in found.items() if names}


@cache
def tree(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def imported(source: str, *, at_import: bool = False) -> frozenset[str]:
    """Every dotted name that a source imports, `from a import b` as `a.b`.

    Imports in functions are among them, unless `at_import` asks for those alone that happen when
    the module itself is imported.
    """
    names: set[str] = set()
    nodes: list[ast.AST] = [tree(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            nodes += ast.iter_child_nodes(node)
    return frozenset(names)


def own(source: str) -> set[str]:
    """`data.schema.Task` for cvrbench.data.schema.Task; `__version__` of the face is no module."""
    names = {name for name in imported(source) if is_within(name, "cvrbench")}
    return {name.removeprefix("cvrbench").lstrip(".") for name in names} - {"__version__", ""}


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@cache
def place(module: str) -> tuple[int, str]:
    """The layer of a module and the name in `LAYERS` that it stands there by."""
    layers = [line.split() for line in LAYERS.strip().splitlines()]
    names = [(len(name), level, name) for level, row in enumerate(layers) for name in row]
    within = [entry for entry in names if is_within(module, entry[2])]
    assert within, f"cvrbench.{module} has no layer: give it one in {Path(__file__).name}"
    return max(within)[1:]


def upward(module: str, source: str) -> list[str]:
    """Imports that do not point to a lower layer."""
    if module in DOORWAYS:
        return []
    level, home = place(module)
    places = {name: place(name) for name in own(source)}
    return [name for name, (at, other) in places.items() if at >= level and other != home]


def away_from_home(module: str, source: str) -> set[str]:
    """Heavy packages imported outside their home, and banned ones anywhere."""
    packages = {name.split(".")[0] for name in imported(source)}
    homes = {package: HOMES[package].split() for package in packages & HOMES.keys()}
    homeless = {p for p, names in homes.items() if not any(is_within(module, n) for n in names)}
    return homeless | (packages & set(BANNED))


def strategies_by_name(_: str, source: str) -> list[str]:
    names = [name for name in own(source) if is_within(name, "strategies")]
    return [name for name in names if not is_within(name, "strategies.base")]


def rooms_that_train(_: str, source: str) -> set[str]:
    rooms = ["training", "strategies", "runs.experiment", "nn", "objectives", "masks"]
    return {room for room in rooms if any(is_within(name, room) for name in own(source))}


def too_long(_: str, source: str) -> list[str]:
    n_lines = len(source.splitlines())
    functions = (
        (node.name, node.end_lineno - node.lineno + 1 - docstring_lines(node))
        for node in ast.walk(tree(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in DISPATCHERS
    )
    long = [f"{name}: {length} lines" for name, length in functions if length > MAX_FUNCTION_LINES]
    return [*long, *([f"{n_lines} lines"] if n_lines > MAX_MODULE_LINES else [])]


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len(ast.get_docstring(node).splitlines()) if ast.get_docstring(node) else 0


def eager(_: str, source: str) -> set[str]:
    """Optional packages that the module cannot be imported without."""
    return {name.split(".")[0] for name in imported(source, at_import=True)} & optional_packages()


@cache
def optional_packages() -> frozenset[str]:
    """What the extras of single commands bring."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    lines = (line for name in OPTIONAL.split() for line in extras[name])
    return frozenset(re.match(r"[\w-]+", line).group() for line in lines)


def descends(_: str, source: str) -> list[str]:
    """Lines that add gradients to parameters."""
    calls = (node.func for node in ast.walk(tree(source)) if isinstance(node, ast.Call))
    named = (func for func in calls if isinstance(func, ast.Attribute))
    return [str(func.end_lineno) for func in named if func.attr == "backward"]


def below(*rooms: str) -> dict[str, str]:
    found = {m: s for m, s in MODULES.items() if any(is_within(m, room) for room in rooms)}
    assert found, f"no module below {rooms}"
    return found


def test_every_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_imports_point_down():
    assert offenders(upward) == {}


def test_heavy_packages_stay_at_home():
    assert offenders(away_from_home) == {}


def test_training_knows_no_strategy_by_name():
    assert offenders(strategies_by_name, below("training")) == {}


def test_there_is_one_training_step():
    folder = ROOT / "benchmarks"
    paths = sorted(folder.rglob("*.py"))
    benchmarks = {".".join(p.relative_to(folder).with_suffix("").parts): p for p in paths}
    assert PEERS in benchmarks
    mine = {f"benchmarks.{m}": p.read_text() for m, p in benchmarks.items() if m != PEERS}
    assert len(offenders(descends)[THE_STEP]) == 1
    assert {*offenders(descends, MODULES | mine)} <= {THE_STEP}


def test_report_reads_records_and_runs_nothing():
    assert offenders(rooms_that_train, below("report")) == {}


def test_modules_and_functions_stay_short():
    assert offenders(too_long) == {}


def test_what_may_be_missing_is_imported_where_it_is_needed():
    assert offenders(eager) == {}


@pytest.mark.parametrize(
    ("rule", "module", "source", "found"),
    [
        (upward, "metrics", "from cvrbench.training.loop import fit", ["training.loop.fit"]),
        (upward, "data.batches", "import cvrbench.strategies", ["strategies"]),
        (upward, "data.raw", "def f():\n    from cvrbench import cli", ["cli"]),
        (upward, "metrics", "from cvrbench import config", ["config"]),
        (upward, "strategies.ncs", "from cvrbench.strategies.base import Fit", []),
        (upward, "cli.run", "from cvrbench.data.schema import Task\nimport torch", []),
        (away_from_home, "errors", "import torch.nn as nn", ["torch"]),
        (away_from_home, "strategies_more", "from torch import Tensor", ["torch"]),
        (away_from_home, "strategies.ncs", "from torch import Tensor", []),
        (away_from_home, "stats", "def f():\n    import matplotlib.pyplot", ["matplotlib"]),
        (away_from_home, "cli.app", "from hydra import compose", ["hydra"]),
        (away_from_home, "metrics", "import pandas as pd", ["pandas"]),
        (strategies_by_name, "training", "from cvrbench.strategies import x", ["strategies.x"]),
        (descends, "benchmarks.x", "def f(x):\n    x.loss(y).sum().backward()", ["2"]),
        (descends, "nn.kernels", "def backward(x):\n    torch.autograd.grad(x)", []),
        (rooms_that_train, "report.x", "from cvrbench.runs import experiment", ["runs.experiment"]),
        (too_long, "stats", "#\n" * (MAX_MODULE_LINES + 1), [f"{MAX_MODULE_LINES + 1} lines"]),
        (too_long, "stats", "def f():\n" + "    0\n" * MAX_FUNCTION_LINES, ["f: 61 lines"]),
        (too_long, "stats", "def f():\n" + "    0\n" * (MAX_FUNCTION_LINES - 1), []),
        (eager, "serving.x", "import onnx.checker\nfrom torch import onnx", ["onnx"]),
        (eager, "serving.x", "def f():\n    import onnx", []),
    ],
)  # fmt: skip
def test_each_rule_can_be_broken(rule, module, source, found):
    assert offenders(rule, {module: source}) == ({module: found} if found else {})


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after `code`."""
    tail = f"\nimport sys; print('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


COMMAND = """
import os, sys
from cvrbench.cli.app import main
os.environ |= {environment!r}
sys.argv = ["cvrbench", *{arguments!r}]
try:
    code = main()
except SystemExit as done:
    code = done.code
assert not code, code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["report", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    assert loaded_after(COMMAND.format(arguments=arguments, environment={})) == set()


def test_completion_never_loads_torch():
    typed = {
        "_CVRBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "cvrbench run model=n",
        "COMP_CWORD": "2",
    }
    assert "torch" not in loaded_after(COMMAND.format(arguments=[], environment=typed))


def test_reports_and_raw_data_never_load_torch():
    modules = [f"cvrbench.{name}" for name in below(*WITHOUT_TORCH)]
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in modules))


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import cvrbench") == set()


def test_the_load_check_can_fail():
    assert loaded_after("import numpy") == {"numpy"}


def test_declared_dependencies_are_exactly_the_imported_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line).group() for line in project["dependencies"]}
    packages = {n.split(".")[0] for source in MODULES.values() for n in imported(source)}
    outside = packages - set(sys.stdlib_module_names) - {"cvrbench"}
    by_package = metadata.packages_distributions()
    used = {by_package[package][0].lower().replace("_", "-") for package in outside}
    assert used - optional_packages() == declared


def test_every_dependency_is_pinned_and_justified():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    named = {re.match(r"[\w-]+", n).group() for n in [*project["dependencies"], *lines]}
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    justified = (ROOT / "docs" / "reference" / "dependencies.md").read_text()
    assert named - {"cvrbench"} <= set(pinned)
    assert [name for name in sorted(named - {"cvrbench"}) if f"`{name}`" not in justified] == []


def test_the_version_is_told_once():
    code = "import cvrbench; print(cvrbench.__version__)"
    told = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    assert told == metadata.version("cvrbench")
