"""The virtual environment of the tests as a machine image: Python and the libraries of a host, without t5ray itself."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def make_image(folder: Path, env: Path) -> Path:
    """Copy this virtual environment to where hosts are made from; they have no way to a package registry.

    Args:
        env: where the hosts will see it.
    """
    image = folder / "image"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(image)], check=True, capture_output=True)
    here, there = Path(sysconfig.get_paths()["purelib"]), next((image / "lib").glob("python*/site-packages"))
    there.rmdir()
    copy_tree(here, there)
    for path in there.glob("*t5ray*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for script in Path(sys.executable).parent.iterdir():
        if script.is_file() and not script.is_symlink() and script.name != "t5ray":
            text = script.read_bytes().replace(str(Path(sys.prefix)).encode(), str(env).encode())
            text = re.sub(rb"\A#!\S*/python\S*", f"#!{env}/bin/python".encode(), text)  # whatever a link was called
            (image / "bin" / script.name).write_bytes(text)
            (image / "bin" / script.name).chmod(0o755)
    return image


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, which cost no space; by bytes where it lies on another file system."""
    if subprocess.run(["cp", "-al", str(source), str(target)], capture_output=True).returncode:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)
