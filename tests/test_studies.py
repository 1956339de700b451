"""study.json: what is written is read, and what is no summary is refused in a sentence."""

import json

import pytest

from cvrbench.errors import StoreError
from cvrbench.runs.study import StudyFolder
from tests.report.made_up_studies import params, study, trial


@pytest.fixture
def folder(tmp_path):
    """A folder with a summary."""
    kept = StudyFolder(tmp_path / "sweeps" / "s")
    trials = [trial(0, [0.7], params=params(0), looks=((1, 0.5), (2, 0.7))), trial(1)]
    chosen = {"trial": 0, "overrides": ["model=ncs"], "seeds": [5], "runs": ["run"]}
    kept.write(study(trials, chosen=chosen))
    return kept


def test_a_summary_survives_json_with_its_whole_numbers(folder):
    before = json.loads((folder.path / "study.json").read_text())
    folder.write(folder.read())
    after = json.loads((folder.path / "study.json").read_text())
    assert after == before
    for key in ("limits", "spent", "trials"):  # 3 is not 3.0 to who reads the file
        assert repr(after[key]) == repr(before[key])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version: Input should be 1"),
        ({"more": 1}, "more: "),
        ({"trials": [{}]}, "trials.0."),
        ({"directions": ["up"]}, "directions.0: "),
    ],
)
def test_what_is_no_summary_is_refused_with_its_place(change, said, folder):
    file = folder.path / "study.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(StoreError, match="run the sweep again") as told:
        folder.read()
    assert f"cannot be read: {said}" in str(told.value)
