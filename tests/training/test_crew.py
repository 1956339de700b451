"""Trainings of one run as one program: candidates of a mask search, and the tasks' own searches."""

import signal
import threading
from pathlib import Path

import pytest

from cvrbench import experiment, planning
from cvrbench.errors import RunError, RunInterrupted
from cvrbench.store import ResultStore
from cvrbench.tracking import tracker
from cvrbench.training import stages
from cvrbench.training.together import crew, pays
from tests.resilience.bits import digests

CANDIDATES = ("model.search=random", "model.choice=joint", "model.rounds=4")
APART = ("model.search=imp", "model.together=false", "model.rounds=2", "model.early_bird=null")


@pytest.fixture
def cell(quick, tmp_path):
    """Compose a cell of NCS with a folder of its own: `cell("straight", *options)`."""

    def composed(folder, *options, threads=1):
        words = ["model=ncs", "model.dropout=0.2", "trainer.batch_size=128", *options]
        places = [f"trainer.threads={threads}", f"results_dir={tmp_path / folder}"]
        return quick(*words, *places)

    return composed


def results(cell) -> dict[str, str]:
    return digests(planning.folder_of(cell))


def stop_after(n: int):
    """Press Ctrl-C when progress was told of so often."""
    told = iter(range(1, 10**9))

    def on_progress(_) -> None:
        if next(told) == n:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    return on_progress


