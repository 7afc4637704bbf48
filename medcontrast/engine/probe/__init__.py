"""Probes of a pre-trained encoder: neighbours, linear probe, fine-tuning."""
