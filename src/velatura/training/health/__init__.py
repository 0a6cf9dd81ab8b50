"""Numbers and memory that go wrong: seen, told of, got over."""
