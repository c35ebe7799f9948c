"""Oracles of the worlds of text, as functions that score replies."""

from __future__ import annotations

import numpy as np
import pytest

from trueline.core import registry
from trueline.language.rollout import Reply
from trueline.language.texts import draw_prompts, text_world
from trueline.language.texts.data import TEXTS


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_the_oracle_of_each_world_scores_as_the_world_judges(name):
    rng = np.random.default_rng(0)
    world, oracle = text_world(name), registry.load("scorer", name)()
    prompts = draw_prompts(world, 40, rng)
    texts = [world.reply(prompt, rng) for prompt in prompts]
    found = oracle(prompts, [Reply(text, len(text.split()), True) for text in texts])
    verdicts = [world.judge(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    assert [one.reward for one in found] == [verdict.reward for verdict in verdicts]
    assert len({one.reward for one in found}) > 1
    least, most = world.reward_bounds
    assert all(least <= one.reward <= most for one in found)
    assert world.judge(prompts[0], world.best(prompts[0])).reward <= most
    assert world.judge(prompts[0], world.worst(prompts[0])).reward >= least
    if oracle.costs:
        assert oracle.costs == ("harm",)
        assert [one.cost["harm"] for one in found] == [verdict.cost for verdict in verdicts]
        assert {verdict.cost for verdict in verdicts} == {0.0, 1.0}
    else:
        assert {verdict.cost for verdict in verdicts} == {0.0}


def test_the_settings_of_the_world_are_the_oracle_s_options():
    prompt = "a b c d"
    with pytest.raises(Exception, match="symbolz"):
        registry.load("scorer", "cipher-reply")(symbolz=3)
    assert registry.load("scorer", "cipher-reply")(symbols=9).world.symbols == 9
    assert registry.load("scorer", "safety-dialogue")()([prompt], [Reply("yes", 1, True)]) == [None]
