"""MCAP recordings: writing, reading, and the report made from one."""
