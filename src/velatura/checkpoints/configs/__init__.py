"""Configs of published models, so that their weights files load without the hub."""
