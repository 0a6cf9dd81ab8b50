"""Readers: one file per kind of source, each turns a `[[data]]` table into records."""
