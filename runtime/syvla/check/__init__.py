"""The quality check of recorded episodes."""
