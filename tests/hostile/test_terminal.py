"""Whatever a command prints of names in files of others: no colour, no cursor, no emoji."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cvrbench.cli import console
from cvrbench.runs.study import Studies
from tests.report.made_up_studies import searched
from tests.report.mask_records import masked_record
from tests.test_cli_show import store

HOSTILE = ":x: \x1b]0;owned\x07\x1b[2J\x9b31m\u202e [bold]b :smile:"
TASKS = ("ctr", f"cvr{HOSTILE}")
GATES = {"level": 0, "gate": HOSTILE, "experts": [HOSTILE], "load": [1.0], "entropy": 0.8}
WORDS = f"w {HOSTILE}"

COMMANDS = {
    "ls": ("ls",),
    "show": ("show", "hostile-0"),
    "masks": ("show", "masks", "hostile-0", "--plot", f"figures {HOSTILE}"),
    "sharing": ("show", "sharing", "hostile-0"),
    "diff": ("diff", "hostile-0", "hostile-1"),
    "report": ("report", "--full", "--no-html"),
    "markdown": ("report", "--format", "md"),
    "figures": ("report", "--no-html", "--figures", "figures"),
    "sweep --status": ("sweep", "--status", "bold]b"),
    "sweep --best": ("sweep", "--best", "bold]b"),
    "a run that is not there": ("show", WORDS),
    "a sweep that is not there": ("sweep", "--best", WORDS),
}


def write_results(folder: Path) -> None:
    """Two hostile runs, one that cannot be read, a hostile sweep and one that cannot be read."""
    found = masked_record(tasks=TASKS)
    more = {"gates": [GATES], "gradient_cosine": {HOSTILE: {HOSTILE: 0.5}}}
    for seed in (0, 1):
        record = replace(
            found,
            run_id=f"{HOSTILE}hostile-{seed}",
            seed=seed,
            model=HOSTILE,
            dataset=HOSTILE,
            config={**found.config, HOSTILE: HOSTILE, "seed": seed},
            diagnostics={**found.diagnostics, **more},
            environment={HOSTILE: HOSTILE, "command": HOSTILE},
        )
        store(record, str(folder))
    broken = folder / "runs" / f"broken {HOSTILE}" / "record.json"
    broken.parent.mkdir()
    broken.write_text("{")
    sweeps = Studies(folder)
    searched_for = replace(searched(), name=HOSTILE, model=HOSTILE, overrides=(HOSTILE,))
    sweeps.folder(HOSTILE).write(searched_for)
    torn = sweeps.folder("torn\x1b[31m").path
    torn.mkdir()
    (torn / "study.json").write_text(json.dumps({HOSTILE: HOSTILE}))


@pytest.mark.parametrize("name", COMMANDS)
def test_names_of_others_command_no_terminal(name, cvrbench, tmp_path):
    write_results(tmp_path / "results")
    said = cvrbench(*COMMANDS[name])
    for text in (said.out, said.err):
        assert [c for c in text if not c.isprintable() and c != "\n"] == []
        assert not {"\u274c", "\U0001f604"} & set(text)  # what rich makes of :x: and :smile:
    assert ":x:" in said.out + said.err


def test_everything_passes_one_console():
    """Ruff allows `print` in that module alone; bars and tables write to these two consoles."""
    assert isinstance(console.out, console.SafeConsole)
    assert isinstance(console.errors, console.SafeConsole)
    allowed = [line for line in Path("pyproject.toml").read_text().splitlines() if '"T20"]' in line]
    assert [line.split('"')[1] for line in allowed] == ["src/cvrbench/cli/console.py"]
