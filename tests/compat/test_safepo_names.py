"""SafePO's twelve single-agent scripts: each has a row and a preset, as the page says."""

import re
from pathlib import Path

import pytest

from trueline.core import registry
from trueline.core.recipe import recipe_config

PAGE = (Path(__file__).parents[2] / "docs" / "migrating_from_omnisafe.md").read_text()
TABLE = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \| `(safepo)` \|$", PAGE, flags=re.MULTILINE)
# The scripts of release 1.0.1.
NAMES = {"pg", "natural_pg", "trpo", "ppo", "ppo_lag", "trpo_lag", "rcpo", "cpo", "pcpo", "focops", "cup", "cppo_pid"}


def test_the_page_names_every_script_once():
    assert sorted(name for name, _, _ in TABLE) == sorted(NAMES)


@pytest.mark.parametrize(("name", "row", "preset"), TABLE)
def test_every_script_has_its_row_with_its_settings(name, row, preset):
    assert preset in registry.load("recipe", row).presets
    config = recipe_config(row, preset)
    assert (config.num_envs, config.steps_per_epoch, config.total_steps) == (10, 20_000, 10_000_000)
    assert ("cost_limit" in type(config).model_fields) == (name not in ("pg", "natural_pg", "trpo", "ppo"))
    if "cost_limit" in type(config).model_fields:
        assert (config.cost_limit, config.window) == (25.0, 50)
    second_order = name in ("natural_pg", "trpo", "trpo_lag", "rcpo", "cpo", "pcpo")
    assert (config.update.passes, config.update.minibatch) == ((10, 128) if second_order else (40, 64))
