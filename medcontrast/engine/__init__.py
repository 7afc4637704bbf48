"""Training: the loop, validation, and the run folder."""
