"""Memory that goes back to the system is what nobody has written to, and comes back when it is used."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from sgcore.memory import file_areas, library_bases, release

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gives back nothing elsewhere")


def printed(code: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_what_the_start_freed_goes_back() -> None:
    (freed,) = printed(
        "import psutil\n"
        "from sgcore.memory import give_back\n"
        "pieces = [bytes(50_000) for _ in range(2000)]\n"
        "pieces = pieces[::10]\n"
        "before = psutil.Process().memory_info().rss\n"
        "give_back()\n"
        "print(before - psutil.Process().memory_info().rss)"
    )
    assert freed > 70_000_000


def test_libraries_go_back_to_the_page_cache_and_go_on_working() -> None:
    released, total, after = printed(
        "import psutil, torch\n"
        "from sgcore.memory import release_libraries\n"
        "rss = lambda: psutil.Process().memory_info().rss\n"
        "before = rss()\n"
        "release_libraries()\n"
        "released = before - rss()\n"
        "print(released, int((torch.ones(300, 300) @ torch.ones(300, 300)).sum()), before - rss())"
    )
    assert released > 40_000_000 and total == 300**3
    assert 0 < after < released


def test_written_pages_of_libraries_stay() -> None:
    """What the loader has put into them isn't in the file; of that, all is still there."""
    before, after = printed(
        "import re, numpy\n"
        "from pathlib import Path\n"
        "from sgcore.memory import release_libraries\n"
        "def written():\n"
        "    areas = Path('/proc/self/smaps').read_text()\n"
        "    return sum(map(int, re.findall(r' /.*\\.so\\S*\\n(?:[A-Z].*\\n)*?Anonymous: +(\\d+)', areas)))\n"
        "written()\n"
        "before = written()\n"
        "release_libraries()\n"
        "print(before, written())"
    )
    assert 0 < before <= after


def test_the_loaders_list_has_the_libraries_and_no_other_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(mmap.PAGESIZE))
    with other.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        bases = set(library_bases())
        listed = {area.path for area in file_areas() if area.begin in bases}
        assert str(other) in {area.path for area in file_areas()} - listed
    assert any("libc.so" in path or "libc-" in path for path in listed)


def test_a_file_that_was_read_is_unmapped_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(b"x" * 8 * mmap.PAGESIZE)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        place = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        mapped[0:1] = b"y"
        (area,) = (area for area in file_areas() if area.path == str(file))
        assert (area.begin, area.end) == (place, place + len(mapped)) and area.is_writable and area.is_written
        release(area.begin, area.end)
        (area,) = (area for area in file_areas() if area.path == str(file))
        assert not area.is_written and mapped[:] == b"x" * len(mapped)
