"""What grids of experiments call."""
