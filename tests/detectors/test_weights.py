"""Weights files: every container gives its tensors, and no container gets to run anything."""

import io
import os
import pickle
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from xmodaler_ssattn.detectors.loading import read_weights
from xmodaler_ssattn.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a.bias": torch.tensor([0.5, -1.0])}


class Marks:
    """Unpickled the usual way, this makes a folder."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def pickled(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def same(read, expected):
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        assert read[name].dtype == torch.as_tensor(tensor).dtype, name
        assert torch.equal(read[name], torch.as_tensor(tensor)), name


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [lambda w: w, lambda w: {"model": w, "iteration": 7}, lambda w: {"state_dict": w}],
    ids=["bare", "model", "state_dict"],
)
def test_both_forms_of_torch_give_the_tensors_that_were_saved(tmp_path, legacy, wrap):
    path = saved(tmp_path / "w.pth", wrap(WEIGHTS), _use_new_zipfile_serialization=not legacy)
    same(read_weights(path), WEIGHTS)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_of_numpy_arrays_gives_them_as_tensors(tmp_path, protocol):
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    same(read_weights(pickled(tmp_path / "w.pkl", content, protocol)), WEIGHTS)


def test_a_pickle_of_python_2_is_read(tmp_path):
    """There bytes were strings: opcode U, a string of one length byte. 0x3f800000 is 1.0 in float32."""
    code = (
        b"\x80\x02}U\x01aCnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04\x00\x00\x80\x3ftbs."
    ).replace(b"aCnumpy", b"acnumpy")
    path = tmp_path / "old.pkl"
    path.write_bytes(code)
    same(read_weights(path), {"a": torch.tensor([1.0])})


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_numbers_of_numpy_among_tensors_do_not_stop_the_reading(tmp_path, legacy):
    content = {"model": {**WEIGHTS, "n": np.int64(3)}, "best": np.float64(0.25), "iteration": np.int64(3)}
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=not legacy)
    same(read_weights(path), {**WEIGHTS, "n": torch.tensor(3)})


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views_parameters_and_shared_storages_come_out_as_they_were(tmp_path, legacy):
    whole = torch.arange(12.0).reshape(3, 4)
    content = OrderedDict(
        turned=whole.t(),
        corner=whole[1:, 2:],
        whole=whole,
        learned=torch.nn.Parameter(whole[0]),
        none=torch.zeros(0, 4),
        one=torch.tensor(5),
        half=torch.ones(2, dtype=torch.bfloat16),
    )
    path = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=not legacy)
    same(read_weights(path), {name: tensor.detach() for name, tensor in content.items()})


def test_arrays_keep_their_order_type_and_bytes(tmp_path):
    content = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">f4"),
        "half": np.ones(2, np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "flag": np.bool_(True),
    }
    read = read_weights(pickled(tmp_path / "w.pkl", content))
    assert torch.equal(read["fortran"], torch.arange(6.0, dtype=torch.float64).reshape(2, 3))
    assert torch.equal(read["big"], torch.tensor([0.0, 1.0, 2.0]))
    assert read["half"].dtype == torch.float16 and read["empty"].shape == (0, 4) and bool(read["flag"])


def test_training_state_beside_the_weights_is_not_changed(tmp_path):
    content = {
        "model": OrderedDict(WEIGHTS),
        "scheduler": {"milestones": Counter({10: 1}), "last": [1, 2, (3, None)]},
        "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    }
    same(read_weights(saved(tmp_path / "w.pth", content)), WEIGHTS)


def test_a_module_that_was_saved_brings_its_versions_and_they_are_dropped(tmp_path):
    module = torch.nn.BatchNorm2d(2)
    same(read_weights(saved(tmp_path / "w.pth", module.state_dict())), module.state_dict())


@pytest.mark.parametrize("container", ["pkl", "zip", "legacy"])
def test_a_pickle_that_calls_the_system_is_refused_and_does_not_get_to_call_it(tmp_path, container):
    mark = tmp_path / "was run"
    content = {"model": {"a": np.ones(2) if container == "pkl" else torch.ones(2)}, "extra": Marks(mark)}
    path = tmp_path / f"evil.{container}"
    if container == "pkl":
        pickled(path, content)
    else:
        saved(path, content, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(UserError, match=r"evil\.\w+ is refused: it asks for (posix|nt)\.mkdir") as refusal:
        read_weights(path)
    assert not mark.exists() and "could run any code" in str(refusal.value)
    pickle.loads(pickle.dumps(Marks(mark)))
    assert mark.exists()  # the trap itself works


@pytest.mark.parametrize(
    "module, name",
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("numpy", "load"),
        ("importlib", "import_module"),
        ("copyreg", "_reconstructor"),
        ("numpy", "core.multiarray.scalar"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("xmodaler_ssattn.safe_load", "safe_load"),
    ],
)
def test_no_other_global_is_looked_up(tmp_path, module, name):
    def text(word):
        return b"\x8c" + bytes([len(word)]) + word.encode()

    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04" + text(module) + text(name) + b"\x93)R.")  # STACK_GLOBAL, call without arguments
    with pytest.raises(UserError, match="is refused: it asks for " + f"{module}.{name}".replace(".", r"\.")):
        read_weights(path)


def test_a_pickle_cannot_set_anything_of_what_it_is_given(tmp_path):
    """BUILD with (None, {name: value}) sets attributes, of functions too."""
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04ccollections\nOrderedDict\nN}\x8c\x05_makeK\x01s\x86b.")
    with pytest.raises(UserError, match="tries to set '_make'"):
        read_weights(path)


def test_a_pickle_that_names_a_huge_place_or_length_is_refused_before_memory_is_reserved(tmp_path):
    """Object number 2^32 - 1 would take 64 GB, as would bytes of that length."""
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x04}r\xff\xff\xff\xff.")
    with pytest.raises(UserError, match="it stores its object number 4,294,967,295"):
        read_weights(path)
    for opcode in (b"\x8e", b"\x96", b"\x8d"):  # bytes, bytearray, text with eight bytes of length
        path.write_bytes(b"\x80\x05" + opcode + b"\x00\x00\x00\x00\x10\x00\x00\x00.")
        with pytest.raises(UserError, match="is damaged or incomplete"):
            read_weights(path)


def test_an_array_of_objects_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"refused: it contains numpy data of type 'O8'"):
        read_weights(pickled(tmp_path / "w.pkl", {"a": np.array([WEIGHTS], dtype=object)}))


MAKERS = {
    "pkl": lambda path: pickled(path, {n: t.numpy() for n, t in WEIGHTS.items()}),
    "zip": lambda path: saved(path, WEIGHTS),
    "legacy": lambda path: saved(path, WEIGHTS, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_file_cut_short_anywhere_is_an_error_that_names_it(tmp_path, make):
    whole = make(tmp_path / "whole").read_bytes()
    path = tmp_path / "cut.pth"
    for length in [0, 1, 5, *range(20, len(whole) - 1, max(1, len(whole) // 40)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_weights(path)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_file_with_damaged_bytes_is_read_or_refused_but_never_crashes(tmp_path, make):
    whole = make(tmp_path / "whole").read_bytes()
    path = tmp_path / "w.pth"
    draw = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(draw.integers(len(whole)))] = int(draw.integers(256))
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except UserError as error:
            assert str(path) in str(error)


def rewritten(path, change):
    """A copy of a zip archive with its records changed: change(name, data) -> data, or None to leave it out."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in records.items():
            data = change(name, data)
            if data is not None:
                archive.writestr(name, data)
    path.write_bytes(out.getvalue())
    return path


