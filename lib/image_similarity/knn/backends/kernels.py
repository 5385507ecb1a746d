"""Triton kernels: a product whose scores are filtered before they leave the chip, and exact sums of chosen pairs.

A tile of 16,384 x 16,384 scores has a gigabyte. To write it and to read it again takes several times as long as to
compute it. So `runs_kernel` compares every score with the worst scores of both lists that it could enter, and writes
only *runs*: 32 scores of neighbouring columns of which at least one passes. `push_kernel` appends the few scores that
pass to the rows' pending entries.

``TRITON_INTERPRET=1`` runs these on a CPU, slowly.
"""

import triton
import triton.language as tl

RUN = 32
_RUN = tl.constexpr(RUN)


@triton.jit(do_not_specialize=["rows", "columns", "capacity"])
def runs_kernel(  # type: ignore[no-untyped-def]
    a,  # (rows, dimensions)
    b,  # (columns, dimensions)
    half_a,
    half_b,
    near_cut_a,
    far_cut_a,
    near_cut_b,
    far_cut_b,
    run_scores,  # (capacity, RUN) float32
    run_places,  # (capacity,) int32: row * runs in a row + run
    run_count,  # (1,) int32; may exceed the capacity: what does not fit is not written
    rows,
    columns,
    dimensions,
    capacity,
    DIAGONAL: tl.constexpr,  # rows and columns are the same vectors: only columns after the row count
    WHOLE_STEPS: tl.constexpr,  # whether STEP divides the dimensions
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    BAND: tl.constexpr,
):
    # Programs that run at the same time form a band of BAND blocks of rows: they share what the cache holds.
    program = tl.program_id(0)
    blocks_down, blocks_across = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    band = program // (BAND * blocks_across)
    high = tl.minimum(blocks_down - band * BAND, BAND)
    within = program % (BAND * blocks_across)
    first_row = (band * BAND + within % high) * ROWS
    first_column = (within // high) * COLUMNS
    if DIAGONAL and first_column + COLUMNS <= first_row + 1:
        return
    row, column = first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
    # Rows and columns beyond the end are read as the last ones.
    row_there, column_there = tl.minimum(row, rows - 1), tl.minimum(column, columns - 1)
    step = tl.arange(0, STEP)
    # 32,768 vectors of 65,536 values have more values than 32 bits count.
    at_a = a + row_there.to(tl.int64)[:, None] * dimensions + step[None, :]
    at_b = b + column_there.to(tl.int64)[:, None] * dimensions + step[None, :]
    product = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, dimensions, STEP):
        if WHOLE_STEPS:
            of_a, of_b = tl.load(at_a), tl.load(at_b)
        else:
            there = (first + step < dimensions)[None, :]
            of_a, of_b = tl.load(at_a, mask=there, other=0.0), tl.load(at_b, mask=there, other=0.0)
        product = tl.dot(of_a, tl.trans(of_b), product, input_precision="tf32")
        at_a += STEP
        at_b += STEP
    # A score of a row or a column beyond the end is no number, and passes no comparison.
    of_rows = tl.load(half_a + row, mask=row < rows, other=float("nan"))
    of_columns = tl.load(half_b + column, mask=column < columns, other=float("nan"))
    scores = product - of_rows[:, None] - of_columns[None, :]
    near = tl.minimum(tl.load(near_cut_a + row_there)[:, None], tl.load(near_cut_b + column_there)[None, :])
    far = tl.minimum(tl.load(far_cut_a + row_there)[:, None], tl.load(far_cut_b + column_there)[None, :])
    passes = (scores > near) | (-scores > far)
    if DIAGONAL:
        passes &= column[None, :] > row[:, None]
    runs: tl.constexpr = COLUMNS // _RUN
    written = tl.max(tl.reshape(passes.to(tl.int32), (ROWS, runs, _RUN)), axis=2)
    total = tl.sum(tl.sum(written, axis=1), axis=0)
    if total > 0:
        flat = tl.reshape(written, (ROWS * runs,))
        place = tl.reshape(tl.cumsum(flat, axis=0) - flat, (ROWS, runs)) + tl.atomic_add(run_count, total)
        kept = (written > 0) & (place < capacity)
        number = row[:, None] * tl.cdiv(columns, _RUN) + first_column // _RUN + tl.arange(0, runs)[None, :]
        tl.store(run_places + place, number, mask=kept)
        within_run = tl.arange(0, _RUN)[None, None, :]
        tl.store(
            run_scores + place[:, :, None] * _RUN + within_run,
            tl.reshape(scores, (ROWS, runs, _RUN)),
            mask=tl.broadcast_to(kept[:, :, None], (ROWS, runs, _RUN)),
        )


