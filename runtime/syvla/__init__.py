"""The SyVLA real-robot runtime."""
