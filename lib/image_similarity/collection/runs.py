"""Published runs as objects."""

from collections.abc import Iterable
from dataclasses import dataclass

from image_similarity.errors import WrongInput, did_you_mean
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import Snapshot


@dataclass(frozen=True, repr=False)
class Run(Record):
    """A published run: what it read, wrote, used and counted.

    ``run_id``, ``label`` (``--run-id``; or None), ``job``, ``slot``, ``status``; ``inputs`` (table -> runs),
    ``outputs`` (``replaced`` and ``appended``: table -> slots), ``settings``, ``counts`` and ``versions`` (mappings);
    ``seconds``, ``stages`` (step -> seconds), ``recall`` (or None), ``started_at`` and ``finished_at`` (with a time
    zone). What an older version did not write is None or empty.
    """

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        when = f"{self.started_at:%Y-%m-%d %H:%M} UTC" if self.started_at else "at an unknown time"
        seconds = f", {self.seconds:,.1f} s" if self.seconds is not None else ""
        return f"<Run {self.run_id}{label}: {f'{self.job} {self.slot}'.rstrip()}, {when}{seconds}>"


def runs_of(snapshot: Snapshot) -> list[Run]:
    """All published runs, newest last."""
    return [run_of(record) for record in snapshot.runs.values()]


def run_of(record: Record) -> Run:
    return Run(**vars(record))


def run_named(snapshot: Snapshot, named: str, wanted: Iterable[str] = ()) -> list[Run]:
    """The runs with that id or label, newest last. Raises ``WrongInput``, with near names, if there is none."""
    runs = [run for run in runs_of(snapshot) if named in (run.run_id, run.label)]
    if not runs:
        known = {name for record in snapshot.runs.values() for name in (record.run_id, record.label) if name}
        advice = did_you_mean(str(named), sorted(known)) or "; runs() lists those that are published"
        raise WrongInput(f"{snapshot.uri}: no run is called {named!r}, and none has that label{advice}")
    return runs
