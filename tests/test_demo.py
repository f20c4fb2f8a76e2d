"""The demo: its plain NumPy twin, its readers, and a short run from end to end."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the demo needs scikit-learn")
pytest.importorskip("matplotlib", reason="the demo needs matplotlib")
pytest.importorskip("rich", reason="the demo needs rich")

import matplotlib

from fastconv import nn
from fastconv.cli import main
from fastconv.demo import data, networks, plain, training
from fastconv.demo.data import DemoError
from fastconv.outputs import OutputError, check_picture

# --- the plain NumPy twin ---------------------------------------------------------------------------------


def passes(build, layers, x, error):
    """A network's output, input gradient and parameter gradients."""
    network = build(layers, rng=3, dtype="float64")
    output = network.forward(x)
    return [output, network.backward(error(output.shape)), *network.gradients()]


def assert_twins_agree(build, x):
    def error(shape):
        return np.random.default_rng(1).standard_normal(shape)

    ours, theirs = passes(build, nn, x, error), passes(build, plain, x, error)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape
        np.testing.assert_allclose(our, their, 1e-9, 1e-12)


@pytest.mark.parametrize("name", ["s000", "s001", "s002", "s003", "s004"])
def test_plain_twin_of_every_network(name):
    shape = (2, 5, 5, 3) if name == "s001" else (3, 1, 28, 28)
    assert_twins_agree(getattr(networks, name), np.random.default_rng(0).random(shape))


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": 2}, {"stride": 3, "padding": 1}], ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_plain_convolution(options, layout):
    def build(layers, rng, dtype):
        return nn.Sequential(layers.Conv2d(2, 4, 3, **options, layout=layout, rng=rng, dtype=dtype))

    shape = (2, 2, 9, 8) if layout == "NCHW" else (2, 9, 8, 2)
    assert_twins_agree(build, np.random.default_rng(0).standard_normal(shape))


def test_plain_pooling_takes_the_first_maximum_and_leaves_the_rest_out():
    def build(layers, rng, dtype):
        return nn.Sequential(layers.MaxPool2d(2))

    ties = np.random.default_rng(0).integers(0, 3, (2, 3, 7, 9)).astype(float)
    assert_twins_agree(build, ties)


def test_plain_layers_refuse_backward_first():
    for layer in (plain.Conv2d(1, 1, 3), plain.MaxPool2d(2)):
        with pytest.raises(ValueError, match="backward must be called after forward"):
            layer.backward(np.ones((1, 1, 1, 1)))


def test_plain_convolution_computes_only_what_is_needed():
    layer = plain.Conv2d(1, 2, 3, rng=0)
    output = layer.forward(np.ones((1, 1, 5, 5), np.float32))
    layer.frozen = True
    assert layer.backward(output, needs_input=False) is None
    assert layer.grad_weight is None
    assert layer.backward(output).shape == (1, 1, 5, 5)


def test_training_steps_of_the_twins_stay_together():
    recipe, rng = networks.RECIPES["s000"], np.random.default_rng(0)
    ours, theirs = (training.Trainer(recipe, layers, seed=0) for layers in (nn, plain))
    for _ in range(5):
        images, labels = rng.random((10, 1, 28, 28), np.float32), rng.integers(0, 10, 10)
        assert ours.step(images, labels) == pytest.approx(theirs.step(images, labels), rel=1e-3)


# --- images -----------------------------------------------------------------------------------------------


def test_digits_are_the_same_each_time_and_stratified():
    first, second = data.digits(), data.digits()
    assert first.train_images.shape == (1437, 1, 28, 28)
    assert first.train_images.dtype == np.float32
    assert first.train_images.min() == 0
    assert first.train_images.max() == 1
    np.testing.assert_array_equal(first.train_images, second.train_images)
    shares = np.bincount(first.test_labels) / np.bincount(np.r_[first.train_labels, first.test_labels])
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


