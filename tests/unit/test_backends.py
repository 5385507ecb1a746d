"""All backends give the same table, to the last bit. What runs on a GPU runs here on torch's CPU."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import oracle
from adversaries import ADVERSARIES, Adversary, drawn, one_point_in_bfloat16
from image_similarity.errors import DeviceFailed
from image_similarity.knn import all_pairs, distances
from image_similarity.knn.backends import Backend, cuda, launching, tensor_cores
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.backends.cuda import Cuda
from image_similarity.knn.distances import METRICS

Vectors = NDArray[np.float32]

pytestmark = pytest.mark.usefixtures("one_thread_of_torch")
ROOT = Path(__file__).resolve().parents[2]
SCREENS = pytest.mark.parametrize("screen", tensor_cores.SCREENS.values(), ids=lambda screen: screen.name)


def assert_same(vectors: Vectors, metric: str, similar: int, dissimilar: int, backend: Backend, **options: Any) -> None:
    expected = all_pairs.neighbours(vectors, metric, similar, dissimilar)
    got = all_pairs.neighbours(vectors, metric, similar, dissimilar, backend=backend, **options)
    for of_expected, of_got in zip(expected, got):
        for name in ("row", "rank", "neighbour", "distance"):
            np.testing.assert_array_equal(getattr(of_got, name), getattr(of_expected, name), err_msg=name)


def clustered(n: int, d: int, seed: int) -> Vectors:
    """Clusters one after the other, so that most of a tile's scores of its own rows pass."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 300), d))
    of_centres = centres[np.sort(rng.integers(0, len(centres), n))]
    return (of_centres + 0.1 * rng.standard_normal((n, d))).astype(np.float32)


@SCREENS
@pytest.mark.parametrize("metric", METRICS)
def test_planted_vectors(metric: str, screen: Any) -> None:
    assert_same(oracle.planted(900, 32, seed=5), metric, 12, 7, Cuda("cpu"), block_rows=200, screen=screen)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_adversaries(metric: str, adversary: Adversary) -> None:
    assert_same(drawn(adversary, metric, 2), metric, 12, 7, Cuda("cpu"), block_rows=70)


@SCREENS
def test_clusters_one_after_the_other(screen: Any) -> None:
    assert_same(clustered(1500, 24, 1), "cosine", 5, 5, Cuda("cpu"), block_rows=250, screen=screen)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_lists_longer_than_the_collection(n: int) -> None:
    vectors = np.random.default_rng(n).integers(-2, 3, (n, 3)).astype(np.float32)
    vectors[:, 0] = 1
    for k in (1, n, n + 5):
        for block_rows in (1, 3, 64):
            assert_same(vectors, "cosine", k, k, Cuda("cpu"), block_rows=block_rows)


@pytest.mark.parametrize(("similar", "dissimilar"), [(0, 4), (4, 0), (0, 0)])
def test_one_relation_alone(similar: int, dissimilar: int) -> None:
    assert_same(oracle.planted(300, 16, seed=1), "cosine", similar, dissimilar, Cuda("cpu"), block_rows=90)


@pytest.mark.parametrize("d", [1, 2, 5000])
def test_few_and_many_dimensions(d: int) -> None:
    assert_same(np.random.default_rng(d).standard_normal((120, d)).astype(np.float32), "euclidean", 5, 5, Cuda("cpu"))


def test_no_vectors() -> None:
    assert_same(np.empty((0, 8), dtype=np.float32), "cosine", 3, 3, Cuda("cpu"))


def test_tiles_smaller_than_strips_and_vectors_on_the_host() -> None:
    backend = Cuda("cpu", tile=256, vector_bytes=0)
    assert_same(oracle.planted(900, 32, seed=6), "correlation", 12, 7, backend, block_rows=700)


