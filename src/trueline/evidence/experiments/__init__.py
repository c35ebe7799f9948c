"""Statements about sets of training runs: aggregates over seeds, return against cost, one page of both."""
