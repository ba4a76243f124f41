"""The MuJoCo twin: world, cameras, tasks, and the reference policy."""
