"""Private helpers that several parts of the library share: seeds, batches, checks, files."""
