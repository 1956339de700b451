"""The NCS authors' sample: TFRecord files written by TensorBoard, messages encoded by protobuf."""

import gzip
import io
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter

from cvrbench.config.compose import compose
from cvrbench.data.prepare import prepare
from cvrbench.data.raw import RawStream
from cvrbench.data.sources import load_raw
from cvrbench.data.sources.lt4rec import LISTS, SINGLE, records
from cvrbench.errors import DataError

Row = dict[str, Any]


def message_type() -> Any:
    """`tf.Example` as TensorFlow's example.proto and feature.proto declare it."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="toy", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str | None, bool]) -> Any:
        made = file.message_type.add(name=name)
        for field, number, kind, of, many in fields:
            label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            made.field.add(
                name=field, number=number, type=kind, type_name=of and f".toy.{of}", label=label
            )
        return made

    message("BytesList", ("value", 1, kinds.TYPE_BYTES, None, True))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, None, True))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, None, True))
    of_lists = [("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList")]
    of_lists += [("int64_list", 3, "Int64List")]
    message("Feature", *((n, k, kinds.TYPE_MESSAGE, of, False) for n, k, of in of_lists))
    features = message("Features", ("feature", 1, kinds.TYPE_MESSAGE, "Features.Entry", True))
    entry = features.nested_type.add(name="Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, type_name=".toy.Feature",
        label=kinds.LABEL_OPTIONAL,
    )  # fmt: skip
    features.field[0].type_name = ".toy.Features.Entry"
    message("Example", ("features", 1, kinds.TYPE_MESSAGE, "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("toy.Example"))


EXAMPLE = message_type()


def rows(n: int = 60) -> list[Row]:
    made = []
    for i in range(n):
        click = int(i % 3 > 0)
        row: Row = {f"FEA_{name}": [f"{name}{(i * k) % 7}"] for k, name in enumerate(SINGLE, 1)}
        row |= {f"FEA_{name}": [f"t{i % 4}", f"ü{i % 5}"] for name in LISTS}
        row["FEA_UID"] = [f"u{i % 20}"]
        row |= {"pctr": ["0.5"], "seqnum": [f"{i}"]}
        made.append(row | {"label": [click], "cvrlabel": [click * (i % 10 + 1) / 10]})
    made[0] |= {"FEA_ORDER": ["-1"], "FEA_STAG": ["-1"]}
    return made


def encoded(row: Row) -> bytes:
    example = EXAMPLE()
    for name, values in row.items():
        feature = example.features.feature[name]
        if isinstance(values[0], str):
            feature.bytes_list.value.extend(value.encode() for value in values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return bytes(example.SerializeToString())


def written(*found: bytes) -> bytes:
    file = io.BytesIO()
    writer = RecordWriter(file)
    for one in found:
        writer.write(one)
    return file.getvalue()


def load(folder: Path, data: bytes) -> RawStream:
    folder.mkdir(exist_ok=True)
    (folder / "part-r-00002.gz").write_bytes(gzip.compress(data))
    stream = load_raw(compose(["dataset=lt4rec"]).config.dataset, folder)
    assert isinstance(stream, RawStream)
    return stream


def test_every_record_is_a_row(tmp_path: Path) -> None:
    stream = load(tmp_path / "raw", written(*map(encoded, rows())))
    table = pl.concat(chunk.frame for chunk in stream.chunks(Counter())).sort("UID", "VID")
    assert len(table) == 60
    assert sorted(table["cvrlabel"]) == pytest.approx(sorted(r["cvrlabel"][0] for r in rows()))
    assert (table["cvrlabel"] > 0).to_list() == (table["label"] == 1).to_list()
    assert table["ORDER"].null_count() == table["STAG"].null_count() == 1
    assert table["STAG"].drop_nulls().explode().str.starts_with("ü").any()
    names = [field.name for field in stream.fields]
    assert names == [*SINGLE, *LISTS]
    dataset = prepare(stream, name="lt4rec", target=tmp_path / "out", config={})
    assert dataset.schema.tasks[1].is_ratio
    starts = dataset.schema.starts
    assert starts["SVID"] == starts["VID"]
    assert starts["UCAT"] == starts["SICAT1"] == starts["ICAT2"]
    assert starts["STAG"] == starts["IKEYWORD"] == starts["IXFTAG"] != starts["SIKEYWORD"]
    users = [set(dataset.split(name).groups) for name in ("train", "valid", "test")]
    assert not users[0] & users[1]
    assert not users[1] & users[2]


def test_a_file_that_is_cut_short_or_damaged_names_the_record(tmp_path: Path) -> None:
    whole = written(*map(encoded, rows(3)))
    assert len([*records(whole, "file")]) == 3
    second = len(written(encoded(rows(1)[0])))
    broken = bytearray(whole)
    broken[second + 40] ^= 1
    length = bytearray(whole)
    length[second] ^= 1
    for data, words in (
        (whole[:-1], "record 3 is cut short: [0-9]+ bytes are announced, and"),
        (whole[: second + 5], "record 2 is cut short after 5 bytes"),
        (bytes(broken), "record 2 has a wrong checksum: the file is damaged"),
        (bytes(length), "record 2 has a wrong checksum of its length"),
    ):
        with pytest.raises(DataError, match=rf"part-r-00002\.gz: {words}"):
            load(tmp_path, data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cvrlabel": [1.2]}, "cvrlabel is 1.2; a watch ratio is a number from 0 to 1"),
        ({"cvrlabel": [-0.1]}, "cvrlabel is -0.1"),
        ({"cvrlabel": [float("nan")]}, "cvrlabel is nan"),
        ({"label": [0]}, "cvrlabel is 0.2 with label 0; what is not clicked has 0"),
        ({"label": [2]}, "label is 2; a click is 0 or 1"),
        ({"label": [1, 0]}, "has 2 integers in 'label', where one value of integers is expected"),
        ({"FEA_VID": [7]}, "has 1 integers in 'FEA_VID', where one value of texts is expected"),
    ],
)
def test_a_value_that_fits_nothing_names_the_record(
    tmp_path: Path, change: Row, words: str
) -> None:
    made = rows(4)
    made[1] |= change
    with pytest.raises(DataError, match=f"record 2:? {words}"):
        load(tmp_path, written(*map(encoded, made)))


def test_another_message_is_told_from_an_example(tmp_path: Path) -> None:
    lacking = {name: value for name, value in rows(1)[0].items() if name != "FEA_UID"}
    for other in (
        b"\x08\x96\x01",
        b"\x0a\x03abc",
        b"plain text, no message",
        encoded(rows(1)[0])[:-3],
    ):
        with pytest.raises(DataError, match=r"record 1 is no tf\.Example"):
            load(tmp_path, written(other))
    with pytest.raises(DataError, match="record 1 has nothing in 'FEA_UID'"):
        load(tmp_path, written(encoded(lacking)))


def test_the_authors_sample_is_what_it_is(raw_data: Path) -> None:
    if not (folder := raw_data / "lt4rec_sample").is_dir():
        pytest.skip("the sample is not there")
    stream = load_raw(compose(["dataset=lt4rec"]).config.dataset, folder)
    table = pl.concat(chunk.frame for chunk in stream.chunks(Counter()))
    watched = table.filter(table["label"] == 1)["cvrlabel"]
    assert (len(table), len(watched)) == (4_322, 1_677)
    assert table["cvrlabel"].sum() == watched.sum()
    assert (table["UID"].n_unique(), table["VID"].n_unique()) == (500, 4_191)
    assert watched.min() == pytest.approx(0.0643, abs=5e-5)
    assert (watched == 1).sum() == 860
