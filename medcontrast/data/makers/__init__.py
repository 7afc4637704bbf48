"""Makers of data sets: the phantom, imports, and sets derived from other sets of images."""
