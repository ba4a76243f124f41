"""Quality of service of each kind of topic, and why."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _newest(reliability: ReliabilityPolicy) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability, durability=DurabilityPolicy.VOLATILE
    )


# Images, arm states, Joy: the next sample is worth more than a lost one, and best effort reads any publisher. No DDS
# deadline: a sample's age is judged by its own stamp, which also sees a node that sends old data on time.
SENSOR = _newest(ReliabilityPolicy.BEST_EFFORT)

# Chunks, set-points, tasks: none may be lost silently, and none but the newest may wait. No liveliness: a lease of
# 100 ms told a killed publisher after 54 to 92 ms, and once a living one on a busy machine; the bus tells it at once.
COMMAND = _newest(ReliabilityPolicy.RELIABLE)

# The task in force: whoever comes later must know it too. Only our own node publishes it, so nobody is shut out.
KEPT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)

# Diagnostics and thoughts: for people.
STATUS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
