"""What turns a person's hands into velocities of both arms: jogging by differential kinematics, and leader arms."""
