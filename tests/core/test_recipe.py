"""What a recipe may say of settings before a run is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trueline.core import registry
from trueline.core.config import Config
from trueline.core.errors import ConfigError
from trueline.core.recipe import Checks, Plan, check_config, check_inputs


class Toll(Config):
    """Settings of the two recipes below."""

    pence: int = 3


class Plain:
    """A recipe that says nothing beforehand."""

    Config, presets = Toll, {}

    def train(self, config, run, inputs):
        raise AssertionError("nothing is trained here")


class Careful(Plain):
    """One that does, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def check(self, config, root):
        self.asked.append((config, root))
        if config.pence > 3:
            raise ConfigError(f"pence is {config.pence}. Give 3 or less.")


@pytest.fixture
def recipes(monkeypatch):
    found = {"plain": Plain(), "careful": Careful()}
    monkeypatch.setattr(registry, "load", lambda kind, name: found[name])
    return found


def test_a_recipe_that_can_is_asked_with_its_own_settings_and_the_folder_of_runs(recipes):
    plan = Plan(recipe="careful", config={"pence": 2})
    check_config("careful", plan.settings(), "runs")
    assert recipes["careful"].asked == [(Toll(pence=2), Path("runs"))]
    with pytest.raises(ConfigError, match="pence is 4"):
        check_config("careful", Toll(pence=4), "runs")


def test_one_that_cannot_is_not(recipes):
    assert not isinstance(recipes["plain"], Checks)
    check_config("plain", Toll(pence=4), "runs")


def test_an_input_that_a_recipe_has_no_use_for_or_cannot_do_without_is_refused(recipes):
    check_inputs("plain", Toll(), ["anything"])  # it does not say what it takes
    recipes["plain"].inputs_of = lambda toll: {"policy": False, "judge": toll.pence > 2}
    check_inputs("plain", Toll(pence=2), [])
    check_inputs("plain", Toll(pence=3), ["judge"])
    with pytest.raises(ConfigError, match=r"^plain needs the input 'judge' with these settings\. Give it: --input "):
        check_inputs("plain", Toll(pence=3), ["policy"])
    with pytest.raises(ConfigError, match=r"^no input is called 'polcy'\. Did you mean 'policy'\? plain takes "):
        check_inputs("plain", Toll(pence=2), ["judge", "polcy"])
    recipes["plain"].inputs_of = lambda _: {}
    with pytest.raises(ConfigError, match=r"^no input is called 'policy'\. plain takes none\.$"):
        check_inputs("plain", Toll(), ["policy"])
