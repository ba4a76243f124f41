"""What runs stages: one process each over the bus, or all in lockstep under a virtual clock."""
