"""Frozen linear layers in 8 and 4 bits."""
