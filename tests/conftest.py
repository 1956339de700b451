"""What every test may ask for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No window opens, whatever the machine has.
os.environ.setdefault("MPLBACKEND", "Agg")

# A machine shared with other work is slow now and then; that is not a failure of the code.
settings.register_profile("cvrbench", deadline=None)
settings.load_profile("cvrbench")


@pytest.fixture(scope="session")
def raw_data() -> Path:
    """The folder of real raw data that CVRBENCH_RAW_DATA names; without it the test is skipped."""
    named = os.environ.get("CVRBENCH_RAW_DATA")
    if not named:
        pytest.skip("needs real data: set CVRBENCH_RAW_DATA to their folder (CONTRIBUTING.md)")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real data: CVRBENCH_RAW_DATA={named} is no folder")
    return folder
