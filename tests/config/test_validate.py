"""What a wrong value is answered with, for every kind of field that a configuration may have."""

from dataclasses import make_dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le

from cvrbench.config.compose import compose
from cvrbench.config.runtime import LauncherConfig
from cvrbench.config.types import Count
from cvrbench.config.validate import validated
from cvrbench.errors import ConfigError

COUNT = "(at least 1, at most 1,000,000,000)"
SEVERAL = [
    (
        Literal["auto"] | Count,
        "zero",
        f"auto or a whole number {COUNT}, not 'zero'",
    ),
    (
        Literal["auto"] | Count,
        0,
        f"auto or a whole number {COUNT}, not 0",
    ),
    (
        Count | Literal["auto", "all"],
        None,
        f"a whole number {COUNT}, auto or all, not None",
    ),
    (
        Literal["none"] | Annotated[float, Gt(0), Le(1)],
        2,
        "none or a number (above 0, at most 1), not 2",
    ),
    (Literal["auto"] | bool | None, "x", "auto, true or false or null, not 'x'"),
    (Annotated[int, Ge(3)] | None, 2, "greater than or equal to 3; got 2"),
]


WRONG = [
    ("trainer.batch_size=1e20", "trainer.batch_size"),
    ("trainer.batch_size=2000000000", "trainer.batch_size"),
    ("trainer.threads=100000", "trainer.threads"),
    ("trainer.learning_rate=inf", "trainer.learning_rate must be a finite number"),
    ("model.dropout=nan", "model.dropout must be a finite number"),
    ("model.hidden=[10000000000]", "model.hidden.0"),
    ("seed=1e300", "seed"),
    ("results_dir=", "results_dir must be a text that is not empty"),
    ("data_dir=''", "data_dir must be a text that is not empty"),
]


@pytest.mark.parametrize(("word", "told"), WRONG)
def test_what_no_machine_can_do_is_refused_by_its_key(word, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        compose([word])


@pytest.mark.parametrize(("declared", "wrong", "told"), SEVERAL)
def test_where_several_kinds_of_value_may_stand_all_are_named(declared, wrong, told):
    cls = make_dataclass("Group", [("key", declared)], frozen=True, kw_only=True)
    with pytest.raises(ConfigError) as error:
        validated(cls, {"key": wrong}, "group")
    assert str(error.value) == f"group.key must be {told}"


def test_the_place_is_the_users_in_lists_and_dicts_too():
    item = Literal["auto"] | Count
    fields = [("list", tuple[item, ...]), ("named", dict[str, item])]
    cls = make_dataclass("Group", fields, frozen=True, kw_only=True)
    right = {"list": [1, "auto"], "named": {"a": 2}}
    assert validated(cls, right, "group").list == (1, "auto")
    for wrong, key in (({"list": [1, "x"]}, "list.1"), ({"named": {"b": "x"}}, "named.b")):
        with pytest.raises(ConfigError, match=rf"^group\.{key} must be auto or a whole number"):
            validated(cls, right | wrong, "group")


def test_seeds_together_are_refused_in_the_users_words():
    with pytest.raises(ConfigError) as error:
        validated(LauncherConfig, {"kind": "local", "together": "zero"}, "launcher")
    told = f"launcher.together must be auto or a whole number {COUNT}, not 'zero'"
    assert str(error.value) == told
