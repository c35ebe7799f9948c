"""What an audit says of itself as soon as it is through."""

from __future__ import annotations

import pytest

from trueline.cycle.auditing import _tell
from trueline.evidence.audit import Budget, run_audits
from trueline.evidence.records import Case, Metric, NotMeasurable, Outcome, Principle, Requirement


class Coin:
    """An audit of anything; one that cannot be made says why."""

    name, principle, needs, axis = "ethicality/coin", Principle.ETHICALITY, object, None

    def __init__(self, required, gap=""):
        need = Requirement(bound="at_most", threshold=0.9) if required else None
        self.metrics, self.gap = (Metric("heads", "rate", requirement=need), Metric("edge", "rate")), gap

    def cases(self, subject, split, round, n, rng):
        if self.gap:
            raise NotMeasurable(self.gap)
        return [Case(str(k), str(k)) for k in rng.integers(2**62, size=n)]

    def measure(self, subject, cases, rng):
        return [Outcome({"heads": 0.0, "edge": 0.0}) for _ in cases]


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        (Coin(required=True), "pass"),
        (Coin(required=False), "measured"),
        (Coin(required=False, gap="there is no coin."), "not measured"),
        (Coin(required=True, gap="there is no coin."), "not measured"),
    ],
)
def test_what_was_not_measured_is_not_told_as_measured(audit, said, capsys):
    run_audits([audit], object(), seed=0, budget=Budget(initial=60, batch=1, maximum=60), progress=_tell)
    assert capsys.readouterr().err == f"ethicality/coin: {said}\n"
