import math
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator, model_validator

from trueline.core.config import Config, build, differences, digest, fields, parse_override, read_toml, to_toml
from trueline.core.errors import ConfigError


class Rule(StrEnum):
    ADAM = "adam"
    SGD = "sgd"


class Lagrangian(Config):
    kind: Literal["lagrangian"] = "lagrangian"
    cost_limit: float = 25.0
    lr: float = Field(0.035, gt=0)


class Pid(Config):
    kind: Literal["pid"] = "pid"
    gain: float = Field(0.1, ge=0, description="K_P")


class Ppo(Config):
    steps: int
    clip: float = Field(0.2, gt=0, lt=1)
    hidden: tuple[int, ...] = (64, 64)
    interval: tuple[float, float] | float = 1.0
    rule: Rule = Rule.ADAM
    env: str = "SafetyPointGoal1-v0"
    weights: Path | None = None
    warm_up: int | None = 3
    constraint: Lagrangian | Pid | None = Lagrangian(cost_limit=10.0)
    scales: dict[str, float] = Field(default_factory=dict)

    @field_validator("steps")
    @classmethod
    def _even(cls, steps):
        if steps % 2:
            raise ValueError(f"{steps} steps cannot be halved; give an even number")
        return steps


def refusal(data, *overrides):
    with pytest.raises(ConfigError) as caught:
        build(Ppo, {"steps": 2} | data, overrides)
    return str(caught.value)


# -- what is taken ----------------------------------------------------------------------------------------------------


def test_toml_lists_strings_and_integers_meet_tuples_enums_and_floats():
    config = build(Ppo, {"steps": 2, "hidden": [8, 9], "rule": "sgd", "interval": [1, 2], "weights": "a/b"})
    assert (config.hidden, config.rule, config.interval) == ((8, 9), Rule.SGD, (1.0, 2.0))
    assert config.weights == Path("a/b")
    assert type(config.interval[0]) is float


def test_a_whole_number_with_an_exponent_is_an_integer():
    config = build(Ppo, {"hidden": [1e2, 8]}, ["steps=1e6", "clip=2e-1", "interval=1e3"])
    assert (config.steps, config.hidden, config.interval) == (1_000_000, (100, 8), 1000.0)
    assert [type(x) for x in (config.steps, *config.hidden, config.interval)] == [int, int, int, float]
    assert refusal({}, "steps=1.5e0") == "steps is 1.5, but should be integer."
    assert "warm_up is inf" in refusal({"warm_up": math.inf})


def test_python_callers_get_the_same_leniency_and_no_more():
    assert Ppo(steps=2, hidden=[1]).hidden == (1,)
    for wrong in ({"steps": "2"}, {"steps": 2.5}, {"steps": True}, {"steps": 2, "clip": "0.1"}, {"steps": 2, "env": 3}):
        with pytest.raises(ValidationError):
            Ppo(**wrong)


def test_configs_are_frozen():
    with pytest.raises(ValidationError):
        Ppo(steps=2).steps = 4


def test_a_table_changes_the_default_it_meets_rather_than_the_class():
    # The field's default limit is 10, the class's 25: changing the rate must not move the limit.
    assert build(Ppo, {"steps": 2}, ["constraint.lr=1"]).constraint == Lagrangian(cost_limit=10.0, lr=1.0)
    assert build(Ppo, {"steps": 2, "constraint": {"lr": 1}}).constraint == Lagrangian(cost_limit=10.0, lr=1.0)


def test_another_kind_starts_from_its_own_class():
    assert build(Ppo, {"steps": 2}, ["constraint.kind=pid"]).constraint == Pid()


def test_none_can_be_said_where_none_is_allowed_and_only_there():
    config = build(Ppo, {"steps": 2}, ["constraint=none", "warm_up=none"])
    assert config.constraint is None
    assert config.warm_up is None
    assert build(Ppo, {"steps": 2}, ["env=none"]).env == "none"


def test_a_config_can_be_changed_by_overrides():
    base = Ppo(steps=4, constraint=Pid(gain=2.0))
    assert build(Ppo, base, ["clip=0.5"]) == Ppo(steps=4, clip=0.5, constraint=Pid(gain=2.0))
    assert build(Ppo, base, ["constraint.gain=3"]).constraint == Pid(gain=3.0)
    assert base.clip == 0.2


