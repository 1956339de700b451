"""The golden net: digests of everything that a small set of runs writes.

    python -m tests.golden.net            compare with digests.json, print what differs
    python -m tests.golden.net --write    write digests.json anew
    python -m tests.golden.net --write mine    measure and write the entry `mine` alone

A digest that differs is a number that moved: raise `cvrbench.runs.record.NUMBERS`, explain it in
the CHANGELOG under *Numbers changed*, and write the digests anew. The last bits of a float depend
on the processor and on torch, so digests bind on the platform they were written on; elsewhere the
metrics must agree to `TOLERANCE`.
"""

import hashlib
import json
import platform
import re
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from cvrbench.config.compose import compose
from cvrbench.config.ncs import derived_kinds, search_kinds
from cvrbench.runs import experiment
from cvrbench.runs.experiment import run_stacked
from tests.choices import SEARCHES

FILE = Path(__file__).with_name("digests.json")
TOLERANCE = 0.02

RANDOM = "model=ncs model.search=random"
LEARNED = "model=ncs model.search=learned"
IMP = "model=ncs model.search=imp model.search.rounds=2"
SMALL = {"rounds": 2, "probe_batches": 3, "regrow_every": 2}
"""Keys of mask searches with values that a few steps have use for."""


def of_search(name: str) -> str:
    """Overrides of a small run with a mask search; `imp` alone has rounds that need no choice."""
    if name == "longer":  # of random masks, which have no rounds without a choice
        return f"model=ncs model.search={name}"
    if name in derived_kinds():
        return f"model=ncs model.search={name} model.search.base.rounds=2"
    keys = {field.name for field in fields(search_kinds()[name])} & SMALL.keys()
    keys -= {"rounds"} if name != "imp" else set()
    return " ".join([f"model=ncs model.search={name}", *(f"model.{k}={SMALL[k]}" for k in keys)])


RUNS: dict[str, str] = {
    "single_task": "model=single_task",
    "shared_embedding": "model=shared_embedding",
    "shared_bottom": "model=shared_bottom",
    "mmoe": "model=mmoe",
    "omoe": "model=omoe",
    "ple": "model=ple",
    "cgc": "model=cgc",
    "entire_space": "model=shared_bottom objective=entire_space",
    "exposure_space": "model=mmoe objective=exposure_space",
    "weighted": "model=shared_bottom balancing=weighted balancing.weights={cvr:3.0}",
    "lazy_adam": "model=ple trainer.embedding_optimizer=lazy_adam",
    "adam": "model=mmoe trainer.embedding_optimizer=adam",
    "bf16": "model=shared_bottom trainer.precision=bf16",
    "aitm": "model=aitm objective=exposure_space",
    "cross_stitch": "model=cross_stitch",
    "adatt": "model=adatt",
    "resflow": "model=resflow objective=exposure_space",
    "dbmtl": "model=dbmtl",
    "stem": "model=stem",
    "snr_trans": "model=snr_trans",
    "mssm": "model=mssm",
    "pepnet": "model=pepnet",
    "dselect_k": "model=dselect_k",
    "escm2_ipw": "model=shared_bottom objective=escm2_ipw",
    "escm2_dr": "model=shared_bottom objective=escm2_dr",
    "dcmt": "model=shared_bottom objective=dcmt",
    "nise": "model=shared_bottom objective=nise",
    "uncertainty": "model=shared_bottom balancing=uncertainty",
    "dwa": "model=shared_bottom balancing=dwa balancing.window=3",
    "famo": "model=shared_bottom balancing=famo",
    "nise_ratio": "model=shared_bottom balancing=nise_ratio",
    "stch": "model=shared_bottom balancing=stch balancing.warmup_steps=3",
    "pcgrad": "model=mmoe balancing=pcgrad",
    "cagrad": "model=mmoe balancing=cagrad",
    "fairgrad": "model=mmoe balancing=fairgrad",
    "gradvac": "model=mmoe balancing=gradvac",
    "gradnorm": "model=mmoe balancing=gradnorm",
    "metabalance": "model=mmoe balancing=metabalance",
    "gradcraft": "model=mmoe balancing=gradcraft",
    "dot": "model=single_task interaction=dot",
    "all_dots": "model=shared_bottom interaction=all_dots",
    "fm": "model=shared_bottom interaction=fm",
    "cross": "model=ple interaction=cross",
    "attention": "model=mmoe interaction=attention",
    "schedule": "model=mmoe trainer.schedule=warmup_cosine trainer.clip_norm=0.1",
    "label_share": "model=shared_bottom protocol.label_share=0.1",
    "disk": "model=shared_bottom trainer.data=disk",
    **{search: of_search(search) for search in SEARCHES},
    "imp_per_task": f"{IMP} model.together=false",
    "imp_entire_space": f"{IMP} objective=entire_space",
    "hard_concrete": f"{LEARNED} model.relaxation=hard_concrete model.sharing=0.3",
    "choose_joint": f"{of_search('snip')} model.rounds=2 model.choice=joint model.search.epochs=2",
    "choose_validation": f"{IMP} model.choice=validation model.warmup_epochs=0.5",
    "alternate": f"{RANDOM} model.step=alternate",
    "alternate_legacy": f"{RANDOM} model.step=alternate model.masked_step=legacy",
    "all_parts": f"{IMP} model.masked=[trunk,biases,towers,embeddings]",
}
"""Name -> overrides of a run that trains alone."""