@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_those_of_the_processor(metric: str) -> None:
    chosen, rng = METRICS[metric], np.random.default_rng(1)
    base = rng.standard_normal(257)
    vectors = distances.measured((base + 1e-4 * rng.standard_normal((300, 257))).astype(np.float32), chosen)
    rows, columns = rng.integers(0, 300, (2, 20_000))
    expected = distances.pairs(chosen, vectors, vectors, rows, columns)
    np.testing.assert_array_equal(Cuda("cpu").pairs(chosen, vectors, vectors, rows, columns), expected)
    assert len(Cuda("cpu").pairs(chosen, vectors, vectors, rows[:0], columns[:0])) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_doubtful_pairs_are_computed_in_order(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sums that are wrong within their error bound, the distances stay what they are: as if float64 had 20 bits
    less.
    """
    unit = 2.0**-33
    vectors = oracle.planted(400, 64, seed=2)
    expected = all_pairs.neighbours(vectors, metric, 12, 7)
    monkeypatch.setattr(distances, "_U", unit)
    exact_sum = Cuda._sum

    def inexact(self: Cuda, metric: Any, a: Any, b: Any, rows: Any, columns: Any, sums: Any) -> None:
        exact_sum(self, metric, a, b, rows, columns, sums)
        noise = 2 * torch.rand(len(sums), dtype=torch.float64) - 1
        sums += noise * 64 * unit * (1 / (a.scale[rows] * b.scale[columns]) if metric.angular else sums)

    monkeypatch.setattr(Cuda, "_sum", inexact)
    got = all_pairs.neighbours(vectors, metric, 12, 7, backend=Cuda("cpu"))
    assert oracle.rows_of(got[0]) == oracle.rows_of(expected[0])
    assert oracle.rows_of(got[1]) == oracle.rows_of(expected[1])


def test_a_bound_that_is_too_small_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, what bfloat16 cannot tell apart comes out wrong: the tests above can fail."""
    vectors = one_point_in_bfloat16(np.random.default_rng(3))
    monkeypatch.setattr(cuda, "lower_bound_of", lambda worst, *_: np.full(len(worst), np.iinfo(np.int64).max))
    similar, _ = all_pairs.neighbours(vectors, "cosine", 12, 0, 128, tensor_cores.BFLOAT16, Cuda("cpu"))
    assert oracle.rows_of(similar) != oracle.neighbours(vectors, "cosine", 12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_small_share_is_compared_by_brute_force(metric: str) -> None:
    """The bound of each precision is of use, and what neither proves is few."""
    rest: dict[str, int] = {}
    vectors = np.random.default_rng(4).standard_normal((2000, 64)).astype(np.float32)
    for screen in tensor_cores.SCREENS.values():
        all_pairs.neighbours(
            vectors, metric, 12, 12, screen=screen, backend=Cuda("cpu"), report=lambda *phase: rest.update([phase])
        )
        assert rest["certify"] < {"bfloat16": 400, "tf32": 20}[screen.name], screen.name


def test_copies_hold_what_their_precision_holds() -> None:
    values = torch.tensor([[1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-10, 2.0**-130, 3e38, 0.0]])
    low, error = tensor_cores._rounded_to_tf32(values)
    assert low.tolist() == [[1.0, 1 + 2 * 2.0**-10, -1 - 2.0**-10, 2.0**-130, pytest.approx(3e38, rel=2**-11), 0.0]]
    assert (low.view(torch.int32) & 0x1FFF == 0).all()
    assert error.item() == pytest.approx((values - low).double().norm().item())


# -- memory and faults -------------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, largest: int) -> None:
    """Let ``Cuda.<name>`` raise ``error`` at the end of its work while tiles exceed ``largest``."""
    work = getattr(Cuda, name)

    def at_the_end(self: Cuda, *arguments: Any) -> Any:
        result = work(self, *arguments)
        if self.tile > largest:
            raise error
        return result

    monkeypatch.setattr(Cuda, name, at_the_end)


@pytest.mark.parametrize("work", ["_scores", "_filter_by_torch", "_exact", "_best_of"])
def test_tiles_get_smaller_where_memory_does_not_suffice(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, work, torch.OutOfMemoryError("CUDA out of memory"), 300)
    backend = Cuda("cpu")
    vectors = one_point_in_bfloat16(np.random.default_rng(0)).repeat(3, axis=0)
    assert_same(vectors, "cosine", 12, 7, backend, block_rows=600, screen=tensor_cores.BFLOAT16)
    assert backend.tile == 256


def test_too_little_memory_for_any_tile_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "_scores", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore"), 0)
    with pytest.raises(DeviceFailed, match=r": cpu has too little memory .* tiles of 256 rows.*1 GiB\)$"):
        all_pairs.neighbours(oracle.planted(300, 16, seed=1), "cosine", 3, 3, backend=Cuda("cpu"))


@pytest.mark.parametrize("work", ["_scores", "_exact"])
def test_a_gpu_that_fails_is_named(work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, work, RuntimeError("CUDA error: unspecified launch failure\nhints"), 0)
    with pytest.raises(DeviceFailed, match=r": cpu failed while vectors were compared: CUDA error: unspecified .*$"):
        all_pairs.neighbours(oracle.planted(300, 16, seed=1), "cosine", 3, 3, backend=Cuda("cpu"))


# -- Triton ------------------------------------------------------------------------------------------------------------


def test_kernels_give_the_same_table() -> None:
    """Triton's interpreter runs them. It cannot multiply bfloat16."""
    pytest.importorskip("triton")
    program = """
import oracle, sys
from image_similarity.knn import all_pairs, engine
from image_similarity.knn.backends import cuda, launching, tensor_cores
for block in launching.BLOCKS.values():
    block.update(ROWS=32, COLUMNS=64)
cuda._FIRST = 32
vectors = oracle.planted(100, 40, seed=3)
for metric in ("cosine", "euclidean"):
    backend = cuda.Cuda("cpu", fused=True)
    filtered = []
    work = backend._filter
    backend._filter = lambda *arguments: (filtered.append(work(*arguments)), filtered[-1])[1]
    got = all_pairs.neighbours(vectors, metric, 2, 2, 60, tensor_cores.TF32, backend)
    assert any(filtered), filtered
    expected = all_pairs.neighbours(vectors, metric, 2, 2)
    assert [oracle.rows_of(of) for of in got] == [oracle.rows_of(of) for of in expected], metric
"""
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'tests'}", "HOME": str(Path.home())}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)


def test_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    """The interpreter takes programs that the compiler refuses."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from image_similarity.knn.backends import kernels

    def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: int) -> Any:
        names = {name: next(of for key, of in types.items() if name.startswith(key)) for name in kernel.arg_names}
        signature = {name: "constexpr" if name in constants else of for name, of in names.items()}
        source = triton.compiler.ASTSource(kernel, signature, constants)
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)

    sizes = {"rows": "i32", "columns": "i32", "dimensions": "i32", "capacity": "i32"}
    runs = {"run_places": "*i32", "run_count": "*i32", "run_scores": "*fp32"}
    of_runs = {**runs, **sizes, "half_": "*fp32", "near_cut": "*fp32", "far_cut": "*fp32"}
    for block in launching.BLOCKS.values():
        sides = {"ROWS": block["ROWS"], "COLUMNS": block["COLUMNS"], "BAND": block["BAND"]}
        constants = {**sides, "STEP": 64, "DIAGONAL": True, "WHOLE_STEPS": False}
        types = {**dict.fromkeys(constants, ""), **of_runs, "a": "*bf16", "b": "*bf16"}
        options = {"num_warps": block["num_warps"], "num_stages": block["num_stages"]}
        assert "wgmma" in compiled(kernels.runs_kernel, types, constants, **options).asm["ptx"]
    entries = {"near_cut": "*fp32", "far_cut": "*fp32", "near_count": "*i32", "far_count": "*i32", "positions": "*i32"}
    entries |= {"near_pending": "*i64", "far_pending": "*i64", "near_width": "i32", "far_width": "i32"}
    compiled(kernels.push_kernel, {**runs, **sizes, **entries, "diagonal": "i32", "RUNS": ""}, {"RUNS": 16})
    vectors = {"a": "*fp32", "b": "*fp32", "shift": "*fp64", "sums": "*fp64", "pairs": "i32", "dimensions": "i32"}
    vectors |= {"rows": "*i64", "columns": "*i64"}
    constants = {"ANGULAR": True, "PAIRS": 8, "STEP": 128}
    compiled(kernels.sums_kernel, {**dict.fromkeys(constants, ""), **vectors}, constants)


# -- imports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("image_similarity.knn.engine, image_similarity.knn.backends", "torch pyspark pydantic pyarrow pandas"),
        (
            "image_similarity.fingerprints.networks, image_similarity.imaging.decoding",
            "pyspark pydantic pyarrow pandas",
        ),
    ],
)
def test_what_computes_imports_little(modules: str, absent: str) -> None:
    program = f"import sys, {modules}; sys.exit(' '.join(sys.modules.keys() & {absent.split()}) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_processor_is_the_backend_where_nothing_else_is_asked_for() -> None:
    from image_similarity.knn import backends

    assert isinstance(backends.on("cpu"), Cpu)
