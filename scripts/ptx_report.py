"""The report of the software driver (SOFTGPU_REPORT), for the scripts that read it."""
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"


def source_line(file, line):
    """The text of a line of a kernel's source; the name may be that of a file in lib/."""
    path = next((path for path in [KERNELS / file, KERNELS / "lib" / file] if path.is_file()), None)
    lines = path.read_text().splitlines() if path else []
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def files(entry):
    """The names of a kernel's source files, in the order in which its instructions number them."""
    return [pathlib.PurePath(file).name for file in entry["files"]]
