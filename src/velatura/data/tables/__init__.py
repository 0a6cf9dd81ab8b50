"""Tables as rows of cells, one file per format."""
