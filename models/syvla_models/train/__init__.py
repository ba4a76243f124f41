"""The training that makes the policy."""
