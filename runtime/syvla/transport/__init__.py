"""The msgpack codec and the ZeroMQ bus."""
