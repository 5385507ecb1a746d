"""SQL views and macros of the published tables, for DuckDB 1.4 and newer.

The text finds its warehouse: where it was written, or in the working directory, or where the reader says it is. A view
takes the views and macros of its own schema, and a variable that is its warehouse's alone, so several warehouses may be
read into several schemas of one database. A macro takes those of the schema that is in use: `_GUARD` refuses what would
be another warehouse.
"""

import hashlib
from collections.abc import Iterable, Mapping

import pyarrow as pa

from image_similarity.storage import uris
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT, DEFAULT_METRIC, FOLDER, default_first, default_of
from image_similarity.warehouse.schemas import ALIKE, DISSIMILAR, NEAR_DUPLICATES, RUNS, SCHEMAS, SIMILAR, VECTORS
from image_similarity.warehouse.snapshot import Pointer

_EXTENDED = (RUNS, VECTORS)
"""Tables that gained columns after their first version. The columns are null where older files lack them."""

_JSON = ("inputs", "outputs", "settings", "counts", "versions", "stages")
"""Columns of ``runs`` that hold JSON."""

_SEARCH = "search/"
"""The slots of failures that are of queries, and not of the collection: ``search/<queries>/<fingerprint>/<metric>``."""

_FIRST = "run find_neighbours first"
"""What is said where no neighbours are published."""

_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.bool_(): "BOOLEAN",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.binary(): "BLOB",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.list_(pa.float32()): "FLOAT[]",
    pa.list_(pa.int32()): "INTEGER[]",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.map_(pa.string(), pa.string()): "MAP(VARCHAR, VARCHAR)",
}

_FOLDER = """\
-- The tables as they are published now, for DuckDB 1.4 or newer: .read views.sql
-- If the warehouse was moved or copied, read this file in its folder, or say before where it is:
--     SET VARIABLE warehouse = 'FOLDER';
CREATE OR REPLACE MACRO warehouse_name() AS {folder};
CREATE OR REPLACE MACRO warehouse_folder() AS coalesce(getvariable('{place}'), warehouse_name());

-- The files of some runs. DuckDB takes every path for a pattern: special characters of the folder are escaped.
CREATE OR REPLACE MACRO files_below(folder, table_name, run_ids) AS [
    regexp_replace(folder, '([*?[])', '[\\1]', 'g') || '/' || table_name || '/run_id=' || run_id || '/*.parquet'
    FOR run_id IN run_ids
];
CREATE OR REPLACE MACRO warehouse_files(table_name, run_ids) AS files_below(warehouse_folder(), table_name, run_ids);
"""

# A run's folder is written once, and its name is nobody else's: wherever it lies, its rows are the right ones.
_CHECK = """\
CREATE OR REPLACE MACRO warehouse_said() AS coalesce(getvariable('warehouse'), warehouse_name());
SET VARIABLE {place} = CASE
    WHEN EXISTS (FROM glob(files_below(warehouse_said(), '{table}', [{run}]))) THEN getvariable('warehouse')
    WHEN getvariable('warehouse') IS NULL AND EXISTS (FROM glob(files_below('.', '{table}', [{run}]))) THEN '.'
    ELSE error('the runs of this file are not in ' || warehouse_said() || ': say where the warehouse is now, and '
        || 'read this file again: SET VARIABLE warehouse = ''FOLDER''')
END;
RESET VARIABLE warehouse;  -- the next file of views is another warehouse's
"""

_GUARD = """\
CREATE OR REPLACE MACRO of_warehouse(warehouse, argument) AS CASE
    WHEN argument IS NULL THEN error('a name is NULL: say which is meant')::VARCHAR
    WHEN warehouse = warehouse_name() THEN argument
    ELSE error('this is of the warehouse ' || warehouse || ', and the schema in use of ' || warehouse_name()
        || ': USE the other')
END;
"""