SLOW = (
    *("adatt", "cgc", "cross_stitch", "dbmtl", "omoe", "resflow", "snr_trans", "stem"),
    *("dselect_k", "mssm", "pepnet"),
    *("cagrad", "dwa", "fairgrad", "famo", "gradcraft", "gradnorm", "gradvac", "metabalance"),
    *("nise_ratio", "stch", "dcmt", "escm2_dr", "nise", "fm"),
)
"""Entries of methods that outside oracles and laws hold already."""

STACKED: dict[str, str] = {
    "stacked_shared_bottom": "model=shared_bottom",
    "stacked_mmoe": "model=mmoe objective=entire_space",
    "stacked_aitm": "model=aitm objective=escm2_ipw balancing=uncertainty interaction=dot",
    "stacked_ncs": IMP,
}
"""Name -> overrides of a run of which three seeds are trained as one program."""


def platform_key() -> str:
    """What the last bits of a float depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    parts = [torch.__version__, np.__version__, torch.backends.cpu.get_cpu_capability()]
    return " ".join([*parts, platform.machine(), model])


def measure(name: str, data_dir: Path, results_dir: Path) -> dict[str, Any]:
    """Run one entry; its digests, and its metrics as numbers."""
    places = [f"data_dir={data_dir}", f"results_dir={results_dir}", "trainer.threads=1"]
    if name in RUNS:
        cell = compose(["experiment=quick_check", *places, *RUNS[name].split()])
        return _measure(results_dir, [experiment.run(cell)])
    cells = [
        compose(["experiment=quick_check", *places, f"seed={seed}", *STACKED[name].split()])
        for seed in range(3)
    ]
    records = run_stacked(cells)
    for record in records:
        if isinstance(record, BaseException):
            raise record
    return _measure(results_dir, records)


def _measure(results_dir: Path, records: list[Any]) -> dict[str, Any]:
    digests: dict[str, list[str]] = {}
    for record in records:
        for kind, digest in _digests(results_dir / "runs" / record.run_id, record).items():
            digests.setdefault(kind, []).append(digest)
    return {"metrics": records[0].metrics["test"], "digests": digests}


def _digests(folder: Path, record: Any) -> dict[str, str]:
    plain = record.to_json()
    facts = ("metrics", "undefined", "counts", "parameters", "embedding_parameters")
    more = ("multiply_adds", "examples", "best_step", "best_epoch", "test_scored", "tasks")
    frame = pl.read_parquet(folder / "predictions.parquet")
    masks = folder / "masks.safetensors"
    return {
        "record": _of_json({key: plain[key] for key in (*facts, *more)}),
        "diagnostics": _of_json(plain["diagnostics"]),
        "weights": _of_tensors(folder / "best.safetensors"),
        "masks": _of_tensors(masks) if masks.is_file() else "none",
        "history": _of_text((folder / "history.jsonl").read_text()),
        "predictions": _of_text("".join(f"{c.name}{_of_array(c.to_numpy())}" for c in frame)),
    }


def _of_tensors(file: Path) -> str:
    """Digest of tensors whatever their names, which may change without a number moving."""
    return _of_text(" ".join(sorted(_of_array(t.numpy()) for t in load_file(file).values())))


def _of_array(array: Any) -> str:
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.shape} {array.dtype}".encode() + array.tobytes()).hexdigest()


def _of_json(value: Any) -> str:
    return _of_text(json.dumps(value, sort_keys=True))


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


REPORTED = ("shared_bottom", "mmoe", "random")
"""Entries whose runs, with two seeds each, are reported on."""
RUN_ID = re.compile(r"(-s\d+)-[0-9a-f]{10}")
SETTINGS = re.compile(r'("settings": )"[0-9a-f]{10}"')
"""What changes with every new key of the configuration, whatever its value."""


def reports(data_dir: Path, results_dir: Path, call: Any) -> dict[str, str]:
    """Digests of what `report` prints and draws, with measured times set to constants.

    Args:
        call: Run a command line and return its standard output.
    """
    places = [f"data_dir={data_dir}", f"results_dir={results_dir}", "trainer.threads=1"]
    for name in REPORTED:
        for seed in range(2):
            words = [*places, f"seed={seed}", *RUNS[name].split()]
            experiment.run(compose(["experiment=quick_check", *words]))
    for file in sorted((results_dir / "runs").glob("*/record.json")):
        record = json.loads(file.read_text())
        record.pop("checksum")
        record["seconds"] = {"search": 1.0, "train": 2.0, "total": 4.0}
        record["examples_per_second"] = 1000.0
        record["environment"] = dict.fromkeys(record["environment"], "fixed")
        record["environment"]["numbers"] = 0  # which is read as a number
        file.write_text(json.dumps(record))
    found = {}
    for layout in ("md", "latex", "csv", "json"):
        text = call("report", str(results_dir), "--full", "--format", layout)
        found[layout] = _of_text(SETTINGS.sub(r"\1", RUN_ID.sub(r"\1", text)))
    return found


def known() -> dict[str, Any]:
    """What digests.json holds."""
    return dict(json.loads(FILE.read_text()))


def differences(name: str, found: dict[str, Any], wanted: dict[str, Any], *, exact: bool) -> str:
    """What of an entry differs, empty if nothing does."""
    if exact:
        kinds = wanted["digests"]
        moved = [kind for kind in kinds if found["digests"][kind] != kinds[kind]]
        return f"{name}: {', '.join(moved)} moved" if moved else ""
    for metric, value in wanted["metrics"].items():
        now = found["metrics"].get(metric)
        if (now is None) != (value is None) or (
            value is not None and abs(now - value) > TOLERANCE * max(1.0, abs(value))
        ):
            return f"{name}: {metric} is {now}, was {value}"
    return ""


def _call(*words: str) -> str:
    import contextlib
    import io

    from cvrbench.cli.app import main

    with contextlib.redirect_stdout(io.StringIO()) as out:
        argv, sys.argv = sys.argv, ["cvrbench", *words]
        try:
            assert main() == 0
        finally:
            sys.argv = argv
    return out.getvalue()


def _write(names: list[str]) -> int:
    """Measure some entries and leave the others as they are."""
    found = known()
    if found["platform"] != platform_key():
        print(f"the net was written on {found['platform']}; write all of it here")  # noqa: T201
        return 1
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        measured = {name: measure(name, home / "data", home / name) for name in names}
    # In the order of the entries, as a whole write has it.
    entries = found["entries"] | measured
    found["entries"] = {name: entries[name] for name in (*RUNS, *STACKED) if name in entries}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _main() -> int:
    from cvrbench.runs import record

    if names := sys.argv[sys.argv.index("--write") + 1 :] if "--write" in sys.argv else []:
        return _write(names)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        entries = {name: measure(name, home / "data", home / name) for name in [*RUNS, *STACKED]}
        found = {
            "platform": platform_key(),
            "numbers": getattr(record, "NUMBERS", 0),
            "entries": entries,
            "reports": reports(home / "data", home / "reports", _call),
        }
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    wanted = known()
    exact = wanted["platform"] == found["platform"]
    moved = [
        text
        for name, entry in entries.items()
        if (text := differences(name, entry, wanted["entries"][name], exact=exact))
    ]
    moved += [
        f"report --format {layout} moved"
        for layout, digest in wanted["reports"].items()
        if exact and found["reports"][layout] != digest
    ]
    print("\n".join(moved) or "all equal")  # noqa: T201 -- a script
    return len(moved)


if __name__ == "__main__":
    sys.exit(_main())
