"""Ali-CCP's parser against its grammar written a second time, line by line and without numpy."""

import random
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvrbench.data.sources.aliccp import BAGS, FIELDS, MAX_ID, SINGLES
from cvrbench.data.sources.aliccp.lines import Block, diagnose, to_block
from tests.data.aliccp_files import draw

TOKEN = re.compile(r"(\d{3}(?:_14)?)\x02(\d+)\x03([\d.]+)")
WEIGHTED = {*BAGS["common"], *BAGS["skeleton"]}
Features = dict[str, list[tuple[int, float]]]


def read_slowly(line: str) -> tuple[int, Features]:
    """Index and features by regular expression and Python's own numbers."""
    index = re.search(r"(?:^|,)([0-9a-f]{16}),", line)
    assert index is not None
    features: Features = {}
    for name, identity, value in TOKEN.findall(line):
        weight = float(np.float32(float(value))) if name in WEIGHTED else 1.0
        features.setdefault(name, []).append((int(identity), weight))
    return int(index[1], 16), features


def features_of(block: Block, row: int) -> tuple[int, Features]:
    """The same of a parsed line; fields with one value have no weight."""
    ids = zip(SINGLES[block.kind], block.singles[row].tolist(), strict=True)
    features = {name: [(identity, 1.0)] for name, identity in ids if identity}
    for name, bag in block.bags.items():
        here = slice(bag.offsets[row], bag.offsets[row + 1])
        if pairs := list(zip(bag.ids[here].tolist(), bag.weights[here].tolist(), strict=True)):
            features[name] = pairs
    return int(block.index[row]), features


@given(seed=st.integers(0, 10_000), n=st.integers(1, 40))
def test_lines_are_read_as_a_regular_expression_reads_them(seed, n):
    half = draw(seed, n_contexts=3, n_rows=n)
    for kind, objects in (("skeleton", half.rows), ("common", half.contexts)):
        texts = [thing.line() for thing in objects]
        block = to_block("".join(f"{text}\n" for text in texts).encode(), kind, first_line=7)
        assert block.faults == ()
        assert block.line.tolist() == [7 + k for k in range(len(texts))]
        for row, text in enumerate(texts):
            assert features_of(block, row) == read_slowly(text)
    rows = to_block("".join(f"{row.line()}\n" for row in half.rows).encode(), "skeleton", 1)
    assert rows.sample_id.tolist() == [row.sample_id for row in half.rows]
    assert rows.labels.tolist() == [[row.click, row.conversion] for row in half.rows]


@given(
    value=st.one_of(
        st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,12})?", fullmatch=True),
        st.from_regex(r"[0-9]\.[0-9]{1,9}", fullmatch=True),
        st.sampled_from(
            ["nan", "inf", "-1.0", "+1.0", "1e3", "1.", ".5", "", " 1.0", "1,0", "0x1"]
        ),
    )
)
def test_a_value_is_the_nearest_float_or_refused(value):
    line = f"0123456789abcdef,1,109_14\x02446200\x03{value}\n".encode()
    block = to_block(line, "common", first_line=1)
    plain = re.fullmatch(r"\d+(\.\d+)?", value) is not None
    if plain and 0 < float(value) < 1e6:
        assert block.bags["109_14"].weights.tolist() == [np.float32(float(value))]
    else:
        assert len(block.faults) == 1


@pytest.mark.parametrize("sample_id", ["0", "7", "12345678", "123456789", "9999999999999999"])
def test_sample_ids_of_up_to_16_digits_are_read(sample_id):
    line = f"{sample_id},1,0,{'0' * 16},1,301\x029351665\x031.0\n".encode()
    assert to_block(line, "skeleton", 1).sample_id.tolist() == [int(sample_id)]


def test_every_field_has_its_own_block_of_ids():
    for field in FIELDS:
        assert 1 <= field.low <= field.first <= field.high <= MAX_ID
        assert field.high - field.first + 1 >= field.distinct
    for before, after in pairwise(FIELDS):
        assert before.high < after.first
        assert before.name < after.name


