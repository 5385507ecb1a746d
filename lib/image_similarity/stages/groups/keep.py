"""Which image of a group is kept, by a rule, and what becomes of the others."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import WrongInput, did_you_mean
from image_similarity.warehouse.schemas import IDENTICAL, NEAR_DUPLICATES

LARGEST, FIRST, BEST = "largest", "first", "best"
RULES = {
    LARGEST: "the most pixels, then the most bytes, then the first by image_id",
    FIRST: "the first by image_id",
}
"""Rule -> which image of a group it keeps."""

_SIZES = ("width", "height", "size_bytes")


def check(rule: str) -> None:
    """Raises ``WrongInput`` for a ``rule`` that is none of `RULES`."""
    if rule in RULES:
        return
    rules = "; ".join(f"{name} ({meaning})" for name, meaning in RULES.items())
    if rule == BEST:
        raise WrongInput(f"--keep {rule}: groups do not use the sharpness of images yet; the rules are: {rules}")
    raise WrongInput(f"--keep {rule}: no such rule{did_you_mean(rule, RULES)}; the rules are: {rules}")


def order(rule: str, images: pa.Table) -> np.ndarray:
    """The row numbers of ``images``, (n,) int64, in the order in which ``rule`` would keep them.

    ``images``: image_id (string, each once), width, height (pixels), size_bytes (bytes). What is null counts as 0, so
    such images come last. Names are ordered by their bytes of UTF-8. Raises ``WrongInput`` as `check` does.
    """
    check(rule)
    keys, columns = [("image_id", "ascending")], {"image_id": images["image_id"]}
    if rule == LARGEST:
        keys = [("pixels", "descending"), ("bytes", "descending"), *keys]
        width, height, size = (pc.fill_null(images[name].cast(pa.int64()), 0) for name in _SIZES)
        columns |= {"pixels": pc.multiply(width, height), "bytes": size}
    rows: np.ndarray = pc.sort_indices(pa.table(columns), sort_keys=keys).to_numpy()
    return rows.astype(np.int64)


def representatives(rule: str, groups: np.ndarray, images: pa.Table) -> np.ndarray:
    """The row number of the image that ``rule`` keeps of each group, int64.

    ``groups``: (n,), the number of each row's group, from 0; -1 for a row in no group. ``images``: n rows, as `order`
    takes them. A number that no row has gives -1; without any group the result is empty. The rows' order makes no
    difference to which images are kept. Raises ``WrongInput`` as `check` does.
    """
    ordered = order(rule, images)[::-1]
    ordered = ordered[groups[ordered] >= 0]
    kept = np.full(int(groups.max(initial=-1)) + 1, -1, np.int64)
    kept[groups[ordered]] = ordered  # of several values for one place numpy keeps the last
    return kept


# -- what becomes of images --------------------------------------------------------------------------------------------

FATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("kept", pa.int64()),
        ("distance", pa.float32()),
        ("kind", pa.string()),
        ("group_id", pa.string()),
        ("position", pa.int64()),
    ]
)


def fates(groups: pa.Table) -> pa.Table:
    """What becomes of each image in ``groups`` (rows of the table, of one fingerprint and metric): rows of `FATES`.

    An identical group is a part of the near-duplicates' group that has any of its images, so each image has one kept
    one: that of its own group of near-duplicates, else that of the group which has a copy of it, else that of its
    identical group. ``kept``: the row number of the kept one; of the kept one its own. ``kind``: how it is related to
    the kept one; null for the kept one. ``distance``: to the kept one. ``position``: its place in the group, from 0;
    copies follow one another. Groups of other kinds are not looked at. Empty for no groups. Raises ``ValueError`` for a
    group that has not one representative.
    """
    groups = groups.filter(pc.is_in(groups["kind"], value_set=pa.array([NEAR_DUPLICATES, IDENTICAL])))
    ids = pc.unique(groups["image_id"].combine_chunks())
    near, copies = (_Members.of(groups, kind, ids) for kind in (NEAR_DUPLICATES, IDENTICAL))
    like = _nearest_copy(near, copies)
    in_near = near.group[like] >= 0
    kept = np.where(in_near, near.kept(near.group[like]), copies.kept(copies.group))
    is_copy = (copies.group >= 0) & (copies.group == copies.group[kept])
    distance = np.where(in_near, near.distance[like], copies.distance)
    kind = pc.if_else(pa.array(is_copy), IDENTICAL, NEAR_DUPLICATES)
    group_ids = pa.concat_arrays([near.ids, copies.ids])
    group = np.where(in_near, near.group[like], len(near.ids) + copies.group)
    # The kept one comes first, whatever its position in a table is.
    place = np.lexsort((copies.position, near.position[like], kept != np.arange(len(ids)), group))
    starts = np.searchsorted(group[place], group[place])
    position = np.empty(len(ids), np.int64)
    position[place] = np.arange(len(ids)) - starts
    kind = pc.if_else(pa.array(kept == np.arange(len(ids))), pa.scalar(None, pa.string()), kind)
    columns = [ids, kept, pa.array(distance, from_pandas=True), kind, group_ids.take(pa.array(group)), position]
    return pa.table(columns, schema=FATES)


@dataclass(frozen=True)
class _Members:
    """The groups of one kind. Arrays have a place for each image; -1 (distances: NaN) where it is in no group."""

    ids: pa.Array
    """The ids of the groups, by their numbers."""
    group: np.ndarray
    position: np.ndarray
    distance: np.ndarray
    representative: np.ndarray
    """group -> the number of its image."""

    @classmethod
    def of(cls, groups: pa.Table, kind: str, images: pa.Array) -> "_Members":
        rows = groups.filter(pc.equal(groups["kind"], kind))
        image = pc.index_in(rows["image_id"], value_set=images).to_numpy()
        ids = pc.unique(rows["group_id"]).sort()
        number = pc.index_in(rows["group_id"], value_set=ids).to_numpy()
        group, position = np.full(len(images), -1, np.int64), np.full(len(images), -1, np.int64)
        distance = np.full(len(images), np.nan, np.float32)
        group[image], position[image] = number, rows["position"].to_numpy()
        distance[image] = rows["distance_to_representative"].to_numpy()
        is_kept = rows["representative"].to_numpy()
        if (wrong := np.flatnonzero(np.bincount(number[is_kept], minlength=len(ids)) != 1)).size:
            raise ValueError(f"the group {ids[int(wrong[0])]} ({kind}) has not one representative")
        representative = np.full(len(ids), -1, np.int64)
        representative[number[is_kept]] = image[is_kept]
        return cls(ids, group, position, distance, representative)

    def kept(self, group: np.ndarray) -> np.ndarray:
        """The representatives of the groups with these numbers; -1 for a number of -1."""
        kept: np.ndarray = np.append(self.representative, -1)[group]
        return kept


def _nearest_copy(near: _Members, copies: _Members) -> np.ndarray:
    """For each image itself, or the image with the same content that is in a group of near-duplicates, if it is not.

    Of several the first of its group.
    """
    like = np.arange(len(near.group))
    both = np.flatnonzero((near.group >= 0) & (copies.group >= 0))
    both = both[np.lexsort((near.position[both], near.group[both]))][::-1]
    of_group = np.full(len(copies.ids) + 1, -1, np.int64)  # the last place is that of -1: in no identical group
    of_group[copies.group[both]] = both
    stands_in = of_group[copies.group]
    return np.where((near.group < 0) & (stands_in >= 0), stands_in, like)
