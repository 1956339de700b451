"""Generated Ali-CCP files: read back as text, without the package's own reader."""

import json
import math
import re
import shutil
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from cvrbench.data import generator
from cvrbench.data.generator import generate, world
from cvrbench.data.generator.world import GeneratorConfig, lengths
from cvrbench.data.sources.aliccp import FIELDS
from cvrbench.errors import DataError

SMALL = {"rows": 6000, "test_rows": 1000, "seed": 5, "card": 0.03, "hist": 0.2, "anomaly": 0.002}
SHARD = 2500
HEAD = re.compile(r"([1-9]\d*),([01]),([01]),([0-9a-f]{16}),([1-9]\d*),(.+)")
COMMON_HEAD = re.compile(r"([0-9a-f]{16}),([1-9]\d*),(.+)")
TOKEN = re.compile(r"(\d{3}(?:_14)?)\x02([1-9]\d{0,7})\x03(\d\.\d{1,5})")
BLOCKS = {field.name: (field.first, field.high) for field in FIELDS}
EXACT = {"121": (3_438_658, 3_438_754), "122": (3_438_755, 3_438_767)} | {
    "124": (3_438_768, 3_438_769), "125": (3_438_770, 3_438_776), "126": (3_438_777, 3_438_779),
    "127": (3_438_780, 3_438_782), "128": (3_864_885, 3_864_886), "129": (3_864_887, 3_864_890),
}  # fmt: skip
"""The specification's, section 3.1.4."""
COMMON = {*EXACT, "101", "109_14", "110_14", "127_14", "150_14"}
SKELETON = {"205", "206", "207", "210", "216", "301", "508", "509", "702", "853"}
ALWAYS = ("205", "206", "207", "301")
CROSSED = {
    "508": ("206", "109_14"),
    "509": ("207", "110_14"),
    "702": ("216", "127_14"),
    "853": ("210", "150_14"),
}


def config(**changes) -> GeneratorConfig:
    return GeneratorConfig(**{**SMALL, **changes})


def tokens_of(text: str, number: str) -> dict[str, dict[int, str]]:
    """Field: id: value text; every byte is part of a token, and fields are contiguous."""
    parts = text.split("\x01")
    assert len(parts) == int(number)
    fields: dict[str, dict[int, str]] = {}
    last = None
    for part in parts:
        name, identity, value = TOKEN.fullmatch(part).groups()
        assert name == last or name not in fields
        last = name
        assert fields.setdefault(name, {}).setdefault(int(identity), value) is value
    return fields


def read(folder: Path, half: str) -> SimpleNamespace:
    skeleton = (folder / f"sample_{half}" / f"sample_skeleton_{half}.csv").read_bytes().decode()
    common = (folder / f"sample_{half}" / f"common_features_{half}.csv").read_bytes().decode()
    truth = (folder / f"truth_{half}.csv").read_text()
    assert skeleton.endswith("\n")
    assert common.endswith("\n")
    rows = [HEAD.fullmatch(line).groups() for line in skeleton.split("\n")[:-1]]
    contexts = [COMMON_HEAD.fullmatch(line).groups() for line in common.split("\n")[:-1]]
    lines = truth.split("\n")[:-1]
    assert lines[0] == "sample_id,p_ctr,p_cvr"
    return SimpleNamespace(
        ids=[int(row[0]) for row in rows],
        click=np.array([int(row[1]) for row in rows]),
        conversion=np.array([int(row[2]) for row in rows]),
        keys=[row[3] for row in rows],
        text=[row[5] for row in rows],
        tokens=[tokens_of(row[5], row[4]) for row in rows],
        common_keys=[key for key, _, _ in contexts],
        common_text={key: text for key, _, text in contexts},
        common={key: tokens_of(text, n) for key, n, text in contexts},
        truth_ids=[int(line.split(",")[0]) for line in lines[1:]],
        truth_text=[line.split(",", 1)[1] for line in lines[1:]],
        p=np.array([[float(x) for x in line.split(",")[1:]] for line in lines[1:]]).T,
    )


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", autouse=True)
def _small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "SHARD_ROWS", SHARD)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    generate(config(), out)
    return out


