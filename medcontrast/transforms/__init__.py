"""Deterministic preparation of volumes, and the random views of a batch."""
