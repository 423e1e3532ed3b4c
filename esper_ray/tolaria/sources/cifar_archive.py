"""Reader of the official CIFAR-10 archive or its unpacked folder, through torchvision.

Its batches are pickles. A file is unpickled only if its MD5 sum equals torchvision's.
"""

import shutil
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from esper_ray.tolaria.data.images import LabelledArrays

ARCHIVE = "cifar-10-python.tar.gz"
UNPACKED = "cifar-10-batches-py"
MOST_BYTES = 1 << 28
"""Maximum size of a file that is read; the archive has 163 MiB."""


def find_archive(folder: Path) -> Mapping[str, Path]:
    """The unpacked batches in ``folder`` or ``folder`` itself, else the archive, else ``None``."""
    unpacked = _unpacked(folder)
    if unpacked is not None:
        files = {path.name: path for path in sorted(unpacked.iterdir()) if path.name in _sums() and path.is_file()}
    else:
        files = {"archive": folder / ARCHIVE} if (folder / ARCHIVE).is_file() else {}
    for path in files.values():
        size = path.stat().st_size
        if size > MOST_BYTES:  # before it is hashed
            raise ValueError(f"{path} is not the official file: it has {size} bytes, at most {MOST_BYTES} are read")
    return files


def read_archive(folder: Path, splits: Sequence[str]) -> dict[str, LabelledArrays]:
    """(N, 3, 32, 32) images and (N,) labels of ``train``, ``test`` or both.

    They are in the order of the batches.

    The archive is unpacked into a temporary folder.

    Raises:
        ValueError: if the archive or a batch is missing, broken or not the official one.
    """
    unpacked = _unpacked(folder)
    with _extracted(folder / ARCHIVE) if unpacked is None else nullcontext(unpacked.parent) as root:
        for name, md5 in _sums().items():
            _check_sum(root / UNPACKED / name, md5)
        return {split: _read_batches(root, split) for split in splits}


def _read_batches(root: Path, split: str) -> LabelledArrays:
    from torchvision.datasets import CIFAR10

    with warnings.catch_warnings():
        # pickles as old as these describe their arrays in a way that NumPy 2.4 warns about
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        data = CIFAR10(str(root), train=split == "train", download=False)
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.asarray(data.targets, dtype=np.int64)


def _unpacked(folder: Path) -> Path | None:
    inside = folder / UNPACKED
    if inside.is_dir():
        return inside
    return folder if folder.name == UNPACKED and folder.is_dir() else None


def _sums() -> dict[str, str]:
    """MD5 sums of the official batches, by file name."""
    from torchvision.datasets import CIFAR10

    meta: dict[str, str] = CIFAR10.meta
    return dict((*CIFAR10.train_list, *CIFAR10.test_list)) | {meta["filename"]: meta["md5"]}


def _check_sum(path: Path, md5: str) -> None:
    from torchvision.datasets.utils import calculate_md5

    if not path.is_file():
        raise ValueError(f"{path} is missing; {UNPACKED} holds {', '.join(_sums())}")
    actual = calculate_md5(str(path))
    if actual != md5:
        raise ValueError(f"{path} is not the official file: its MD5 sum is {actual}, must be {md5}; download it again")


@contextmanager
def _extracted(archive: Path) -> Iterator[Path]:
    """Context of a temporary folder with the verified batches of ``archive``."""
    from torchvision.datasets import CIFAR10

    _check_sum(archive, CIFAR10.tgz_md5)
    with tempfile.TemporaryDirectory(prefix="esper-ray-") as root:
        folder = Path(root) / UNPACKED
        folder.mkdir()
        try:
            with tarfile.open(archive) as tar:
                for name in _sums():
                    member: Any = tar.extractfile(f"{UNPACKED}/{name}")
                    with member, (folder / name).open("wb") as file:
                        shutil.copyfileobj(member, file)
        except (tarfile.TarError, EOFError, OSError, zlib.error, KeyError, TypeError) as error:
            raise ValueError(f"{archive} cannot be unpacked: {error}") from error
        yield Path(root)
