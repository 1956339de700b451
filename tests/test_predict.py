"""A run's predictions for the rows of other tables: by `predict`, and by its export alone."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvrbench.config.compose import compose
from cvrbench.data.sources import load_raw
from cvrbench.errors import DataError
from cvrbench.runs import experiment
from cvrbench.runs.load import load_trained
from cvrbench.serving.export import part_of, write_bundle
from cvrbench.serving.predict import as_table, predict_file
from cvrbench.serving.score import score

N = 400
NAMES = ["p_ctr", "p_cvr", "p_ctcvr"]
SMALL = ["trainer=smoke", "trainer.threads=1", "model.embedding_dim=4", "model.hidden=[8]"]

VALUES: Mapping[str, list] = {
    "text": ["a", "007", "7", "7.0", " 7", "é", "<oov>", "", "NA", None],
    "whole": [1, 2, -3, 2**60, None],
    "floats": [1.0, 1.5, 2.0, -0.0, 2.0**50, float("nan"), None],
    "flags": [True, False, None],
    "url": ["x/1", "x/2", "y", "", "NA", None],
    "age": [17.0, 18.0, 40.0, 80.5, None],
    "spent": [0.0, 1.5, 2.0, 7.25, 9.0, None],
    "price": [0.0, 1.5, 20.0, 1e6, None],
    "plain": [-1.0, 0.25, 3e7],
    "words": [None, [], ["a"], ["a", "b", None, ""], ["NA", "b"]],
    "numbers": [None, [], [1, 2], [2, 3, None]],
    "tags": ["a|b", "a||b|", "c| b", "NA", "", None],
    "image": [None, [0.5, -2.0, 1e3], [1.5, 0.0, 1e3]],
    "said": ["0.5,1", "[-1, 2e1]", "NA", "", None],
}
"""Column -> values that a table of a user's may hold there."""
TYPES = {
    "words": pl.List(pl.String), "numbers": pl.List(pl.Int64), "image": pl.Array(pl.Float32, 3),
}  # fmt: skip
UNSEEN: Mapping[str, list] = {
    "text": ["never"], "whole": [99], "floats": [2.5], "url": ["z"], "age": [1e9],
    "price": [1e12], "plain": [float("nan"), None], "words": [["never", "a"]],
    "numbers": [[99]], "tags": ["never|a"],
}  # fmt: skip
OPTIONS = {
    "ids": ["text", "whole", "floats", "flags", "url", "age", "spent"],
    "numbers": ["price", "plain"],
    "lists": ["words", "numbers", "tags"],
    "vectors": ["image", "said"],
}


def table(columns: list[str], seed: int, n: int = N, *, unseen: bool = False) -> pl.DataFrame:
    """Rows with labels and a split, the columns' values drawn."""
    random = np.random.default_rng(seed)

    def draw(name: str) -> pl.Series:
        pool = [*VALUES[name], *(UNSEEN.get(name, []) if unseen else [])]
        rows = [pool[k] for k in random.integers(0, len(pool), n)]
        return pl.Series(name, rows, dtype=TYPES.get(name))

    click = random.integers(0, 2, n)
    return pl.DataFrame(
        [
            pl.Series("row", np.arange(n)),
            *map(draw, columns),
            pl.Series("click", click),
            pl.Series("conversion", click * random.integers(0, 2, n)),
            pl.Series("split", np.array(["train", "valid", "test"])[random.integers(0, 3, n)]),
        ]
    )


class Case(NamedTuple):
    """A run, and the table that it learnt from."""

    run: Path
    rows: pl.DataFrame


