"""The reference networks, one family a file."""
