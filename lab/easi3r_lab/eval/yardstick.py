"""What the paper reports (Easi3R, arXiv 2503.24391v2), to be printed beside ours.

Its figures are of whole sequences known at once, thinned to about 40 frames (every 30th of TUM, 10th of DyCheck, 5th
of ADT; Table 3), or of short clips in the protocols of MonST3R and CUT3R (Tables 8 and 9). Ours are online, causal, of
every frame that is given. Metres where lengths are.
"""

from __future__ import annotations

NOTE = "online and causal here; there whole sequences at once, thinned or cut to clips (docs/accuracy.md)"
MASKS = {  # JM, JR without SAM 2; Table 1
    "davis16": {"Easi3R dust3r": (53.1, 60.4), "Easi3R monst3r": (57.7, 71.6)},
    "davis17": {"Easi3R dust3r": (49.0, 56.4), "Easi3R monst3r": (56.5, 68.6)},
    "davis-all": {"Easi3R dust3r": (44.5, 49.6), "Easi3R monst3r": (53.0, 63.4)},
}
CAMERA_COLUMNS = ("ATE", "RTE", "RRE deg")
CAMERA = {
    "tum-rgbd": {  # Table 3
        "DUSt3R": (0.100, 0.087, 2.692),
        "MonST3R + flow": (0.170, 0.155, 6.455),
        "CUT3R": (0.079, 0.088, 10.41),
        "Easi3R dust3r + flow": (0.070, 0.061, 2.361),
        "Easi3R monst3r + flow": (0.168, 0.150, 5.925),
    },
    "adt": {
        "DUSt3R": (0.042, 0.025, 1.212),
        "MonST3R + flow": (0.055, 0.025, 0.776),
        "CUT3R": (0.084, 0.025, 0.490),
        "Easi3R dust3r + flow": (0.042, 0.015, 0.655),
        "Easi3R monst3r + flow": (0.039, 0.016, 0.640),
    },
    "dycheck": {
        "DUSt3R": (0.035, 0.030, 2.323),
        "MonST3R + flow": (0.033, 0.024, 1.501),
        "CUT3R": (0.029, 0.020, 1.383),
        "Easi3R dust3r + flow": (0.021, 0.014, 1.092),
        "Easi3R monst3r + flow": (0.030, 0.021, 1.390),
    },
    "sintel": {  # Table 9
        "DUSt3R": (0.417, 0.250, 5.796),
        "MonST3R": (0.111, 0.044, 0.869),
        "CUT3R": (0.213, 0.066, 0.621),
        "Easi3R dust3r": (0.402, 0.098, 0.876),
        "Easi3R monst3r": (0.110, 0.042, 0.758),
    },
}
DEPTH_COLUMNS = ("AbsRel", "d<1.25 %", "AbsRel s+t", "d<1.25 s+t %")
# Table 8: one scale per sequence, then scale and shift. Its KITTI is of the depth benchmark, not of odometry.
DEPTH = {
    "sintel": {
        "DUSt3R": (0.656, 45.2, 0.531, 51.2),
        "MonST3R": (0.378, 55.8, 0.333, 59.0),
        "CUT3R": (0.421, 47.9, 0.454, 55.7),
        "Easi3R dust3r": (0.577, 51.9, 0.435, 59.1),
        "Easi3R monst3r": (0.377, 55.9, 0.316, 59.3),
    },
    "bonn": {
        "DUSt3R": (0.155, 83.3, 0.156, 83.1),
        "MonST3R": (0.067, 96.3, 0.066, 96.4),
        "CUT3R": (0.078, 93.7, 0.074, 94.5),
        "Easi3R dust3r": (0.086, 90.3, 0.085, 91.1),
        "Easi3R monst3r": (0.059, 97.0, 0.057, 97.2),
    },
    "kitti-odometry": {
        "DUSt3R": (0.144, 81.3, 0.135, 81.8),
        "MonST3R": (0.168, 74.4, 0.157, 73.8),
        "CUT3R": (0.118, 88.1, 0.106, 88.7),
        "Easi3R dust3r": (0.170, 74.2, 0.155, 76.1),
        "Easi3R monst3r": (0.102, 91.2, 0.092, 90.6),
    },
}
CLOUD_COLUMNS = ("accuracy", "median", "completeness", "median")
CLOUD = {  # Table 5
    "dycheck": {
        "DUSt3R": (0.802, 0.595, 1.950, 0.815),
        "MonST3R + flow": (0.851, 0.689, 1.734, 0.958),
        "CUT3R": (0.458, 0.342, 1.633, 0.792),
        "Easi3R dust3r + flow": (0.703, 0.589, 1.474, 0.586),
        "Easi3R monst3r + flow": (0.834, 0.643, 1.661, 0.916),
    },
}


def yardsticks(data: str) -> list[tuple[tuple[str, ...], dict[str, tuple[float | None, ...]]]]:
    """(columns, {method: values}) of every table of the paper that has this data set."""
    tables = ((("JM", "JR"), MASKS), (CAMERA_COLUMNS, CAMERA), (DEPTH_COLUMNS, DEPTH), (CLOUD_COLUMNS, CLOUD))
    return [(columns, table[data]) for columns, table in tables if data in table]