def train(folder: Path, columns: list[str], seed: int, *words: str) -> Case:
    rows = table(columns, seed)
    rows.write_parquet(folder / "log.parquet")
    roles = {role: [c for c in columns if c in names] for role, names in OPTIONS.items()}
    cuts = {"age": "[18, 30]", "spent": "3"}
    buckets = ", ".join(f"{name}: {cut}" for name, cut in cuts.items() if name in columns)
    options = {"url": "hash={url: 3}", "age": f"buckets={{{buckets}}}",
               "spent": f"buckets={{{buckets}}}",
               "price": "clip={price: [0, 1000]}"}  # fmt: skip
    overrides = [f"dataset.{role}=[{','.join(names)}]" for role, names in roles.items()]
    overrides += [f"dataset.{word}" for name, word in options.items() if name in columns]
    overrides += ["dataset.log1p=[price]"] if "price" in columns else []
    overrides += ["dataset.shared={tags: text}"] if {"tags", "text"} <= {*columns} else []
    record = experiment.run(
        compose(
            [
                "dataset=table", f"dataset.path={folder / 'log.parquet'}", "dataset.split=column",
                "dataset.split_column=split", "dataset.null_values=[NA,'1.5']", *overrides, *SMALL,
                *words, f"data_dir={folder}/datasets", f"results_dir={folder}/results",
            ]
        )
    )  # fmt: skip
    return Case(folder / "results" / "runs" / record.run_id, rows)


def assert_three_ways_agree(case: Case, columns: list[str], folder: Path) -> None:
    """The run's own predictions, those of `predict` and those of the export are equal."""
    trained = load_trained(case.run)
    n, _ = predict_file(trained, folder / "log.parquet", folder / "scores.parquet")
    found = pl.read_parquet(folder / "scores.parquet")
    assert n == len(case.rows)
    assert found.drop(NAMES).equals(case.rows)
    own = pl.read_parquet(case.run / "predictions.parquet")
    for name in NAMES:
        test = found.filter(split="test")[name]
        np.testing.assert_allclose(test, own[name], rtol=0, atol=1e-6)
    write_bundle(part_of(trained, None), trained, folder / "served")
    new = table(columns, 1, n=60, unseen=True)
    new.write_parquet(folder / "new.parquet")
    predict_file(trained, folder / "new.parquet", folder / "new-scores.parquet")
    expected = pl.read_parquet(folder / "new-scores.parquet").select(NAMES)
    served = score(new.select("row", *columns), folder / "served")
    assert served.columns == NAMES
    np.testing.assert_allclose(served.to_numpy(), expected.to_numpy(), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> tuple[Case, list[str], Path]:
    """A run on a table with every kind of column, whose prepared data are gone."""
    folder, columns = tmp_path_factory.mktemp("everything"), list(VALUES)
    case = train(folder, columns, 0, "model=mmoe")
    shutil.rmtree(folder / "datasets")
    return case, columns, folder


def test_every_kind_of_column_is_read_alike_three_times(everything, tmp_path):
    case, columns, folder = everything
    shutil.copy(folder / "log.parquet", tmp_path)
    assert_three_ways_agree(case, columns, tmp_path)


def test_lists_with_weights_are_predicted_and_have_no_scorer(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 4, N)
    lists = {"words": ["abc"[:k] for k in lengths], "score": [random.random(k) for k in lengths]}
    rows = table(["whole"], 0).with_columns(
        words=pl.Series(lists["words"]).str.split(""), score=pl.Series(lists["score"])
    )
    rows.write_parquet(tmp_path / "log.parquet")
    record = experiment.run(
        compose(
            [
                "dataset=table", f"dataset.path={tmp_path / 'log.parquet'}", "model=shared_bottom",
                "dataset.ids=[whole]", "dataset.lists=[words]", "dataset.weights={words: score}",
                "dataset.split=column", "dataset.split_column=split", *SMALL,
                f"data_dir={tmp_path}/datasets", f"results_dir={tmp_path}/results",
            ]
        )
    )  # fmt: skip
    run = tmp_path / "results" / "runs" / record.run_id
    trained = load_trained(run)
    predict_file(trained, tmp_path / "log.parquet", tmp_path / "scores.parquet")
    found = pl.read_parquet(tmp_path / "scores.parquet").filter(split="test")
    own = pl.read_parquet(run / "predictions.parquet")
    for name in NAMES:
        np.testing.assert_allclose(found[name], own[name], rtol=0, atol=1e-6)
    monkeypatch.setattr("cvrbench.serving.export.save_onnx", lambda *_: 0)
    write_bundle(part_of(trained, None), trained, tmp_path / "served")
    assert not (tmp_path / "served" / "score.py").exists()
    assert "no scorer" in (tmp_path / "served" / "README.md").read_text()


@pytest.mark.parametrize(
    ("later", "words"),
    [(pl.Int32, ""), (pl.Int16, ""), (pl.String, "with one type"), (pl.Float64, "with one type")],
)
def test_parts_whose_other_columns_differ_in_type(everything, tmp_path, later, words):
    case, _, _ = everything
    (tmp_path / "new").mkdir()
    case.rows.head(5).write_parquet(tmp_path / "new" / "a.parquet")
    part = case.rows.head(5).with_columns(pl.col("row").cast(later)).select(pl.all().reverse())
    part.select(part.columns[::-1]).write_parquet(tmp_path / "new" / "b.parquet")
    trained, target = load_trained(case.run), tmp_path / "scores.parquet"
    if words:
        with pytest.raises(DataError, match=words):
            predict_file(trained, tmp_path / "new", target)
        return
    predict_file(trained, tmp_path / "new", target)
    assert pl.read_parquet(target)["row"].to_list() == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    columns=st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 99),
    model=st.sampled_from(["single_task", "shared_bottom", "ple", "aitm"]),
    objective=st.sampled_from(["click_space", "entire_space", "exposure_space"]),
)
def test_any_table_is_read_alike_three_times(tmp_path_factory, columns, seed, model, objective):
    folder = tmp_path_factory.mktemp("any")
    case = train(folder, columns, seed, f"model={model}", f"objective={objective}")
    assert_three_ways_agree(case, columns, folder)


