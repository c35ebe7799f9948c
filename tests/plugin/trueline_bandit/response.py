"""rl's own response, told in which words this recipe speaks of its limit."""

from trueline.rl.responses import Constrain


class LimitHarm(Constrain):
    evidence: str = "ethicality/harm:*"
    recipe: str = "bandit-lag"
    preset: str | None = None
