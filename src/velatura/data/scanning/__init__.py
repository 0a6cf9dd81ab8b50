"""From sources to items: every file looked at once, and remembered."""
