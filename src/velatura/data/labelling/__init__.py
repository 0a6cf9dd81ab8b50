"""Captions and masks that a model makes, written beside the pictures."""
