"""The exact state of a run: written, kept, found again, gone on from."""
