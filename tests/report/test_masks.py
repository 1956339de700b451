"""What a report says of masks: the numbers of a record, in their places."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from cvrbench.errors import StoreError
from cvrbench.report.comparison import compare
from cvrbench.report.diagnostics import cosine_grid, cosine_summary, gate_grids, gates_summary
from cvrbench.report.masks import (
    FieldRows,
    kept_of_fields,
    layers_grid,
    masked_variants,
    overlap_by_round,
    read_masks,
    rounds_grid,
    summary,
)
from cvrbench.report.tables import GridTable
from tests.report.mask_records import drawn, facts, masked_record

# Connection by connection, of ctr and of cvr: 2 in common, 1 and 2 alone, 3 unused.
BY_HAND = np.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0]], bool).reshape(2, 4, 2)


def by_hand():
    layers = facts({"trunk_0": BY_HAND}, ("ctr", "cvr"))
    dead = {"ctr": [1], "cvr": [0]}
    found = {"layers": layers, "dead_units": dead, "rounds": []}
    return read_masks(replace(masked_record(), diagnostics=found))


def printed(grid, width: int) -> str:
    console = Console(width=width, file=StringIO())
    console.print(GridTable(grid))
    return console.file.getvalue()


def column(grid, header: str) -> dict[str, str]:
    place = grid.headers.index(header)
    return {row[0].text: row[place].text for row in grid.rows}


def test_the_table_holds_what_is_counted_by_hand():
    grid = layers_grid(by_hand(), "a run")
    assert column(grid, "trunk_0") == {
        "connections": "8",
        "kept by ctr": "37.5 %",
        "kept by cvr": "50.0 %",
        "shared: by both": "25.0 %",
        "only ctr": "12.5 %",
        "only cvr": "25.0 %",
        "union": "62.5 %",
        "unused": "37.5 %",
        "overlap": "0.400",  # 2 of 5
        "  by chance": "0.273",  # 3/16 of 11/16
        "dead units, ctr": "1",
        "dead units, cvr": "0",
    }
    assert column(grid, "all")["overlap"] == "0.400"


def test_chance_is_what_independent_masks_have_layer_by_layer():
    masks = read_masks(masked_record(densities=(0.2,)))
    for name in ("trunk_0", "trunk_1"):
        layer = next(layer for layer in masks.layers if layer.name == name)
        a, b = layer.density.values()
        assert layer.chance["ctr", "cvr"] == pytest.approx(a * b / (a + b - a * b))
    shapes = {"trunk_0": (500, 40), "trunk_1": (400, 10)}
    generator = np.random.default_rng(0)
    densities = {"trunk_0": np.array([0.1, 0.3]), "trunk_1": np.array([0.9, 0.6])}
    keep = {
        name: generator.random((2, *shape)) < densities[name][:, None, None]
        for name, shape in shapes.items()
    }
    found = {"layers": facts(keep, ("ctr", "cvr")), "rounds": []}
    whole = read_masks(replace(masked_record(), diagnostics=found)).whole
    assert whole.overlap["ctr", "cvr"] == pytest.approx(whole.chance["ctr", "cvr"], abs=0.01)


def test_the_chosen_round_is_the_one_whose_densities_the_masks_have():
    masks = read_masks(masked_record(chosen=0, choice="validation"))
    assert [one.chosen for one in masks.rounds] == [("ctr", "cvr"), ()]
    assert [row[-1].text for row in rounds_grid(masks).rows] == ["yes", ""]


def test_tasks_may_have_chosen_different_rounds():
    record = masked_record(choice="validation")
    sparse, dense = drawn(2, 0.5), drawn(2, 0.8)
    mixed = {name: np.stack([dense[name][0], sparse[name][1]]) for name in sparse}
    layers = facts(mixed, ("ctr", "cvr"))
    masks = read_masks(replace(record, diagnostics={**record.diagnostics, "layers": layers}))
    assert [one.chosen for one in masks.rounds] == [("ctr",), ("cvr",)]


def test_rounds_of_one_density_do_not_tell_which_was_chosen_unless_the_last_is_always():
    told = [read_masks(masked_record(densities=(0.5, 0.5), choice=c)) for c in ("last", "joint")]
    assert [one.chosen for one in told[0].rounds] == [(), ("ctr", "cvr")]
    assert [one.chosen for one in told[1].rounds] == [(), ()]
    assert "No round's density alone tells" in rounds_grid(told[1]).caption


def test_a_round_has_its_score_or_a_dash():
    grid = rounds_grid(read_masks(masked_record()))
    assert list(column(grid, "score\nctr").values()) == ["0.7000", "-"]


def test_one_task_has_no_overlap_and_three_have_three():
    alone = layers_grid(read_masks(masked_record(1)), "a run")
    assert not {"overlap", "only ctr", "shared: by both"} & set(column(alone, "all"))
    three = layers_grid(read_masks(masked_record(3)), "a run")
    said = column(three, "all")
    assert {"overlap ctr, cvr", "overlap ctr, like", "overlap cvr, like"} <= set(said)
    assert "shared: by 2 or more" in said


@pytest.mark.parametrize(
    ("tasks", "width"),
    [
        (("ctr", "cvr"), 80),
        (("income", "never_married"), 80),
        (("ctr", "cvr", "like"), 120),
        (("click", "long_view", "is_like"), 120),
    ],
)
def test_no_word_is_cut(tasks, width):
    masks = read_masks(masked_record(tasks=tasks))
    for grid in [layers_grid(masks, "a run"), rounds_grid(masks)]:
        said = printed(grid, width)
        assert "…" not in said
        for task in tasks:
            assert task in said
        for words in (text for header in grid.headers for text in header.split("\n")):
            assert words in said


def test_a_deep_trunk_is_told_in_several_tables_that_fit():
    keep = {f"trunk_{n}": drawn(2, 0.5, seed=n)["trunk_1"] for n in range(11)}
    found = {"layers": facts(keep, ("ctr", "cvr")), "rounds": []}
    grid = layers_grid(read_masks(replace(masked_record(), diagnostics=found)), "a run")
    said = printed(grid, 80)
    assert "…" not in said
    assert said.count("kept by ctr") > 1
    assert max(map(len, said.splitlines())) <= 80


def test_the_summary_is_one_line():
    assert summary(by_hand()) == (
        "kept by ctr 37.5 %, cvr 50.0 %; overlap ctr-cvr 0.40 (chance 0.27); dead units: ctr 1"
    )


def test_weights_of_their_own_are_no_sharing_and_the_table_says_so():
    record = masked_record()
    own = replace(record, diagnostics={**record.diagnostics, "own_weights": True})
    grid = layers_grid(read_masks(own), "a run")
    assert "a shared place is no shared weight" in grid.caption


def test_other_models_have_no_masks_and_a_strange_record_is_explained():
    assert read_masks(masked_record(diagnostics={})) is None
    with pytest.raises(StoreError, match="another form"):
        read_masks(masked_record(diagnostics={"layers": {"trunk_0": {"density": 0.5}}}))


def test_variants_with_masks_are_averaged_over_their_seeds():
    records = [masked_record(seed=seed) for seed in range(3)]
    other = replace(masked_record(), model="mmoe", run_id="x", diagnostics={}, config={})
    (comparison,) = compare([*records, other])
    ((variant, seeds),) = masked_variants(comparison)
    assert (variant.label, len(seeds)) == ("ncs", 3)
    estimates = overlap_by_round(seeds, ("ctr", "cvr"))
    values = [r.diagnostics["rounds"][1]["layers"]["all"]["jaccard"][0][1] for r in records]
    assert estimates[1].mean == pytest.approx(np.mean(values))
    assert estimates[1].n == 3


def test_a_fields_share_is_that_of_its_rows():
    keep = np.zeros((2, 3, 2), bool)
    keep[0, 0] = keep[1, 2, 0] = True
    fields = [FieldRows("user", 0, 2), FieldRows("age", 2, 3)]
    assert kept_of_fields(keep, fields).tolist() == [[0.5, 0.0], [0.0, 0.5]]


GATES = [
    {"level": 0, "gate": "ctr", "experts": ["ctr_0", "shared_0"], "load": [0.25, 0.75],
     "entropy": 0.8},
    {"level": 0, "gate": "cvr", "experts": ["cvr_0", "shared_0"], "load": [1.0, 0.0],
     "entropy": 0.0},
    {"level": 1, "gate": "ctr", "experts": ["shared_0"], "load": [1.0], "entropy": 0.0},
]  # fmt: skip


def test_gates_are_a_table_per_level_with_a_dash_where_one_does_not_read():
    first, second = gate_grids(GATES)
    assert column(first, "ctr") == {"ctr_0": "25.0 %", "shared_0": "75.0 %", "cvr_0": "-"}
    assert [cell.text for cell in first.last] == ["entropy", "0.800", "0.000"]
    assert second.headers == ("expert", "ctr")
    assert "ctr level 1 0.00" in gates_summary(GATES)


def test_gradients_are_a_row_per_layer():
    cosines = {"trunk_0": {"ctr-cvr": -0.25}, "embedding": {"ctr-cvr": 0.5}}
    grid = cosine_grid(cosines, {"trunk_0": {"ctr": 0.75}})
    assert column(grid, "ctr-cvr") == {"trunk_0": "-0.250", "embedding": "+0.500"}
    assert column(grid, "ctr itself") == {"trunk_0": "+0.750", "embedding": "-"}
    assert cosine_summary(cosines) == "-0.25 to +0.50 over 2 layers"