_EMBEDDINGS = """\
CREATE OR REPLACE VIEW embeddings AS
SELECT e.image_id, e.fingerprint, e.fingerprint_key, e.content_sha256, e.source_version,
       v.width, v.height, v.embedding, v.thumbprint
FROM ({snapshot}) AS e JOIN vectors AS v USING (content_sha256, fingerprint_key);
"""

# One read: each folder of files that is read for itself costs DuckDB a plan, and there may be thousands of searches.
_QUERY_FAILURES = """\
CREATE OR REPLACE VIEW query_failures AS
SELECT slot[1] AS queries, image_id AS query_id, uri AS query_uri, fingerprint, slot[-1] AS metric, reason, detail
FROM (
    SELECT *, string_split({slots}[regexp_extract(filename, 'run_id=([^/]+)/[^/]+$', 1)], '/') AS slot
    FROM ({files})
);
"""

_EXACT_DUPLICATES = """\
CREATE OR REPLACE VIEW exact_duplicates AS
SELECT content_sha256, image_id, count(*) OVER (PARTITION BY content_sha256) AS copies
FROM (SELECT DISTINCT content_sha256, image_id FROM ({snapshot}) AS e)
QUALIFY copies > 1
ORDER BY content_sha256, image_id;
"""

_FINGERPRINTS = """\
CREATE OR REPLACE VIEW fingerprints AS
SELECT f.fingerprint,
       CASE WHEN e.fingerprint IS NULL THEN 'external'  -- vectors of one's own
            ELSE coalesce(f.declared->>'kind', CASE WHEN f.declared->>'network' IS NOT NULL THEN 'network' END)
       END AS kind,
       f.declared->>'network' AS network, coalesce(f.declared->>'layer', f.settings->'description'->>'layer') AS layer,
       f.settings->>'weights' AS weights, (f.settings->>'trained')::BOOLEAN AS trained,
       coalesce(d.dimensions, (f.counts->>'dimensions')::BIGINT)::INTEGER AS dimensions,
       coalesce(e.images, (f.counts->>'images')::BIGINT) AS images,
       e.fingerprint_key, f.run_id, f.is_default, f.finished_at
FROM (
    SELECT *, settings->'fingerprint'->fingerprint AS declared FROM ({rows}) AS f LEFT JOIN runs AS r USING (run_id)
) AS f
LEFT JOIN (
    SELECT fingerprint, fingerprint_key, count(*) AS images FROM ({snapshot}) AS e GROUP BY ALL
) AS e USING (fingerprint)
LEFT JOIN ({dimensions}) AS d USING (fingerprint_key)
ORDER BY f.place;
"""

_IMAGES = """\
CREATE OR REPLACE MACRO attribute_of(attributes, attribute_name) AS list_extract(
    [entry.value FOR entry IN map_entries(attributes) IF lower(entry.key) = attribute_name AND entry.value <> ''], 1
);

CREATE OR REPLACE MACRO title_of(image_id, attributes) AS coalesce(
    attribute_of(attributes, 'title'), attribute_of(attributes, 'name'),
    nullif(regexp_extract(image_id, '([^/]+?)([.][^./]*)?$', 1), ''), image_id
);

-- Each image of the manifest once. Sizes, content and failures are those of the first of the fingerprints.
CREATE OR REPLACE VIEW images AS
SELECT m.image_id, title_of(m.image_id, m.attributes) AS title, e.width, e.height, m.size_bytes,
       CASE WHEN e.image_id IS NULL THEN f.reason END AS reason,
       CASE WHEN e.image_id IS NULL THEN f.detail END AS detail,
       e.content_sha256, m.modified_at, m.source_version, m.uri, m.attributes
FROM manifest AS m
LEFT JOIN (SELECT image_id, content_sha256, width, height FROM embeddings WHERE fingerprint = {first}) AS e
    USING (image_id)
LEFT JOIN (
    SELECT image_id, any_value(reason) AS reason, any_value(detail) AS detail
    FROM failures WHERE fingerprint = {first} GROUP BY image_id
) AS f USING (image_id);
"""

