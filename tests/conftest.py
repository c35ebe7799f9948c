"""The command line as a fixture: called in this process, with its exit code and what it printed."""

import os

# Before torch is imported: more threads would only wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings

from trueline.cli import main

# No test is about time: on a busy machine, or with an import in its first example, a property holds as well.
settings.register_profile("trueline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("trueline")


@dataclass(frozen=True)
class Said:
    """What one call of the command line came to."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.out.strip().splitlines()[-1]


@pytest.fixture
def trueline(capfd):
    """`trueline("train", "ppo", …)` -> Said."""

    def call(*argv: object) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in argv])
        return Said(end.value.code, *capfd.readouterr())

    return call
