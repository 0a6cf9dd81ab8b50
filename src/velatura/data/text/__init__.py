"""From captions as they are written to the texts of a step."""