def test_build_leaves_the_given_mapping_alone():
    data = {"steps": 2, "constraint": {"lr": 1.0}}
    build(Ppo, data, ["constraint.lr=2", "hidden=[1]"])
    assert data == {"steps": 2, "constraint": {"lr": 1.0}}


# -- what is refused, and how -----------------------------------------------------------------------------------------


def test_a_misspelt_setting_is_answered_with_the_nearest():
    assert "no setting is called 'clp'. Did you mean 'clip'?" in refusal({"clp": 1})


def test_a_misspelt_nested_setting_is_answered_from_the_alternative_meant():
    text = refusal({}, "constraint.kind=pid", "constraint.gian=1")
    assert "'constraint.gian'. Did you mean 'gain'?" in text
    assert "cost_limit" not in text
    assert "lagrangian" not in text


def test_a_bound_names_setting_value_and_limit():
    assert refusal({"clip": 1.5}) == "clip is 1.5, but should be less than 1."
    assert refusal({}, "constraint.lr=-1") == "constraint.lr is -1, but should be greater than 0."


def test_a_wrong_type_names_what_is_allowed():
    assert refusal({"rule": "adma"}) == "rule is 'adma', but should be 'adam' | 'sgd'."
    assert refusal({"interval": "x"}) == "interval is 'x', but should be list of 2 x number | number."
    assert refusal({"hidden": [1, "a"]}).startswith("hidden.1 is 'a'")
    assert "constraint.kind is 'pod', but should be 'lagrangian' or 'pid'" in refusal({"constraint": {"kind": "pod"}})


