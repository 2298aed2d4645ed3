"""Which frames of a video are looked at: ``seg_num`` segments of ``seglen`` consecutive frames."""

from __future__ import annotations

import random


def segment_starts(
    num_frames: int,
    seg_num: int,
    seglen: int,
    rng: random.Random | None = None,
    centre_one_frame: bool = True,
) -> list[int]:
    """First frame of each segment.

    The video is cut into ``seg_num`` equal parts. With ``rng`` the start is random within its part,
    else central: for one frame, ``(part - 1) // 2`` (mp4 in 2019), or for the whole segment,
    ``(part - seglen) // 2`` (pkl in 2019, ``centre_one_frame=False``). They differ for seglen > 1 and
    published weights were scored with them. A part shorter than ``seglen`` is taken from its first
    frame. A video shorter than ``seg_num`` starts at 0, 1, 2, …
    """
    part = num_frames // seg_num
    starts = []
    for i in range(seg_num):
        offset = 0
        if part < 1:
            starts.append(i)
            continue
        if part >= seglen:
            if rng is not None:
                offset = rng.randint(0, part - seglen)
            else:
                offset = (part - 1) // 2 if centre_one_frame else (part - seglen) // 2
        starts.append(i * part + offset)
    return starts


def frame_indices(starts: list[int], seglen: int, num_frames: int) -> list[int]:
    """Frames of all segments, segment by segment; past the end the video begins again."""
    return [(start + i) % num_frames for start in starts for i in range(seglen)]
