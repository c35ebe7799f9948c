import pytest
import staggered

from trueline.compat import safety_gymnasium


@pytest.fixture(scope="session")
def sg():
    """The package, which knows the worlds of staggered.py too."""
    staggered.register()
    safety_gymnasium.register_all()
    return safety_gymnasium
