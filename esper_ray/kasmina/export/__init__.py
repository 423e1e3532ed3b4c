"""What leaves a growing network: checkpoints, a plain module, a text diagram."""
