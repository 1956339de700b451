"""Mask searches through the real training engine, on the small planted log."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from cvrbench.config.compose import compose
from cvrbench.config.ncs import NCSConfig
from cvrbench.data.batches import BagTensors, SplitTensors
from cvrbench.data.registry import ensure
from cvrbench.errors import ConfigError, RunError
from cvrbench.objectives import build_objective
from cvrbench.strategies import build_network
from cvrbench.strategies.ncs import NCS
from cvrbench.training.session import TrainingSession

CPU = torch.device("cpu")


class Search:
    """One NCS and the stages that its search may use."""

    def __init__(self, data_dir: Path, folder: Path, *overrides: str) -> None:
        # Half an epoch of the small log are a few steps: masks must change more often.
        small = ["experiment=quick_check", "model=ncs", "model.hidden=[16,8]", *overrides]
        if small[-1] in ("model.search=set", "model.search=rigl"):
            small.append("model.search.regrow_every=1")
        self.config = compose(small).config
        dataset = ensure(self.config.dataset, "synthetic", data_dir)
        assert isinstance(self.config.model, NCSConfig)
        torch.manual_seed(0)
        network = build_network(self.config, dataset.schema)
        assert isinstance(network, NCS)
        self.network = network
        self.stages = TrainingSession(
            self.config,
            dataset,
            build_objective(self.config.objective, dataset.schema),
            CPU,
            folder,
            lambda _: None,
            lambda: False,
        )
        self.initial = {n: p.detach().clone() for n, p in network.named_parameters()}

    def run(self) -> NCS:
        self.network.prepare(self.stages)
        return self.network

    @property
    def labels(self) -> list[str]:
        return [look["stage"] for look in self.stages.history]


@pytest.fixture
def search(quick_data, tmp_path) -> Callable[..., Search]:
    return lambda *overrides: Search(quick_data, tmp_path, *overrides)


SEARCHES = (
    "imp",
    "one_shot",
    "snip",
    "grasp",
    "synflow",
    "gradient_conflict",
    "learned",
    "set",
    "rigl",
    "initial",
    "random",
    "identical",
    "overlap",
    "shuffled",
    "unshared",
    "redrawn",
    "reinit",
    "permuted",
    "longer",
    "units",
)
COMPARED = ("model.search.rounds=4", "model.search.epochs=2")
"""Candidates that a choice on validation trains under."""


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_keeps_the_density_it_was_asked_for(search, name) -> None:
    masks = search(f"model.search={name}", "model.density=0.25").run().masks
    total = masks.flat().shape[1]
    for task, kept in masks.density().items():
        if name == "units":  # as many as go with it
            assert 0.2 < kept <= 0.25, task
        else:
            assert kept == pytest.approx(round(0.25 * total) / total), task


@pytest.mark.parametrize("together", ["true", "false"])
def test_rounds_keep_the_published_shares_and_each_lies_in_the_one_before(search, together) -> None:
    names = ("model.search=imp", "model.density=0.2", "model.early_bird=null")
    one = search(*names, f"model.together={together}")
    ncs = one.run()
    kept = [facts["layers"]["all"]["density"]["cvr"] for facts in ncs.rounds]
    total = ncs.masks.flat().shape[1]
    published = [0.6687, 0.4472, 0.2991, 0.2]
    assert kept == pytest.approx(published, abs=1 / total + 5e-5)
    assert len(set(one.labels)) == (4 if together == "true" else 8)


@pytest.mark.parametrize("name", ["imp", "snip", "gradient_conflict", "learned", "rigl", "random"])
def test_survivors_are_rewound_to_the_initial_weights_exactly(search, name) -> None:
    one = search(f"model.search={name}")
    for parameter, initial in zip(one.run().parameters(), one.initial.values(), strict=True):
        assert torch.equal(parameter, initial)


def test_after_a_warm_up_they_are_rewound_to_its_end(search, quick_data, tmp_path) -> None:
    warm = search("model.warmup_epochs=0.5").run()
    other = Search(quick_data, tmp_path / "other", "model.warmup_epochs=0.5", "model.search=dense")
    dense = other.run()
    moved = 0
    for (name, parameter), twin in zip(warm.named_parameters(), dense.parameters(), strict=True):
        assert torch.equal(parameter, twin), name
        moved += int(not torch.equal(parameter, other.initial[name]))
    assert moved > 4


@pytest.mark.parametrize("name", ["gradient_conflict", "learned", "set"])
def test_without_rewinding_the_found_weights_go_on(search, name) -> None:
    one = search("model.rewind=false", f"model.search={name}")
    ncs = one.run()
    assert not torch.equal(ncs.trunk.weights[0], one.initial["trunk.weights.0"])


@pytest.mark.parametrize("name", SEARCHES)
def test_one_seed_gives_one_mask_and_another_seed_another(
    search, quick_data, tmp_path, name
) -> None:
    first = search(f"model.search={name}").run().masks.flat()
    again = Search(quick_data, tmp_path / "again", f"model.search={name}").run().masks.flat()
    assert torch.equal(first, again)
    # Two read the initial weights alone, which are the same here; of a few units the same may stay.
    if name not in ("synflow", "initial", "units"):
        other = Search(quick_data, tmp_path / "other", f"model.search={name}", "seed=1").run()
        assert not torch.equal(first, other.masks.flat())


def test_a_search_of_one_task_alone_is_not_touched_by_the_others(
    search, quick_data, tmp_path
) -> None:
    both = search("model.search=imp", "model.together=false").run().masks
    one = Search(quick_data, tmp_path / "one", "model.search=imp", "model.together=false")
    train = one.stages.train

    # Whatever the other task's training does to its weights, this task's rounds start afresh.
    def disturbed(*trainings):
        results = train(*trainings)
        for training in trainings:
            if training.tasks == ("ctr",):
                training.network.network.ncs.encoder.table.data.normal_()
        return results

    one.stages.train = disturbed
    assert torch.equal(one.run().masks.keep["trunk_0"][1], both.keep["trunk_0"][1])


def test_validation_takes_for_each_task_the_candidate_that_scored_best(search) -> None:
    ncs = search("model.search=random", *COMPARED, "model.search.choice=validation").run()
    for t, task in enumerate(ncs.tasks):
        scores = [facts["scores"][task] for facts in ncs.rounds if facts["scores"]]
        densities = [facts["layers"]["all"]["density"][task] for facts in ncs.rounds]
        best = densities[scores.index(max(scores))]
        assert len(scores) == 4
        assert ncs.masks.flat()[t].double().mean().item() == pytest.approx(best)


def test_a_joint_choice_takes_one_round_for_all_tasks(search) -> None:
    ncs = search("model.search=random", *COMPARED, "model.search.choice=joint").run()
    densities = list(ncs.masks.density().values())
    assert densities[0] == densities[1]
    assert any(densities[0] == facts["layers"]["all"]["density"]["ctr"] for facts in ncs.rounds)


def test_a_round_ends_early_when_the_mask_has_settled(search, quick_data, tmp_path) -> None:
    options = ("model.search=imp", "model.search_epochs=16", "trainer.batch_size=64")
    patient = search(*options, "model.early_bird=null")
    patient.run()
    hasty = Search(quick_data, tmp_path / "hasty", *options, "model.early_bird=0.05")
    hasty.run()
    spent = [sum(r.state.examples for r in one.stages.results) for one in (patient, hasty)]
    assert spent[1] < 0.7 * spent[0]


def test_shuffled_has_the_densities_and_overlaps_of_its_base_but_other_connections(
    search, quick_data, tmp_path
) -> None:
    found = search("model.search=imp").run().masks
    control = Search(quick_data, tmp_path / "s", "model.search=shuffled").run().masks
    assert control.facts() == found.facts()
    assert (control.flat() != found.flat()).double().mean() > 0.1


def test_unshared_has_the_masks_of_its_base_and_weights_of_its_own(
    search, quick_data, tmp_path
) -> None:
    found = search("model.search=random").run()
    control = Search(quick_data, tmp_path / "u", "model.search=unshared", "model.base=random").run()
    assert torch.equal(control.masks.flat(), found.masks.flat())
    assert control.own_weights
    assert control.trunk.weights[0].shape[0] == 2
    assert torch.equal(control.trunk.weights[0][0], found.trunk.weights[0][0])


def test_initial_keeps_what_is_largest_before_any_training(search) -> None:
    one = search("model.search=initial", "model.scope=layer", "model.density=0.2")
    for number, weight in enumerate(one.network.trunk.weights):
        kept = round(0.2 * weight.numel())
        least = weight.detach().abs().flatten().sort(descending=True).values[kept - 1]
        expected = (weight.detach().abs() >= least).expand(2, -1, -1)
        assert torch.equal(one.run().masks.keep[f"trunk_{number}"], expected)


def test_reinit_has_the_masks_of_its_base_over_new_weights_of_the_same_law(
    search, quick_data, tmp_path
) -> None:
    found = search("model.search=imp").run()
    one = Search(quick_data, tmp_path / "r", "model.search=reinit")
    control = one.run()
    assert torch.equal(control.masks.flat(), found.masks.flat())
    assert torch.equal(control.encoder.table, found.encoder.table)
    parts = zip(found.trunk.weights, control.trunk.weights, strict=True)
    for before, after in [*parts, (found.towers.head, control.towers.head)]:
        assert not (before == after).any()
        bound = (6 / (before.shape[-2] + before.shape[-1])) ** 0.5
        assert after.abs().max() <= bound
        assert after.std().item() == pytest.approx(bound / 3**0.5, rel=0.3)


@pytest.mark.parametrize("what", ["labels", "features"])
def test_a_permuted_search_sees_noise_alone_and_the_training_the_data(search, what) -> None:
    one = search("model.search=permuted", f"model.permuted={what}", "model.search.base=one_shot")
    stages, seen = one.stages, []
    train = stages.train

    def spy(training):
        seen.append((stages.train_rows, stages.valid, stages.evaluator.answers.labels))
        return train(training)

    stages.train = spy
    true = stages.train_rows, stages.valid, stages.evaluator.answers.labels
    one.run()
    assert (stages.train_rows, stages.valid) == true[:2]
    assert seen
    for rows, valid, answers in seen:
        for noise, data in ((rows, true[0]), (valid, true[1])):
            same = torch.equal(noise.labels, data.labels), torch.equal(noise.rows, data.rows)
            assert same == ((False, True) if what == "labels" else (True, False))
            # Nothing is added: rows of labels, and values of a field, are what they were.
            assert torch.equal(noise.labels.sum(0), data.labels.sum(0))
            assert torch.equal(noise.labels.prod(1).sum(), data.labels.prod(1).sum())
            assert torch.equal(noise.rows.sort(dim=0).values, data.rows.sort(dim=0).values)
        assert torch.equal(torch.as_tensor(answers), valid.labels)
    # No task can be told from noise: the search's own validation is at chance.
    assert all(abs(auc - 0.5) < 0.2 for r in stages.results for auc in r.scores.values())


def test_permuted_bags_and_weights_go_as_a_whole() -> None:
    offsets, values = torch.tensor([0, 2, 2, 5]), torch.arange(5)
    bag = BagTensors(offsets, values, values.float(), shared=False)
    rows = SplitTensors(torch.arange(3)[:, None], torch.zeros(3, 0), torch.eye(3), (bag,), None)
    moved = rows.permuted("features", seed=1).bags[0]
    lists = [tuple(moved.rows[i:j].tolist()) for i, j in pairwise(moved.offsets.tolist())]
    assert sorted(lists) == [(), (0, 1), (2, 3, 4)]
    assert torch.equal(moved.weights, moved.rows.float())
    weighed = SplitTensors(*rows[:5], weights=torch.eye(3) * 2).permuted("labels", seed=1)
    assert torch.equal(weighed.weights, 2 * weighed.labels)
    assert not torch.equal(weighed.labels, rows.labels)


def test_longer_reads_as_much_as_the_search_that_it_stands_in_for(
    search, quick_data, tmp_path
) -> None:
    plain = ("trainer.patience=100", "model.search=one_shot", "model.early_bird=null")
    found = search(*plain, "model.search.epochs=2")
    found.run()
    longer = ("trainer.patience=100", "model.search=longer", "model.extra_epochs=2")
    control = Search(quick_data, tmp_path / "l", *longer)
    ncs = control.run()
    spent = [sum(r.state.examples for r in one.stages.results) for one in (found, control)]
    assert spent[0] == spent[1] > 0
    assert not torch.equal(ncs.trunk.weights[0], control.initial["trunk.weights.0"])
    unused = ~ncs.masks.keep["trunk_0"].any(0)
    start = control.initial["trunk.weights.0"][0]
    assert torch.equal(ncs.trunk.weights[0][0][unused], start[unused])
    random = Search(quick_data, tmp_path / "x", "model.search=random").run()
    assert torch.equal(ncs.masks.flat(), random.masks.flat())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.search=imp", "model.rewind=false"), "does not read it.*gradient_conflict"),
        (("model.search=shuffled", "model.base=set", "model.rewind=false"), "base.rewind=true"),
        (("model.search=permuted", "model.base=random"), "base=random reads no data"),
        (("model.search=permuted", "model.base=synflow"), "base=synflow reads no data"),
        (("model.search=shuffled", "model.permuted=labels"), "does not read it.*permuted"),
        (("model.search=random", "model.extra_epochs=1"), "does not read it.*longer"),
        (("model.search=random", "model.rounds=2"), "choice=validation or joint"),
        (("model.search=learned", "model.choice=joint"), "rounds=1 with choice=joint"),
        (("model.search=snip", "model.search.epochs=1"), "epochs=1.0 with choice=last"),
        (("model.search=imp", "model.choice=5"), "there are 4"),
        (("model.search=dense", "model.density=0.5"), "model.search=dense does not read it"),
        (("model.masked_step=legacy",), "step=alternate"),
        (
            ("model.search=imp", "model.masked=[embeddings]", "trainer.embedding_optimizer=adam"),
            "rowwise_adagrad",
        ),
        (("model.masked=[trunk,trunk]",), "twice"),
        (("model.search=snip", "model.masked=[embeddings]"), "imp, one_shot or random"),
        (("model.search=impp",), "model.search"),
        (("model.density=0",), "model.search.density"),
        (("model.masked=[]",), "model.masked"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_their_key(overrides, words) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(["model=ncs", *overrides])


def test_all_parts_can_be_masked_by_magnitude(search) -> None:
    masked = "model.masked=[trunk,biases,towers,embeddings]"
    ncs = search("model.search=imp", masked, "model.density=0.3", "model.scope=layer").run()
    for name, keep in ncs.masks.keep.items():
        share = keep.double().mean().item()
        assert share == pytest.approx(0.3, abs=0.5 / keep[0].numel() + 1e-9), name


def test_a_density_above_what_conflict_leaves_a_task_is_not_to_be_had(search) -> None:
    """Every connection is somebody's, and those in conflict are one task's alone."""
    masks = search("model.search=gradient_conflict", "model.density=1.0").run().masks
    assert masks.union_density() == 1
    assert masks.overlap()[0, 1] < 1
    assert all(0 < kept < 1 for kept in masks.density().values())


def test_masks_that_could_never_change_are_refused(search) -> None:
    with pytest.raises(RunError, match=r"regrow_every"):
        search("model.search=rigl", "model.regrow_every=50").run()
