# Everything runs in a virtual environment of its own; `make demo` and `make test` build it when it is missing.
PYTHON ?= python3.11
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed

BENCHMARKS = startup update_step goal_throughput worlds_throughput planar_throughput ppo_lag_end_to_end \
	off_policy_step second_order_step seeds_together peak_memory sampler_throughput supervised_step online_step
LANGUAGE   = safe-rlhf elasticity tree-rm seq2seq-rm
CONTROL    = omnisafe safepo
MEASURED   = cycle_success optimum_gaps planner_gaps offline_gaps certificate_gaps family_tables

.PHONY: demo test lint types bench claims parity clean

# What the originals do, written down anew, our tests against it, and every interface: results/parity.json.
# PEER_HEAD names a check-out of the original's repository; without it, what only that has stays as it is.
parity: $(STAMP)
	$(BIN)/python benchmarks/parity.py

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
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

# Some twenty hours of CPU time in all, in chunks that are kept: what was stopped goes on, what is done stays.
claims: $(STAMP) $(LANGUAGE:%=runs/claims/%.laptop) $(CONTROL:%=runs/claims/%.published)
	for name in $(MEASURED); do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python docs/make_claims_page.py --take runs/claims

runs/claims/%: $(STAMP)
	$(BIN)/trueline reproduce $(basename $*) --scale $(subst .,,$(suffix $*)) --root runs/claims --executor processes --workers 2
	touch $@

# torch comes first and pinned: a range lets pip choose a build with several gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs
