"""An image as its archive has it: configuration, layers, and the files that are left when they lie on each other."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self


@dataclass(frozen=True)
class File:
    """A file or a folder of an image."""

    mode: int
    folder: bool
    start: bytes
    """The first bytes: enough for the header of bytecode."""


@dataclass(frozen=True)
class Image:
    """An image with one architecture."""

    config: dict[str, Any]
    packed: list[int]
    """Bytes of each layer as they are sent, the base's first."""
    files: dict[str, File]

    @classmethod
    def of(cls, archive: Path) -> Self:
        """Reads an OCI archive."""
        with tarfile.open(archive) as outer:

            def blob(descriptor: dict[str, Any]) -> bytes:
                return _content(outer, f"blobs/{descriptor['digest'].replace(':', '/')}")

            (entry,) = json.loads(_content(outer, "index.json"))["manifests"]
            manifest = json.loads(blob(entry))
            files = _merged(manifest["layers"], blob)
            packed = [layer["size"] for layer in manifest["layers"]]
            return cls(json.loads(blob(manifest["config"]))["config"], packed, files)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def _merged(layers: list[dict[str, Any]], blob: Callable[[dict[str, Any]], bytes]) -> dict[str, File]:
    files: dict[str, File] = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(blob(layer))) as inner:
            for member in inner:
                path = PurePosixPath("/", member.name)
                if path.name.startswith(".wh."):
                    _remove(files, path)
                else:
                    content = inner.extractfile(member) if member.isreg() else None
                    start = content.read(8) if content else b""
                    files[str(path)] = File(member.mode, member.isdir(), start)
    return files


def _remove(files: dict[str, File], whiteout: PurePosixPath) -> None:
    """A whiteout hides one path; an opaque one, all that is in its folder."""
    hidden = whiteout.parent if whiteout.name == ".wh..wh..opq" else whiteout.with_name(whiteout.name[4:])
    gone = [path for path in files if path == str(hidden) or path.startswith(f"{hidden}/")]
    for path in gone:
        del files[path]
