"""A bundle that comes over HTTP, into a file without a name."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from edge_mer.gateway.errors import ApiError

MEDIA_TYPES = ("application/x-tar", "application/octet-stream")
_SPARE_BYTES = 256 << 20
"""Left free on the disk, for everything else that writes there."""


class Uploads:
    """Takes one bundle at a time.

    Args:
        folder: On whose disk bundles lie until they are taken over; they have no name there, and are gone
            with the process.
        max_bytes: Of one bundle.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = asyncio.Lock()

    async def take(self, pieces: AsyncIterator[bytes], announced_bytes: int | None) -> IO[bytes]:
        """The whole body as an open file, rewound; the caller closes it.

        Args:
            pieces: Of the body.
            announced_bytes: What its length is said to be.

        Raises:
            ApiError: Another one is coming, there is no room, or the body is empty.
        """
        if self._lock.locked():
            raise ApiError(409, "another bundle is being brought", hint="wait until it is there")
        async with self._lock:
            self._make_sure_of_room(announced_bytes or 0)
            try:
                # without a name, by O_TMPFILE; whoever gets it closes it
                file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            except OSError as error:
                raise self._unusable(error) from error
            try:
                await self._fill(file, pieces)
            except BaseException:
                file.close()
                raise
            return file

    async def _fill(self, file: IO[bytes], pieces: AsyncIterator[bytes]) -> None:
        n_bytes = 0
        async for piece in pieces:
            n_bytes += len(piece)
            try:
                await asyncio.to_thread(file.write, piece)
            except OSError as error:
                raise ApiError(507, "the bundle cannot be kept", found=error.strerror) from error
            if n_bytes % _SPARE_BYTES < len(piece):
                self._make_sure_of_room(0)
        if n_bytes == 0:
            raise ApiError(422, "the request has no body", expected="a bundle's .tar")
        await asyncio.to_thread(file.flush)
        os.lseek(file.fileno(), 0, os.SEEK_SET)

    def _make_sure_of_room(self, n_bytes: int) -> None:
        try:
            free_bytes = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise self._unusable(error) from error
        if free_bytes < n_bytes + _SPARE_BYTES:
            raise ApiError(
                507,
                "there is no room for the bundle",
                expected=f"{n_bytes + _SPARE_BYTES} bytes free",
                found=f"{free_bytes} bytes",
                headers={"connection": "close"},
            )

    def _unusable(self, error: OSError) -> ApiError:
        return ApiError(
            507,
            f"no bundle can be kept in {self._folder}",
            found=error.strerror,
            hint="set TMPDIR to a folder that can be written to",
        )
