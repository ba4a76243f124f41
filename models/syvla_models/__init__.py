"""The SyVLA policy in torch: planner, expert, action spaces, checkpoints, training. Torch is imported nowhere else."""
