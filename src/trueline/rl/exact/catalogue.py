"""Names of the exact CMDPs as worlds; no arrays are made to list them."""

from __future__ import annotations

from trueline.core.registry import Entry

DISCRETE, BOX, VERSION = "Cmdp", "CmdpBox", "-v0"
OWN, OWN_BOX = f"{DISCRETE}{VERSION}", f"{BOX}{VERSION}"

INSTANCES = {
    "Corridor": "a short hot way or a long cool one to a goal",
    "Gamble": "how much to stake, and how to pay a loss; mean, chance and tail of the cost disagree",
    "Tolls": "deterministic: places that pay and ask tolls",
    "Foundry": "deterministic: a furnace under limits on wear and noise",
    "Garnet1": "random: 5 states, 3 actions, 1 cost, 5 steps",
    "Garnet2": "random: 6 states, 4 actions, 1 cost, 6 steps",
    "Garnet3": "random: 4 states, 2 actions, 1 cost, 8 steps",
    "Garnet4": "random: 6 states, 3 actions, 2 costs, 6 steps",
    "Garnet5": "random: 8 states, 4 actions, 2 costs, 8 steps",
    "Garnet6": "random: 8 states, 4 actions, 3 costs, 7 steps",
}


def name_of(id: str) -> str:
    """The instance that an id of the suite is about."""
    return id.removesuffix(VERSION).partition("-")[2]


def _entry(id: str, summary: str) -> Entry:
    box = id.startswith(BOX)
    return Entry(
        kind="env",
        name=id,
        target="trueline.rl.exact.world:make",
        summary=f"{summary}; one continuous action" if box else summary,
        reference="Altman 1999, chapters 2 and 4" + ("; Archibald, McKinnon & Thomas 1995" if "Garnet" in id else ""),
        level="exact",
        test="tests/rl/test_exact_world.py::test_episodes_of_a_policy_have_its_exact_mean_return_and_cost",
        family="Exact CMDPs",
    )


ENTRIES: tuple[Entry, ...] = (
    *(_entry(f"{form}-{name}{VERSION}", summary) for form in (DISCRETE, BOX) for name, summary in INSTANCES.items()),
    _entry(OWN, "a process of the user's own, given by its tables"),
    _entry(OWN_BOX, "a process of the user's own, given by its tables"),
)
