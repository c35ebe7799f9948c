"""Barrier certificates learnt beside the policy they are for, so that training itself breaks no limit."""
