"""From items to steps: sizes, buckets, epochs, batches, all a function of the seed."""
