"""The Piper's CAN protocol: identifiers, units and limits, as the vendor's SDK documents them."""

import math

BITRATE = 1_000_000  # bit/s

EMERGENCY_STOP = 0x150
MODE = 0x151
JOINTS_12, JOINTS_34, JOINTS_56 = 0x155, 0x156, 0x157
GRIPPER = 0x159
MOTOR_ENABLE = 0x471
LIMIT_QUERY, LIMIT_REPLY, ACCELERATION_REPLY = 0x472, 0x473, 0x47C
JOINT_CONFIG, CONFIG_REPLY = 0x475, 0x476
PARAMETER_QUERY = 0x477
END_SPEED_REPLY, CRASH_LEVEL_REPLY, GRIPPER_RANGE_REPLY = 0x478, 0x47B, 0x47E
FIRMWARE = 0x4AF

STATUS_FEEDBACK = 0x2A1
POSE_FEEDBACK = (0x2A2, 0x2A3, 0x2A4)
JOINT_FEEDBACK = (0x2A5, 0x2A6, 0x2A7)
GRIPPER_FEEDBACK = 0x2A8
MOTOR_FAST_FEEDBACK = (0x251, 0x252, 0x253, 0x254, 0x255, 0x256)  # speed, current, position
MOTOR_SLOW_FEEDBACK = (0x261, 0x262, 0x263, 0x264, 0x265, 0x266)  # voltage, temperatures, driver status

CONTROL_CAN = 0x01
MOVE_J = 0x01
ALL_MOTORS = 7

RAD_PER_UNIT = math.pi / 180_000  # a joint's unit is 0.001 deg
M_PER_UNIT = 1e-6  # a length's unit is 0.001 mm
JOINT_MIN = (-150_000, 0, -170_000, -100_000, -70_000, -120_000)
JOINT_MAX = (150_000, 180_000, 0, 100_000, 70_000, 120_000)
GRIPPER_MAX = 70_000
NM_PER_AMPERE = (1.18125, 1.18125, 1.18125, 0.95844, 0.95844, 0.95844)

# Bits of a motor driver's status byte; bit 6 set means enabled.
DRIVER_FAULTS = (
    (0x01, "voltage_too_low"),
    (0x02, "motor_overheating"),
    (0x04, "driver_overcurrent"),
    (0x08, "driver_overheating"),
    (0x10, "collision"),
    (0x20, "driver_error"),
    (0x80, "stalled"),
)
DRIVER_COLLISION = 0x10
DRIVER_ENABLED = 0x40
# Bits of the gripper's status byte; bit 6 set means enabled, bit 7 homed.
GRIPPER_FAULTS = (
    (0x01, "voltage_too_low"),
    (0x02, "motor_overheating"),
    (0x04, "driver_overcurrent"),
    (0x08, "driver_overheating"),
    (0x10, "sensor"),
    (0x20, "driver_error"),
)
GRIPPER_ENABLED, GRIPPER_HOMED = 0x40, 0x80
