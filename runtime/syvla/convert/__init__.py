"""Recordings to and from the formats of others: LeRobotDataset v3, ALOHA HDF5, ROS 2 bags."""