# The runs are parameters. So DuckDB, which opens the files of all that it defines, opens none for these macros: on an
# object store each costs a request. And a name that is not published is an error even where there are no rows.
_OF_ONE_SLOT = """\
-- FINGERPRINT/METRIC of what is published. Without a metric: the only one, else {default_metric}.
CREATE OR REPLACE MACRO slot_of(fingerprint_name, metric_name) AS CASE
    WHEN fingerprint_name || '/' || coalesce(metric_name, {metric}) IN {slots}
    THEN fingerprint_name || '/' || coalesce(metric_name, {metric})
    ELSE error('no neighbours by ' || fingerprint_name || coalesce('/' || metric_name, '') || ' are published, or by '
        || 'several metrics; published: ' || {listed})
END;

CREATE OR REPLACE MACRO neighbour_images(run_ids, relation_name) AS TABLE
{neighbours}
FROM read_parquet(warehouse_files('neighbours', run_ids), hive_partitioning = false) AS n
LEFT JOIN manifest AS i ON i.image_id = n.image_id
LEFT JOIN manifest AS o ON o.image_id = n.neighbour_id
WHERE n.relation = relation_name;

CREATE OR REPLACE MACRO grouped_images(run_ids, kind_name) AS TABLE
{groups}
FROM read_parquet(warehouse_files('groups', run_ids), hive_partitioning = false) AS g
LEFT JOIN manifest AS i USING (image_id)
WHERE g.kind = kind_name;

CREATE OR REPLACE MACRO isolated_images(run_ids, relation_name) AS TABLE
{isolation}
FROM (
    SELECT image_id, avg(distance::DOUBLE)::FLOAT AS mean_distance, count(*)::INTEGER AS neighbours,
           any_value(fingerprint) AS fingerprint, any_value(metric) AS metric
    FROM read_parquet(warehouse_files('neighbours', run_ids), hive_partitioning = false)
    WHERE relation = relation_name GROUP BY image_id
) AS n
LEFT JOIN manifest AS i USING (image_id);
"""

_NEIGHBOUR_COLUMNS = """\
SELECT n.image_id, n.neighbour_id, n.rank, n.distance, title_of(n.image_id, i.attributes) AS title,
       title_of(n.neighbour_id, o.attributes) AS neighbour_title, i.size_bytes, o.size_bytes AS neighbour_size_bytes,
       i.uri, o.uri AS neighbour_uri, i.attributes, o.attributes AS neighbour_attributes, n.fingerprint, n.metric"""

_GROUP_COLUMNS = """\
SELECT g.group_id, g.image_id, g.representative, g.distance_to_representative, g.level, g.position,
       title_of(g.image_id, i.attributes) AS title, i.size_bytes, i.uri, i.attributes, g.fingerprint, g.metric"""

_ISOLATION_COLUMNS = """\
SELECT n.image_id, n.mean_distance, percent_rank() OVER (ORDER BY n.mean_distance)::FLOAT AS percentile, n.neighbours,
       title_of(n.image_id, i.attributes) AS title, i.uri, i.attributes, n.fingerprint, n.metric"""

_NO_ROWS = {
    "neighbour_images": f"{_NEIGHBOUR_COLUMNS}\nFROM (FROM neighbours WHERE false) AS n, manifest AS i, manifest AS o",
    "grouped_images": f"{_GROUP_COLUMNS}\nFROM (FROM groups WHERE false) AS g, manifest AS i",
    "isolated_images": f"{_ISOLATION_COLUMNS}\nFROM (SELECT *, distance AS mean_distance, rank AS neighbours "
    "FROM neighbours WHERE false) AS n, manifest AS i",
}
"""macro -> the columns of its rows."""

_VIEW_OF_ONE_SLOT = """\
-- By the default fingerprint and metric. By others: FROM {view}('NAME'), FROM {view}('NAME', 'METRIC').
CREATE OR REPLACE VIEW {view} AS
{default};
CREATE OR REPLACE MACRO {view}(fingerprint_name, metric_name := NULL) AS TABLE
FROM {macro}(CASE slot_of(of_warehouse({name}, fingerprint_name), metric_name) {runs}ELSE error(
    'none are published by ' || slot_of(fingerprint_name, metric_name)) END, {value});
"""

