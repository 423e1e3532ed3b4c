"""The training engine without Ray: controller, worker groups, scheduler, checkpoints, PPO learner."""
