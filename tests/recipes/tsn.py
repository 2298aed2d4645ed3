"""TSN on eight moving squares."""

from __future__ import annotations

from pathlib import Path

from tests import synthetic


def tiny(folder: Path, **overrides: dict) -> Path:
    listed = synthetic.video_set(folder)
    odd = folder / "odd.list"  # 7 videos: two processes have shares of different size
    odd.write_text(
        "".join(listed.read_text(encoding="utf-8").splitlines(keepends=True)[:7]), encoding="utf-8"
    )
    sections: dict[str, dict] = {mode: {"filelist": str(odd)} for mode in ("VALID", "TEST", "INFER")}
    sections["MODEL"] = {"frozen_bn": True}
    for section, keys in overrides.items():
        sections.setdefault(section, {}).update(keys)
    return synthetic.tiny_tsn(folder, listed, **sections)