def test_rows_come_back_whole_from_text_folders_and_without_labels(everything, cvrbench, tmp_path):
    case, _, _ = everything
    rows = case.rows.drop("words", "numbers", "image", "click", "conversion")
    rows = rows.with_columns(words=pl.lit("a|b"), numbers=pl.lit("1|2"), image=pl.lit("1,0,2.5"))
    (tmp_path / "new").mkdir()
    for part in range(3):
        rows.slice(150 * part, 150).write_csv(tmp_path / "new" / f"{part}.csv")
    said = cvrbench("predict", str(case.run), "new", "-o", "scores.csv", "--json")
    assert said.code == 0, said.err
    (about,) = said.json()
    assert about["rows"] == len(rows)
    scores = pl.read_csv(tmp_path / "scores.csv", infer_schema=False)
    written = pl.concat(pl.read_csv(f, infer_schema=False) for f in sorted(tmp_path.glob("new/*")))
    assert scores.drop(NAMES).equals(written)
    assert cvrbench("predict", str(case.run), "new", "-o", "scores.parquet").code == 0
    same = pl.read_parquet(tmp_path / "scores.parquet")
    assert same.drop(NAMES).equals(written)
    assert same["p_cvr"].cast(pl.String).to_list() == scores["p_cvr"].to_list()


@pytest.mark.parametrize(
    ("change", "output", "words"),
    [
        ({}, "there.parquet", "--force"),
        ({}, "scores.json", "is none of .parquet"),
        ({}, "scores.csv", "'words' holds lists"),
        ({}, "new.parquet", "is read"),
        ({"p_cvr": 1}, "scores.parquet", "column 'p_cvr', as the predictions have"),
        ({"plain": "dear"}, "scores.parquet", "expected a number"),
        ({"text": [[1]]}, "scores.parquet", "one value a row"),
        ({"price": None, "whole": None}, "scores.parquet", ""),
    ],
)
def test_what_cannot_be_predicted_is_one_sentence(
    everything, cvrbench, tmp_path, change, output, words
):
    case, _, _ = everything
    changed = [pl.Series(name, [value] * 9 if not isinstance(value, list) else value * 9)
               for name, value in change.items()]  # fmt: skip
    case.rows.head(9).with_columns(changed).write_parquet(tmp_path / "new.parquet")
    (tmp_path / "there.parquet").write_text("precious")
    force = ["--force"] if output == "new.parquet" else []
    said = cvrbench("predict", str(case.run), "new.parquet", "-o", output, *force)
    if not words:
        assert said.code == 0, said.err
        return
    assert said.code == 1
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert (tmp_path / "there.parquet").read_text() == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {
        "new.parquet",
        "there.parquet",
        "datasets",
    }


