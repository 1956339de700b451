"""The one door to every check: `nox` runs the default sessions, `nox -s NAME` one of all.

Sessions run in the environment that nox itself is installed in, so that torch is installed
once. Only `wheel` makes an environment of its own, because that is what it tests.
"""

import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests", "docs"]  # ten minutes on two cores
# pip, not uv: pins and local wheels are then found the same way in every environment.
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent


def python(session: nox.Session, *arguments: str, **env: str) -> None:
    """Run a module with the interpreter that runs nox."""
    session.run(sys.executable, "-m", *arguments, env=env, external=True)


def pytest(session: nox.Session, kind: str, *options: str) -> None:
    """Run the tests of a kind in two processes, each of one thread (tests/conftest.py).

    A process that is done takes over half of what the other has left. Until then it keeps to the
    order of the files, in which tests of one module share what was made for them.
    """
    at_once = ["-n", "2", "--dist", "worksteal"]
    python(session, "pytest", "-m", kind, *at_once, *options, *session.posargs)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    python(session, "ruff", "check", ".")
    python(session, "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    python(session, "mypy")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    pytest(session, "not slow")


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """Branches that the fast tests do not reach; half as long again as `tests`."""
    pytest(session, "not slow", "--cov", "--cov-report=term")


@nox.session(venv_backend="none")
def slow(session: nox.Session) -> None:
    """One process: a fork server that a test leaves behind would keep a worker of xdist open."""
    try:
        python(session, "pytest", "-m", "slow", *session.posargs)
    except CommandFailed:
        session.log("what failed, which may be a clock on a busy machine, runs once more")
        python(session, "pytest", "-m", "slow", "--last-failed", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """`nox -s bench -- [NAME ...] [--quick] [--out FILE] [--against FILE]`; not part of CI's table.

    Peers are measured where they are installed: `pip install -c constraints.txt -e '.[peers]'`.
    """
    session.chdir(ROOT)
    python(session, "benchmarks.suite", *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    site = Path(session.create_tmp()) / "site"
    build = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    python(session, *build, NO_MKDOCS_2_WARNING="1")  # reference/dependencies.md has the date


@nox.session
def wheel(session: nox.Session) -> None:
    folder = Path(session.create_tmp()).resolve()
    for old in folder.glob("*.whl"):
        old.unlink()
    python(session, "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", str(ROOT))
    (built,) = folder.glob("cvrbench-*.whl")
    session.install("--quiet", "-c", str(ROOT / "constraints.txt"), str(built))
    script = ROOT / "tests" / "wheel_smoke.py"
    session.run("python", "-I", str(script))