_VIEWS_OF_ONE_SLOT = {
    "similar_images": ("neighbour_images", "neighbours", SIMILAR),
    "dissimilar_images": ("neighbour_images", "neighbours", DISSIMILAR),
    "near_duplicates": ("grouped_images", "groups", NEAR_DUPLICATES),
    "similar_groups": ("grouped_images", "groups", ALIKE),
    "isolation": ("isolated_images", "neighbours", SIMILAR),
}
"""view -> the macro that it calls, the table whose runs are read, and which rows: the relation, or the kind."""

_TAGGED = """\
-- The accepted tags of images, by one fingerprint. By another one: FROM tagged_images('NAME'). An image has tags only
-- while its content is the one that was tagged, see image_similarity.warehouse.current_tags.
CREATE OR REPLACE MACRO tags_of_images(run_ids) AS TABLE
{tagged}
FROM read_parquet(warehouse_files('tags', run_ids), hive_partitioning = false) AS t
SEMI JOIN ({snapshot}) AS e USING (image_id, fingerprint, content_sha256)
LEFT JOIN manifest AS i USING (image_id)
WHERE t.accepted;
CREATE OR REPLACE VIEW tagged_images AS
{default};
CREATE OR REPLACE MACRO tagged_images(fingerprint_name) AS TABLE
FROM tags_of_images(CASE of_warehouse({name}, fingerprint_name) {runs}ELSE error(
    'no tags by ' || fingerprint_name || ' are published; published: ' || {listed}) END);
"""

_TAGGED_COLUMNS = """\
SELECT t.image_id, t.rank, t.class AS tag, t.probability, t.wnid, title_of(t.image_id, i.attributes) AS title, i.uri,
       i.attributes, t.fingerprint"""

# The rule is that of `image_similarity.grouping.isolation.mislabelled`, which explains it.
_MISLABELLED = """\
-- Images by how much their neighbours speak for another value of an attribute than their own, the likeliest mistakes
-- first: FROM mislabelled('style'). By another fingerprint and metric: FROM mislabelled('style', 'NAME', 'METRIC').
-- Where no attribute is called so, 'folder' is the first folder of image_id. A neighbour without a label speaks for
-- none, and counts in the weight of all.
CREATE OR REPLACE MACRO mislabelled_images(run_ids, attribute_name) AS TABLE
WITH labelled AS (
    SELECT image_id, coalesce(nullif(attributes[attribute_name], ''), CASE WHEN attribute_name = '{folder}' THEN
           nullif(regexp_extract(image_id, '^([^/]+)/', 1), '') END) AS label
    FROM manifest WHERE label IS NOT NULL
),
judged AS (SELECT image_id, label FROM labelled QUALIFY count(*) OVER (PARTITION BY label) > 1),
lists AS (
    SELECT image_id, neighbour_id, fingerprint, metric, CASE WHEN mean > 0 THEN exp(-2 * pow(distance / mean, 2)) ELSE 1
           END AS weight
    FROM (
        SELECT *, avg(distance::DOUBLE) OVER (PARTITION BY image_id) AS mean
        FROM read_parquet(warehouse_files('neighbours', run_ids), hive_partitioning = false)
        WHERE relation = '{similar}'
    )
),
spoken AS (
    SELECT l.image_id, j.label, o.label AS said, sum(l.weight) AS weight, any_value(l.fingerprint) AS fingerprint,
           any_value(l.metric) AS metric
    FROM lists AS l JOIN judged AS j USING (image_id) LEFT JOIN labelled AS o ON o.image_id = l.neighbour_id
    GROUP BY ALL
),
totals AS (SELECT image_id, sum(weight) AS total FROM spoken GROUP BY image_id HAVING
           sum(weight) FILTER (said IS NOT NULL) > 0),
shares AS (SELECT *, round(weight / total, {digits}) AS share FROM spoken JOIN totals USING (image_id)),
answers AS (
    SELECT image_id, label, first(said ORDER BY share DESC, said) FILTER (said <> label) AS suggested_label,
           coalesce(max(share) FILTER (said = label), 0) AS own_share,
           coalesce(max(share) FILTER (said <> label), 0) AS other_share,
           any_value(fingerprint) AS fingerprint, any_value(metric) AS metric
    FROM shares GROUP BY ALL
)
SELECT a.image_id, a.label, a.suggested_label, (other_share - own_share)::FLOAT AS score,
       own_share::FLOAT AS own_share, title_of(a.image_id, i.attributes) AS title, i.uri, i.attributes, a.fingerprint,
       a.metric
FROM answers AS a JOIN manifest AS i USING (image_id)
UNION ALL BY NAME
SELECT NULL AS image_id WHERE CASE  -- never a row, but an error where nothing can be judged
    WHEN attribute_name IS NULL THEN error('the attribute is NULL: name one, FROM mislabelled(''ATTRIBUTE'')')
    WHEN EXISTS (FROM judged) THEN false
    WHEN EXISTS (FROM labelled) THEN error(
        'the attribute ' || attribute_name || ' is another one for every image: name one whose values repeat')
    ELSE error('no image has the attribute ' || attribute_name)
END
ORDER BY score DESC, image_id;
CREATE OR REPLACE MACRO mislabelled(attribute_name, fingerprint_name := NULL, metric_name := NULL) AS TABLE
FROM mislabelled_images(CASE slot_of(of_warehouse({name}, coalesce(fingerprint_name, {default})), metric_name)
    {runs}END, attribute_name);
"""

