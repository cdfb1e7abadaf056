"""Data in files: the same batches as in memory, whatever the format; errors name the file and the field."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

import pure_sgd as ps
from pure_sgd.data import columns

X = torch.randn(300, 2, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(300)
ROWS = ([3, 299, 0, 180, 179, 3], list(range(40, 90)), [7], [])


def table(x: torch.Tensor = X, y: torch.Tensor = Y) -> pa.Table:
    matrices = pa.FixedSizeListArray.from_arrays(pa.array(x.flatten().numpy()), 3)
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(matrices, 2), "y": pa.array(y.numpy())})


def write_arrow(path: Path, x: torch.Tensor = X, y: torch.Tensor = Y) -> None:
    batches = table(x, y).to_batches(max_chunksize=70)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def npy(directory: Path) -> Any:
    np.save(directory / "x.npy", X.numpy())
    np.save(directory / "y.npy", Y.numpy())
    return (directory / "x.npy", str(directory / "y.npy")), None


def several_npy(directory: Path) -> Any:
    np.save(directory / "x0.npy", X[:180].numpy())
    np.save(directory / "x1.npy", X[180:].numpy())
    np.save(directory / "y.npy", Y.numpy())
    return ([directory / "x0.npy", directory / "x1.npy"], directory / "y.npy"), None


def safetensors(directory: Path) -> Any:
    save_file({"name": torch.zeros(3), "y": Y[:180], "x": X[:180]}, directory / "0.safetensors")
    save_file({"x": X[180:].contiguous(), "y": Y[180:]}, directory / "1.safetensors")
    return [directory / "0.safetensors", directory / "1.safetensors"], ("x", "y")


def arrow(directory: Path) -> Any:
    write_arrow(directory / "0.arrow", X[:180], Y[:180])
    write_arrow(directory / "1.arrow", X[180:], Y[180:])
    return [directory / "0.arrow", directory / "1.arrow"], ("x", "y")


def uncompressed_feather(directory: Path) -> Any:
    feather.write_feather(table(), str(directory / "all.feather"), compression="uncompressed")
    return directory / "all.feather", ("x", "y")


def parquet_groups(directory: Path) -> Any:
    parquet.write_table(table(), directory / "all.parquet", row_group_size=70)
    return directory / "all.parquet", ("x", "y")


FORMATS = [npy, several_npy, safetensors, arrow, uncompressed_feather, parquet_groups]


@pytest.fixture(params=["mapped", "read", "read as bytes"])
def access(request, monkeypatch) -> None:
    """Each way to get at a row."""
    monkeypatch.setattr(columns, "MOST_MAPPED", 2**28 if request.param == "mapped" else 0)
    monkeypatch.setattr(columns, "FEW", 0 if request.param == "read" else columns.FEW)


@pytest.mark.usefixtures("access")
@pytest.mark.parametrize("write", FORMATS)
def test_any_rows_are_those_in_memory(tmp_path, write):
    dataset = ps.data.from_files(*write(tmp_path))
    assert len(dataset) == 300
    for rows in ROWS:
        for asked in (rows, torch.tensor(rows, dtype=torch.int64)):
            x, y = dataset[asked]
            assert x.dtype == X.dtype
            assert torch.equal(x, X[rows])
            assert torch.equal(y, Y[rows])
    x, y = dataset[-1]
    assert torch.equal(x, X[-1])
    assert y == 299
    assert torch.equal(dataset[10:20][1], Y[10:20])
    assert [int(y) for _, y in dataset] == list(range(300))


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="reads all files through maps")
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "rows, calls", [(range(170, 200), 2), ([5, 6, 7, 9, 10, 3], 3), ([8, 4, 2, 0], 4), ([7], 1)]
)
def test_neighbours_are_read_in_one_call_and_a_slow_disk_is_asked_for_all_at_once(
    tmp_path, monkeypatch, rows, calls, cached
):
    monkeypatch.setattr(columns, "MOST_MAPPED", 0)
    (files, _), _ = several_npy(tmp_path)
    dataset = ps.data.from_files(files)
    read, advised = [], []

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: preadv(descriptor, [buffer], offset)])

    def preadv(descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags and not cached:
            raise BlockingIOError
        read.extend([offset] * (not flags))
        return os.readv(descriptor, buffers) if os.lseek(descriptor, offset, os.SEEK_SET) >= 0 else 0

    monkeypatch.setattr(columns.os, "pread", pread)
    monkeypatch.setattr(columns.os, "preadv", preadv)
    monkeypatch.setattr(columns.os, "posix_fadvise", lambda *arguments: advised.append(arguments[1]))
    assert torch.equal(dataset[list(rows)], X[list(rows)])
    assert len(read) == calls
    assert advised == ([] if cached or calls == 1 else read)


@pytest.mark.parametrize("write", [npy, arrow, parquet_groups])
@pytest.mark.parametrize("replacement", [False, True])
def test_fit_gives_the_same_run_as_in_memory(tmp_path, write, replacement):
    loss = ps.empirical_risk(lambda w, x, y: ((x * w).sum() - y / 300) ** 2)
    options: Any = {"epochs": 2, "batch_size": 70, "replacement": replacement, "compile": False}
    dataset = ps.data.from_files(*write(tmp_path))
    found = ps.fit(loss, ps.sgd(0.01), torch.zeros(2, 3), dataset, progress=False, **options)
    expected = ps.fit(loss, ps.sgd(0.01), torch.zeros(2, 3), (X, Y), progress=False, **options)
    assert torch.equal(found.state.params, expected.state.params)
    assert found.history == expected.history


@pytest.mark.parametrize("write", [npy, arrow, parquet_groups])
def test_worker_processes_open_the_files_for_themselves(tmp_path, write):
    dataset = ps.data.from_files(*write(tmp_path))
    dataset[[0]]  # open here, too
    sampler = ps.data.BatchSampler(300, 70, seed=1)
    expected = [Y[rows] for rows in ps.epoch_indices(300, 70, 1, 0)]
    whole = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=2)
    collated = DataLoader(dataset, batch_sampler=sampler)
    for loader in (whole, collated):
        found = [y for _, y in loader]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("access")
def test_a_worker_reads_into_memory_that_it_shares(tmp_path, monkeypatch):
    dataset = ps.data.from_files(*npy(tmp_path))
    assert not any(leaf.is_shared() for leaf in dataset[[0, 2]])
    monkeypatch.setattr(columns, "get_worker_info", lambda: "a worker")
    assert all(leaf.is_shared() for leaf in dataset[[0, 2]])
    assert torch.equal(dataset[[0, 2]][0], X[[0, 2]])
    assert len(dataset[[]][0]) == 0


def test_what_is_sent_to_another_process_is_names_and_sizes(tmp_path):
    dataset = ps.data.from_files(*npy(tmp_path))
    dataset[[0]]
    sent = pickle.dumps(dataset)
    assert len(sent) < 2000
    assert torch.equal(pickle.loads(sent)[[5]][0], X[5:6])


DTYPES = [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.bool, torch.uint8, torch.int16]


@pytest.mark.usefixtures("access")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e4m3fn, torch.uint32])
def test_every_dtype_of_safetensors_and_a_field_by_itself(tmp_path, dtype):
    x = (X * 10).to(dtype)
    save_file({"x": x}, tmp_path / "x.safetensors")
    (found,) = ps.data.from_files((tmp_path / "x.safetensors",))[[4, 2]]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), x[[4, 2]].view(torch.uint8))


def test_fields_are_a_dict_a_tuple_or_one_tensor(tmp_path):
    (x, y), _ = npy(tmp_path)
    assert set(ps.data.from_files({"y": y, "x": x})[[0, 1]]) == {"x", "y"}
    assert ps.data.from_files(x)[[0, 1]].shape == (2, 2, 3)
    save_file({"y": Y, "x": X}, tmp_path / "all.safetensors")
    assert set(ps.data.from_files(tmp_path / "all.safetensors")[0]) == {"x", "y"}
    assert ps.data.from_files(tmp_path / "all.safetensors", fields=("y",))[7] == (torch.tensor(7),)


def test_an_extension_type_of_arrow_has_its_shape(tmp_path):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(X.numpy())
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file:
        batch = pa.table({"x": tensors}).to_batches()[0]
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch.slice(20))
    assert torch.equal(ps.data.from_files(tmp_path / "x.arrow")[[3]]["x"], X[23:24])


def test_memory_is_used_again_when_nobody_has_it_any_more(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(2**20, dtype=np.float32).reshape(4, 2**18))
    dataset = ps.data.from_files(tmp_path / "x.npy")
    kept = dataset[[0]]
    view = dataset[[1]][0, 5:].numpy()
    places = set[int]()
    for row in (2, 3, 2, 3):
        batch = dataset[[row]]
        places.add(batch.data_ptr())
        assert batch[0, 0] == row * 2**18
    assert len(places) <= 2
    assert dataset[[3, 1]][:, 0].tolist() == [3 * 2**18, 2**18]  # another size
    assert kept[0, 0] == 0
    assert view[0] == 2**18 + 5
    assert kept.data_ptr() not in places


def test_batches_are_memory_of_their_own(tmp_path):
    dataset = ps.data.from_files(*npy(tmp_path))
    batch, _ = dataset[[3]]
    batch.zero_()
    assert torch.equal(dataset[[3]][0], X[3:4])


@pytest.mark.usefixtures("access")
@pytest.mark.parametrize("write", [npy, several_npy, arrow])
@pytest.mark.parametrize("change", ["truncated", "removed before it is opened", "written anew"])
def test_a_file_that_changes_is_an_error_and_no_crash(tmp_path, write, change):
    dataset = ps.data.from_files(*write(tmp_path))
    file = next(path for path in tmp_path.iterdir() if path.name.startswith(("x", "0")))
    if change == "removed before it is opened":
        file.unlink()
    elif change == "written anew":
        os.utime(file, ns=(0, 0))
    else:
        dataset[0]
        os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ps.PureSGDError, match=rf"{file.name}.*(has changed|is not there)"):
        dataset[[5, 178, 299]]


@pytest.mark.parametrize("rows", [[300], [-301], [2**62], torch.tensor([0, 300]), 300])
def test_a_row_that_is_not_there_is_an_index_error(tmp_path, rows):
    with pytest.raises(IndexError, match="of 300 examples"):
        ps.data.from_files(*npy(tmp_path))[rows]


@pytest.mark.parametrize("rows", [[0.5], [True, False], [[0, 1]], ["a"], None])
def test_rows_are_whole_numbers(tmp_path, rows):
    with pytest.raises(ps.PureSGDError, match="expected whole numbers"):
        ps.data.from_files(*npy(tmp_path))[rows]


def written(path: Path, array: Any) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


def cut(path: Path) -> Path:
    os.truncate(path, path.stat().st_size - 3)
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def one_column(path: Path, column: Any) -> Path:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.schema([("x", column.type)])) as writer:
        writer.write_table(pa.table({"x": column}))
    return path


def compressed(directory: Path) -> Path:
    feather.write_feather(table(), str(directory / "c.feather"), compression="lz4")
    return directory / "c.feather"


def nulls(directory: Path) -> Path:
    parquet.write_table(pa.table({"x": [1.0, None]}), directory / "n.parquet")
    return directory / "n.parquet"


def tensors(path: Path, **fields: torch.Tensor) -> Path:
    save_file(fields, path)
    return path


BAD: dict[str, Any] = {
    "nowhere.npy: is not there": lambda d: d / "nowhere.npy",
    "is no plain file": lambda d: d,
    "x.txt: ends in '.txt'": lambda d: raw(d / "x.txt", b""),
    "o.npy: holds Python objects": lambda d: written(d / "o.npy", np.array([{}, {}])),
    "s.npy: is of type <U1, which torch does not have": lambda d: written(d / "s.npy", np.array(["a", "b"])),
    "b.npy: has its bytes the other way": lambda d: written(d / "b.npy", np.arange(3, dtype=">i4")),
    "f.npy: lies column by column": lambda d: written(d / "f.npy", np.ones((3, 2), order="F")),
    r"0.npy: has shape \(\), expected at least one": lambda d: written(d / "0.npy", np.ones(())),
    r"e.npy: has shape \(0, 3\)": lambda d: written(d / "e.npy", np.ones((0, 3))),
    r"z.npy: has shape \(3, 0\)": lambda d: written(d / "z.npy", np.ones((3, 0))),
    "c.npy: has 149 bytes, and its header tells of 152": lambda d: cut(written(d / "c.npy", np.ones(3))),
    "g.npy: is no .npy file": lambda d: raw(d / "g.npy", b"garbage"),
    "v.npy: is no .npy file": lambda d: raw(d / "v.npy", b"\x93NUMPY\x09\x00" + bytes(100)),
    "t.safetensors: is no whole": lambda d: cut(tensors(d / "t.safetensors", x=X)),
    "h.safetensors: is no whole": lambda d: raw(d / "h.safetensors", b"\xff" * 64),
    r"t.safetensors: x: has shape \(\)": lambda d: tensors(d / "t.safetensors", x=torch.tensor(1.0)),
    "a.arrow: is no whole Arrow file": lambda d: raw(d / "a.arrow", b"ARROW1" + bytes(50)),
    "c.feather: is compressed": compressed,
    "n.arrow: x: has nulls": lambda d: one_column(d / "n.arrow", pa.array([1.0, None])),
    "s.arrow: x: is of type string": lambda d: one_column(d / "s.arrow", pa.array(["a"])),
    "b.arrow: x: holds single bits": lambda d: one_column(d / "b.arrow", pa.array([True])),
    "p.parquet: is no whole Parquet": lambda d: raw(d / "p.parquet", b"PAR1" + bytes(50)),
    "t.npy: holds 2 examples where .*s.npy holds 3": lambda d: (
        written(d / "s.npy", np.ones(3)),
        written(d / "t.npy", np.ones(2)),
    ),
    r"t.npy: has rows of torch.float64 \(3,\), and .*s.npy has torch.float64 \(2,\)": lambda d: [
        written(d / "s.npy", np.ones((3, 2))),
        written(d / "t.npy", np.ones((3, 3))),
    ],
    r"t.npy: has rows of torch.float32 \(\)": lambda d: [
        written(d / "s.npy", np.ones(3)),
        written(d / "t.npy", np.ones(3, np.float32)),
    ],
    r"t.safetensors: holds the fields \['z'\], and .*s.safetensors holds \['x'\]": lambda d: [
        tensors(d / "s.safetensors", x=X),
        tensors(d / "t.safetensors", z=X),
    ],
    "holds 2 fields, expected one for field 'x'": lambda d: {"x": tensors(d / "t.safetensors", x=X, z=X + 1)},
    "files is 7, expected paths": lambda d: 7,
    r"files is \[\], expected paths": lambda d: [],
    r"\(\) holds no field": lambda d: (),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_file_that_will_not_do_is_named(tmp_path, sentence):
    with pytest.raises(ps.PureSGDError, match=sentence):
        ps.data.from_files(BAD[sentence](tmp_path))


def test_nulls_of_parquet_are_found_when_they_are_decoded(tmp_path):
    dataset = ps.data.from_files(nulls(tmp_path))
    with pytest.raises(ps.PureSGDError, match=r"n.parquet: x: has nulls"):
        dataset[0]


def test_fields_that_are_not_there(tmp_path):
    path = tensors(tmp_path / "t.safetensors", x=X)
    with pytest.raises(ps.PureSGDError, match=r"has no field 'z'. Pass some of the fields .*\['x'\]"):
        ps.data.from_files(path, fields=("z",))
    with pytest.raises(ps.PureSGDError, match="fields='x' is a single string"):
        ps.data.from_files(path, fields="x")
    with pytest.raises(ps.PureSGDError, match="holds one array without a name"):
        ps.data.from_files(written(tmp_path / "x.npy", X.numpy()), fields=("x",))


def test_all_of_the_files_at_once_must_be_meant(tmp_path):
    dataset = ps.data.from_files(*npy(tmp_path))
    with pytest.raises(ps.PureSGDError, match="would take all 300 examples into memory"):
        ps.data.batch_source(dataset)
    ((_, y),) = ps.data.batch_source(dataset, batch_size=300).epoch(0)
    assert torch.equal(y, Y)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    write_arrow(tmp_path / "x.arrow")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ps.PureSGDError, match=r"pip install pure_sgd\[arrow\]"):
        ps.data.from_files(tmp_path / "x.arrow")


def test_nothing_is_unpickled(tmp_path):
    class Planted:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "planted"),))

    with pytest.raises(ps.PureSGDError, match="holds Python objects"):
        ps.data.from_files(written(tmp_path / "o.npy", np.array([Planted()], dtype=object)))
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_for_a_gpu_batches_are_pinned_and_moved_while_the_program_goes_on(tmp_path, monkeypatch, device):
    pinned, moved = [], []

    def memory(size: int, pin: bool) -> torch.Tensor:
        pinned.append(pin)
        return torch.empty(size, dtype=torch.uint8)

    def to(leaf: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        moved.append((device.type, non_blocking))
        return leaf

    source = ps.data.batch_source(ps.data.from_files(*npy(tmp_path)), 300, device=torch.device(device))
    monkeypatch.setattr(columns, "_memory", memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    ((_, y),) = source.epoch(0)
    assert y.sum() == Y.sum()
    assert pinned == [device == "cuda"] * 2
    assert moved == [(device, device == "cuda")] * 2
