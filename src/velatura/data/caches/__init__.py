"""Latents and text embeddings on disk: kept, filled, looked after."""