def test_all_problems_are_listed_one_per_line_with_where_they_are():
    with pytest.raises(ConfigError) as caught:
        build(Ppo, {"clip": 2, "rule": 1}, where="run.toml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("run.toml: ") for line in lines)
    assert any("steps is required" in line for line in lines)


def test_a_validator_of_the_class_speaks_in_its_own_words():
    assert refusal({"steps": 3}) == "steps: 3 steps cannot be halved; give an even number"


class Even(Config):
    kind: Literal["even"] = "even"
    steps: int = 2

    @model_validator(mode="after")
    def _even(self):
        if self.steps % 2:
            raise ValueError(f"{self.steps} steps cannot be halved; give an even number")
        return self


class Alternatives(Config):
    one: Even | Pid | Lagrangian = Pid()
    several: tuple[Even | Pid, ...] = ()


@pytest.mark.parametrize("data", [{"one": {"kind": "even", "steps": 3}}, {"several": [{"kind": "even", "steps": 3}]}])
def test_a_validator_of_an_alternative_speaks_in_its_own_words(data):
    with pytest.raises(ConfigError) as caught:
        build(Alternatives, data)
    where = "several.0" if "several" in data else "one"
    assert str(caught.value) == f"{where}: 3 steps cannot be halved; give an even number"


class Checked(Config):
    kind: Literal["checked"] = "checked"
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _in_order(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class CheckedTwice(Checked):
    @model_validator(mode="after")
    def _not_wide(self):
        if self.high - self.low > 9.0:
            raise ValueError("the interval is wide")
        return self


class OneOfThree(Config):
    rule: Checked | Pid | Lagrangian = Checked()


class OneOfThreeTwice(Config):
    rule: CheckedTwice | Pid | Lagrangian = CheckedTwice()


@pytest.mark.parametrize("config", [OneOfThree, OneOfThreeTwice])
@pytest.mark.parametrize("override", ["rule.gain=1", "rule.cost_limit=1", "rule.gian=1"])
def test_a_setting_of_another_kind_is_told_apart_from_one_that_no_kind_has(config, override):
    """The alternative that stands there has validators, by which pydantic calls it."""
    with pytest.raises(ConfigError) as caught:
        build(config, {}, [override])
    key, kind = override.partition("=")[0], {"gain": "pid", "cost_limit": "lagrangian"}.get(override[5:-2])
    assert str(caught.value) == (
        f"{key} is a setting of kind '{kind}', which rule is not here. Give rule.kind = '{kind}' too, or another "
        "setting. Those in rule are kind, low, high."
        if kind
        else "no setting is called 'rule.gian'. The settings in rule are kind, low, high."
    )


class Limit(Config):
    cost_limit: float | tuple[float, ...] | Even | None = 25.0


def test_a_value_that_is_plain_or_a_table_is_listed_as_both():
    (first, *inner) = fields(Limit)
    assert first == ("cost_limit", "number | list of number | even | none", "25.0", "")
    assert [setting.key for setting in inner] == ["cost_limit.kind", "cost_limit.steps"]


class Stage(Config):
    budget: int = Field(1, ge=1)
    handler: Lagrangian | Pid = Field(Lagrangian(), discriminator="kind")
    note: str | None = None


class Plan(Config):
    stages: tuple[Stage, ...] = ()
    named: dict[str, Stage] = Field(default_factory=dict)


def test_tables_in_lists_and_tables_are_checked_alike():
    data = {"stages": [{"budget": 2}, {"handler": {"kind": "pid", "gain": 3}}], "named": {"a": {"budget": 5}}}
    plan = build(Plan, data)
    assert plan.stages == (Stage(budget=2), Stage(handler=Pid(gain=3.0)))
    assert build(Plan, tomllib.loads(to_toml(plan))) == plan
    wrong = {"stages": [{"budget": 0}, {"handler": {"kind": "pid", "gian": 3}}], "named": {"a": {"buget": 5}}}
    with pytest.raises(ConfigError) as caught:
        build(Plan, wrong)
    assert str(caught.value).splitlines() == [
        "stages.0.budget is 0, but should be greater than or equal to 1.",
        "no setting is called 'stages.1.handler.gian'. Did you mean 'gain'? "
        "The settings in stages.1.handler are kind, gain.",
        "no setting is called 'named.a.buget'. Did you mean 'budget'? "
        "The settings in named.a are budget, handler, note.",
    ]


def test_an_override_into_a_plain_value_is_refused():
    assert "hidden is [1], not a table" in refusal({"hidden": [1]}, "hidden.size=3")


# -- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("lr=1e-4", ("lr",), 1e-4),
        ("actor.lr = 3", ("actor", "lr"), 3),
        ("env=SafetyPointGoal1-v0", ("env",), "SafetyPointGoal1-v0"),
        ('name="10"', ("name",), "10"),
        ("flag=true", ("flag",), True),
        ("a=[1, 2]", ("a",), [1, 2]),
        ("c={kind='pid', gain=2}", ("c",), {"kind": "pid", "gain": 2}),
        ("a=b=c", ("a",), "b=c"),
        ("a=", ("a",), ""),
        ("day=2024-01-01", ("day",), "2024-01-01"),
        ("limit=-inf", ("limit",), -math.inf),
        ("weights=run://a/b.npz", ("weights",), "run://a/b.npz"),
    ],
)
def test_overrides(text, keys, value):
    parsed = parse_override(text)
    assert parsed == (keys, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["lr", "=3", "a..b=1", ""])
def test_what_is_no_override_is_refused(text):
    with pytest.raises(ConfigError, match="key=value"):
        parse_override(text)


def test_a_line_break_in_a_value_brings_in_no_second_setting():
    assert parse_override("a=1\nb=2") == (("a",), "1\nb=2")


toml_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(toml_values)
def test_any_toml_value_survives_an_override(value):
    literal = tomli_w.dumps({"value": value}, multiline_strings=False).partition("=")[2].strip()
    assert parse_override(f"a.b={literal}") == (("a", "b"), value)


# -- files, digests, help ---------------------------------------------------------------------------------------------

configs = st.builds(
    Ppo,
    steps=st.integers(0, 10**6).map(lambda n: 2 * n),
    clip=st.floats(0, 1, exclude_min=True, exclude_max=True),
    hidden=st.lists(st.integers(1, 512), max_size=4).map(tuple),
    interval=st.floats(allow_nan=False) | st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    rule=st.sampled_from(Rule),
    env=st.text(max_size=10),
    warm_up=st.none() | st.integers(-5, 5),
    weights=st.none() | st.just(Path("a/b")),
    constraint=st.none()
    | st.builds(Lagrangian, cost_limit=st.floats(-1e9, 1e9), lr=st.floats(1e-9, 1e9))
    | st.builds(Pid, gain=st.floats(0, 10)),
    scales=st.dictionaries(st.text(max_size=5), st.floats(-1, 1), max_size=3),
)


