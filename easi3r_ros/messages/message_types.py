"""The message classes that results are made of: ROS's own where ROS is, else stand-ins that rosbags can write.

The one place that decides. Everything that builds messages takes the classes from here, so it runs in both homes.
"""

from __future__ import annotations

try:
    from builtin_interfaces.msg import Time
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
    from geometry_msgs.msg import (
        Point,
        Pose,
        PoseStamped,
        PoseWithCovarianceStamped,
        Quaternion,
        TransformStamped,
        Vector3,
    )
    from nav_msgs.msg import Odometry, Path
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
    from std_msgs.msg import ColorRGBA, Header
    from tf2_msgs.msg import TFMessage
    from visualization_msgs.msg import Marker, MarkerArray

    from easi3r_ros.msg import DynamicObject, DynamicObjects, WindowStatus

    WITH_ROS = True
except ImportError:
    from easi3r_ros.messages.stand_ins import message_class

    Time = message_class("builtin_interfaces/msg/Time")
    DiagnosticStatus = message_class("diagnostic_msgs/msg/DiagnosticStatus")
    KeyValue = message_class("diagnostic_msgs/msg/KeyValue")
    Point = message_class("geometry_msgs/msg/Point")
    Pose = message_class("geometry_msgs/msg/Pose")
    PoseStamped = message_class("geometry_msgs/msg/PoseStamped")
    PoseWithCovarianceStamped = message_class("geometry_msgs/msg/PoseWithCovarianceStamped")
    Quaternion = message_class("geometry_msgs/msg/Quaternion")
    TransformStamped = message_class("geometry_msgs/msg/TransformStamped")
    Vector3 = message_class("geometry_msgs/msg/Vector3")
    Odometry = message_class("nav_msgs/msg/Odometry")
    Path = message_class("nav_msgs/msg/Path")
    CameraInfo = message_class("sensor_msgs/msg/CameraInfo")
    CompressedImage = message_class("sensor_msgs/msg/CompressedImage")
    Image = message_class("sensor_msgs/msg/Image")
    PointCloud2 = message_class("sensor_msgs/msg/PointCloud2")
    PointField = message_class("sensor_msgs/msg/PointField")
    ColorRGBA = message_class("std_msgs/msg/ColorRGBA")
    Header = message_class("std_msgs/msg/Header")
    TFMessage = message_class("tf2_msgs/msg/TFMessage")
    Marker = message_class("visualization_msgs/msg/Marker")
    MarkerArray = message_class("visualization_msgs/msg/MarkerArray")
    DynamicObject = message_class("easi3r_ros/msg/DynamicObject")
    DynamicObjects = message_class("easi3r_ros/msg/DynamicObjects")
    WindowStatus = message_class("easi3r_ros/msg/WindowStatus")
    WITH_ROS = False
