"""Claims about constrained reinforcement learning, with the trainings that test them."""
