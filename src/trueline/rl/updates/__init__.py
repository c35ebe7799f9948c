"""Steps of a policy on collected experience: first-order objectives and second-order steps."""
