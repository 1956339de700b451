"""The documentation speaks of everything a user can choose, and of nothing that is not there."""

import dataclasses
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cvrbench.config import dataset, model, runtime, schema
from cvrbench.config.compose import compose
from cvrbench.metrics.evaluation import METRICS_INFO

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIGS = {
    name: cls
    for module in (schema, model, dataset, runtime)
    for name, cls in vars(module).items()
    if dataclasses.is_dataclass(cls) and cls.__module__.startswith("cvrbench.config")
    if dataclasses.fields(cls)
}


def headings(page: str) -> set[str]:
    return set(re.findall(r"^##+ (\w+)$", (DOCS / page).read_text(), re.MULTILINE))


def options(group: str) -> set[str]:
    return {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


@pytest.mark.parametrize(
    ("group", "page"),
    [
        ("model", "reference/strategies.md"),
        ("objective", "reference/objectives.md"),
        ("balancing", "reference/balancing.md"),
        ("interaction", "reference/interactions.md"),
    ],
)
def test_every_option_has_its_paragraph(group, page):
    assert options(group)
    assert headings(page) == options(group)


@pytest.mark.parametrize("group", ["dataset", "interaction", "model", "objective", "balancing"])
def test_the_readme_names_every_option(group):
    row = re.search(rf"^\| `{group}=` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row.group(1)))
    assert options(group)
    assert named == {name for name in options(group) if not name.startswith("_")}


@pytest.mark.parametrize("config", CONFIGS)
def test_every_key_is_explained(config):
    text = (DOCS / "reference/configuration.md").read_text()
    fields = [field.name for field in dataclasses.fields(CONFIGS[config])]
    assert [name for name in fields if f"`{name}`" not in text] == []


def test_every_metric_is_explained():
    text = (DOCS / "reference/metrics.md").read_text()
    missing = [kind for kind in METRICS_INFO if f"`{kind}`" not in text and f"_{kind}`" not in text]
    assert missing == []


def test_every_page_of_results_says_when_and_with_which_version():
    pages = {page.name: page.read_text() for page in (DOCS / "results").glob("*.md")}
    listed = pages.pop("index.md")
    made = re.compile(r"\*Made \d+ \w+ \d{4} with cvrbench \d+\.\d+\.\d+ \(numbers ")
    assert [name for name, text in pages.items() if not made.search(text)] == []
    assert [name for name in pages if f"]({name})" not in listed] == []


def test_the_readme_opens_with_the_commands_that_ci_runs():
    commands = re.findall(r"^    (\S.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[0].endswith("cvrbench run model=ncs")
    assert f"{commands[1]} &&" in lines


def commands() -> list[tuple[str, str]]:
    """Every command of README, docs and `--help`, with where it stands."""
    pages = {page: page.read_text() for page in (ROOT / "README.md", *DOCS.rglob("*.md"))}
    pages |= {page: page.read_text() for page in (ROOT / "src/cvrbench/cli").glob("*.py")}
    line = r"^ *(?:- +)?(?:\$ )?(cvrbench [^`\n]*?)(?:  .*)?$|`((?:cvrbench|-m) [^`\n]+)`"
    return [
        (page.name, found[1] or f"cvrbench {found[2]}")
        for page, text in pages.items()
        for found in re.finditer(line, text, re.MULTILINE)
    ]


def test_a_shell_takes_every_command_as_it_is_written():
    found = commands()
    assert len(found) > 100
    # What stands for a word in prose is no redirection: <name>, and {} of an f-string.
    lines = [re.sub(r"<[^>]*>|\{[^}]*\}|\.\.\.", "WORD", command) for _, command in found]
    script = "\n".join(lines)
    for shell in filter(shutil.which, ("bash", "dash", "zsh")):
        result = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert not result.returncode, (shell, result.stderr)


def pages() -> dict[str, str]:
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


def is_there(name: str) -> bool:
    """Whether a module has this dotted name, or its parent module's source has the last word."""
    place = ROOT.joinpath("src", "cvrbench", *name.removeprefix("cvrbench").split("."))
    if place.is_dir() or place.with_suffix(".py").exists():
        return True
    parent = (
        place.parent / "__init__.py" if place.parent.is_dir() else place.parent.with_suffix(".py")
    )
    return parent.exists() and place.name in re.findall(r"\w+", parent.read_text())


def test_paths_in_the_text_are_there():
    """`mine` is what a reader adds, and capitals are what a command is given."""
    places = (ROOT, ROOT / "src" / "cvrbench", DOCS)
    missing = {}
    for page, text in pages().items():
        paths = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|md|css|txt))`", text)
        paths = [path for path in paths if not re.search(r"[A-Z]{3}|\bmine\b", path)]
        missing[page] = [path for path in paths if not any((p / path).exists() for p in places)]
    assert {page: paths for page, paths in missing.items() if paths} == {}


def test_modules_and_names_in_the_text_are_there():
    rooms = [path.name for path in (ROOT / "src" / "cvrbench").iterdir() if path.is_dir()]
    texts = {**pages(), "_reference.py": (DOCS / "_reference.py").read_text()}
    missing = {}
    for page, text in texts.items():
        names = re.findall(rf"[`\"](?:cvrbench\.)?((?:{'|'.join(rooms)})\.[\w.]+)", text)
        names = [name for name in names if not re.search(r"\.(json|safetensors)$", name)]
        for module, imported in re.findall(r"^ +from cvrbench\.?(\S*) import (.*)$", text, re.M):
            names += [f"{module}.{name}" for name in imported.split(", ") if "Mine" not in name]
        missing[page] = [name for name in names if not is_there(name)]
    assert {page: names for page, names in missing.items() if names} == {}


def test_runs_in_the_text_compose():
    """Every `cvrbench run` of a code block, with the last value of each list."""
    lines = {
        line for t in pages().values() for line in re.findall(r"^ {4}cvrbench run .*$", t, re.M)
    }
    assert len(lines) > 20
    left_out = r"seeds?=.*|max_\w+=.*|dataset=mine|experiment=.*|workers=.*|launcher.*|-.*"
    runs = set()
    for line in lines:
        words = [w for w in shlex.split(line, comments=True)[2:] if not re.fullmatch(left_out, w)]
        runs.add(tuple(re.sub(r"=[^\[{(]*,", "=", word) for word in words))
    assert all(compose(run) for run in runs)


def test_the_architecture_names_every_room():
    package = ROOT / "src" / "cvrbench"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")} | {"errors"}
    text = (DOCS / "explanation" / "architecture.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == rooms


def test_links_to_files_lead_somewhere():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", page.read_text())
    ]
    assert len(links) > 20
    names = ["commands.md", "api/python.md"]  # written by docs/_reference.py
    written = {(DOCS / "reference" / name).resolve() for name in names}
    broken = [
        f"{page.name}: {target}"
        for page, target in links
        if not (place := (page.parent / target).resolve()).exists() and place not in written
    ]
    assert broken == []