GOOD = "12,1,0,0123456789abcdef,2,205\x025000000\x031.0\x01301\x029351665\x031.0"
CORPUS = {
    "truncated line": (GOOD, "no end"),
    "CR LF": (GOOD + "\r\n", "CR LF"),
    "malformed feature": (GOOD.replace("\x03", "", 1) + "\n", "is not field"),
    "unknown field": (
        GOOD.replace("205\x02", "204\x02") + "\n",
        "field '204', expected one of",
    ),
    "field of the other file": (GOOD.replace("301\x029351665", "121\x023438700") + "\n", "common"),
    "id outside its block": (GOOD.replace("5000000", "3438700") + "\n", "3438700 lies outside"),
    "feature_num": (GOOD.replace(",2,", ",3,") + "\n", "feature_num is 3, but there are 2"),
    "no features": (GOOD[: GOOD.index("205")] + "\n", "features column is empty"),
    "not ASCII": (GOOD.replace("1.0", "1.é", 1) + "\n", "ASCII"),
    "value": (GOOD.replace("1.0", "nan", 1) + "\n", "value of field 205 is 'nan'"),
    "blank line": ("\n", "blank"),
    "gzipped": ("\x1f\x8b\x08\x00\n", "gzipped"),
    "column count": ("0123456789abcdef,1,121\x023438700\x031.0\n", "3 columns.*common file"),
    "label": (GOOD.replace(",1,0,", ",2,0,") + "\n", "click is '2', expected 0 or 1"),
    "sample id": (GOOD.replace("12,", "x,", 1) + "\n", "sample id is 'x'"),
    "index": (GOOD.replace("abcdef", "ABCDEF") + "\n", "16 of 0-9a-f"),
    "id": (GOOD.replace("5000000", "50000x0") + "\n", "id of field 205 is '50000x0'"),
    "repeated field": (GOOD.replace("301\x029351665", "205\x025000001") + "\n", "205 stands twice"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_each_fault_is_named_with_its_line_and_the_lines_around_it_are_kept(name):
    text, words = CORPUS[name]
    bad = text.encode("latin-1")
    before = f"{GOOD}\n{GOOD}\n".encode()
    after = f"{GOOD}\n".encode() if bad.endswith(b"\n") else b""
    block = to_block(before + bad + after, "skeleton", first_line=101)
    assert [(f.line, f.reason.name) for f in block.faults] == [(103, name)]
    assert re.search(words, block.faults[0].reason.words)
    assert block.line.tolist() == ([101, 102, 104] if after else [101, 102])


def test_a_block_of_faults_alone_is_given_up_at_once():
    text = f"{GOOD}\r\n".encode() * 50_000
    block = to_block(text, "skeleton", first_line=1, max_faults=3)
    assert [(fault.line, fault.reason.name) for fault in block.faults] == [
        (1, "CR LF"),
        (2, "CR LF"),
        (3, "CR LF"),
    ]


def mutate(line: bytes, rng: random.Random) -> bytes:
    """Do to a line what bad disks, editors and scripts do."""
    body = bytearray(line[:-1])
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(body)) if body else 0
        match rng.randrange(7):
            case 0 if body:
                body[at] = rng.randrange(256)
            case 1:
                body.insert(at, rng.choice(b"\x00\x01\x02\x03,.\r\x7f\xff0919_ae"))
            case 2 if body:
                del body[at]
            case 3:
                del body[at : at + rng.randrange(1, 40)]
            case 4 if body:
                body[at] = rng.choice(b"\x01\x02\x03,.0123456789")
            case 5:
                body[at:at] = body[at : at + rng.randrange(1, 30)]
            case _ if body:
                other = rng.randrange(len(body))
                body[at], body[other] = body[other], body[at]
    return bytes(body).replace(b"\n", b" ") + b"\n"


def fuzz(n: int, seed: int) -> tuple[int, int]:
    """Parse mutated lines in blocks; the slow grammar must agree on every one of them."""
    rng = random.Random(seed)
    half = draw(seed, n_contexts=40, n_rows=400)
    kept = refused = 0
    for start in range(0, n, 200):
        kind, things = rng.choice([("skeleton", half.rows), ("common", half.contexts)])
        lines = [mutate(f"{rng.choice(things).line()}\n".encode(), rng) for _ in range(200)]
        block = to_block(b"".join(lines), kind, first_line=start + 1)
        reasons = [diagnose(line, kind) for line in lines]
        wrong = {start + k + 1: reason for k, reason in enumerate(reasons) if reason is not None}
        assert dict(block.faults) == wrong
        good = [line for line, reason in zip(lines, reasons, strict=True) if reason is None]
        got = [features_of(block, row) for row in range(len(block.line))]
        assert got == [read_slowly(line.decode()) for line in good]
        kept, refused = kept + len(good), refused + len(block.faults)
    assert kept + refused == n
    return kept, refused


def test_mutated_lines_are_read_right_or_refused_with_a_reason():
    kept, refused = fuzz(4_000, seed=1)
    assert kept > 200
    assert refused > 2_000


@pytest.mark.slow
def test_a_hundred_thousand_mutated_lines():
    kept, refused = fuzz(100_000, seed=2)
    assert kept > 5_000
    assert refused > 50_000
