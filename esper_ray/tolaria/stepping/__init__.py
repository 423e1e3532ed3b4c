"""Steps of training: learning rates, their schedules, and the runners of a step."""
