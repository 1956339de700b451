"""No number moves unseen: what every strategy, search, objective and stack writes has a digest."""

from typing import get_args

import pytest

from cvrbench.config.compose import compose
from cvrbench.config.model import ModelConfig
from cvrbench.config.schema import BalancingConfig, InteractionConfig, ObjectiveConfig
from cvrbench.runs.record import NUMBERS
from tests.golden import net

EXACT = net.known()["platform"] == net.platform_key()


def test_the_net_is_of_todays_numbers():
    assert net.known()["numbers"] == NUMBERS, "write the digests anew: python -m tests.golden.net"


def test_the_net_has_every_entry():
    assert {*net.known()["entries"]} == {*net.RUNS, *net.STACKED}


@pytest.mark.parametrize(
    ("group", "union"),
    [
        ("model", ModelConfig),
        ("objective", ObjectiveConfig),
        ("balancing", BalancingConfig),
        ("interaction", InteractionConfig),
    ],
)
def test_the_net_covers_every_kind(group, union):
    words = [entry.split() for entry in (*net.RUNS.values(), *net.STACKED.values())]
    covered = {type(getattr(compose(entry).config, group)) for entry in words}
    assert covered == {*get_args(union)}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in net.SLOW else [])
        for name in (*net.RUNS, *net.STACKED)
    ],
)
def test_no_number_moved(name, quick_data, tmp_path):
    wanted = net.known()["entries"].get(name)
    assert wanted, f"{name} has no digests: python -m tests.golden.net --write {name}"
    found = net.measure(name, quick_data, tmp_path)
    moved = net.differences(name, found, wanted, exact=EXACT)
    assert not moved, f"{moved}: raise NUMBERS, explain it in the CHANGELOG, write the net anew"


def test_no_report_moved(quick_data, tmp_path, cvrbench):
    if not EXACT:
        pytest.skip(f"reports have digests on {net.known()['platform']} alone")
    found = net.reports(quick_data, tmp_path / "golden", lambda *words: cvrbench(*words).out)
    assert found == net.known()["reports"]