@pytest.fixture(scope="module")
def train(folder) -> SimpleNamespace:
    return read(folder, "train")


@pytest.fixture(scope="module")
def likely(tmp_path_factory) -> tuple[dict, SimpleNamespace]:
    """Many clicks and conversions; without the conflict nothing but the labels' truth differs."""
    out = tmp_path_factory.mktemp("likely")
    manifest = generate(config(rows=20_000, ctr=0.2, cvr=0.3, hist=0.1, anomaly=0.0), out)
    return manifest, read(out, "train")


@pytest.fixture(scope="module")
def by_conflict(tmp_path_factory) -> dict[float, SimpleNamespace]:
    found = {}
    for conflict in (0.0, 2.0):
        out = tmp_path_factory.mktemp("conflict")
        generate(config(conflict=conflict), out)
        found[conflict] = read(out, "train")
    return found


def test_bytes_depend_on_the_seed_and_not_on_the_workers(folder, tmp_path):
    generate(config(), tmp_path / "two", workers=2)
    assert everything(tmp_path / "two") == everything(folder)
    generate(config(seed=6), tmp_path / "other")
    other = everything(tmp_path / "other")
    assert all(other[name] != content for name, content in everything(folder).items())


@pytest.mark.parametrize("half", ["train", "test"])
def test_every_line_keeps_the_grammar(folder, half):
    data = read(folder, half)
    n = SMALL["rows" if half == "train" else "test_rows"]
    assert data.ids == list(range(1, n + 1)) == data.truth_ids
    assert len(set(data.common_keys)) == len(data.common_keys)
    assert set(data.keys) == set(data.common_keys)
    blocks = sum(a != b for a, b in zip(data.keys, ["", *data.keys], strict=False))
    assert blocks == len(data.common_keys), "contexts are contiguous"
    for rows, fields in ((data.tokens, SKELETON), (data.common.values(), COMMON)):
        for row in rows:
            assert set(row) <= fields
            for name, values in row.items():
                first, last = BLOCKS[name]
                assert all(first <= identity <= last for identity in values)
                assert len(values) == 1 or name in {"210", "853"} or name.endswith("_14")
    assert all(len(row[name]) == 1 for row in data.tokens for name in ALWAYS)


def test_halves_share_no_index_and_shards_are_sorted_runs(folder, train):
    assert not set(train.common_keys) & set(read(folder, "test").common_keys)
    keys = train.common_keys
    falls = sum(a > b for a, b in pairwise(keys))
    assert falls == math.ceil(SMALL["rows"] / SHARD) - 1
    assert keys != list(dict.fromkeys(train.keys))


def test_short_fields_have_the_real_blocks():
    assert {name: BLOCKS[name] for name in EXACT} == EXACT


def test_values_are_logarithms_of_counts(train):
    seen: Counter[str] = Counter()
    for row in [*train.tokens, *train.common.values()]:
        for name, values in row.items():
            for text in values.values():
                if name in {"150_14", "853"}:
                    k = round(12 * math.expm1(float(text)))
                    expected = math.log1p(round(k / 12, 3))
                elif name in {"109_14", "110_14", "127_14", "508", "509", "702"}:
                    k = round(math.expm1(float(text)))
                    expected = math.log1p(k)
                else:
                    assert text == "1.0"
                    continue
                assert k >= 1
                assert text == (f"{expected:.5f}".rstrip("0"))
                seen[name] += 1
    assert set(seen) == {"109_14", "110_14", "127_14", "150_14", "508", "509", "702", "853"}


