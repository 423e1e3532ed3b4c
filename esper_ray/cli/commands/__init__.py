"""The commands of ``esper``: options in, a job or a report out."""