def test_a_storage_of_the_wrong_length_or_none_is_an_error(tmp_path):
    short = rewritten(saved(tmp_path / "short.pth", WEIGHTS), lambda n, d: d[:-4] if n.endswith("data/0") else d)
    with pytest.raises(UserError, match=r"short\.pth is damaged .*storage 0 has 20 bytes, expected 24"):
        read_weights(short)
    gone = rewritten(saved(tmp_path / "gone.pth", WEIGHTS), lambda n, d: None if n.endswith("data/1") else d)
    with pytest.raises(UserError, match=r"gone\.pth is damaged .*storage 1 has 0 bytes, expected 8"):
        read_weights(gone)


def test_an_archive_with_a_record_twice_is_refused(tmp_path):
    path = saved(tmp_path / "w.pth", WEIGHTS)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}))
        archive.writestr("w/data.pkl", pickle.dumps({}))
    with pytest.raises(UserError, match=r"w/data\.pkl is duplicated"):
        read_weights(path)


def test_an_archive_that_unpacks_to_more_than_it_is_gets_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x00" * 1_000_000)
    with pytest.raises(UserError, match="claims more bytes than it has"):
        read_weights(path)


def test_an_npz_file_is_called_a_zip_file_that_is_not_of_torch(tmp_path):
    """Its records lie in no folder, so that below "the folder" all of them would have the same, empty name."""
    np.savez(tmp_path / "w.npz", weight=np.ones(3), bias=np.ones(3))
    with pytest.raises(UserError, match=r"w\.npz is refused: it is a zip file, but not of torch: it has no data.pkl"):
        read_weights(tmp_path / "w.npz")


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    """Two numbers are stored; a shape of (2,) with stride 2 would need three."""
    path = rewritten(
        saved(tmp_path / "w.pth", {"a": torch.zeros(2)}),
        lambda n, d: d.replace(b"K\x01\x85", b"K\x02\x85") if n.endswith("data.pkl") else d,
    )
    with pytest.raises(UserError, match=r"a tensor of shape \(2,\) needs more than the 2 numbers"):
        read_weights(path)


def test_an_array_cannot_have_more_numbers_than_bytes(tmp_path):
    path = pickled(tmp_path / "w.pkl", {"a": np.zeros(3, np.float32)}, protocol=2)
    path.write_bytes(path.read_bytes().replace(b"(K\x01K\x03\x85", b"(K\x01K\x7f\x85"))
    with pytest.raises(UserError, match=r"an array of shape \(127,\) and type f4 has 12 bytes"):
        read_weights(path)


@pytest.mark.parametrize(
    "content, words",
    [
        ([1, 2], "holds a list"),
        ({"model": {"a": "text"}}, "'a' is a str, expected a tensor"),
        ({}, r"a dictionary with the keys \(none\)"),
        ({"epoch": {"a": 1}}, "'epoch' is a dictionary with the keys a"),
    ],
)
def test_what_is_no_set_of_tensors_is_described(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read_weights(pickled(tmp_path / "w.pkl", content))


def test_a_missing_file_a_folder_and_a_text_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(UserError, match="is a folder"):
        read_weights(tmp_path)
    (tmp_path / "r101.caffemodel").write_bytes(b"\n\x0bResNet-101")
    with pytest.raises(UserError, match=r"r101\.caffemodel is a model of Caffe"):
        read_weights(tmp_path / "r101.caffemodel")
    (tmp_path / "text.pth").write_text("not weights\n" * 20)
    with pytest.raises(UserError, match=r"text\.pth is damaged or incomplete .* Expected a file of torch\.save"):
        read_weights(tmp_path / "text.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match=r"empty\.pth is empty\. Expected a file of torch\.save"):
        read_weights(tmp_path / "empty.pth")
