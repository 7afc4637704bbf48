"""Networks and their companions: segmentation networks, heads, the EMA teacher and the embedding queue."""
