"""Ali-CCP (Ma et al., SIGIR 2018), read without loss and in bounded memory; here its raw format.

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
KINDS: tuple[Kind, ...] = ("common", "skeleton")
HALVES: tuple[Half, ...] = ("train", "test")


class Field(NamedTuple):
    """One of the 23 fields; no id of it lies outside of `low` to `high`.

    Neighbours' ranges overlap where it is not known with which id the one ends.
    """

    name: str  # as it stands in the files
    distinct: int  # ids in the real training rows
    low: int
    first: int
    """The generator uses the ids from here to `high`: disjoint blocks that begin after the ids that
    the fields before are known to need."""
    high: int

    @property
    def kind(self) -> Kind:
        """Which file holds the field."""
        return "common" if self.name < FIRST_SKELETON_FIELD else "skeleton"

    @property
    def bag(self) -> bool:
        """Whether a row may hold several values, or the number behind the id is information."""
        return self.name in _BAGS


FIRST_SKELETON_FIELD = "205"
_BAGS = frozenset({"109_14", "110_14", "127_14", "150_14", "210", "508", "509", "702", "853"})
FIELDS = (
    Field("101", 295_787, 1, 1, 446_193),
    Field("109_14", 12_223, 295_788, 446_194, 893_048),
    Field("110_14", 2_545_609, 456_813, 893_049, 3_438_657),
    Field("121", 97, 3_438_658, 3_438_658, 3_438_754),
    Field("122", 13, 3_438_755, 3_438_755, 3_438_767),
    Field("124", 2, 3_438_768, 3_438_768, 3_438_769),
    Field("125", 7, 3_438_770, 3_438_770, 3_438_776),
    Field("126", 3, 3_438_777, 3_438_777, 3_438_779),
    Field("127", 3, 3_438_780, 3_438_780, 3_438_782),
    Field("127_14", 396_460, 3_438_783, 3_438_783, 3_864_884),
    Field("128", 2, 3_864_885, 3_864_885, 3_864_886),
    Field("129", 4, 3_864_887, 3_864_887, 3_864_890),
    Field("150_14", 99_226, 3_864_891, 3_867_359, 4_186_221),
    Field("205", 3_206_396, 3_968_496, 4_186_222, 8_316_176),
    Field("206", 8_627, 7_702_674, 8_316_177, 8_415_222),
    Field("207", 614_739, 8_317_830, 8_415_223, 9_029_961),
    Field("210", 98_714, 8_932_569, 9_029_962, 9_140_691),
    Field("216", 210_973, 9_114_482, 9_140_692, 9_351_664),
    Field("301", 3, 9_342_396, 9_351_665, 9_463_023),
    Field("508", 7_753, 9_351_667, 9_463_024, 9_470_776),
    Field("509", 389_788, 9_359_420, 9_470_777, 9_860_564),
    Field("702", 143_919, 9_749_208, 9_860_565, 10_004_483),
    Field("853", 86_895, 9_893_127, 10_004_484, 10_091_378),
)
"""All fields, in the order of their names and of their ids."""
BY_NAME = {field.name: field for field in FIELDS}
SINGLES = {k: tuple(f.name for f in FIELDS if f.kind == k and not f.bag) for k in KINDS}
BAGS = {k: tuple(f.name for f in FIELDS if f.kind == k and f.bag) for k in KINDS}
"""Names of the fields with one value and with several, in order, by kind of file."""


def file_name(kind: Kind, half: Half) -> str:
    """Return the base name of a raw file."""
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
"""Counts of the published files; another count may be a part of them, or other data."""