@pytest.mark.parametrize("crossed", CROSSED)
def test_crossed_tokens_stand_exactly_where_the_history_has_the_value(train, crossed):
    """Which ids belong together is not told, so it is found: by what all their rows agree on."""
    source, history = CROSSED[crossed]
    sources: dict[int, set[int]] = {}
    pasts: dict[int, set[int]] = {}
    empty: dict[int, str] = {}
    rows = [
        (row.get(source, empty), row.get(crossed, empty), train.common[key].get(history, empty))
        for row, key in zip(train.tokens, train.keys, strict=True)
    ]
    for own, cross, past in rows:
        for identity, value in cross.items():
            same = {other for other, text in past.items() if text == value}
            sources[identity] = sources.get(identity, set(own)) & set(own)
            pasts[identity] = pasts.get(identity, same) & same
    assert all(sources.values())
    assert all(pasts.values())
    image = {s.copy().pop(): identity for identity, s in sources.items() if len(s) == 1}
    assert len(image) == sum(len(s) == 1 for s in sources.values()), "one to one"
    known = {s: (x, min(pasts[x])) for s, x in image.items() if len(pasts[x]) == 1}
    assert len(known) > 20
    outcomes: Counter[bool] = Counter()
    for own, cross, past in rows:
        for identity in set(own) & set(known):
            cross_id, past_id = known[identity]
            assert cross.get(cross_id) == past.get(past_id)
            outcomes[cross_id in cross] += 1
    assert min(outcomes[True], outcomes[False]) > 20


def test_manifest_counts_what_the_files_hold(folder, train):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["options"] == {
        **SMALL, "ctr": 0.03887, "cvr": 0.00535, "conflict": 0.8, "replay": None
    }  # fmt: skip
    assert manifest["train"] == {
        "rows": SMALL["rows"],
        "clicks": train.click.sum(),
        "conversions": (train.click & train.conversion).sum(),
        "anomalies": ((1 - train.click) & train.conversion).sum(),
        "common_rows": len(train.common_keys),
        "tokens": sum(len(values) for row in train.tokens for values in row.values()),
        "common_tokens": sum(len(v) for row in train.common.values() for v in row.values()),
    }
    expected = SMALL["rows"] * SMALL["anomaly"]
    assert manifest["train"]["anomalies"] == pytest.approx(expected, abs=4 * expected**0.5)


def test_coverage_is_the_real_files(likely):
    """Section 4.2; contexts are few here, so the tolerance is four deviations of their number."""
    _, data = likely
    contexts = list(data.common.values())

    def covered(name: str) -> float:
        return float(np.mean([name in context for context in contexts]))

    for name, share in {"121": 0.8702, "126": 0.4158, "129": 0.637, "101": 0.9978}.items():
        assert covered(name) == pytest.approx(share, abs=4 * (0.25 / len(contexts)) ** 0.5)
    for context in contexts:
        assert len({name in context for name in ("121", "122", "124", "125", "127", "128")}) == 1
    branded = np.mean(["216" in row for row in data.tokens])
    assert branded == pytest.approx(0.7114, abs=0.05)
    assert np.mean([len(row.get("210", ())) for row in data.tokens]) == pytest.approx(6.1, abs=0.4)


def test_contexts_have_the_real_length():
    drawn = lengths(np.random.default_rng(0), 2_000_000)
    assert drawn.sum() == 2_000_000
    assert drawn.mean() == pytest.approx(57.9, rel=0.03)
    assert drawn.min() >= 1
    assert drawn.max() <= 2000
    assert np.log(drawn[drawn > 5]).std() == pytest.approx(1, abs=0.12)


def test_labels_are_drawn_from_the_truth(likely):
    _, data = likely
    ctr, cvr = data.p
    clicked = data.click == 1
    for drawn, p in ((data.click, ctr), (data.conversion[clicked], cvr[clicked])):
        assert drawn.sum() == pytest.approx(p.sum(), abs=4 * np.sqrt((p * (1 - p)).sum()))
    assert not data.conversion[~clicked].any()
    # Contexts differ, and there are some 350 of them.
    assert ctr.mean() == pytest.approx(0.2, rel=0.15)
    assert np.average(cvr, weights=ctr) == pytest.approx(0.3, rel=0.15)


