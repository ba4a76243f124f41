"""The stages: each a pure step that any host can run."""
