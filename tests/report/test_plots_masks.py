"""Figures of masks: drawn for any number of tasks, without a warning, the same every time."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import AxesImage

from cvrbench.report.comparison import compare
from cvrbench.report.figures.masks import (
    connections_figure,
    fields_figure,
    layers_figure,
    masks_figure,
    rounds_figure,
)
from cvrbench.report.figures.style import LOOKS, look, save
from cvrbench.report.masks import FieldRows, read_masks
from tests.report.mask_records import drawn, masked_record

FIELDS = [
    FieldRows("user", 0, 2),
    FieldRows("pri$e $", 2, 4),
    FieldRows("age", 4, 5),
    FieldRows("hour", 5, 6),
]
HOSTILE = r"a_b $x^{ [bold] \frac"


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_a_runs_figures_can_be_drawn(n_tasks, tmp_path):
    masks = read_masks(masked_record(n_tasks))
    keep = drawn(n_tasks, 0.5)
    figures = [
        layers_figure(masks, HOSTILE),
        rounds_figure(masks, HOSTILE),
        connections_figure(keep, masks.tasks, FIELDS, HOSTILE),
        connections_figure(keep, masks.tasks, None, HOSTILE),
        fields_figure(keep["trunk_0"], masks.tasks, FIELDS, HOSTILE),
    ]
    for number, figure in enumerate(figures):
        file = save(figure, tmp_path / "deep" / f"{number}.png")
        assert file.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in save(figures[2], tmp_path / "masks.svg").read_text()


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_variants_are_rows(n_tasks, tmp_path):
    records = [masked_record(n_tasks, seed=seed) for seed in range(3)]
    config = {"model": {"kind": "ncs", "search": {"kind": "imp", "choice": "joint"}}, "seed": 0}
    records.append(replace(masked_record(n_tasks), run_id="other", config=config))
    (comparison,) = compare(records)
    figure = masks_figure(comparison)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title for title in titles if title] == [
        "ncs choice=joint, 1 seed",
        "ncs choice=last, 3 seeds",
    ]
    assert save(figure, tmp_path / "figure.png").is_file()


def test_without_masks_there_is_no_figure_of_them():
    (comparison,) = compare([masked_record(diagnostics={})])
    assert masks_figure(comparison) is None


def test_the_bars_of_a_layer_fill_it():
    figure = layers_figure(read_masks(masked_record(3)), "a run")
    bars = figure.axes[0].containers
    assert len(bars) == 5
    for layer in range(3):
        assert sum(container[layer].get_width() for container in bars) == pytest.approx(1)


def test_each_connection_has_the_colour_of_who_keeps_it():
    keep = {"trunk_0": np.array([[[1, 1], [0, 0]], [[1, 0], [1, 0]]], bool)}
    figure = connections_figure(keep, ("ctr", "cvr"), None, "a run")
    (image,) = [child for child in figure.axes[0].get_children() if isinstance(child, AxesImage)]
    patches = figure.legends[0].get_patches()
    none, ctr, cvr, both = (patch.get_facecolor()[:3] for patch in patches)
    wanted = [[both, ctr], [cvr, none]]
    np.testing.assert_allclose(np.asarray(image.get_array()), wanted)


def test_single_rows_share_one_name_beside_the_picture():
    figure = connections_figure(drawn(2, 0.5), ("ctr", "cvr"), FIELDS, "a run")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["user", r"pri\$e \$", "2 numbers"]


def test_fields_are_ordered_by_what_is_kept_of_them():
    mask = np.zeros((2, 6, 5), bool)
    mask[:, 4] = True
    mask[0, 0] = True
    figure = fields_figure(mask, ("ctr", "cvr"), FIELDS, "a run")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:2] == ["age", "user"]


def test_equal_figures_are_equal_files(tmp_path):
    masks = read_masks(masked_record())
    files = [save(layers_figure(masks, "a run"), tmp_path / f"{n}.svg") for n in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_looks_differ_without_colour():
    for fact in ("hatch", "marker"):
        assert len({getattr(one, fact) for one in LOOKS}) == len(LOOKS)
    assert look(len(LOOKS)) == look(0)
