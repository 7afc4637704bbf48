"""A trained generator: its counterfactuals, and how good they are."""