def idx(array):
    """An array of bytes in the IDX format."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(folder, dots=False, gz=False, train=60, test=20):
    """Four small IDX files: noise, with a bright bar at a row that tells the class."""
    rng, paths = np.random.default_rng(0), {}
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 50, (count, 28, 28))
        images[np.arange(count), 4 + 2 * labels] = 255
        for kind, array in (("images", images), ("labels", labels)):
            name = f"{part}-{kind}{'.' if dots else '-'}idx{array.ndim}-ubyte{'.gz' if gz else ''}"
            paths[f"{part}-{kind}"] = folder / name
            (folder / name).write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    return paths


@pytest.mark.parametrize("dots", [False, True])
@pytest.mark.parametrize("gz", [False, True])
def test_idx_files_are_read(tmp_path, dots, gz):
    write_mnist(tmp_path, dots, gz)
    images = data.load(str(tmp_path))
    assert images.train_images.shape == (60, 1, 28, 28)
    assert images.test_images.shape == (20, 1, 28, 28)
    assert images.train_images.dtype == np.float32
    assert images.train_images.max() == 1
    np.testing.assert_array_equal(images.test_labels, np.arange(20) % 10)
    assert images.train_labels.dtype == np.int64


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def overwrite(content):
    return lambda path: path.write_bytes(content)


GOOD_LABELS, ONE_IMAGE = idx(np.zeros(60)), idx(np.zeros((1, 28, 28)))
DAMAGES = {
    "truncated": (cut, "must hold 47040 bytes after its header, got 47039"),
    "too long": (lengthen, "must hold 47040 bytes after its header, got more"),
    "wrong magic": (overwrite(GOOD_LABELS), "must begin with the bytes 00000803, got 00000801"),
    "empty": (overwrite(b""), "must begin with the bytes 00000803, got an empty file"),
    "cut in the header": (overwrite(idx(np.zeros((1, 28, 28)))[:10]), "ends inside its header"),
    "no images": (overwrite(idx(np.zeros((0, 28, 28)))), "holds no data"),
    "other size": (overwrite(idx(np.zeros((60, 32, 32)))), "images must be 28x28, got 32x32"),
    "promises too much": (
        overwrite(bytes((0, 0, 8, 3)) + b"\xff" * 12 + bytes(100)),
        "after its header, got 100",
    ),
    "missing": (Path.unlink, "no such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_named_in_one_line(tmp_path, damage):
    path = write_mnist(tmp_path)["train-images"]
    do, message = DAMAGES[damage]
    do(path)
    with pytest.raises(DemoError) as caught:
        data.load(str(tmp_path))
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "content", [b"", b"not gzip", gzip.compress(ONE_IMAGE)[:-12]], ids=["empty", "no", "cut"]
)
def test_damaged_gzip_is_named_in_one_line(tmp_path, content):
    path = write_mnist(tmp_path, gz=True)["t10k-images"]
    path.write_bytes(content)
    with pytest.raises(DemoError, match=r"t10k-images-idx3-ubyte.gz: ") as caught:
        data.load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_labels_must_fit_the_images(tmp_path):
    path = write_mnist(tmp_path)["train-labels"]
    path.write_bytes(idx(np.zeros(59)))
    with pytest.raises(DemoError, match="59 labels for 60 images"):
        data.load(str(tmp_path))
    path.write_bytes(idx(np.full(60, 10)))
    with pytest.raises(DemoError, match="labels must be below 10, got 10"):
        data.load(str(tmp_path))


# --- a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def short_race(monkeypatch):
    """Two rounds: what a race says is not tested here."""
    monkeypatch.setattr(
        "fastconv.demo.run.race", lambda *args, **options: training.race(*args, **options, rounds=2)
    )


PNG = b"\x89PNG\r\n\x1a\n"


def test_a_run_from_end_to_end(tmp_path, monkeypatch, capsys, short_race):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    write_mnist(tmp_path / "mnist")
    options = ["demo", "--data", "mnist", "--net", "s004", "--threads", "1"]
    assert main([*options, "--epochs", "2", "--save", "net.npz"]) == 0
    said = capsys.readouterr().out
    for part in (
        "60 for training, 20 for testing",
        "trained: 2 epochs",
        "test accuracy",
        "plain NumPy",
        "ratio",
    ):
        assert part in said
    assert (tmp_path / "fastconv-demo-s004.png").read_bytes().startswith(PNG)

    accuracy = said.split("test accuracy ")[1].split()[0]
    assert main([*options, "--load", "net.npz", "--picture", "again.pdf"]) == 0
    assert f"loaded: not trained, test accuracy {accuracy}" in capsys.readouterr().out
    assert (tmp_path / "again.pdf").read_bytes().startswith(b"%PDF")
    # a loaded network goes on learning where the user asks for it
    assert main([*options, "--load", "net.npz", "--epochs", "1"]) == 0
    assert "trained: 1 epochs" in capsys.readouterr().out


def test_s003_shows_frozen_and_trained_filters(tmp_path, monkeypatch, capsys, short_race):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path)
    assert main(["demo", "--data", ".", "--net", "s003", "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "frozen filters: 1 epochs" in said
    assert "trained filters: 1 epochs" in said


def test_runs_with_equal_seeds_are_equal():
    images, recipe = data.digits(), networks.RECIPES["s002"]

    def losses(seed):
        trainer = training.Trainer(recipe, nn, seed)
        return training.train(trainer, images, epochs=1, batch=100, seed=seed, label="").losses

    assert losses(0) == losses(0) != losses(1)


def test_a_digit_network_learns():
    images, recipe = data.digits(), networks.RECIPES["s000"]
    trainer = training.Trainer(recipe, nn, 0)
    history = training.train(trainer, images, epochs=4, batch=10, seed=0, label="")
    assert history.accuracies[-1] > 0.9
    assert history.accuracies[-1] == training.accuracy(
        trainer.network, images.test_images, images.test_labels
    )


def test_a_race_takes_the_fastest_steps(monkeypatch):
    """A clock that says how long each step took: the first turn does not count, nor do long ones."""
    steps = [1, 1, *(4, 30), *(2, 70), *(90, 8), *(3, 9)]  # ours and plain, turn by turn
    monkeypatch.setattr(training, "perf_counter", iter(np.repeat(np.cumsum([0, *steps]), 2)[1:-1]).__next__)
    raced = training.race(networks.RECIPES["s002"], data.digits(), batch=2, seed=0, rounds=4, seconds=1000)
    assert (raced.fastconv, raced.plain, raced.ratio) == (2000, 8000, 4)


def test_a_race_ends_when_its_time_is_over():
    calls = []
    recipe = networks.RECIPES["s002"]
    counted = replace(recipe, build=lambda layers, seed: CountedNetwork(calls, recipe.build(layers, seed)))
    training.race(counted, data.digits(), batch=1, seed=0, rounds=50, seconds=0)
    assert len(calls) == 12  # five turns, and the first, of two


class CountedNetwork(nn.Sequential):
    def __init__(self, calls, network):
        super().__init__(*network.layers)
        self.calls = calls

    def forward(self, x):
        self.calls.append(x.shape)
        return super().forward(x)


def test_dead_filters_are_those_whose_maps_are_zero_in_all_images():
    network = nn.Sequential(nn.Conv2d(1, 3, 1, rng=0), nn.ReLU(), nn.Conv2d(3, 2, 1, rng=0), nn.ReLU())
    network[0].weight[:, 0, 0, 0] = [1, -1, -1]
    network[0].bias[:] = [0, 0, 0.5]
    network[2].weight[:, :, 0, 0] = [[0, 1, 0], [1, 1, 1]]
    network[2].bias[:] = 0
    bright, dark = np.ones((400, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 0.25, np.float32)
    dark[0, 0, 1, 1] = 0.75
    first, second = training.dead_filters(network, bright, dark)
    assert first.tolist() == [False, True, False]
    assert second.tolist() == [True, False]


@pytest.mark.parametrize("name", networks.RECIPES)
def test_the_passes_of_an_image_are_those_of_the_plain_twin(name):
    image = data.digits().test_images[0]
    trainers = [training.Trainer(networks.RECIPES[name], layers, seed=0) for layers in (nn, plain)]
    before = {key: array.copy() for key, array in trainers[0].network.state().items()}
    ours, theirs = (trainer.passes(image, 3) for trainer in trainers)
    pairs = [(ours.image, theirs.image), (ours.filters, theirs.filters), (ours.output, theirs.output)]
    for our, their in [*pairs, *zip(ours.maps, theirs.maps, strict=True)]:
        for a, b in zip(our, their, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        assert our[0].shape == our[1].shape
        assert np.any(our[1])
    for key, array in trainers[0].network.state().items():
        np.testing.assert_array_equal(array, before[key])


def test_a_dead_filter_is_said_to_be_dead(tmp_path, monkeypatch, capsys, short_race):
    """A filter that gives nothing, in a saved network: a line, and a word in the picture."""
    monkeypatch.chdir(tmp_path)
    network = networks.s000(nn, rng=0)
    network[3].bias[2] = -1000
    training.save(Path("net.npz"), "s000", network)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert main(["demo", "--load", "net.npz", "--picture", "p.svg"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "dead: filter 3 of convolution 2, 0 for every image: it learns no more" in said
    drawn = Path("p.svg").read_text("utf-8")
    assert drawn.count(">dead<") == 6 * sum(line.startswith("dead: ") for line in said)


# --- files that are not what they should be -----------------------------------------------------------------


def saved(path, name="s004"):
    network = getattr(networks, name)(nn, rng=0)
    training.save(path, name, network)
    return network


def test_save_and_restore(tmp_path):
    network = saved(tmp_path / "net.npz")
    other = networks.s004(nn, rng=1)
    training.restore(tmp_path / "net.npz", "s004", other)
    for name, array in network.state().items():
        np.testing.assert_array_equal(array, other.state()[name])


def spoil(path, **changes):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive}
    with path.open("wb") as file:
        np.savez(file, **(arrays | changes))


BAD_FILES = {
    "missing": (Path.unlink, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "not a network saved by"),
    "text": (lambda path: path.write_bytes(b"hello"), "not a network saved by"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "not a network saved by"),
    "npy": (lambda path: path.write_bytes(_npy()), "not a network saved by"),
    "other network": (lambda path: saved(path, "s002"), "it holds s002"),
    "other shape": (lambda path: spoil(path, **{"0.bias": np.zeros(4, np.float32)}), "must be of shape (3,)"),
    "not finite": (lambda path: spoil(path, **{"0.bias": np.full(3, np.nan)}), "must be finite floats"),
    "objects": (lambda path: spoil(path, **{"0.bias": np.array([None] * 3)}), "not a network saved by"),
}


def _npy():
    from io import BytesIO

    file = BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_network_file_is_named_in_one_line(tmp_path, capsys, kind):
    path = tmp_path / "net.npz"
    saved(path)
    spoil_it, message = BAD_FILES[kind]
    spoil_it(path)
    assert main(["demo", "--net", "s004", "--load", str(path), "--picture", str(tmp_path / "p.png")]) == 2
    told = capsys.readouterr().err
    line = told.strip().splitlines()[-1]
    assert line.startswith(f"fastconv demo: error: {path}: ")
    assert message in line


def test_pictures_have_a_known_ending(tmp_path):
    check_picture(tmp_path / "a.SVG")
    with pytest.raises(OutputError, match=r"a\.xyz: must end in one of .*\.png"):
        check_picture(tmp_path / "a.xyz")
