"""Run the installed wheel from an empty folder, as a user without a checkout would.

`nox -s wheel` calls this with the interpreter of a fresh environment; it is no pytest module.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def cvrbench(folder: str, *arguments: str) -> str:
    """Run the installed command in `folder` and give what it printed."""
    command = Path(sys.executable).with_name("cvrbench")
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("CVRBENCH", "PYTHON"))}
    done = subprocess.run(
        [command, *arguments], cwd=folder, env=outside, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"cvrbench {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Check help, configuration, one small run and the page of its report."""
    import cvrbench as package

    if Path(package.__file__).is_relative_to(CHECKOUT / "src"):
        sys.exit("the checkout was imported, not the wheel")
    with tempfile.TemporaryDirectory() as folder:
        assert "run" in cvrbench(folder, "--help")
        assert "shared_bottom" in cvrbench(folder, "config", "model=shared_bottom")
        first = json.loads(cvrbench(folder, "run", "experiment=quick_check", "--json"))
        assert 0 < first["metrics"]["test"]["ctr_auc"] < 1, first
        assert Path(folder, first["run_dir"], "record.json").is_file(), first
        cvrbench(folder, "report")
        assert "</html>" in Path(folder, "results", "report", "index.html").read_text()
    print("the wheel works outside the checkout")  # noqa: T201 -- a script


if __name__ == "__main__":
    main()
