"""Pure control: observation alignment, timeline, arbiter, safety gate, kinematics. No I/O, no clock."""
