"""Small warehouses that are written without a job: what tests of readers read."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from image_similarity.storage import uris
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse import parquet
from image_similarity.warehouse.records import Record, parquet_of
from image_similarity.warehouse.schemas import RUNS, SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Made:
    """A warehouse at ``uri``. Each method publishes one run and returns its id: ``r1``, ``r2``, ..."""

    uri: str
    pointer: Pointer = field(default_factory=Pointer)
    runs: int = 0

    def publish(
        self,
        job: str,
        slot: str,
        tables: Mapping[str, Mapping[str, pa.Table]],
        append: Mapping[str, str] | None = None,
        label: str | None = None,
        **record: Any,
    ) -> str:
        """``tables``: table -> slot -> rows. ``append``: table -> slot of those that are added to what is there."""
        self.runs += 1
        run, appended = f"r{self.runs:08}", append or {}
        for table, by_slot in tables.items():
            schema = SCHEMAS[table]
            self.write(table, run, pa.concat_tables(parquet.in_schema(rows, schema) for rows in by_slot.values()))
        replace = {table: dict.fromkeys(slots, run) for table, slots in tables.items() if table not in appended}
        outputs = {"replaced": {table: list(slots) for table, slots in replace.items()}, "appended": {}}
        began = BEGAN + timedelta(hours=self.runs)
        values: dict[str, Any] = {
            **{"run_id": run, "label": label, "job": job, "slot": slot, "status": "published", "inputs": {}},
            **{"outputs": outputs, "settings": {}, "counts": {}, "versions": {}, "seconds": 1.5, "stages": {}},
            **{"recall": None, "started_at": began, "finished_at": began, **record},
        }
        self.write(RUNS, run, Record(**values).as_table())
        added = {table: {slot: run} for table, slot in appended.items()}
        self.pointer = self.pointer.changed(replace, {**added, RUNS: {"": run}})
        files_of(self.uri).write(f"{self.uri}/{POINTER}", self.pointer.as_json())
        return run

    def write(self, table: str, run: str, rows: pa.Table) -> None:
        folder = f"{self.uri}/{table}/run_id={run}"
        if table == RUNS:
            files_of(self.uri).write(f"{folder}/part-00000.parquet", parquet_of(rows))
        else:
            parquet.write_file(uris.join(folder, "part-00000.parquet"), rows.schema, [rows])

    def manifest(
        self,
        versions: Mapping[str, str],
        label: str | None = None,
        attributes: Sequence[tuple[str, str]] = (("label", "a"),),
    ) -> str:
        """``versions``: image_id -> source_version."""
        rows = [
            {"image_id": name, "uri": f"/pictures/{name}", "size_bytes": 10, "source_version": version}
            for name, version in versions.items()
        ]
        table = pa.Table.from_pylist([{**row, "attributes": list(attributes)} for row in rows], SCHEMAS["manifest"])
        counts = {"images": len(rows), "skipped": {}}
        return self.publish("build_manifest", "", {"manifest": {"": table}}, label=label, counts=counts)

    def embeddings(
        self,
        contents: Mapping[str, str],
        vectors: Mapping[str, Iterable[float]],
        fingerprint: str = "vgg16-fc2",
        key: str = "k1",
        failures: Mapping[str, str] | None = None,
        label: str | None = None,
    ) -> str:
        """``contents``: image_id -> content. ``vectors``: content -> vector, of those that are new. ``failures``:
        image_id -> reason.
        """
        images = [
            {"image_id": name, "content_sha256": sha256(content), "fingerprint_key": key, "fingerprint": fingerprint}
            for name, content in contents.items()
        ]
        stored = [
            {
                "content_sha256": sha256(content),
                "fingerprint_key": key,
                "width": 40,
                "height": 30,
                "embedding": list(vector),
            }
            for content, vector in vectors.items()
        ]
        failed = [
            {"image_id": name, "fingerprint": fingerprint, "reason": reason, "detail": f"{reason} it is"}
            for name, reason in (failures or {}).items()
        ]
        tables = {
            "embeddings": {fingerprint: pa.Table.from_pylist(images, SCHEMAS["embeddings"])},
            "failures": {fingerprint: pa.Table.from_pylist(failed, SCHEMAS["failures"])},
        }
        if stored:
            tables["vectors"] = {key: pa.Table.from_pylist(stored, SCHEMAS["vectors"])}
        settings = {
            "fingerprint": {fingerprint: {"kind": "network", "network": "vgg16", "layer": "fc2"}},
            "fingerprint_key": key,
            "weights": "untrained (seed 0)",
            "trained": False,
        }
        return self.publish(
            "embed_images",
            fingerprint,
            tables,
            append={"vectors": key} if stored else None,
            label=label,
            settings=settings,
            counts={"images": len(images) + len(failed), "failures": {"no_image": len(failed)} if failed else {}},
        )

    def neighbours(
        self,
        lists: Mapping[str, Iterable[str]],
        slot: str = "vgg16-fc2/cosine",
        dissimilar: Mapping[str, Iterable[str]] | None = None,
        label: str | None = None,
        **record: Any,
    ) -> str:
        """``lists``: image_id -> similar images, the nearest first; as ``dissimilar``."""
        fingerprint, _, metric = slot.partition("/")
        rows = [
            {
                **{"image_id": name, "relation": relation, "rank": rank, "neighbour_id": other, "distance": rank / 8},
                **{"fingerprint": fingerprint, "metric": metric, "method": "exact"},
            }
            for relation, by_image in (("similar", lists), ("dissimilar", dissimilar or {}))
            for name, others in by_image.items()
            for rank, other in enumerate(others, 1)
        ]
        table = pa.Table.from_pylist(rows, SCHEMAS["neighbours"])
        longest = [max((len(list(of)) for of in by.values()), default=0) for by in (lists, dissimilar or {})]
        settings = {"neighbours": {"similar": longest[0], "dissimilar": longest[1], "metric": metric}}
        values = {"settings": settings, "counts": {"images": len(lists), "dimensions": 4}, **record}
        return self.publish("find_neighbours", slot, {"neighbours": {slot: table}}, label=label, **values)

    def groups(
        self,
        groups: Mapping[str, Iterable[str]],
        kind: str = "near-duplicates",
        also: Mapping[str, Mapping[str, Iterable[str]]] | None = None,
        slot: str = "vgg16-fc2/cosine",
        label: str | None = None,
    ) -> str:
        """``groups``: group_id -> its members, the representative first. ``also``: kind -> groups of the same run."""
        fingerprint, _, metric = slot.partition("/")
        members: dict[str, pa.Table] = {}
        summary: dict[str, pa.Table] = {}
        for of_kind, by_id in {kind: groups, **(also or {})}.items():
            about = {"fingerprint": fingerprint, "metric": metric, "kind": of_kind, "level": 0}
            rows = [
                {**about, "group_id": group, "image_id": name, "representative": place == 0, "position": place}
                for group, names in by_id.items()
                for place, name in enumerate(names)
            ]
            sizes = [{**about, "group_id": group, "size": len(list(names))} for group, names in by_id.items()]
            members[f"{slot}/{of_kind}"] = pa.Table.from_pylist(rows, SCHEMAS["groups"])
            summary[f"{slot}/{of_kind}"] = pa.Table.from_pylist(sizes, SCHEMAS["group_summary"])
        tables = {"groups": members, "group_summary": summary}
        return self.publish("group_images", f"{slot}/{kind}", tables, label=label)


def random_vectors(contents: Iterable[str], dimensions: int = 4, seed: int = 0) -> dict[str, list[float]]:
    """content -> vector."""
    random = np.random.default_rng(seed)
    return {content: random.normal(size=dimensions).astype(np.float32).tolist() for content in contents}
