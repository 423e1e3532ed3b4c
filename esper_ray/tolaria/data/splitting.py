"""Random split of images, in which equal images never get into different parts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def split_rows(groups: Rows, sizes: Sequence[int], seed: int) -> list[Rows]:
    """Random rows of each part, and of the rest as the last one.

    If every row is a group of its own, the parts are stretches of one permutation. Else they are made of whole groups,
    in the order of their first member in that permutation; a group too large for a part is left to the next one.

    Args:
        groups: (N,) number of the group of each row, as :func:`equal_images` gives it.
        sizes: number of rows in each part.

    Raises:
        ValueError: if groups do not add up to a part.
    """
    order = np.random.default_rng(np.random.SeedSequence([seed])).permutation(len(groups))
    members: dict[int, list[int]] = {}
    for row, group in zip(order.tolist(), groups[order].tolist(), strict=True):
        members.setdefault(group, []).append(row)
    if len(members) == len(groups):
        return np.split(order, np.cumsum(sizes))
    parts, left = [], list(members.values())
    for size in sizes:
        part, left = _whole_groups(left, size)
        parts.append(part)
    return [np.array(part, dtype=np.int64) for part in (*parts, [row for group in left for row in group])]


def equal_images(images: NDArray[np.uint8]) -> Rows:
    """(N,) first row with the same content as each row."""
    known: dict[bytes, int] = {}
    digests = (blake2b(image.tobytes(), digest_size=16).digest() for image in images)
    return np.array([known.setdefault(digest, row) for row, digest in enumerate(digests)], dtype=np.int64)


def _whole_groups(groups: Sequence[list[int]], size: int) -> tuple[list[int], list[list[int]]]:
    """``size`` rows of the first groups that add up to it, and the other groups.

    Raises:
        ValueError: if there are no such groups.
    """
    later = Counter(map(len, groups))
    if not _adds_up(later, size):
        raise ValueError(
            f"no groups of equal images, which stay in one split, add up to a split of {size} images: the smallest has "
            f"{min(later)}, the largest {max(later)}; remove the copies or choose another size"
        )
    part: list[int] = []
    others: list[list[int]] = []
    for group in groups:
        later[len(group)] -= 1
        left = size - len(part) - len(group)
        if left >= 0 and _adds_up(later, left):
            part += group
        else:
            others.append(group)
    return part, others


def _adds_up(counts: Mapping[int, int], size: int) -> bool:
    """Whether some of the groups with ``counts`` by size have ``size`` rows together."""
    if counts.get(1, 0) >= size:
        return True
    sums, mask = 1, (1 << size + 1) - 1  # bit n: some groups have n rows together
    for length, count in counts.items():
        left, step = count, 1
        while left > 0:  # 1, 2, 4, ... groups at once: every number of them is a sum of such
            sums |= sums << length * min(step, left) & mask
            left, step = left - step, 2 * step
    return bool(sums >> size & 1)
