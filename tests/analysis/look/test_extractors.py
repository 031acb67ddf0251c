"""Extractors: what the network of FID is given, where it is looked for, and networks of timm beside it."""

import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.client import IncompleteRead
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.look import extractors
from analysis.look.extractors import INCEPTION_URL, Inception, build_extractor, find_inception, resize_as_tensorflow
from data.errors import UserError

CPU = torch.device("cpu")
NVIDIAS = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
pytestmark = pytest.mark.usefixtures("one_thread")


class Layers(nn.Module):
    """In place of Inception's: extremes and two pixels of what it is given, so that a test can see that."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 299, 299)
        extremes = torch.stack([x.amin(dim=(1, 2, 3)), x.amax(dim=(1, 2, 3)), x[:, 0, 0, 0], x[:, 2, 150, 37]], dim=1)
        return extremes.reshape(-1, 4, 1, 1)


class WithClasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.output = Layers(), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Module()
        self.net.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.net.layers(x)


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch):
    monkeypatch.delenv("VISION_SWEEPS_DATA", raising=False)
    monkeypatch.delenv(extractors.TRUSTED, raising=False)


@pytest.fixture
def script(monkeypatch):
    """A function that writes a network as TorchScript, which the environment then names as trusted."""

    def write(path, network):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.script(network).save(str(path))
        monkeypatch.setenv(extractors.TRUSTED, sha256(path.read_bytes()).hexdigest())
        return path

    return write


def pixels(*shape, seed=0):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "new_size"), [(4, 7), (32, 299), (7, 4), (5, 5)])
def test_images_are_resized_as_by_tensorflow_1(size, new_size):
    image = pixels(1, 3, size, size).float()
    result = resize_as_tensorflow(image, new_size)

    def value(row, column):  # between the four points round the scaled one, the last ones repeated
        y, x = row * size / new_size, column * size / new_size
        (top, left), last = (int(y), int(x)), size - 1
        bottom, right = min(top + 1, last), min(left + 1, last)
        (down, across), corners = (y - top, x - left), image[0]
        upper = corners[:, top, left] * (1 - across) + corners[:, top, right] * across
        lower = corners[:, bottom, left] * (1 - across) + corners[:, bottom, right] * across
        return upper * (1 - down) + lower * down

    for row in range(0, new_size, max(1, new_size // 9)):
        for column in (0, new_size // 3, new_size - 1):
            torch.testing.assert_close(result[0, :, row, column], value(row, column), atol=1e-3, rtol=0)


@pytest.mark.parametrize("network", [WithClasses, Wrapped])
def test_inception_is_given_pixels_from_minus_1_to_just_below_1(network, tmp_path, script):
    extractor = Inception(script(tmp_path / "net.pt", network()), CPU)
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[1] = 255
    expected = torch.tensor([[-1.0], [127 / 128]]).expand(2, 4)
    torch.testing.assert_close(extractor(images), expected)


def test_inception_is_not_touched_by_mixed_precision(tmp_path, script):
    extractor, images = Inception(script(tmp_path / "net.pt", Wrapped()), CPU), pixels(3, 3, 8, 8)
    expected = extractor(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(images), expected)


def test_classes_are_those_of_the_output_without_its_biases(tmp_path, script):
    torch.manual_seed(0)
    network = WithClasses()
    extractor = Inception(script(tmp_path / "net.pt", network), CPU)
    features = torch.randn(5, 4)
    expected = (features @ network.output.weight.detach().T).softmax(dim=1)
    with torch.autocast("cpu", torch.bfloat16):  # as in training, but the figures are those in fp32
        torch.testing.assert_close(extractor.classify(features), expected)
    assert Inception(script(tmp_path / "other.pt", Wrapped()), CPU).classify(features) is None


@pytest.mark.parametrize(
    "place", ["fid_inception_v3.pt", "weights/fid_inception_v3.pt", "weights/inception-2015-12-05.pt"]
)
def test_inception_is_found_beside_the_data_and_in_weights(place, tmp_path, monkeypatch, script):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    script(tmp_path / place, Wrapped())
    assert build_extractor("inception", CPU).path == tmp_path / place


def test_without_a_network_one_line_says_what_to_get_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    monkeypatch.setattr("data.servers.unreachable", lambda url: "no connection to the moon")
    with pytest.raises(UserError) as caught:
        find_inception()
    message = str(caught.value)
    assert all(part in message for part in ("the moon", INCEPTION_URL, str(tmp_path / "weights")))
    assert "\n" not in message


def test_with_a_network_inception_is_downloaded_into_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    monkeypatch.setattr("data.servers.unreachable", lambda url: "")
    fetched = []
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, path, **told: fetched.append((url, path, told)))
    assert find_inception() == tmp_path / "weights" / "inception-2015-12-05.pt"
    assert fetched == [(INCEPTION_URL, str(tmp_path / "weights" / "inception-2015-12-05.pt"), {"hash_prefix": NVIDIAS})]


def test_of_three_first_downloads_at_once_one_downloads_and_the_others_wait(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    monkeypatch.setattr("data.servers.unreachable", lambda url: "")
    started = []

    def download(url, path, hash_prefix):
        started.append(path)
        time.sleep(0.3)
        Path(path).write_bytes(b"network")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: find_inception(), range(3)))
    assert paths == [tmp_path / "weights" / "inception-2015-12-05.pt"] * 3
    assert len(started) == 1
    assert "another process downloads inception-2015-12-05.pt: waiting" in capsys.readouterr().out


def test_a_download_of_other_content_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    monkeypatch.setattr("data.servers.unreachable", lambda url: "")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "inception-2015-12-05.pt.0a.partial").touch()  # of a download that was killed
    (tmp_path / "evil").write_bytes(b"evil")
    monkeypatch.setattr(extractors, "INCEPTION_URL", (tmp_path / "evil").as_uri() + "#.pt")
    with pytest.raises(UserError, match="could not be downloaded .*invalid hash value"):
        find_inception()
    assert [path.suffix for path in (tmp_path / "weights").iterdir()] == [".lock"]


@pytest.mark.parametrize("error", [ConnectionResetError, IncompleteRead, RuntimeError, PermissionError])
def test_a_download_that_breaks_off_ends_in_one_line(error, tmp_path, monkeypatch):
    def fail(url, path, hash_prefix):
        raise error("gone\naway")

    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    monkeypatch.setattr("data.servers.unreachable", lambda url: "")
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    reason = "IncompleteRead" if error is IncompleteRead else "gone away"
    with pytest.raises(UserError, match=rf"could not be downloaded \({reason}.*\)"):
        find_inception()


@pytest.mark.parametrize("name", ["net.pt", "inception-2015-12-05.pt"])
def test_code_in_a_file_that_is_not_known_is_never_loaded(name, tmp_path, script, monkeypatch):
    path = script(tmp_path / name, Wrapped())
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("loaded a file that nobody vouches for"))
    digest = sha256(path.read_bytes()).hexdigest()
    for trusted in ("", "0" * 64, digest[:10]):
        monkeypatch.setenv(extractors.TRUSTED, trusted)
        with pytest.raises(UserError, match=f"^{path} is not the Inception of FID .*{digest}.*{extractors.TRUSTED}"):
            Inception(path, CPU)


@pytest.mark.parametrize("content", [b"no network", None])
def test_a_file_that_is_not_inception_ends_in_one_line(content, tmp_path, script):
    path = tmp_path / "net.pt"
    script(path, nn.Linear(2, 2)) if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} is not the Inception of FID") as caught:
        Inception(path, CPU)
    assert "\n" not in str(caught.value)


def test_other_weights_have_another_description(tmp_path, script):
    one, other = (Inception(script(tmp_path / f"{net.__name__}.pt", net()), CPU) for net in (Wrapped, WithClasses))
    assert one.description() != other.description()
    assert one.description()["precision"] == "fp32"


def nvidias_resize(images):
    """299x299 as within the published TorchScript."""
    theta = torch.eye(2, 3)
    theta[:, 2] = torch.tensor([1 / images.shape[3] - 1 / 299, 1 / images.shape[2] - 1 / 299])
    grid = F.affine_grid(theta.expand(len(images), -1, -1), [len(images), 3, 299, 299], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@pytest.mark.slow
def test_the_real_inception_agrees_with_its_own_resizing(cifar10_dir):
    from data.cifar10 import load

    path = cifar10_dir / "fid_inception_v3.pt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    extractor = Inception(path, CPU)
    image = load(cifar10_dir, 0, 0).test.images[:1]
    with torch.inference_mode():
        expected = extractor.layers((nvidias_resize(image.float()) - 128) / 128).flatten(1)
    features = extractor(image)
    assert features.shape == (1, extractor.num_features)
    torch.testing.assert_close(features, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["test_efficientnet", "test_vit"])
def test_a_network_of_timm_gives_its_own_features_and_classes(arch, tmp_path, monkeypatch):
    monkeypatch.setenv("VISION_SWEEPS_DATA", str(tmp_path))
    torch.manual_seed(0)
    network = timm.create_model(arch, pretrained=False).eval()
    (tmp_path / "weights").mkdir()
    torch.save(network.state_dict(), tmp_path / "weights" / f"{arch}.pth")
    extractor, config = build_extractor(arch, CPU), network.pretrained_cfg
    side = config["input_size"][-1]
    images = pixels(2, 3, side, side)  # no resizing, so that the network can be given them at once
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    normalised = (images / 255 - mean) / std
    with torch.inference_mode():
        features = extractor(images)
        torch.testing.assert_close(
            features, network.forward_head(network.forward_features(normalised), pre_logits=True), atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            extractor.classify(features), network(normalised).softmax(dim=1), atol=1e-5, rtol=1e-4
        )
    assert features.shape == (2, extractor.num_features)
    assert extractor.name == arch
    assert extractor.description()["weights"].startswith("sha256-")


def test_an_extractor_that_timm_does_not_know_is_refused():
    with pytest.raises(UserError, match="^--extractor=resnet81 is not known, did you mean"):
        build_extractor("resnet81", CPU)


def test_an_extractor_whose_weights_cannot_be_had_is_told_with_what_helps_there():
    with pytest.raises(UserError) as caught:
        build_extractor("efficientnet_b8", torch.device("cpu"))
    assert str(caught.value) == "--extractor=efficientnet_b8: no hub has weights of it: name another"
