"""What a person starts: the demo, evaluation, demonstrations, and the panel that shows a run."""