# No view: DuckDB opens a file of a view when it is defined. Retention may be removing it, and no view would be defined.
_HISTORY = """\
-- Neighbours of all published runs that are still there. Of some: FROM neighbours_history('r202611*').
CREATE OR REPLACE MACRO neighbours_history(run_ids := '*') AS TABLE
SELECT n.* EXCLUDE (filename), r.run_id, r.label, r.finished_at, r.run_id IN {current} AS is_current
FROM read_parquet(
    warehouse_files('neighbours', [of_warehouse({name}, run_ids)]), hive_partitioning = false, filename = true
) AS n
JOIN runs AS r ON r.run_id = regexp_extract(n.filename, 'run_id=([^/]+)/[^/]+$', 1);

-- Images whose similar neighbours are others in run_b than in run_a, named by their ids, or by their labels and the
-- default fingerprint and metric. Without names: the current run, and the one before it.
CREATE OR REPLACE MACRO neighbour_changes(run_a := NULL, run_b := NULL, run_ids := '*') AS TABLE
WITH history AS (FROM neighbours_history(of_warehouse({name}, run_ids))),
there AS (SELECT run_id, max(label) AS label, max(fingerprint || '/' || metric) AS slot FROM history GROUP BY run_id),
last AS (
    SELECT CASE WHEN run_b IS NULL THEN {last} ELSE coalesce(
        (SELECT max(run_id) FROM there WHERE run_id = run_b OR (label = run_b AND slot = {slot})),
        error('no run of neighbours is called ' || run_b || ', or its files were removed')
    ) END AS run_id
),
first AS (
    SELECT CASE WHEN run_a IS NULL THEN coalesce(
        (SELECT max(there.run_id) FROM there, last WHERE there.run_id < last.run_id AND slot = {slot}),
        error('there is no earlier run of neighbours')
    ) ELSE coalesce(
        (SELECT max(run_id) FROM there WHERE run_id = run_a OR (label = run_a AND slot = {slot})),
        error('no run of neighbours is called ' || run_a || ', or its files were removed')
    ) END AS run_id
),
pairs AS (
    SELECT h.image_id, h.neighbour_id, bool_or(h.run_id = first.run_id) AS was,
           bool_or(h.run_id = last.run_id) AS is_now
    FROM history AS h, first, last
    WHERE h.relation = '{similar}' AND h.run_id IN (first.run_id, last.run_id)
    GROUP BY ALL
)
SELECT image_id,
       CASE WHEN NOT bool_or(was) THEN 'appeared' WHEN NOT bool_or(is_now) THEN 'gone' ELSE 'changed' END AS change,
       count(*) FILTER (NOT was) AS entered, count(*) FILTER (NOT is_now) AS dropped
FROM pairs GROUP BY image_id HAVING NOT bool_and(was AND is_now) ORDER BY image_id;
"""


