"""Score rows without cvrbench, see README.md: `python score.py ROWS.parquet SCORES.parquet`."""

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl


def _numbers(values: pl.Series, field: dict[str, Any]) -> pl.Series:
    values = values.cast(pl.List(pl.Float64)).list.get(field["at"]) if "at" in field else values
    values = values.dt.timestamp("us") if values.dtype in (pl.Date, pl.Datetime) else values
    values = values.cast(pl.Duration("us")) if values.dtype == pl.Duration else values
    values = values.str.strip_chars() if values.dtype == pl.String else values.to_physical()
    values = values.cast(pl.Float64).fill_nan(None).replace(field["na"], None).clip(*field["clip"])
    return values.log1p() if field.get("log1p") else values


def _rows(values: pl.Series, field: dict[str, Any], vocabulary: pl.DataFrame) -> Any:
    if field.get("buckets"):
        at = np.searchsorted(field["buckets"], (x := _numbers(values, field)).fill_null(0), "right")
        values = pl.Series(field["intervals"])[at].set(x.is_null(), None)
    values = values.fill_nan(None) if values.dtype.is_float() else values
    text, known = values.cast(pl.String), vocabulary.filter(field=field["vocabulary"])
    text = text.str.to_lowercase() if field["typed"] else text  # of numbers and flags
    if field["typed"] or values.dtype != pl.String:
        text = text.str.replace(field["zeros"], "${1}${2}").replace("-0", "0")
    text = text.set(text.is_in(field["empty"]), None)
    if n := field.get("hash"):
        text = pl.Series([t and str(zlib.crc32(t.encode()) % n) for t in text], dtype=pl.String)
    rows = text.replace_strict(known["value"], known["row"], default=field["unknown"])
    return rows.set(text.is_null(), field["absent"]).to_numpy()


def score(frame: pl.DataFrame, folder: Path = Path(__file__).parent) -> pl.DataFrame:
    """Return a column per probability, for every row of a frame."""
    vocabulary, n = pl.read_parquet(folder / "vocabulary.parquet", glob=False), len(frame)
    single, numbers, bags, segments = [], [], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for field in json.loads((folder / "bundle.json").read_text())["fields"]:
        if (values := frame[field["column"]]).dtype in (pl.String, pl.Categorical, pl.Enum):
            values = (text := values.cast(pl.String)).set(text.is_in(field["nulls"]), None)
        if values.dtype == pl.String and (separator := field.get("separator")):
            parts, part = values.str.strip_chars(field["around"]), pl.element().str.strip_chars()
            values = parts.str.split(separator).list.eval(part.filter(part != ""))
        if field["kind"] == "id":
            single.append(_rows(values, field, vocabulary))
        elif field["kind"] == "list":
            values = values.cast(pl.List(getattr(values.dtype, "inner", pl.String)))
            lengths = values.list.len().fill_null(1).to_numpy()  # no list: one absent value
            bags.append(_rows(values.filter(lengths > 0).explode(), field, vocabulary))
            segments.append(np.repeat(np.arange(n) + n * field["position"], lengths))
        else:
            number = _numbers(values, field)
            scaled = (number.fill_null(field["mean"]) - field["mean"]) / field["std"]
            numbers.append(number.is_null() if field["kind"] == "absence" else scaled)
    given: Any = {"bag_rows": np.concatenate(bags), "bag_segments": np.concatenate(segments)}
    given["bag_weights"] = np.ones(len(given["bag_rows"]), np.float32)
    given["rows"] = np.array(single, np.int64).reshape(len(single), n).T
    given["numeric"] = np.array(numbers, np.float32).reshape(len(numbers), n).T
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = session.run(None, {t.name: given[t.name] for t in session.get_inputs()})
    return pl.DataFrame(dict(zip([t.name for t in session.get_outputs()], found, strict=True)))


if __name__ == "__main__":
    (rows := pl.read_parquet(sys.argv[1])).hstack(score(rows)).write_parquet(sys.argv[2])
