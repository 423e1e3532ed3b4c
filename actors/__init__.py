"""The Ray shells of environment and learner, and the controller that runs the rounds."""
