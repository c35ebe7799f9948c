"""What a constraint handler does with an epoch of finished episodes: weights, slack or the bar of a barrier."""
