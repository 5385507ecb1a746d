"""Groups of images: what is nearly the same, and what belongs together. Their shapes, addresses and lists.

Tables name the members of a group. A group is shown if its representative, the *kept* one, and another member are in
the collection still. `in_process` builds groups here; `groups_by_spark` makes the same rows of tables of any size.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from image_similarity.stages.gallery import compare, members
from image_similarity.stages.gallery.in_memory import Image, paged
from image_similarity.stages.gallery.members import MEMBER
from image_similarity.stages.gallery.pages import Grouped
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES

FOLDERS = {NEAR_DUPLICATES: "near-duplicates", ALIKE: "together"}
"""kind -> the folder of its pages. Groups of identical files have none: they are on the pages of images."""
TEMPLATES = {NEAR_DUPLICATES: "near_duplicates.html", ALIKE: "together.html"}
"""kind -> the template of its lists."""
GROUP_TEMPLATES = {NEAR_DUPLICATES: "near_group.html", ALIKE: "together_group.html"}
"""kind -> the template of the page of a group."""

PER_PAGE = {NEAR_DUPLICATES: 20, ALIKE: 48}
"""kind -> groups on a page of a list."""
SHOWN = 8
"""Members of a group in a list, beside the kept one. The page of the group has all."""
FACES = 3
"""Pictures of a kind of groups on the front page."""

GROUP = ["group_id", "kind", "level", "path", "size", "label", "weakest_link", "parent"]
GROUP += ["others_pixels", "others_bytes", "members"]
"""What pages show of a group. ``path``: its page, of identical files the list of exact duplicates; ``parent``: the page
of the coarser group that contains it, or None; ``others_pixels``, ``others_bytes``: the most that one beside the kept
one has, None unless all are known; ``members``: the kept one, and in lists `SHOWN` others."""

COLUMNS = ["group_id", "kind", "level", "image_id", "representative", "distance_to_representative", "position"]
SUMMARY = ["group_id", "kind", "label", "weakest_link"]

Group = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """A list of groups of one kind and level: the same groups may be in several."""

    kind: str
    level: int
    name: str
    """What the names of its pages begin with."""
    by: str
    """``size``: the largest first; ``weakest_link``: the surest first. Then by the kept one."""

    def path(self, number: int | str) -> str:
        return f"{FOLDERS[self.kind]}/{self.name}{number}.html"


def orders(shown: Grouped) -> list[Order]:
    """The lists that the groups ``shown`` make."""
    near = [Order(NEAR_DUPLICATES, 0, "", "size"), Order(NEAR_DUPLICATES, 0, "surest-", "weakest_link")]
    alike = [Order(ALIKE, level, f"level{level}-", "size") for level in range(len(shown.levels))]
    return [*(near if shown.near else ()), *alike]


def first_lists(shown: Grouped) -> dict[str, Order]:
    """kind -> its first list, of the finest level."""
    return {order.kind: order for order in reversed(orders(shown)) if order.level == 0}


def counted(shown: Grouped, order: Order) -> int:
    """The number of groups in a list."""
    return shown.near if order.kind == NEAR_DUPLICATES else shown.levels[order.level][0]


def grouped(tab: int, sizes: Mapping[tuple[str, int], tuple[int, int]]) -> Grouped:
    """What the pages say of all groups. ``sizes``: kind and level -> groups, and images in them."""
    near = sizes.get((NEAR_DUPLICATES, 0), (0, 0))
    levels = sorted(level for kind, level in sizes if kind == ALIKE)
    return Grouped(tab, *near, tuple(sizes.get((ALIKE, level), (0, 0)) for level in range(max(levels, default=-1) + 1)))


def shown_levels(sizes: Mapping[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], int]:
    """Kind and level in the tables -> level on the pages. ``sizes``: as for `grouped`.

    A level is not shown if it has as many groups and images as the one before: levels nest, so the groups are the same.
    """
    shown = {key: key[1] for key in sizes if key[0] != ALIKE}
    before = None
    for key in sorted(key for key in sizes if key[0] == ALIKE):
        if sizes[key] != before:
            shown[key] = sum(kind == ALIKE for kind, _ in shown)
        before = sizes[key]
    return shown


def group_path(kind: str, group_id: str, number: int = 1) -> str:
    """The page of a group."""
    return f"{FOLDERS[kind]}/{group_id}-{number}.html" if kind in FOLDERS else "duplicates/1.html"


# -- on the page of an image -------------------------------------------------------------------------------------------


def of_image(row: Mapping[str, Any]) -> dict[str, Group]:
    """kind -> the group of an image as its page shows it: ``cards``, the kept one first, without the image's own;
    ``is_kept``: whether that is the kept one; ``repeats``: whether it shows what nearly the same ones show. ``row``:
    with ``image_id`` and ``groups``.
    """
    shown = {}
    for group in row.get("groups") or ():
        own = [member["image_id"] == row["image_id"] for member in group["members"]]
        cards = [member for member, is_own in zip(group["members"], own) if not is_own][:SHOWN]
        shown[group["kind"]] = {**group, "cards": cards, "is_kept": own[0], "repeats": False}
    if NEAR_DUPLICATES in shown and ALIKE in shown:
        shown[ALIKE]["repeats"] = _seen(shown[ALIKE]) == _seen(shown[NEAR_DUPLICATES])
    return shown


def _seen(group: Group) -> tuple[int, set[str]]:
    return group["size"], {card["image_id"] for card in group["cards"]}


# -- in this process ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupTables:
    """The groups by one tab, in memory."""

    tab: int
    rows: pa.Table
    """`COLUMNS`."""
    summary: pa.Table
    """`SUMMARY`."""


@dataclass(frozen=True)
class Groups:
    """The groups that are shown, with all members."""

    all: Sequence[Group]
    """`GROUP`, ``others`` (all members but the kept one), and ``ordinal`` (of that)."""
    shown: Grouped
    gone: int
    """Rows of the table that no page shows."""
    by_image: Mapping[str, list[Group]]
    """image_id -> its groups of the finest level, by kind."""

    def list_pages(self) -> Iterator[tuple[str, Row]]:
        """Template and row of each page of each list."""
        for order in orders(self.shown):
            for page in paged(self.of(order), PER_PAGE[order.kind]):
                items = [{name: group[name] for name in GROUP} for group in page.items]
                about = {"path": order.path(page.number), "level": order.level, "by": order.by}
                yield TEMPLATES[order.kind], {**about, **page.row(items)}

    def group_pages(self, per_page: int) -> Iterator[tuple[str, Row]]:
        """Template and row of each page of each group."""
        for group in self.all:
            if group["kind"] not in FOLDERS:
                continue
            about = {**{name: group[name] for name in GROUP}, "members": group["members"][:1]}
            for page in paged(group["others"], per_page):
                path = group_path(group["kind"], group["group_id"], page.number)
                yield GROUP_TEMPLATES[group["kind"]], {"path": path, "group": about, **page.row(page.items)}

    def pairs(self) -> list[Row]:
        """The rows of the pages that compare two images, see `compare.pairs`."""
        near = [group for group in self.all if group["kind"] == NEAR_DUPLICATES]
        whole = ({**group, "members": [*group["members"][:1], *group["others"]]} for group in near)
        return [pair for group in whole for pair in compare.pairs(group)]

    def of(self, order: Order) -> list[Group]:
        groups = [group for group in self.all if (group["kind"], group["level"]) == (order.kind, order.level)]
        return sorted(groups, key=lambda group: (_place(group, order.by), group["ordinal"]))


def _place(group: Group, by: str) -> float:
    if by == "size":
        return -int(group["size"])
    return math.inf if group["weakest_link"] is None else group["weakest_link"]


NO_GROUPS = Groups((), Grouped(), 0, {})


def built(tables: GroupTables | None, images: Mapping[str, Image]) -> Groups:
    """The groups of ``images``, which have pictures' facts."""
    if tables is None:
        return NO_GROUPS
    about = {row["group_id"]: row for row in tables.summary.to_pylist()}
    rows_of: dict[str, list[Row]] = {}
    for row in tables.rows.to_pylist():
        if row["image_id"] in images:
            rows_of.setdefault(row["group_id"], []).append(row)
    groups = [group for of in rows_of.values() if (group := _built(of, about.get(of[0]["group_id"], {}), images))]
    gone = len(tables.rows) - sum(group["size"] for group in groups)
    level_of = shown_levels(_sizes(groups))
    groups = [
        {**group, "level": level_of[kind_and_level]}
        for group in groups
        if (kind_and_level := (group["kind"], group["level"])) in level_of
    ]
    groups_of: dict[tuple[str, str, int], Group] = {
        (member["image_id"], group["kind"], group["level"]): group
        for group in groups
        for member in (group["members"][0], *group["others"])
    }
    for group in groups:
        parent = groups_of.get((group["members"][0]["image_id"], group["kind"], group["level"] + 1))
        group["parent"] = parent and parent["path"]
    by_image: dict[str, list[Group]] = {}
    for kind in (IDENTICAL, NEAR_DUPLICATES, ALIKE):
        for (image_id, of_kind, level), group in groups_of.items():
            if (of_kind, level) == (kind, 0):
                by_image.setdefault(image_id, []).append({name: group[name] for name in GROUP})
    return Groups(groups, grouped(tables.tab, _sizes(groups)), gone, by_image)


