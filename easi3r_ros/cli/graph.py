"""What `easi3r doctor` concludes from a survey of the ROS graph. Knows no rclpy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from easi3r_ros.cli.findings import FAIL, OK, WARN, Finding
from easi3r_ros.messages.images import intrinsics
from easi3r_ros.messages.plausible import tf_name

if TYPE_CHECKING:
    from easi3r_ros.ros.survey import SeenTopic, Survey

SEGMENT_BYTES = 512 * 1024  # of Fast DDS's shared memory, unless a profile says otherwise
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
SLOW_HZ = 5.0


def judge(survey: Survey, image: str = "") -> list[Finding]:
    """Findings about every image topic, its calibration and its frame. image: the topic that was asked for."""
    if not survey.topics:
        subject = f"'{image}'" if image else "any image topic"
        advice = "start the camera; if it runs, compare ROS_DOMAIN_ID and the discovery range with its shell"
        return [Finding("image topics", WARN, f"nobody publishes {subject}", advice)]
    found = [finding for seen in survey.topics for finding in _topic(seen, survey)]
    if survey.unheard:
        found.append(
            Finding("image topics", OK, f"not looked at: {', '.join(survey.unheard)}", "--image TOPIC looks at one")
        )
    return [*found, *_tree(survey)]


def _topic(seen: SeenTopic, survey: Survey) -> list[Finding]:
    raw = seen.type.endswith("/Image")
    base = seen.name.removesuffix("/compressed")
    start = f"image:={base}" if raw else f"image:={base} image_transport:=compressed"
    who = f"by {', '.join(seen.publishers)}, {'reliable' if seen.reliable else 'best effort'}"
    if seen.last is None:
        advice = "is the camera paused? Large raw images need Fast DDS's profile on both sides (docs/cameras.md)"
        return [Finding(seen.name, WARN, f"{who}: nothing came in {survey.seconds:g} s", advice)]
    rate = seen.received / survey.seconds
    shape = f"{seen.last.width} x {seen.last.height} {seen.last.encoding}" if raw else seen.last.format
    detail = f"{shape}, {rate:.1f} per second, frame '{seen.last.header.frame_id}', {who}"
    cramped = raw and len(seen.last.data) > SEGMENT_BYTES and not any(name in os.environ for name in PROFILES)
    if cramped and rate < SLOW_HZ:
        advice = (
            "these images do not fit into Fast DDS's shared memory: see 'Large images arrive slowly' in docs/cameras.md"
        )
        found = [Finding(seen.name, WARN, detail, advice)]
    elif not seen.last.header.frame_id:
        found = [Finding(seen.name, WARN, detail, "no frame_id, so no TF and no clouds in RViz: set it in the driver")]
    else:
        found = [Finding(seen.name, OK, detail, f"ros2 launch easi3r_ros camera.launch.py {start}")]
    return [*found, _calibration(seen, raw), *_frame(seen, survey)]


def _calibration(seen: SeenTopic, raw: bool) -> Finding:
    subject = "  camera_info"
    guessed = "calibrate the camera (camera_calibration): without it the focal length is guessed, and poses are worse"
    if seen.info is None:
        detail = "published, but nothing came" if seen.info_publishers else "nobody publishes it beside the images"
        return Finding(subject, WARN, detail, guessed)
    model = intrinsics(seen.info, "rect" in seen.name)
    if model.implausible:
        return Finding(subject, WARN, model.implausible, guessed)
    if model.K is None:
        return Finding(subject, WARN, "not calibrated: K is zero", guessed)
    if raw and model.size != (size := (seen.last.width, seen.last.height)):
        detail = "for {} x {}, the images are {} x {}".format(*model.size, *size)
        return Finding(subject, WARN, detail, "it is ignored: connect the camera_info of this image topic")
    if seen.info.header.frame_id != seen.last.header.frame_id:
        detail = f"has frame_id '{seen.info.header.frame_id}', the images '{seen.last.header.frame_id}'"
        return Finding(subject, WARN, detail, "make the driver give both the same")
    detail = "fx {:.1f}, fy {:.1f}, cx {:.1f}, cy {:.1f}".format(*model.K[[0, 1, 0, 1], [0, 1, 2, 2]])
    if model.distorted:
        advice = "the node takes the distortion out; a rectified topic (image_proc) saves it the work"
        return Finding(subject, OK, f"{detail}, with lens distortion", advice)
    return Finding(subject, OK, detail)


def _frame(seen: SeenTopic, survey: Survey) -> list[Finding]:
    """What tf_mode the frame of the images allows."""
    frame = tf_name(seen.last.header.frame_id)
    chain = survey.chains.get(frame, [frame])
    if not frame or any(len(survey.parents.get(name, ())) > 1 for name in chain):  # the latter is said of the tree
        return []
    return [
        Finding("  TF", OK, f"{' <- '.join(chain)}: {survey.modes[frame]}", "" if len(chain) == 1 else "docs/tf.md")
    ]


def _tree(survey: Survey) -> list[Finding]:
    return [
        Finding(
            "tf",
            FAIL,
            f"'{child}' has {len(parents)} parents: {', '.join(sorted(parents))}",
            "stop all broadcasters but one",
        )
        for child, parents in sorted(survey.parents.items())
        if len(parents) > 1
    ]
