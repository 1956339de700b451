"""What a run ran on: versions, the state of the source tree, the machine."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from cvrbench import __version__

PACKAGES = ("torch", "numpy", "scipy", "polars", "hydra-core", "omegaconf", "pydantic")
CHECKOUT = Path(__file__).resolve().parents[3]


def describe_environment() -> dict[str, object]:
    """Return what a reader of a record may want to know about the origin of its numbers."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *map(without_password, sys.argv[1:])]),
        "python": platform.python_version(),
        "versions": versions(),
        "git": git_state(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def without_password(text: str) -> str:
    """Return a URL, or an override with one, as it may be shown and kept."""
    text = re.sub(r"(://[^:/?#]*):.*@", r"\1:***@", text)
    return re.sub(r"([?&]\w*pass\w*=)[^&]*", r"\1***", text)


def versions() -> dict[str, str]:
    """Return the versions of the packages that can change a number."""
    return {"cvrbench": __version__} | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    """Read a package's metadata once: every cell of a plan asks for it."""
    return metadata.version(package)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return versions and parts of the machine that differ; what one does not have is left out.

    >>> differences({"versions": {"torch": "2.1"}, "threads": 2}, {"versions": {"torch": "2.2"}})
    {'torch': ('2.1', '2.2')}
    """
    before, after = _flat(then), _flat(now)
    return {
        key: (value, after[key])
        for key, value in before.items()
        if key in after and value != after[key]
    }


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    others = ("python", "platform", "cpu", "device", "threads", "together")
    known = {key: environment[key] for key in others if key in environment}
    found = {**environment.get("versions", {}), **known}
    if (git := environment.get("git")) is not None:
        found["git"] = f"{git['commit'][:10]}{' with changes' if git['dirty'] else ''}"
    return {key: str(value) for key, value in found.items()}


def git_state() -> dict[str, object] | None:
    """Return the commit of the checkout this package runs from, and whether files differ from it.

    Returns:
        None where the package is installed rather than run from a checkout, or without git.
    """
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", "src", "conf"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(CHECKOUT), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
