"""Looking around costs nothing: neither torch nor MuJoCo is imported before something needs it."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "mujoco", "scipy", "matplotlib", "gymnasium", "sqlalchemy", "numba", "sklearn"}


def loaded(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def command(*argv: str) -> str:
    call = f"from trueline.cli import main\ntry: main({list(argv)!r})\n"
    return call + "except SystemExit as end: assert not end.code, end.code"


@pytest.mark.parametrize(
    "code",
    [
        "import trueline",
        "import trueline; trueline.__version__; dir(trueline)",
        command("--help"),
        command("train", "--help"),
    ],
    ids=["import", "version", "help", "train help"],
)
def test_nothing_heavy_is_loaded(code):
    assert not loaded(code) & HEAVY


@pytest.mark.parametrize("kind", ["recipes", "audits", "envs"])
def test_listing_loads_no_framework(kind):
    assert not loaded(command("list", kind)) & {"torch", "mujoco", "scipy", "matplotlib", "gymnasium"}


def test_help_takes_less_than_half_a_second_of_cpu():
    code = "import resource\nuse = resource.getrusage(resource.RUSAGE_SELF)\nprint(use.ru_utime + use.ru_stime)"
    script = f"{command('--help')}\n{code}"
    # The least of three: other load on the machine can only add to it.
    times = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        times.append(float(run.stdout.splitlines()[-1]))
    assert min(times) < 0.5