def views_sql(uri: str, pointer: Pointer) -> str:
    """DuckDB statements that define one view of each table as it is published now, and views of several tables.

    ``uri``: the warehouse, in any form. ``pointer``: its current runs; a table without runs becomes an empty view.
    """
    snapshot, folder = _select("embeddings", pointer.runs("embeddings")), uris.for_readers(uri)
    name, place = _quoted(folder), _place(folder, pointer)
    return "\n".join(
        [
            _FOLDER.format(folder=name, place=place),
            _check(pointer, place),
            _GUARD,
            *(_view(table, pointer) for table in SCHEMAS if table not in ("embeddings", "failures")),
            *_failures(pointer),
            _EMBEDDINGS.format(snapshot=snapshot),
            _EXACT_DUPLICATES.format(snapshot=snapshot),
            *_of_several_tables(pointer, snapshot, name),
        ]
    )


def _place(folder: str, pointer: Pointer) -> str:
    """The variable that says where the warehouse is. Copies of one warehouse share it as long as they have the same
    runs: then each is right for the other.
    """
    return f"warehouse_{hashlib.sha256(folder.encode() + pointer.as_json()).hexdigest()[:16]}"


def _check(pointer: Pointer, place: str) -> str:
    """Looks for one of the current runs. Nothing to look for in an empty warehouse."""
    for table in (RUNS, *SCHEMAS):
        if runs := pointer.runs(table):
            return _CHECK.format(place=place, table=table, run=_quoted(runs[-1]))
    return "RESET VARIABLE warehouse;\n"


def _view(table: str, pointer: Pointer) -> str:
    return f"CREATE OR REPLACE VIEW {table} AS\n{_select(table, pointer.runs(table))};\n"


def _failures(pointer: Pointer) -> list[str]:
    """The view of the collection's failures, and that of failures of queries."""
    slots = pointer.tables.get("failures", {})
    runs = dict.fromkeys(run for slot, of_slot in slots.items() if not slot.startswith(_SEARCH) for run in of_slot)
    searches = {
        run: slot.removeprefix(_SEARCH)
        for slot, of_slot in slots.items()
        if slot.startswith(_SEARCH)
        for run in of_slot
    }
    of_queries = _QUERY_FAILURES.format(slots=_map(searches), files=_select("failures", searches, has_filename=True))
    return [f"CREATE OR REPLACE VIEW failures AS\n{_select('failures', list(runs))};\n", of_queries]


def _of_several_tables(pointer: Pointer, snapshot: str, name: str) -> list[str]:
    """``snapshot``: the SELECT of the table ``embeddings``; ``name``: the warehouse, quoted."""
    slots = sorted(pointer.tables.get("neighbours", {}))
    pairs = [tuple(slot.split("/", 1)) for slot in slots]
    embedded = default_first(pointer.tables.get("embeddings", {}))
    fingerprints = default_first([*embedded, *(fingerprint for fingerprint, _ in pairs)])
    metrics = {
        fingerprint: default_of([metric for other, metric in pairs if other == fingerprint], DEFAULT_METRIC)
        for fingerprint in fingerprints
    }
    default = default_of(fingerprints, DEFAULT_FINGERPRINT)
    slot = f"{default}/{metrics[default]}" if default and metrics[default] else None
    of_one_slot = _OF_ONE_SLOT.format(
        default_metric=DEFAULT_METRIC,
        metric=_case("fingerprint_name", {fingerprint: metric for fingerprint, metric in metrics.items() if metric}),
        slots=_list(slots),
        listed=_quoted(", ".join(slots) or f"none; {_FIRST}"),
        neighbours=_NEIGHBOUR_COLUMNS,
        groups=_GROUP_COLUMNS,
        isolation=_ISOLATION_COLUMNS,
    )
    return [
        _fingerprints(pointer, snapshot, fingerprints, default),
        _IMAGES.format(first=_quoted(embedded[0]) if embedded else "NULL"),
        of_one_slot,
        *(_view_of_one_slot(pointer, view, name, slot) for view in _VIEWS_OF_ONE_SLOT),
        _mislabelled(pointer, name, default),
        _tagged(pointer, snapshot, name),
        _history(pointer, name, slot) if slots else "",
    ]