@triton.jit
def _push(cut, count, pending, width, at, score, position, counts):  # type: ignore[no-untyped-def]
    """Append ``score`` to the pending entries of ``at`` where it passes. Entries beyond ``width`` are only counted."""
    passes = counts & (score > tl.load(cut + at))
    place = tl.atomic_add(count + at, 1, mask=passes)
    bits = (-score).to(tl.int32, bitcast=True)  # as `keys_of_scores` orders them
    ordered = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.int64)
    tl.store(pending + at * width + place, (ordered << 32) | position.to(tl.int64), mask=passes & (place < width))


@triton.jit(do_not_specialize=["columns", "capacity", "near_width", "far_width", "diagonal"])
def push_kernel(  # type: ignore[no-untyped-def]
    run_scores,
    run_places,
    run_count,
    positions_a,
    positions_b,
    near_cut_a,
    far_cut_a,
    near_cut_b,
    far_cut_b,
    near_count_a,
    far_count_a,
    near_count_b,
    far_count_b,
    near_pending_a,
    far_pending_a,
    near_pending_b,
    far_pending_b,
    columns,
    capacity,
    near_width,
    far_width,
    diagonal,
    RUNS: tl.constexpr,
):
    total = tl.minimum(tl.load(run_count), capacity)
    runs_in_a_row = tl.cdiv(columns, _RUN)
    for first in range(tl.program_id(0) * RUNS, total, tl.num_programs(0) * RUNS):
        run = first + tl.arange(0, RUNS)
        there = run < total
        number = tl.load(run_places + run, mask=there, other=0)
        row = tl.broadcast_to((number // runs_in_a_row)[:, None], (RUNS, _RUN))
        column = (number % runs_in_a_row)[:, None] * _RUN + tl.arange(0, _RUN)[None, :]
        counts = there[:, None] & (column < columns) & ((column > row) | (diagonal == 0))
        column = tl.minimum(column, columns - 1)
        score = tl.load(run_scores + run[:, None] * _RUN + tl.arange(0, _RUN)[None, :], mask=counts, other=0.0)
        position_a, position_b = tl.load(positions_a + row), tl.load(positions_b + column)
        _push(near_cut_a, near_count_a, near_pending_a, near_width, row, score, position_b, counts)
        _push(far_cut_a, far_count_a, far_pending_a, far_width, row, -score, position_b, counts)
        _push(near_cut_b, near_count_b, near_pending_b, near_width, column, score, position_a, counts)
        _push(far_cut_b, far_count_b, far_pending_b, far_width, column, -score, position_a, counts)


@triton.jit(do_not_specialize=["pairs"])
def sums_kernel(  # type: ignore[no-untyped-def]
    a,
    shift_a,
    b,
    shift_b,
    rows,
    columns,
    sums,
    pairs,
    dimensions,
    ANGULAR: tl.constexpr,
    PAIRS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Float64 sums of products (angular) or of squared differences for the pairs (rows[p], columns[p])."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    there = pair < pairs
    row = tl.load(rows + pair, mask=there, other=0)
    column = tl.load(columns + pair, mask=there, other=0)
    of_row, of_column = tl.load(shift_a + row)[:, None], tl.load(shift_b + column)[:, None]
    total = tl.zeros((PAIRS, STEP), dtype=tl.float64)
    step = tl.arange(0, STEP)[None, :]
    for first in range(0, dimensions, STEP):
        inside = (first + step < dimensions) & there[:, None]
        x = tl.load(a + row[:, None] * dimensions + first + step, mask=inside, other=0.0).to(tl.float64)
        y = tl.load(b + column[:, None] * dimensions + first + step, mask=inside, other=0.0).to(tl.float64)
        if ANGULAR:
            total += tl.where(inside, (x - of_row) * (y - of_column), 0.0)
        else:
            total += (x - y) * (x - y)
    tl.store(sums + pair, tl.sum(total, axis=1), mask=there)
