"""Growth in several processes: averaged gradients, and equal structures."""
