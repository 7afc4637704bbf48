"""Manifests of images, the files behind them, and the batches of pre-training."""