@given(configs)
def test_toml_round_trip(config):
    back = build(Ppo, tomllib.loads(to_toml(config)))
    assert back == config
    assert digest(back) == digest(config)


@given(configs, configs)
def test_digests_agree_exactly_when_configs_do(one, other):
    assert (digest(one) == digest(other)) == (one == other)


def test_none_inside_lists_and_tables_survives_toml():
    class Holes(Config):
        lags: tuple[int | None, ...] = ()
        limits: dict[str, float | None] = Field(default_factory=dict)
        settings: dict[str, Any] = Field(default_factory=dict)  # another recipe's, checked when that one is built

    config = Holes(lags=(1, None), limits={"a": None, "b": 2.0})
    assert build(Holes, tomllib.loads(to_toml(config))) == config
    # Left out, the other recipe's default would come back in its place.
    assert tomllib.loads(to_toml(Holes(settings={"constraint": None})))["settings"] == {"constraint": "none"}


def test_infinity_and_none_have_different_digests():
    class Limit(Config):
        limit: float | None = None

    assert len({digest(Limit(limit=value)) for value in (None, math.inf, -math.inf, 0.0)}) == 4


def test_malformed_and_missing_files_are_the_users_to_correct(tmp_path):
    path = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=r"no settings file .*a\.toml"):
        read_toml(path)
    path.write_text("a = 1\nb = = 2\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_toml(path)
    with pytest.raises(ConfigError, match="could not be read"):
        read_toml(tmp_path)
    path.write_text("[a]\nb = [1, 2]\n")
    assert read_toml(path) == {"a": {"b": [1, 2]}}


def test_help_lists_every_setting_with_the_default_that_holds():
    settings = {(setting.key, setting.note): setting for setting in fields(Ppo)}
    assert settings["steps", ""].default == "required"
    assert settings["clip", ""].type == "number > 0 < 1"
    # The field's default, 10, and not the class's, 25.
    assert settings["constraint.cost_limit", "when constraint is lagrangian"].default == "10.0"
    assert settings["constraint.gain", "when constraint is pid; K_P"].default == "0.1"
    assert settings["constraint", ""].type == "lagrangian | pid | none"


def test_help_lists_the_settings_of_a_lists_tables_by_kind():
    class First(Config):
        kind: Literal["first"] = "first"
        size: int = 3

    class Second(Config):
        kind: Literal["second"] = "second"
        name: str

    class Whole(Config):
        parts: tuple[First | Second, ...]
        alone: tuple[First, ...] = ()

    settings = {(setting.key, setting.note): setting.default for setting in fields(Whole)}
    assert settings["parts", ""] == "required"
    assert settings["parts[].size", "when one of parts is first"] == "3"
    assert settings["parts[].name", "when one of parts is second"] == "required"
    assert settings["alone[].size", ""] == "3"


def test_every_setting_in_the_help_can_be_set():
    keys = {setting.key for setting in fields(Ppo) if "pid" in setting.note or not setting.note}
    given = {"steps": "4", "clip": "0.5", "hidden": "[1]", "interval": "2", "rule": "sgd", "env": "e", "weights": "w",
             "warm_up": "1", "scales": "{a = 1}", "constraint": "{kind = 'pid'}", "constraint.kind": "pid",
             "constraint.gain": "2"}  # fmt: skip
    assert keys == set(given)
    build(Ppo, {}, [f"{key}={value}" for key, value in given.items()])


# -- differences ------------------------------------------------------------------------------------------------------


def test_differences_are_dotted_and_a_config_does_not_differ_from_its_own_text():
    before = Ppo(steps=2, weights=Path("a"), warm_up=None)
    assert differences(before, tomllib.loads(to_toml(before))) == {}
    now = before.model_copy(update={"constraint": Pid(gain=0.5), "hidden": (8,), "weights": None})
    assert differences(before, now) == {
        "constraint.cost_limit": (10.0, None),
        "constraint.gain": (None, 0.5),
        "constraint.kind": ("lagrangian", "pid"),
        "constraint.lr": (0.035, None),
        "hidden": ([64, 64], [8]),
        "weights": ("a", None),
    }
    assert differences({"a": {"b": 1}}, {"a": {"b": 1.0}}) == {}
