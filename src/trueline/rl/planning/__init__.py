"""Planning with a learnt model: an ensemble of networks, imagined trajectories, the cross-entropy method, its loop."""
