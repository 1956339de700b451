"""What trackers kept, read back with their own readers."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

Points = dict[str, list[tuple[int, float]]]
"""Metric -> (step, value) in the order of writing."""


class Kept(NamedTuple):
    """One run of a tracker."""

    points: Points
    record: dict | None
    config: dict[str, str]


def tensorboard(results: Path) -> list[Kept]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for folder in sorted((results / "tensorboard").iterdir()):
        read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        points = {
            tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]
        }
        texts = {
            tag: [event.tensor_proto.string_val[0].decode() for event in read.Tensors(tag)]
            for tag in read.Tags()["tensors"]
        }
        records = texts.get("record/text_summary", [])
        assert len(records) <= 1
        record = json.loads(records[0].strip("`\n")) if records else None
        (config,) = texts["config/text_summary"]
        pairs = [line.strip().split(": ", 1) for line in config.splitlines()]
        found.append(Kept(points, record, dict(pairs)))
    return found


def mlflow(results: Path) -> list[Kept]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{results}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("cvrbench")
    found = []
    for run in client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]):
        points = {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        file = results / "mlflow" / "artifacts" / run.info.run_id / "artifacts" / "record.json"
        assert (run.info.status == "FINISHED") == file.is_file()
        record = json.loads(file.read_text()) if file.is_file() else None
        found.append(Kept(points, record, dict(run.data.params)))
    return found


def wandb(results: Path) -> list[Kept]:
    """Runs by their ids: what an interrupted run and the resumed one wrote is one run's."""
    from wandb import teardown
    from wandb.proto.wandb_internal_pb2 import Record

    teardown()  # its service writes to the end
    runs: dict[str, Kept] = {}
    for file in sorted((results / "wandb").glob("offline-run-*/*.wandb")):
        kept = runs.setdefault(file.stem, Kept({}, None, {}))
        for data in _records(file.read_bytes()):
            message = Record.FromString(data)
            kind = message.WhichOneof("record_type")
            if kind == "run":
                items = {
                    item.key: json.loads(item.value_json) for item in message.run.config.update
                }
                kept.config.update({k: str(v) for k, v in items.items()})
            if kind == "history":
                row = {
                    i.key or i.nested_key[0]: json.loads(i.value_json) for i in message.history.item
                }
                for name in (name for name in row if "/" in name):
                    kept.points.setdefault(name, []).append((row["_step"], row[name]))
            if kind == "summary":
                for item in message.summary.update:
                    name = item.key or item.nested_key[0]
                    if name.startswith(("test/", "cost/", "best_valid/")):
                        kept.points[name] = [(-1, json.loads(item.value_json))]
        if (record := file.parent / "files" / "record.json").is_file():
            runs[file.stem] = kept._replace(record=json.loads(record.read_text()))
    return list(runs.values())


def _records(data: bytes) -> list[bytes]:
    """Cut LevelDB's log format, which a .wandb file has after 7 bytes, into its records."""
    found, place, begun = [], 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        begun += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(begun)
            begun = b""
    return found
