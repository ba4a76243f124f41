"""What is made from a recording when the robot is still again: figures, a plot, a film. Pure readers of MCAP."""
