"""The ROS package. Its distribution is not called syvla: that is the runtime's, which it must not hide."""

from setuptools import setup

NAME = "syvla"
NODES = ("cameras", "director", "expert", "planner", "recorder", "robot", "teleop", "twin")
TOOLS = ("bag", "bench", "record")

setup(
    name="syvla_ros",
    version="0.1.0",
    packages=["syvla_ros"],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["../../../launch/bringup.launch.py"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="The SyVLA authors",
    maintainer_email="syvla@users.noreply.github.com",
    description="SyVLA's stages as ROS 2 nodes with standard messages, and their launch",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"{name} = syvla_ros.main:{name}" for name in (*NODES, *TOOLS)]},
)
