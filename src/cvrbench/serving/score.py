"""Score rows without cvrbench, see README.md: `python score.py ROWS.parquet SCORES.parquet`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl


def ids_of(values: pl.Series, field: dict[str, Any], vocabulary: pl.DataFrame) -> Any:
    """Return rows of the embedding table; ids are compared as text, whole floats without .0."""
    text = values.cast(pl.String)
    if values.dtype.is_float():
        whole = ((values == values.round(0)) & (values.abs() < 2.0**63)).fill_null(value=False)
        short = values.set(~whole, None).cast(pl.Int64).cast(pl.String)
        text = short.zip_with(whole, values.fill_nan(None).cast(pl.String))
    _, known, rows = vocabulary.filter(field=field["column"])
    found = text.replace_strict(known, rows, default=field["unknown"], return_dtype=pl.Int64)
    return found.set(text.is_null() | (text == ""), field["absent"]).to_numpy()


def score(frame: pl.DataFrame, folder: Path = Path(__file__).parent) -> pl.DataFrame:
    """Return a column per probability, for every row of a frame."""
    about = json.loads((folder / "bundle.json").read_text())
    vocabulary = pl.read_parquet(folder / "vocabulary.parquet", glob=False)
    session, n = onnxruntime.InferenceSession(folder / "model.onnx"), len(frame)
    ids, segments = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    single, numeric = [np.empty((0, n), np.int64)], [np.empty((0, n), np.float32)]
    for field in about["fields"]:
        values = frame[field["column"]]
        if field["kind"] == "id":
            single.append(ids_of(values, field, vocabulary)[None])
        elif field["kind"] == "list":
            if values.dtype == pl.String:  # nothing stands behind a last separator
                values = values.set(values == "", None).str.split(field["separator"])
                values = values.list.eval(pl.element().filter(pl.element() != ""))
            lengths = values.list.len().fill_null(1).to_numpy()  # no list: one absent value
            ids.append(ids_of(values.filter(lengths > 0).explode(), field, vocabulary))
            segments.append(np.repeat(np.arange(n) + n * field["position"], lengths))
        else:
            number = values.cast(pl.Float64).fill_nan(None)
            scaled = (number.fill_null(field["mean"]) - field["mean"]) / field["std"]
            scaled = number.is_null() if field["kind"] == "absence" else scaled
            numeric.append(scaled.to_numpy().astype(np.float32)[None])
    given: dict[str, Any] = {"rows": np.concatenate(single).T, "numeric": np.concatenate(numeric).T}
    given |= {"bag_rows": np.concatenate(ids), "bag_segments": np.concatenate(segments)}
    given["bag_weights"] = np.ones(len(given["bag_rows"]), np.float32)
    wanted = {tensor.name: given[tensor.name] for tensor in session.get_inputs()}
    names = [tensor.name for tensor in session.get_outputs()]
    return pl.DataFrame(dict(zip(names, session.run(names, wanted), strict=True)))


if __name__ == "__main__":
    source, target = sys.argv[1:]
    is_text, file = not source.endswith(".parquet"), Path(source).read_bytes()
    rows = pl.read_csv(file, infer_schema=False) if is_text else pl.read_parquet(file)
    rows.hstack(score(rows)).write_parquet(target)
