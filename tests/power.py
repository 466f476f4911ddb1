"""
A disk whose power can be cut: what was never fsynced is gone.

An ext4 image on a loop device that writes back rarely. The image file, as it is at
some moment, is what a machine without power would find. Needs root and loop devices.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.programs import find
from tests.servers import temporary_directory

_IMAGE_BYTES = 96 << 20
#: Longer than any test: nothing reaches the disk but by fsync.
_WRITE_BACK = "loop,noatime,commit=3000"


class Disk:
    """A mounted file system below *directory*; `folder` is where to write."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._image = directory / "disk.img"
        self.folder = directory / "disk"

    def make(self) -> None:
        with self._image.open("wb") as image:
            image.truncate(_IMAGE_BYTES)
        mkfs = find("mkfs.ext4")
        if mkfs is None:
            pytest.skip("no mkfs.ext4 on this machine")
        subprocess.run([mkfs, "-q", str(self._image)], check=True)

    def mount(self) -> None:
        self.folder.mkdir(exist_ok=True)
        argv = [find("mount") or "mount", "-o", _WRITE_BACK, str(self._image), str(self.folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk whose power can be cut needs loop devices: {done.stderr.strip()}")

    def unmount(self) -> None:
        if os.path.ismount(self.folder):
            subprocess.run([find("umount") or "umount", str(self.folder)], check=True)

    def lost_power(self) -> Disk:
        """The disk as it would be found now; nobody may write meanwhile."""
        found = Disk(self._directory / "after")
        found._directory.mkdir()
        shutil.copyfile(self._image, found._image)
        return found


@contextmanager
def mounted(disk: Disk) -> Iterator[Disk]:
    try:
        disk.mount()
        yield disk
    finally:
        disk.unmount()


@contextmanager
def disk_without_battery(root: Path | None = None) -> Iterator[Disk]:
    """A new disk, inside the chroot *root* if given; skips the test where none can be had."""
    if os.geteuid() != 0:
        pytest.skip("a disk whose power can be cut needs root")
    with temporary_directory(root) as directory:
        disk = Disk(directory)
        disk.make()
        with mounted(disk):
            yield disk