@pytest.mark.parametrize(
    ("options", "n"),
    [
        (CANDIDATES, 4),
        (("model.search=snip", "model.choice=validation", "model.rounds=3"), 3),
        (APART, 2),
        ((*APART, "model.masked=[trunk,towers,biases]", "model.choice=validation"), 2),
    ],
    ids=["joint", "validation", "tasks", "parts"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_trainings_as_one_end_where_they_end_one_by_one(cell, monkeypatch, options, n, threads):
    together = experiment.run(cell("together", *options, threads=threads))
    assert together.environment["together"] == n
    monkeypatch.setattr(stages, "go_as_one", lambda _: False)
    alone = experiment.run(cell("alone", *options, threads=threads))
    assert alone.environment["together"] == 1
    assert together.examples == alone.examples
    assert together.best_step == alone.best_step
    for split, metrics in alone.metrics.items():
        assert together.metrics[split] == pytest.approx(metrics, abs=1e-4), split
    found = [record.diagnostics["rounds"] for record in (together, alone)]
    for one, other in zip(*found, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [CANDIDATES, APART], ids=["candidates", "tasks"])
@pytest.mark.parametrize("when", [5, 21])
def test_a_stopped_crew_goes_on_to_the_same_bits(cell, options, threads, when):
    straight = cell("straight", *options, threads=threads)
    experiment.run(straight)
    stopped = cell("stopped", *options, threads=threads)
    with pytest.raises(RunInterrupted):
        experiment.run(stopped, on_progress=stop_after(when))
    assert list(planning.folder_of(stopped).rglob("stage-*"))
    experiment.run(stopped)
    assert results(stopped) == results(straight)


def test_one_that_ended_early_is_kept_while_the_others_go_on(cell, monkeypatch):
    options = (*CANDIDATES, "trainer.learning_rate=0.05", "trainer.patience=1")
    options = (*options, "trainer.evaluations_per_epoch=8", "model.search_epochs=8")
    record = experiment.run(cell("straight", *options))
    assert record.environment["together"] == 4
    searched = [look for look in _history(cell("straight", *options)) if "choose" in look["stage"]]
    ends = {look["stage"]: look["step"] for look in searched}
    assert len(set(ends.values())) > 1
    # A stop between the first end and the last.
    when = (min(ends.values()) + max(ends.values())) // 2
    stopped = cell("stopped", *options)
    with pytest.raises(RunInterrupted):
        experiment.run(stopped, on_progress=stop_after(when))
    begun = []
    go_on = crew._go_on
    monkeypatch.setattr(crew, "_go_on", lambda *given: begun.append(go_on(*given)) or begun[-1])
    experiment.run(stopped)
    over = sum(member.training.state.step < when for member in begun)
    assert 1 <= over <= 3
    assert results(stopped) == results(cell("straight", *options))


def _history(cell) -> list[dict]:
    store = ResultStore(Path(cell.config.results_dir))
    return store.history(planning.folder_of(cell).name)


def test_what_a_crew_kept_serves_no_other_crew_and_no_training_alone(cell, monkeypatch):
    options = (*CANDIDATES, "model.search_epochs=8")
    straight = cell("straight", *options, threads=2)
    experiment.run(straight)
    stopped = cell("stopped", *options, threads=2)
    with pytest.raises(RunInterrupted):
        experiment.run(stopped, on_progress=stop_after(5))
    folder = planning.folder_of(stopped) / "checkpoints"
    assert {file.name for file in folder.glob("stage-*")} == {
        f"stage-0-crew-{number}-of-2-partial.pt" for number in (1, 2)
    }
    # As where seeds train together, which take the candidates one after another; then alone again.
    monkeypatch.setattr(stages, "go_as_one", lambda _: False)
    with pytest.raises(RunInterrupted):
        experiment.run(stopped, on_progress=stop_after(70))
    assert {file.name for file in folder.glob("stage-*-partial.pt")} > {
        "stage-0-crew-1-of-2-partial.pt",
        "stage-1-partial.pt",
    }
    monkeypatch.undo()
    experiment.run(stopped)
    assert results(stopped) == results(straight)


def test_a_crew_is_lent_whole(cell, tmp_path):
    searches = tmp_path / "searches"
    first = cell("one", *CANDIDATES)
    assert experiment.run(first, searches=searches).examples["reused"] == 0
    assert len(list(searches.glob("*.pt"))) == 1
    second = cell("two", *CANDIDATES)  # another folder, so that nothing is finished
    record = experiment.run(second, searches=searches)
    assert record.examples["reused"] == record.examples["search"] > 0
    assert results(second) == results(first)


def test_a_crew_beside_one_that_is_lent_ends_in_the_same_bits(cell, tmp_path):
    searches = tmp_path / "searches"
    first = cell("one", *CANDIDATES, threads=2)
    experiment.run(first, searches=searches)
    kept = sorted(searches.glob("*.pt"))
    assert len(kept) == 2
    kept[0].unlink()
    second = cell("two", *CANDIDATES, threads=2)
    record = experiment.run(second, searches=searches)
    assert 0 < record.examples["reused"] < record.examples["search"]
    assert results(second) == results(first)


def test_a_training_alone_is_not_lent_what_a_crew_of_one_ended_with(cell, tmp_path):
    """They end in other bits, and their files hold other things."""
    searches = tmp_path / "searches"
    options = (*CANDIDATES, "model.rounds=2")
    together = experiment.run(cell("one", *options, threads=2), searches=searches)
    assert together.environment["together"] == 2
    alone = experiment.run(cell("two", *options, "trainer.data=disk", threads=2), searches=searches)
    assert alone.environment["together"] == 1
    assert alone.examples["reused"] == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_every_look_of_a_crew_is_told_and_what_was_done_only_grows(cell, monkeypatch, threads):
    told = []
    monkeypatch.setattr(tracker.Tracker, "look", lambda _, look: told.append(look))
    told_cell = cell("told", *CANDIDATES, threads=threads)
    experiment.run(told_cell)
    assert len(told) == len(_history(told_cell))
    examples = [look.examples for look in told]
    assert examples == sorted(set(examples))


@pytest.mark.parametrize("threads", [1, 2])
def test_one_that_diverges_ends_all_and_says_where(cell, monkeypatch, threads):
    weights = stages.Stages._loss_weights
    asked = []

    def spoilt(self, training):
        asked.append(training)
        return weights(self, training) * (float("nan") if len(asked) > 3 else 1.0)

    monkeypatch.setattr(stages.Stages, "_loss_weights", spoilt)
    bad = cell("bad", *CANDIDATES, "model.search_epochs=40", threads=threads)
    with pytest.raises(RunError, match=r"not finite by step .* of stage 'choose density"):
        experiment.run(bad)
    folder = planning.folder_of(bad) / "checkpoints"
    assert [file for file in folder.glob("*") if "partial" not in file.name] == []


def test_large_or_many_trainings_go_one_by_one(cell, monkeypatch):
    monkeypatch.setattr(pays, "MOST_BYTES", 1000)
    assert experiment.run(cell("heavy", *CANDIDATES)).environment["together"] == 1
    monkeypatch.undo()
    alternate = cell("alternate", *CANDIDATES, "model.step=alternate")
    assert experiment.run(alternate).environment["together"] == 1
