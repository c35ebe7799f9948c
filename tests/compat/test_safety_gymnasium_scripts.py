"""Scripts written for Safety-Gymnasium run unchanged, in processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, cwd=ROOT):
    """A Python process that does not train on more cores than one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def run_script(*arguments, cwd=ROOT):
    return run("-m", "trueline.compat.safety_gymnasium", *arguments, cwd=cwd)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_training_script_in_safepos_manner_runs_unchanged(num_envs):
    steps = 510 * num_envs  # one episode of each environment, and the start of the next
    done = run_script(
        "examples/safepo_style_loop.py",
        "--task=SafetyPointCircle1-v0",
        f"--num-envs={num_envs}",
        f"--total-steps={steps}",
        f"--steps-per-epoch={steps}",
        "--passes=1",
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"epoch 0 return (\S+) cost (\S+) length 500 multiplier (\S+)\n", done.stdout)
    assert found, done.stdout
    reward, cost, multiplier = map(float, found.groups())
    assert -10 < reward < 10  # an untrained policy hardly gets round
    assert 0 <= cost <= 500
    assert multiplier == pytest.approx(0.001 + (0.035 if cost > 25 else -0.001), abs=1e-6)  # Adam's first step


SCRIPT = """
import sys
import safety_gymnasium
import safety_gymnasium.vector.utils.tile_images
from safety_gymnasium.builder import Builder
from safety_gymnasium.tasks.safe_multi_agent.safe_mujoco_multi import SafeMAEnv
from safety_gymnasium.tasks.safe_navigation.goal.goal_configs import goal_level0
from safety_gymnasium.utils.registration import make, register, safe_registry
from safety_gymnasium.vector.async_vector_env import SafetyAsyncVectorEnv
from safety_gymnasium.vector.sync_vector_env import SafetySyncVectorEnv
from safety_gymnasium.wrappers.autoreset import SafeAutoResetWrapper
from safety_gymnasium.wrappers.gymnasium_conversion import make_gymnasium_environment
from safety_gymnasium.wrappers.normalize import SafeNormalizeCost, SafeNormalizeObservation, SafeNormalizeReward
import gymnasium

class Mine(gymnasium.Wrapper):
    pass

env = Mine(safety_gymnasium.make("SafetyPointGoal0-v0"))
assert isinstance(env.unwrapped, Builder) and "SafetyPointGoal0-v0" in safe_registry
assert env.task.num_steps == 1000  # through a wrapper of the script's own
assert safety_gymnasium.vector.utils.tile_images.tile_images
assert SafeMAEnv is safety_gymnasium.make_ma
assert make("SafetyPointGoalBase-v0", config=goal_level0).task.goal.size == 0.3
try:
    import safety_gymnasium.tasks.safe_isaac_gym.envs
except ImportError as error:
    print(error)
import helper
print(__name__, sys.argv[1:], helper.NAME, safety_gymnasium.__version__)
sys.exit(5)
"""


def test_a_script_finds_the_originals_modules_its_arguments_and_its_neighbours(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "script.py").write_text(SCRIPT)
    (tmp_path / "inner" / "helper.py").write_text("NAME = 'neighbour'\n")
    done = run_script("inner/script.py", "--task", "x", cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    first, second = done.stdout.splitlines()
    assert "safety_gymnasium.tasks.safe_isaac_gym" in first
    assert second == "__main__ ['--task', 'x'] neighbour 1.0.0"


@pytest.mark.parametrize(("arguments", "says"), [((), "no script was given"), (("absent.py",), "no script absent.py")])
def test_without_a_script_one_sentence_says_what_to_write(arguments, says):
    done = run_script(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "script.py [arguments]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_importing_the_package_imports_no_torch_and_trueline_itself_stays_light():
    light = "import sys, trueline; assert not {'gymnasium', 'mujoco', 'torch', 'numpy'} & set(sys.modules)"
    face = "import trueline.compat.safety_gymnasium; assert not {'torch', 'mujoco', 'glfw'} & set(sys.modules)"
    done = run("-c", f"{light}\n{face}")
    assert done.returncode == 0, done.stderr
