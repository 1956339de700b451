"""study.json: what is written is read, and what is no summary is refused in a sentence."""

import json

import pytest

from cvrbench.errors import StoreError
from cvrbench.runs.study import StudyFolder
from tests.report.made_up_studies import params, study, trial


@pytest.fixture
def folder(tmp_path):
    """A folder with a summary."""
    kept = StudyFolder(tmp_path / "sweeps" / "ncs-log")
    trials = [trial(0, [0.7], params=params(0), looks=((1, 0.5), (2, 0.7))), trial(1)]
    chosen = {"trial": 0, "overrides": ["model=ncs"], "seeds": [5], "runs": ["run"]}
    kept.write(study(trials, chosen=chosen))
    return kept


def test_a_summary_survives_json_with_its_whole_numbers(folder):
    before = json.loads((folder.path / "study.json").read_text())
    folder.write(folder.read())
    after = json.loads((folder.path / "study.json").read_text())
    before.pop("checksum")
    after.pop("checksum")
    assert after == before
    for key in ("limits", "spent", "trials"):  # 3 is not 3.0 to who reads the file
        assert repr(after[key]) == repr(before[key])


ANY = "Input should be"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("version", 2, "version: Input should be 1"),
        ("more", 1, "more: "),
        ("trials", [{}], "trials.0."),
        ("directions.0", "up", "directions.0: "),
        ("directions", [], "0 directions of 1 objectives"),
        ("trials.0.values.0", 9.62, r"trial 0 has the values \(9.62,\)"),
        ("trials.0.values.0", "0.9", f"trials.0.values.0: {ANY}"),
        ("trials.0.values", [0.7, 0.7], "trial 0 has the values"),
        ("trials.0.values", None, "trial 0 is complete, and its values do not fit"),
        ("trials.0.number", 1, "trial|two trials have one number"),
        ("trials.0.seconds", "x", f"trials.0.seconds: {ANY}"),
        ("best", [1], r"the best trials are \(1,\)"),
        ("best", [], "the best trials are"),
        ("chosen.trial", "0", f"trial: {ANY}"),
        ("spent.examples", None, f"spent.examples.int: {ANY}"),
        ("name", "other", "is the summary of the sweep other"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_no_summary_is_refused_with_its_place(path, value, said, sealed, folder):
    """With a checksum any change is seen; without one, as in older files, types and sense are."""
    file = folder.path / "study.json"
    node = whole = json.loads(file.read_text())
    *groups, last = path.split(".")
    for key in groups:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value
    if not sealed:
        del whole["checksum"]
    file.write_text(json.dumps(whole))
    words = r"study\.json cannot be read .its checksum" if sealed else said
    with pytest.raises(StoreError, match=words) as told:
        folder.read()
    assert "run the sweep again" in str(told.value)


def test_a_summary_without_a_checksum_is_read(folder):
    file = folder.path / "study.json"
    old = json.loads(file.read_text())
    del old["checksum"]
    before = folder.read()
    file.write_text(json.dumps(old))
    assert folder.read() == before
