"""Limits kept by an extra state that a policy observes: budgets, early ends, limits other than expectations."""
