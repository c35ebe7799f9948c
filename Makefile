# Everything runs in a virtual environment of its own; `make demo` and `make test` build it when it is missing.
PYTHON ?= python3.11
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

.PHONY: demo test lint types bench claims parity clean

# What the original does, as golden values for the tests.
parity:
	$$PEER_PYTHON benchmarks/parity_goal.py tests/safety/golden/goal.json
	$$PEER_PYTHON benchmarks/parity_bodies.py tests/safety/golden/bodies.json
	$$PEER_PYTHON benchmarks/parity_velocity.py tests/safety/golden/velocity.json
	$$PEER_PYTHON benchmarks/parity_tasks.py tests/safety/golden/tasks.json
	MUJOCO_GL=egl $$PEER_PYTHON benchmarks/parity_sight.py tests/safety/golden/sight.json
	folder=$$(mktemp -d) && $$PEER_PYTHON benchmarks/parity_models.py describe $$folder && \
	$(BIN)/python benchmarks/parity_models.py run $$folder tests/safety/golden/models.json

demo: $(STAMP)
	$(BIN)/trueline cycle examples/point_goal.toml

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs

types: $(STAMP)
	$(BIN)/mypy

# PEER_PYTHON names the interpreter that has the peers; the head of benchmarks/_peers.py says how to make one.
bench: $(STAMP)
	for name in startup update_step goal_throughput worlds_throughput planar_throughput ppo_lag_end_to_end; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# Hours of CPU time in all, in chunks that are kept: a stopped run goes on where it was.
claims: $(STAMP)
	$(BIN)/python benchmarks/cycle_success.py

# torch comes first and pinned: a range lets pip choose a build with several gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs
