"""Build steps beyond pyproject.toml: a wheel contains the folders beside `dof_lightning` in a clone.

At the top of site-packages `conf`, `callbacks` and `data_modules` would overwrite, or be overwritten by, any other
project's folders of these names.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BESIDE = ("conf", "callbacks", "data_modules")
INSIDE = Path("dof_lightning", "_installed")


class BuildWithFoldersInside(build_py):
    """Moves the folders, and lets Python find them where it looks last."""

    def run(self) -> None:
        """Builds; an editable installation keeps the clone as it is."""
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib)
        shutil.rmtree(built / INSIDE, ignore_errors=True)  # of a build before
        (built / INSIDE).mkdir()
        for name in BESIDE:
            (built / name).rename(built / INSIDE / name)
        shutil.copy("train.py", built / INSIDE)  # `dof train`
        (built / "dof_lightning_folders.pth").write_text(f"{INSIDE.as_posix()}\n")


setup(cmdclass={"build_py": BuildWithFoldersInside})
