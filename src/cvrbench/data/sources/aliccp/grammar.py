"""Ali-CCP's raw format as a contract: fields, blocks of ids, file names, known totals.

    skeleton = sample_id "," click "," conversion "," index "," feature_num "," features LF
    common   = index "," feature_num "," features LF
    features = feature *( 0x01 feature )                        feature_num of them
    feature  = field 0x02 feature_id 0x03 value

`index` is 16 lower-case hex digits and joins the two files; `value` is 1.0, or for histories and
crossed fields ln(1 + count) with five decimals. Ids are numbered through all fields, one block per
field, the blocks in the order of the fields' names.

Sources: counts from public preprocessors of the data of Ma et al. (ESMM, SIGIR 2018), two of which
agree on every number; blocks from the ids that public code and notebooks print.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

MAX_ID = 10_091_378
MAX_ID_DIGITS = 8
MAX_SAMPLE_ID_DIGITS = 16
MAX_VALUE = 1e6
"""ln(1 + count) of anything is far below."""
FEATURE_SEPARATOR, ID_SEPARATOR, VALUE_SEPARATOR = 1, 2, 3
INDEX_DIGITS = 16
N_COLUMNS = {"skeleton": 6, "common": 3}

Kind = Literal["common", "skeleton"]
Half = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One of the 23 fields.

    Attributes:
        name: As it stands in the files.
        kind: Which file holds it.
        bag: Whether a row may hold several values, or the number behind the id is information.
        distinct: Distinct ids in the real training rows.
        low, high: No id of the field lies outside; neighbours' ranges overlap where it is not known
            which id the one ends and the other begins with.
        block: First and last id that the generator uses; blocks are disjoint.
    """

    name: str
    kind: Kind
    bag: bool
    distinct: int
    low: int
    high: int
    block: tuple[int, int]


class _Known(NamedTuple):
    """What is known of a field: distinct training ids, lowest and highest id seen, or its block."""

    name: str
    distinct: int
    seen: tuple[int, int] | None = None
    exact: bool = False


_KNOWN = (
    _Known("101", 295_787),
    _Known("109_14", 12_223, (446_194, 456_812)),
    _Known("110_14", 2_545_609),
    _Known("121", 97, (3_438_658, 3_438_754), exact=True),
    _Known("122", 13, (3_438_755, 3_438_767), exact=True),
    _Known("124", 2, (3_438_768, 3_438_769), exact=True),
    _Known("125", 7, (3_438_770, 3_438_776), exact=True),
    _Known("126", 3, (3_438_777, 3_438_779), exact=True),
    _Known("127", 3, (3_438_780, 3_438_782), exact=True),
    _Known("127_14", 396_460, (3_438_783, 3_864_884), exact=True),
    _Known("128", 2, (3_864_885, 3_864_886), exact=True),
    _Known("129", 4, (3_864_887, 3_864_890), exact=True),
    _Known("150_14", 99_226, (3_867_359, 3_968_495)),
    _Known("205", 3_206_396, (4_186_222, 7_702_673)),
    _Known("206", 8_627, (8_316_177, 8_317_829)),
    _Known("207", 614_739),
    _Known("210", 98_714, (9_029_962, 9_114_481)),
    _Known("216", 210_973, (9_150_651, 9_342_395)),
    _Known("301", 3, (9_351_665, 9_351_666)),
    _Known("508", 7_753),
    _Known("509", 389_788),
    _Known("702", 143_919),
    _Known("853", 86_895),
)
_BAGS = frozenset({"109_14", "110_14", "127_14", "150_14", "210", "508", "509", "702", "853"})
FIRST_SKELETON_FIELD = "205"


def _fields() -> tuple[Field, ...]:
    """Work out each field's range from what is known of it and of its neighbours.

    A block begins after the ids that the fields before it are known to need, and leaves room for
    those that the fields behind it need.
    """
    lows, starts = [1], [MAX_ID + 1]
    for known in _KNOWN:
        ends = [lows[-1] + known.distinct - 1] if not known.exact else []
        lows.append(1 + max([*ends, known.seen[1] if known.seen else 0]))
    for known in reversed(_KNOWN):
        first_seen = known.seen[0] if known.seen else MAX_ID
        starts.insert(0, min(starts[0] - known.distinct, first_seen))
    starts[0] = 1
    return tuple(
        Field(
            name=known.name,
            kind="common" if known.name < FIRST_SKELETON_FIELD else "skeleton",
            bag=known.name in _BAGS,
            distinct=known.distinct,
            low=known.seen[0] if known.exact and known.seen else low,
            high=known.seen[1] if known.exact and known.seen else end - 1,
            block=known.seen if known.exact and known.seen else (start, end - 1),
        )
        for known, low, (start, end) in zip(_KNOWN, lows[:-1], pairwise(starts), strict=True)
    )


FIELDS = _fields()
"""All fields, in the order of their names and of their ids."""
BY_NAME = {field.name: field for field in FIELDS}


def fields_of(kind: Kind) -> tuple[Field, ...]:
    """Give the fields that a kind of file holds, in order."""
    return tuple(field for field in FIELDS if field.kind == kind)


def file_name(kind: Kind, half: Half) -> str:
    """Give the base name of a raw file."""
    return f"sample_skeleton_{half}.csv" if kind == "skeleton" else f"common_features_{half}.csv"


KNOWN_TOTALS = {
    "train skeleton rows": 42_300_135,
    "train clicks": 1_644_256,
    "train conversions": 9_032,
    "train conversions without a click": 230,
    "train common rows": 730_600,
    "test skeleton rows": 43_016_840,
    "test common rows": 884_212,
}
"""Of the real files; what another count than these means, only the user can know."""
