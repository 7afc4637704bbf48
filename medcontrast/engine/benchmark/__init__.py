"""Grids of recipes: cells that train and are scored, their records, and the tables made of these."""