def _sizes(groups: Iterable[Group]) -> dict[tuple[str, int], tuple[int, int]]:
    """Kind and level -> groups, and images in them."""
    sizes: dict[tuple[str, int], tuple[int, int]] = {}
    for group in groups:
        count, size = sizes.get((group["kind"], group["level"]), (0, 0))
        sizes[group["kind"], group["level"]] = count + 1, size + group["size"]
    return sizes


def _built(rows: list[Row], about: Mapping[str, Any], images: Mapping[str, Image]) -> Group | None:
    """A group of ``rows`` of the table, whose images are shown; None if it is not shown."""
    rows.sort(key=lambda row: (row["position"], images[row["image_id"]]["ordinal"]))
    kept = [row for row in rows if row["representative"]]
    if not kept or len(rows) < 2:
        return None
    shown = [_member(row, images) for row in rows]
    others = [member for row, member in zip(rows, shown) if not row["representative"]]
    return {
        "group_id": rows[0]["group_id"],
        "kind": rows[0]["kind"],
        "level": rows[0]["level"],
        "path": group_path(rows[0]["kind"], rows[0]["group_id"]),
        "size": len(rows),
        "label": about.get("label"),
        "weakest_link": about.get("weakest_link"),
        "parent": None,
        "others_pixels": _most([members.pixels(member) for member in others]),
        "others_bytes": _most([member["size_bytes"] for member in others]),
        "members": [{**_member(kept[0], images), "distance": None}, *others[:SHOWN]],
        "others": others,
        "ordinal": images[kept[0]["image_id"]]["ordinal"],
    }


def _most(values: Sequence[int | None]) -> int | None:
    """The largest of ``values``; None if one is not known."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _member(row: Row, images: Mapping[str, Image]) -> Row:
    image = images[row["image_id"]]
    return {**{name: image[name] for name in MEMBER}, "distance": row["distance_to_representative"]}


def faces(groups: Iterable[Group], kind: str) -> list[Row]:
    """Up to `FACES` cards for the front page, of the first groups of a list: of nearly the same images those of the
    first group, otherwise the kept one of each.
    """
    first = list(groups)[:FACES]
    cards = first[0]["members"] if kind == NEAR_DUPLICATES else [group["members"][0] for group in first]
    return [card for card in cards if card["width"]][:FACES]
