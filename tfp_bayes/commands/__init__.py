"""Commands of the command line that have their own modules."""
