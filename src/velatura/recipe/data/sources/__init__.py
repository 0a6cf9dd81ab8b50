"""The kinds of `[[data]]` tables, one file each."""
