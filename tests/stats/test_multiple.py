"""Holm against worked examples and against stepping down."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrbench.stats.difference import holm


def test_holm_is_the_worked_example():
    # Holm's procedure as tabulated in textbooks: 4 p, 3 p, then never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    adjusted = np.array(holm(p_values))
    level, rejected = 0.05, np.zeros(len(p_values), bool)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] * (len(p_values) - rank) > level:
            break
        rejected[index] = True
    assert ((adjusted <= level) == rejected).all()