def _view_of_one_slot(pointer: Pointer, view: str, name: str, slot: str | None) -> str:
    """``slot``: that of the default fingerprint and metric; None if nothing says which is meant. Then the view is an
    error, which is raised when it is read: so it can be defined and described.
    """
    macro, table, value = _VIEWS_OF_ONE_SLOT[view]
    suffix = f"/{value}" if table == "groups" else ""
    published = pointer.tables.get(table, {})
    runs = {each.removesuffix(suffix): of for each, of in published.items() if each.endswith(suffix)}
    if slot in runs:
        default = f"FROM {macro}({_list(runs[slot])}, {_quoted(value)})"
    elif slot is None and runs:
        several = f"several are published; name one, FROM {view}('NAME', 'METRIC'): {', '.join(sorted(runs))}"
        every = _list(dict.fromkeys(run for of_slot in runs.values() for run in of_slot))
        default = f"FROM {macro}({every}, error({_quoted(several)})::VARCHAR)"
    else:
        default = _NO_ROWS[macro]
    cases = "".join(f"WHEN {_quoted(each)} THEN {_list(of)} " for each, of in runs.items())
    return _VIEW_OF_ONE_SLOT.format(
        view=view, default=default, macro=macro, name=name, runs=cases or "WHEN '' THEN [''] ", value=_quoted(value)
    )


def _mislabelled(pointer: Pointer, name: str, fingerprint: str | None) -> str:
    """``fingerprint``: the default one; None if nothing says which is meant."""
    runs = pointer.tables.get("neighbours", {})
    names = ", ".join(default_first(slot.partition("/")[0] for slot in runs))
    which = f"several fingerprints are published; name one, FROM mislabelled('ATTRIBUTE', 'NAME'): {names}"
    if not runs:
        fingerprint, which = None, f"no neighbours are published: {_FIRST}"
    cases = "".join(f"WHEN {_quoted(slot)} THEN {_list(of)} " for slot, of in runs.items())
    return _MISLABELLED.format(
        similar=SIMILAR,
        folder=FOLDER,
        digits=9,
        default=_quoted(fingerprint) if fingerprint else f"error({_quoted(which)})::VARCHAR",
        runs=cases or "WHEN '' THEN [''] ",
        name=name,
    )


def _tagged(pointer: Pointer, snapshot: str, name: str) -> str:
    """``snapshot``, ``name``: as of `_of_several_tables`."""
    runs = pointer.tables.get("tags", {})
    fingerprint, listed = default_of(runs, DEFAULT_FINGERPRINT), ", ".join(sorted(runs))
    if fingerprint in runs:
        default = f"FROM tags_of_images({_list(runs[fingerprint])})"
    elif runs:
        several = _quoted(f"several are published; name one, FROM tagged_images('NAME'): {listed}")
        default = f"FROM tags_of_images({_list(pointer.runs('tags'))}) WHERE error({several})::VARCHAR = ''"
    else:
        default = f"{_TAGGED_COLUMNS}\nFROM (FROM tags WHERE false) AS t, manifest AS i"
    cases = "".join(f"WHEN {_quoted(each)} THEN {_list(of)} " for each, of in runs.items())
    return _TAGGED.format(
        tagged=_TAGGED_COLUMNS,
        snapshot=snapshot,
        default=default,
        name=name,
        runs=cases or "WHEN '' THEN [''] ",
        listed=_quoted(listed or "none"),
    )


