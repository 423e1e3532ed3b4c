"""Jobs of the commands: training, evaluation, sweeps, comparisons."""