def test_signal_is_the_specified_one(likely):
    manifest, data = likely
    clicked = data.click == 1
    ctr = roc_auc_score(data.click, data.p[0])
    cvr = roc_auc_score(data.conversion[clicked], data.p[1][clicked])
    assert ctr == pytest.approx(0.66, abs=0.04)
    assert cvr == pytest.approx(0.72, abs=0.05)
    assert manifest["bayes"]["auc_ctr"] == pytest.approx(ctr, abs=0.03)
    assert manifest["bayes"]["auc_cvr"] == pytest.approx(cvr, abs=0.04)


def test_clicks_become_rarer_along_the_file(train, tmp_path):
    """A shard does not know how long its file is, apart from where it stands in it."""
    generate(config(rows=SHARD), tmp_path)
    alone = read(tmp_path, "train")
    assert alone.text == train.text[:SHARD]
    change = logit(alone.p) - logit(train.p[:, :SHARD])
    moved = np.arange(SHARD) * (1 / SHARD - 1 / SMALL["rows"])
    fall, _ = np.polyfit(moved, change[0], 1)
    assert np.ptp(change[0] - fall * moved) < 1e-4
    # 4.6 % in the first decile, 3.3 % in the last, nine tenths of the file apart.
    assert fall == pytest.approx((logit(0.033) - logit(0.046)) / 0.9, abs=0.02)
    assert np.abs(change[1]).max() < 1e-4


def test_conflict_turns_the_tasks_against_each_other(by_conflict):
    correlation = {k: np.corrcoef(*logit(data.p))[0, 1] for k, data in by_conflict.items()}
    assert correlation[0.0] > 0.1
    assert correlation[2.0] < -0.1


def test_conflict_acts_through_one_field_with_opposite_signs(by_conflict):
    calm, torn = by_conflict[0.0], by_conflict[2.0]
    assert calm.text == torn.text
    ctr, cvr = logit(torn.p) - logit(calm.p)
    effects = defaultdict(list)
    for row, key in enumerate(calm.keys):
        effects[next(iter(calm.common[key].get("121", {0: ""})))].append((ctr[row], cvr[row]))
    means = np.array([np.mean(pairs, axis=0) for pairs in effects.values()])
    assert len(means) > 10
    assert max(np.ptp(pairs, axis=0).max() for pairs in effects.values()) < 1e-4
    slope, _ = np.polyfit(means[:, 0], means[:, 1], 1)
    assert slope == pytest.approx(-0.40 / 0.30, rel=1e-3)


def test_probabilities_have_seven_digits(train):
    for text in ",".join(train.truth_text).split(","):
        assert len(text.removeprefix("0.").lstrip("0")) >= 7


def test_replay_repeats_features_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "SHARD_ROWS", 800)
    block, rows = 2000, 5300
    manifest = generate(config(rows=rows, replay=block, ctr=0.3, cvr=0.3), tmp_path)
    data = read(tmp_path, "train")
    assert data.ids == data.truth_ids == list(range(1000, 1000 + rows))
    assert read(tmp_path, "test").ids == list(range(1000, 2000))
    for row in range(block, rows):
        base = row % block
        assert data.text[row] == data.text[base]
        assert data.truth_text[row] == data.truth_text[base]
        assert data.common_text[data.keys[row]] == data.common_text[data.keys[base]]
    assert set(data.keys) == set(data.common_keys)
    assert len(set(data.common_keys)) == len(data.common_keys)
    blocks = [set(data.keys[start : start + block]) for start in range(0, rows, block)]
    assert sum(map(len, blocks)) == len(set().union(*blocks))
    first, second = data.click[:block], data.click[block : 2 * block]
    p = data.p[0, :block]
    differ = 2 * (p * (1 - p)).sum()
    assert (first != second).sum() == pytest.approx(differ, abs=4 * differ**0.5)
    assert second.sum() == pytest.approx(p.sum(), abs=4 * (p * (1 - p)).sum() ** 0.5)
    assert manifest["train"]["clicks"] == data.click.sum()
    assert manifest["train"]["conversions"] == (data.conversion & data.click).sum()
    assert manifest["train"]["common_rows"] == len(data.common_keys)
    assert manifest["train"]["tokens"] == sum(len(v) for t in data.tokens for v in t.values())
    held = sum(len(v) for t in data.common.values() for v in t.values())
    assert manifest["train"]["common_tokens"] == held


