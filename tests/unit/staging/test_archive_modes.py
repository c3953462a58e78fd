"""Programs in an archive without Unix modes, as one from Windows is, become executable."""

import os
import shutil
import stat

import pytest

from agent.staging.archive import unpack_7z
from tests.support.basics import pack, with_checksums


@pytest.mark.parametrize("windows", [True, False])
def test_programs_and_scripts(tmp_path, windows):
    """With modes each keeps its own; data never becomes executable."""
    content, target = tmp_path / "content", tmp_path / "target"
    for directory in (content / "sub", target):
        directory.mkdir(parents=True)
    shutil.copy("/bin/true", content / "sub/program")
    (content / "script").write_text("#!/bin/sh\n")
    (content / "data").write_text("data\n")
    (content / "empty").touch()
    for path in content.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # Neither compressed nor encrypted: the header has the attributes as they are.
    archive = pack(content, tmp_path / "private.7z", "", "-mhc=off", "-mx0")
    if windows:
        data = archive.read_bytes()
        for mode, plain in ((stat.S_IFREG | 0o644, 0x20), (stat.S_IFDIR | 0o755, 0x10)):
            attributes = (mode << 16 | 0x8000 | plain).to_bytes(4, "little")
            assert attributes in data
            data = data.replace(attributes, plain.to_bytes(4, "little"))
        archive.write_bytes(with_checksums(data))
    unpack_7z(str(archive), str(target), "", set())
    executable = {path.name for path in target.rglob("*") if path.is_file() and os.access(path, 1)}
    assert executable == ({"program", "script"} if windows else set())
