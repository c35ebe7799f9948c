"""The table of constrained algorithms, family by family: a row is an update, a handler, and named settings."""
