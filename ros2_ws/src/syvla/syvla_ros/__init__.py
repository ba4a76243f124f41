"""SyVLA's stages as ROS 2 nodes. The ROS package is called ``syvla``; this module is not, so that it hides nothing."""
