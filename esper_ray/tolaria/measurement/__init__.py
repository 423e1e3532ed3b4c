"""What is measured of a network: the validation pass, coalitions of seeds, each seed, gradients."""
