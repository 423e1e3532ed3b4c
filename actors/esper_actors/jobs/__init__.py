"""Jobs on a Ray cluster: package, submission and log of a job."""
