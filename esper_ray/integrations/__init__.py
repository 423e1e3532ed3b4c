"""Growth in the trainers of other libraries, each of which is an extra."""
