"""The measures, one subject a file."""