def test_a_missing_column_and_a_missing_file_are_named(everything, cvrbench, tmp_path):
    case, _, _ = everything
    case.rows.drop("tags").write_parquet(tmp_path / "new.parquet")
    said = cvrbench("predict", str(case.run), "new.parquet", "-o", "scores.parquet")
    assert said.code == 1
    assert "no column 'tags'" in said.err
    assert "no file" in cvrbench("predict", str(case.run), "nope", "-o", "s.parquet").err


def test_ids_of_another_kind_are_remarked(everything, cvrbench, tmp_path):
    case, _, _ = everything
    case.rows.with_columns(text=pl.lit("u1")).write_parquet(tmp_path / "new.parquet")
    said = cvrbench("predict", str(case.run), "new.parquet", "-o", "scores.parquet")
    assert said.code == 0
    assert "100% of the values of 'text' are unknown" in said.err


def test_text_stands_for_the_numbers_and_flags_that_were_learnt(everything, tmp_path):
    case, columns, _ = everything
    trained = load_trained(case.run)
    write_bundle(part_of(trained, None), trained, tmp_path / "served")
    scores = []
    ways = [{}, {"whole": "{}.0", "floats": "{}", "flags": "{}"}, {"floats": "{}", "flags": "{}"}]
    for way in ways:  # as pandas writes a column with gaps, and True
        new = case.rows.with_columns(
            pl.Series(n, [None if v is None else form.format(v) for v in case.rows[n]], pl.String)
            for n, form in way.items()
        )
        new.write_parquet(tmp_path / "new.parquet")
        predict_file(trained, tmp_path / "new.parquet", tmp_path / "s.parquet", force=True)
        scores.append(pl.read_parquet(tmp_path / "s.parquet").select(NAMES))
        served = score(new.select("row", *columns), tmp_path / "served")
        np.testing.assert_allclose(served.to_numpy(), scores[-1].to_numpy(), rtol=0, atol=1e-6)
    assert scores[1].equals(scores[0])
    assert scores[2].equals(scores[0])


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("whole", ["1", "u1"], "'u1' in row 2; the run learnt numbers or flags there"),
        ("whole", ["007", "1"], "'007' in row 1; the run learnt numbers"),
        ("flags", ["yes", "no"], "'yes' in row 1; the run learnt numbers or flags"),
        ("numbers", [["1"], ["2", "b"]], r"\['2', 'b'\] in row 2; the run learnt numbers"),
        ("words", [[1], [2, 3]], "is of type List.*; the run learnt text there, as '[ab]'; write"),
        ("text", [True, False], "is of type Boolean; the run learnt text there, as '"),
        ("url", [1.0, 2.5], "is of type Float64; the run learnt text there; write it as text"),
    ],
)
def test_values_of_a_type_that_cannot_match_are_refused(everything, tmp_path, name, values, words):
    case, _, _ = everything
    case.rows.head(2).with_columns(pl.Series(name, values)).write_parquet(tmp_path / "new.parquet")
    with pytest.raises(DataError, match=words):
        predict_file(load_trained(case.run), tmp_path / "new.parquet", tmp_path / "s.parquet")
    assert not (tmp_path / "s.parquet").exists()


def test_rows_of_two_files_are_refused(trained):
    schema = load_trained(trained("model=mmoe", "model.hidden=[8]", "model.tower=[]")).schema
    config = compose(["model=mmoe", "dataset=aliccp"]).config.dataset
    with pytest.raises(DataError, match="dataset=table"):
        as_table(config, schema)


def test_a_shipped_dataset_is_predicted_as_it_was(trained, tmp_path):
    run = trained("model=mmoe", "model.hidden=[8]", "model.tower=[]")
    found = load_trained(run)
    chunks = load_raw(found.config.dataset, tmp_path).chunks(Counter())
    raw = pl.concat(frame for split, frame in chunks if split == "test")
    raw.write_parquet(tmp_path / "raw.parquet")
    predict_file(found, tmp_path / "raw.parquet", tmp_path / "scores.parquet")
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    own = pl.read_parquet(run / "predictions.parquet")
    for name in NAMES:
        np.testing.assert_allclose(scores[name], own[name], rtol=0, atol=1e-6)
