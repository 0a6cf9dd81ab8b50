"""What a run tells: events on disk, figures, pages."""
