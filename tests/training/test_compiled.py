"""`trainer.compile`: another way to compute the same."""

import shutil

import pytest

from cvrbench.runs import experiment


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles with g++, which is not here"
)
@pytest.mark.filterwarnings("ignore")  # torch's own compiler uses what torch deprecates
@pytest.mark.parametrize("model", ["shared_bottom", "ncs"])
def test_a_compiled_network_learns_what_it_learns_without(quick, tmp_path, model):
    options = [f"model={model}", "model.dropout=0", "trainer.epochs=1"]
    options += ["model.search=random"] if model == "ncs" else []
    plain, compiled = (
        experiment.run(
            quick(*options, f"trainer.compile={word}", f"results_dir={tmp_path / word}")
        ).metrics["valid"]
        for word in ("false", "true")
    )
    assert compiled["ctr_auc"] == pytest.approx(plain["ctr_auc"], abs=1e-4)
    assert compiled["cvr_logloss"] == pytest.approx(plain["cvr_logloss"], abs=1e-4)
