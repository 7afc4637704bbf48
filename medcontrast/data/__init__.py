"""Manifests, volumes ready for training, samplers, the phantom."""
