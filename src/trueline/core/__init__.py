"""What every floor stands on: configs, names, runs, checkpoints, streams, metrics and the store."""
