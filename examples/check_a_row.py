"""The handler of own_handler.py, run through the public checker: does its row reach the exact optimum?

python examples/check_a_row.py
"""

from own_handler import ROW

from trueline.rl.exact.gap import measure_gap

if __name__ == "__main__":
    gap = measure_gap(ROW, instances=["Gamble", "Tolls", "Garnet4"])
    print(gap.table())
    raise SystemExit(not gap.passed)
