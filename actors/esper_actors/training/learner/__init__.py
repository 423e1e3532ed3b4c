"""The PPO learner: batches, gradients, updates and its state."""
