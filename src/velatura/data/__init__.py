"""Sources to items to buckets to batches: what training sees, checked before it starts."""
