"""Losses: tensors in, one scalar out, one file a loss; none of them knows about training."""