def _fingerprints(pointer: Pointer, snapshot: str, names: list[str], default: str | None) -> str:
    rows = [
        f"SELECT {place} AS place, {_quoted(name)} AS fingerprint, {str(name == default).lower()} AS is_default, "
        f"{_quoted(_run_of(pointer, name))} AS run_id"
        for place, name in enumerate(names)
    ]
    keys = [
        f"SELECT {_quoted(key)} AS fingerprint_key, "
        f"(SELECT len(embedding) FROM ({_select(VECTORS, of_key[:1])}) WHERE fingerprint_key = {_quoted(key)} LIMIT 1)"
        " AS dimensions"
        for key, of_key in pointer.tables.get(VECTORS, {}).items()
    ]
    nothing = (
        "SELECT 0 AS place, NULL::VARCHAR AS fingerprint, false AS is_default, NULL::VARCHAR AS run_id WHERE false"
    )
    return _FINGERPRINTS.format(
        rows=_union(rows or [nothing]),
        snapshot=snapshot,
        dimensions=_union(keys or ["SELECT NULL::VARCHAR AS fingerprint_key, NULL::BIGINT AS dimensions"]),
    )


def _run_of(pointer: Pointer, fingerprint: str) -> str:
    """The run that embedded; of vectors of one's own, which no run embedded, the last one that compared them."""
    if runs := pointer.runs("embeddings", fingerprint):
        return runs[-1]
    slots = pointer.tables["neighbours"].items()
    return max(run for slot, of_slot in slots for run in of_slot if slot.startswith(f"{fingerprint}/"))


def _history(pointer: Pointer, name: str, slot: str | None) -> str:
    """``slot``: as of `_view_of_one_slot`."""
    last = pointer.runs("neighbours", slot or "")
    unknown = "error('several fingerprints or metrics are published: name two runs')::VARCHAR"
    return _HISTORY.format(
        name=name,
        current=_list(pointer.runs("neighbours")),
        slot=_quoted(slot or ""),
        last=_quoted(last[-1]) if last else unknown,
        similar=SIMILAR,
    )


def _select(table: str, runs: Iterable[str], *, has_filename: bool = False) -> str:
    """The rows of ``runs`` of ``table``, in its columns. ``has_filename``: with another one, ``filename``."""
    columns, run_ids = list(SCHEMAS[table]), list(runs)
    columns += [pa.field("filename", pa.string())] if has_filename else []
    shown = [f"{of.name}::JSON AS {of.name}" if of.name in _json_of(table) else of.name for of in columns]
    names = ", ".join(shown)
    nulls = ", ".join(f"NULL::{_SQL_TYPES[column.type]} AS {column.name}" for column in columns)
    if not run_ids:
        return f"SELECT {names}\nFROM (SELECT {nulls} WHERE false)"
    # Folders above the warehouse, such as label=cat, are no columns.
    files = f"warehouse_files('{table}', {_list(run_ids)}), hive_partitioning = false"
    files += ", filename = true" if has_filename else ""
    if table in _EXTENDED:
        return (
            f"SELECT {names}\nFROM (SELECT {nulls} WHERE false UNION ALL BY NAME\n"
            f"FROM read_parquet({files}, union_by_name = true))"
        )
    return f"SELECT {names}\nFROM read_parquet({files})"


def _json_of(table: str) -> tuple[str, ...]:
    return _JSON if table == RUNS else ()


def _union(selects: list[str]) -> str:
    return "\nUNION ALL ".join(selects)


def _case(value: str, values: dict[str, str]) -> str:
    """The value that ``values`` has for that of the expression ``value``; NULL if it has none."""
    cases = " ".join(f"WHEN {_quoted(name)} THEN {_quoted(meant)}" for name, meant in values.items())
    return f"(CASE {value} {cases} END)" if cases else "NULL::VARCHAR"


def _map(texts: Mapping[str, str]) -> str:
    return f"MAP({_list(texts)}::VARCHAR[], {_list(texts.values())}::VARCHAR[])"


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
