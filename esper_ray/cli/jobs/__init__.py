"""What the commands run: training, evaluation, sweeps, comparisons."""
