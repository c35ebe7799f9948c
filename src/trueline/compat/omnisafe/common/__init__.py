"""Tools around training: grids of experiments, and the log that environments write to."""
