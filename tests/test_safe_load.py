"""The reader of files of torch.save: what was saved comes back bit by bit, and every other file is one clear error."""

import random
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import CheckpointError, XmodalerCheckpointer
from xmodaler_ssattn.runtime.rng import get_random_state
from xmodaler_ssattn.safe_load import read_checkpoint, safe_load, weights_of

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES += [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.complex64, torch.complex128]
if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5):
    DTYPES += [torch.uint16, torch.uint32, torch.uint64]  # PyTorch 2.4 has them, but cannot save them


def numbers(dtype: torch.dtype, count: int = 12) -> torch.Tensor:
    if dtype == torch.bool:
        return torch.arange(count) % 3 == 0
    raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=torch.Generator().manual_seed(1))
    return raw.to(torch.uint8).view(dtype)


def assert_same(read, saved):
    assert type(read) is type(saved)
    if isinstance(saved, torch.Tensor):
        assert (read.dtype, read.shape, read.stride()) == (saved.dtype, saved.shape, saved.stride())
        one, other = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (read, saved))
        assert torch.equal(one, other)
    elif isinstance(saved, dict):
        assert list(read) == list(saved)
        for key, value in saved.items():
            assert_same(read[key], value)
    elif isinstance(saved, (list, tuple)):
        assert len(read) == len(saved)
        for one, other in zip(read, saved):
            assert_same(one, other)
    elif isinstance(saved, np.ndarray):
        assert read.dtype == saved.dtype and read.shape == saved.shape and read.tobytes() == saved.tobytes()
    else:
        assert read == saved


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def saved(request, tmp_path):
    def save(content):
        path = tmp_path / "w.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return save


def test_tensors_of_every_type_come_back_bit_by_bit_as_torch_reads_them(saved):
    content = {str(dtype): numbers(dtype).reshape(3, 4).t() for dtype in DTYPES}
    content |= {f"{dtype} view": numbers(dtype)[1:7:2] for dtype in DTYPES}
    content |= {"number": torch.tensor(2.5), "none": torch.zeros(0, 4), "spread": torch.ones(1).expand(5)}
    path = saved(content)
    assert_same(safe_load(path), content)
    if path.read_bytes().startswith(b"PK"):  # torch does not read float8 and uint16 of its older form
        assert_same(safe_load(path, checksums=True), torch.load(path, weights_only=True))


def test_a_shared_storage_is_read_once_and_stays_shared(saved):
    whole = torch.arange(12.0)
    tied = whole.view(3, 4)
    content = safe_load(saved({"whole": whole, "tied": tied, "again": whole, "list": [tied[1:]]}))
    content["whole"][5] = -1
    assert content["tied"][1, 1] == content["list"][0][0, 1] == -1 and content["again"] is content["whole"]
    assert content["tied"].untyped_storage().nbytes() == whole.untyped_storage().nbytes()


def test_a_training_checkpoint_comes_back_with_optimizer_schedule_and_random_states(saved):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "random": get_random_state(),
        "plain": [None, True, 3, 2**80, 0.1, float("inf"), "é", b"\x00\xff", (1, (2,)), {1, 2}, 1j, torch.float16],
        "numpy": [np.float64(0.1), np.int64(-3), np.bool_(True), np.arange(6).reshape(2, 3).T, np.ones(2, ">f4")],
    }
    read = safe_load(saved(content))
    content["numpy"][4] = content["numpy"][4].astype("f4")
    assert_same(read, content)
    assert isinstance(read["model"], OrderedDict) and read["model"]._metadata == content["model"]._metadata
    assert isinstance(read["scheduler"]["milestones"], Counter)
    optimizer.load_state_dict(read["optimizer"])
    schedule.load_state_dict(read["scheduler"])


def test_a_list_that_holds_itself_is_read(saved):
    content = [1]
    content.append(content)
    read = safe_load(saved(content))
    assert read[0] == 1 and read[1] is read


def test_a_part_is_read_without_the_rest(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.ones(2)}, "optimizer": torch.zeros(1000)}, path)
    damaged = path.read_bytes().replace(bytes(4000), b"\x01" * 4000)
    path.write_bytes(damaged)
    assert torch.equal(safe_load(path, part=weights_of, checksums=True)["a"], torch.ones(2))
    with pytest.raises(UserError, match="has a wrong checksum"):
        safe_load(path, checksums=True)


HOSTILE = {
    "empty": b"",
    "one byte": b"\x80",
    "claims 2 GB of text": b"\x80\x02X\xff\xff\xff\x7f.",
    "claims 2 GB of bytes": b"\x80\x03B\xff\xff\xff\x7f.",
    "calls a program": b"cos\nsystem\n(S'true'\ntR.",
    "calls bytearray": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "nested deeply": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "text": b"not a checkpoint\n" * 9,
    "zip without an end": b"PK\x03\x04" + bytes(60),
    "a function": b"\x80\x02ccollections\nOrderedDict\n.",
    "a storage whose key is nested 2^60 times": b"\x80\x02(\x8c\x07storagectorch\nFloatStorage\n)"
    + b"2\x86" * 60
    + b"\x8c\x03cpuK\x01tQ.",
    "an array whose shape is nested 2^60 times": b"\x80\x02cnumpy.core.numeric\n_frombuffer\n"
    + b"(C\x00cnumpy\ndtype\nU\x02f4\x85R)"
    + b"2\x86" * 60
    + b"tR.",
    "a tensor with offset -1": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NJ\xff\xff\xff\xff))tR.",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_error_that_names_it(content, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth is (damaged or incomplete|empty|refused)"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"w\.pth is (damaged or incomplete|empty|refused)"):
        XmodalerCheckpointer(torch.nn.Linear(1, 1)).load(str(path))


def test_every_flipped_byte_of_the_pickle_is_noticed(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": {"weight": torch.ones(2)}, "iteration": 7}, path)
    whole = path.read_bytes()
    start, end = whole.index(b"\x80\x02}"), whole.index(b"PK\x07\x08")
    for place in range(start, end):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"w\.pth is damaged or incomplete .*CRC"):
            safe_load(path)


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """A copy with one to four changes: a byte, a run of bytes removed, doubled or set to one value, or the end lost."""
    data = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        if not data:
            break
        at, length = chance.randrange(len(data)), chance.choice([1, 1, 2, 4, 8, 64])
        kind = chance.randrange(6)
        if kind < 2:
            data[at] = chance.randrange(256)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = bytes([chance.choice([0, 0x7F, 0xFF])]) * length
        else:
            del data[max(at, 1) :]
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # of zipfile, about what it meets
def test_four_hundred_mutated_files_are_read_or_refused_with_the_file_named(saved, tmp_path):
    weights = torch.nn.Linear(2, 2).state_dict()
    content = {"model": weights, "best": np.float64(0.5), "random": [1, (2, "x")], "half": numbers(torch.bfloat16)}
    whole = saved(content).read_bytes()
    chance = random.Random(0)
    path = tmp_path / "mutated.pth"
    refused = 0
    for _ in range(200):
        path.write_bytes(mutated(whole, chance))
        try:
            safe_load(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 50