def test_a_killed_generation_looks_unfinished_and_is_begun_anew(folder, tmp_path):
    out = tmp_path / "killed"

    def kill(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config(), out, on_progress=kill)
    assert [entry.name for entry in out.iterdir()] == [".unfinished"]
    assert list(out.rglob("*.csv")) == []
    seen = []
    generate(config(), out, on_progress=lambda *at: seen.append(at))
    assert everything(out) == everything(folder)
    assert seen[-1] == (7000, 7000)
    assert seen == sorted(seen)


def test_a_generation_killed_while_files_get_their_names_is_begun_anew(folder, tmp_path):
    out = tmp_path / "halfway"
    shutil.copytree(folder, out)
    (out / "manifest.json").unlink()
    (out / ".unfinished").mkdir()
    generate(config(), out)
    assert everything(out) == everything(folder)


def test_a_folder_that_holds_something_is_left_alone(folder, tmp_path):
    before = everything(folder)
    with pytest.raises(DataError, match="already holds a finished generation: name an empty"):
        generate(config(), folder)
    assert everything(folder) == before
    (tmp_path / "sample_train").mkdir()
    with pytest.raises(DataError, match="already holds files"):
        generate(config(), tmp_path)
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="already holds files"):
        generate(config(), tmp_path)
    with pytest.raises(DataError, match="is a file"):
        generate(config(), tmp_path / "thesis.tex")


def test_a_disk_that_is_too_small_is_found_out_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(DataError, match=r"needs about 5\.\d GB .* 1\.0 GB are free: ask for fewer"):
        generate(config(rows=10**7, hist=1.0), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "option",
    [
        {"rows": 9},
        {"test_rows": 0},
        {"seed": -1},
        {"card": 0.0},
        {"hist": math.nan},
        {"ctr": 1.0},
        {"cvr": 0.0},
        {"conflict": -1.0},
        {"conflict": math.inf},
        {"anomaly": 1.0},
        {"replay": 5},
    ],
)
def test_options_out_of_range_are_refused(option, tmp_path):
    with pytest.raises(DataError, match=f"{next(iter(option))}=.* cannot be generated: give"):
        generate(config(**option), tmp_path)


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(DataError, match="workers=0"):
        generate(config(), tmp_path, workers=0)


@pytest.mark.parametrize("card", [0.0005, 0.3])
def test_smallest_files_and_worlds(card, tmp_path):
    manifest = generate(config(rows=10, test_rows=10, card=card, hist=0.01), tmp_path)
    assert manifest["test"]["rows"] == len(read(tmp_path, "test").ids) == 10


def test_a_context_without_profile_and_history_names_its_user(tmp_path, monkeypatch):
    for constant in ("UNNAMED", "UNSEEN", "HALF_SEEN"):  # nobody named, and no history at all
        monkeypatch.setattr(world, constant, 1.0)
    generate(config(rows=2000), tmp_path)
    data = read(tmp_path, "train")
    named = [set(tokens) == {"101"} for tokens in data.common.values()]
    assert 0.02 < np.mean(named) < 0.4  # 13 % of users have no profile
    assert set(data.keys) == set(data.common_keys)
