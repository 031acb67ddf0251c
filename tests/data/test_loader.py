import numpy as np
import pytest
import torch

from data.augmentation import Augmentation
from data.dataset import DatasetInfo, Split
from data.errors import UserError
from data.loader import PREFETCH, FeatureLoader, Loader, Shard, resident_images
from data.residence import Residence

CPU = torch.device("cpu")
MEAN, STD = (0.1, 0.5, 0.7), (0.5, 0.25, 2.0)
INFO = DatasetInfo("numbered", 16, (), MEAN, STD, {}, "")


def numbered_split(num):
    """Random images, the label of each being its own number."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num, 3, 16, 12), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(num))


def make_loader(num=23, resident="device", **options):
    return Loader(numbered_split(num), INFO, CPU, residence=Residence(resident == "device", "of a test"), **options)


EPOCH = {"seed": 1, "epoch": 0, "batch_size": 4}


def epoch_of(loader, augmentation="none", cutout_size=0, **changes):
    torch.manual_seed(0)  # of the augmentation
    augmentation = Augmentation(augmentation, cutout=cutout_size)
    return list(loader.training_batches(**{**EPOCH, "augmentation": augmentation, **changes}))


def numbers(batches):
    return [batch.labels.tolist() for batch in batches]


def normalised(images):
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    return (images.numpy().astype(np.float64) / 255 - mean) / std


def assert_same_batches(batches, others):
    assert numbers(batches) == numbers(others)
    for batch, other in zip(batches, others, strict=True):
        torch.testing.assert_close(batch.images, other.images, rtol=0, atol=0)


@pytest.mark.parametrize(("num", "batch_size"), [(24, 4), (23, 4), (23, 23), (23, 1)])
def test_epoch_holds_every_image_once(num, batch_size):
    batches = epoch_of(make_loader(num), batch_size=batch_size)
    assert sorted(sum(numbers(batches), [])) == list(range(num))


@pytest.mark.parametrize("counts", [(20, 3), (1, 30), (7, 7, 7), (12,)])
def test_balanced_batches_hold_all_classes_equally_often(counts):
    labels = torch.cat([torch.full((num,), 5 * label) for label, num in enumerate(counts)])
    split = numbered_split(len(labels))._replace(labels=labels, names=())
    batches = epoch_of(Loader(split, INFO, CPU), batch_size=2 * len(counts), sampling="balanced")
    drawn = [batch.labels.unique(return_counts=True)[1].tolist() for batch in batches]
    assert sum(map(sum, drawn)) == len(labels)
    assert all(sizes == [2] * len(counts) for sizes in drawn[:-1])


def test_some_images_are_of_all_classes_in_proportion_and_the_same_in_every_process():
    split = numbered_split(100)._replace(labels=torch.arange(100) // 10)
    chosen = [Loader(split, INFO, CPU, shard=Shard(rank, 2)).some(20) for rank in (0, 1)]
    assert torch.equal(*chosen)
    assert split.labels[chosen[0]].tolist() == [i // 2 for i in range(20)]


def test_order_differs_by_epoch_and_seed_alone():
    loader = make_loader()
    orders = [numbers(epoch_of(loader, epoch=e, seed=s)) for e, s in [(0, 1), (0, 1), (1, 1), (0, 2), (1, 0)]]
    assert orders[0] == orders[1]
    assert len({str(order) for order in orders}) == 4


def test_training_images_are_normalised_and_stay_with_their_labels():
    split = numbered_split(23)
    for images, labels, _ in epoch_of(make_loader()):
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images.numpy(), normalised(split.images[labels]), atol=1e-5)


@pytest.mark.parametrize("start", [1, 3, 5, 6])
@pytest.mark.parametrize("resident", ["device", "host"])
def test_start_continues_an_interrupted_epoch(start, resident):
    loader = make_loader(resident=resident)
    assert_same_batches(epoch_of(loader, start=start), epoch_of(loader)[start:])


@pytest.mark.parametrize("num_processes", [2, 4])
@pytest.mark.parametrize("num", [24, 23, 22, 21])
def test_shards_together_are_the_batches_of_one_process(num, num_processes):
    shards = [epoch_of(make_loader(num, shard=Shard(rank, num_processes))) for rank in range(num_processes)]
    whole = numbers(epoch_of(make_loader(num)))
    together = [sum(parts, []) for parts in zip(*map(numbers, shards), strict=True)]
    left_over = num % 4 % num_processes  # cannot be shared out
    assert sum(together, []) == sum(whole, [])[: num - left_over]
    assert together[: num // 4] == whole[: num // 4]


@pytest.mark.parametrize(
    ("num", "batch_size", "num_processes", "micro_batches", "shares"),
    [
        (23, 4, 1, 1, [4, 4, 4, 4, 4, 3]),
        (23, 4, 2, 1, [2, 2, 2, 2, 2, 1]),
        (21, 4, 2, 1, [2, 2, 2, 2, 2]),  # one image is left, for two processes
        (24, 8, 4, 2, [2, 2, 2]),
        (31, 8, 4, 2, [2, 2, 2]),  # seven images are left, for eight parts
        (22, 16, 2, 2, [8, 2]),  # six images are left, of which four make a part each
        (23, 4, 1, 2, [4, 4, 4, 4, 4, 2]),
    ],
)
def test_ragged_tail_is_shared_out_evenly(num, batch_size, num_processes, micro_batches, shares):
    for rank in range(num_processes):
        loader = make_loader(num, shard=Shard(rank, num_processes))
        batches = epoch_of(loader, batch_size=batch_size, micro_batches=micro_batches)
        assert [len(batch.labels) for batch in batches] == shares
        assert loader.steps_per_epoch(batch_size, micro_batches) == len(shares)
        assert all(share % micro_batches == 0 for share in shares)


@pytest.mark.parametrize(
    ("num", "batch_size", "num_processes", "micro_batches", "shares"),
    [
        (33, 32, 1, 1, [32]),  # one image is left, of which batch norm has no statistics
        (34, 32, 1, 1, [32, 2]),
        (23, 4, 2, 1, [2, 2, 2, 2, 2]),  # one for each of two processes
        (22, 16, 2, 2, [8]),
    ],
)
def test_a_last_step_of_single_images_is_left_out_where_there_must_be_two(
    num, batch_size, num_processes, micro_batches, shares
):
    loader = make_loader(num, shard=Shard(0, num_processes), fewest=2)
    batches = epoch_of(loader, batch_size=batch_size, micro_batches=micro_batches)
    assert [len(batch.labels) for batch in batches] == shares
    assert loader.steps_per_epoch(batch_size, micro_batches) == len(shares)


@pytest.mark.parametrize(("batch_size", "num_processes", "micro_batches"), [(1, 1, 1), (4, 4, 1), (4, 1, 4), (4, 2, 2)])
def test_steps_of_single_images_are_refused_where_there_must_be_two(batch_size, num_processes, micro_batches):
    shard = Shard(0, num_processes)
    assert make_loader(shard=shard).steps_per_epoch(batch_size, micro_batches) == 23 // batch_size
    shares = f"{num_processes} process(es)? x {micro_batches} micro-batch(es)?"
    message = f"--batch_size={batch_size} gives {shares} 1 image each"
    with pytest.raises(UserError, match=f"{message}.*: make it {2 * batch_size} or more"):
        make_loader(shard=shard, fewest=2).steps_per_epoch(batch_size, micro_batches)
    assert make_loader(shard=shard, fewest=2).steps_per_epoch(2 * batch_size, micro_batches) > 0


def test_the_images_that_four_processes_leave_out_are_those_that_the_readme_counts():
    found = {}
    for num_processes in (1, 4):
        loaders = [make_loader(135, shard=Shard(rank, num_processes), fewest=2) for rank in range(num_processes)]
        epochs = [[len(batch.labels) for batch in epoch_of(loader, batch_size=64)] for loader in loaders]
        found[num_processes] = len(epochs[0]), sum(map(sum, epochs))
    assert found == {1: (3, 135), 4: (2, 128)}


def test_batch_larger_than_the_split_is_refused():
    assert make_loader(23).steps_per_epoch(23) == 1
    with pytest.raises(UserError, match="--batch_size=24 is larger than the 23 training images: lower it"):
        make_loader(23).steps_per_epoch(24)


@pytest.mark.parametrize(
    ("num_processes", "micro_batches", "shares"),
    [
        (4, 1, "4 processes x 1 micro-batch"),
        (1, 4, "1 process x 4 micro-batches"),
        (2, 2, "2 processes x 2 micro-batches"),
    ],
)
def test_batch_that_cannot_be_shared_evenly_is_refused(num_processes, micro_batches, shares):
    loader = make_loader(shard=Shard(0, num_processes))
    with pytest.raises(UserError, match=f"--batch_size=6 cannot be shared by {shares}: make it a multiple of 4"):
        epoch_of(loader, batch_size=6, micro_batches=micro_batches)


@pytest.mark.parametrize("num", [3, 23])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("resident", ["device", "host"])
def test_evaluation_shards_cover_the_split_once_in_order(num, num_processes, resident):
    loader = make_loader(num, resident=resident)
    shares = [list(loader.evaluation_batches(4, Shard(rank, num_processes))) for rank in range(num_processes)]
    assert sum(sum(map(numbers, shares), []), []) == list(range(num))
    assert all(0 < len(batch.labels) <= 4 for share in shares for batch in share)
    sizes = [sum(len(batch.labels) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_evaluation_takes_the_share_of_its_own_process_unless_told():
    loader = make_loader(10, shard=Shard(1, 2))
    assert numbers(loader.evaluation_batches(4)) == [[5, 6, 7, 8], [9]]
    assert numbers(loader.evaluation_batches(8, Shard())) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(("rank", "num_lines"), [(0, 3), (1, 0)])
def test_the_first_process_alone_tells_how_far_it_is(rank, num_lines, capsys, progress_told):
    list(make_loader(num=10, shard=Shard(rank, 2)).evaluation_batches(3, what="predicting"))
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["predicting"] * num_lines
    assert all("5/5" in line for line in told[-1:])


def test_evaluation_images_are_only_normalised():
    [batch] = make_loader().evaluation_batches(23)
    np.testing.assert_allclose(batch.images.numpy(), normalised(numbered_split(23).images), atol=1e-5)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "trivialaugment"])
@pytest.mark.parametrize("cutout_size", [0, 5])
@pytest.mark.parametrize("resident", ["device", "host"])
def test_channels_last_changes_the_memory_format_alone(augmentation, cutout_size, resident):
    batches = [
        epoch_of(
            make_loader(channels_last=layout, resident=resident), augmentation=augmentation, cutout_size=cutout_size
        )
        for layout in (False, True)
    ]
    assert_same_batches(*batches)
    assert all(batch.images.is_contiguous() for batch in batches[0])
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches[1])


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_move_to_their_device_some_at_a_time(channels_last, monkeypatch):
    split = numbered_split(23).select(torch.arange(22, -1, -2))
    whole = split.images
    monkeypatch.setattr("data.dataset.BYTES_AT_ONCE", 5 * 3 * 16 * 12)
    sizes = [len(part) for part in split.parts()]
    assert sizes == [5, 5, 2]
    moved = resident_images(split, CPU, channels_last)
    assert torch.equal(moved.permute(0, 3, 1, 2) if channels_last else moved, whole)
    monkeypatch.setattr(Split, "images", property(lambda self: pytest.fail("a copy of all of them")))
    assert resident_images(split, torch.device("meta"), channels_last).shape == moved.shape


def test_channels_last_evaluation_changes_the_memory_format_alone():
    default, channels_last = (make_loader(channels_last=layout) for layout in (False, True))
    for load in (lambda loader: list(loader.evaluation_batches(4)), lambda loader: [loader.batch(torch.arange(5))]):
        assert_same_batches(load(default), load(channels_last))
        assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in load(channels_last))


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "randaugment", "trivialaugment"])
@pytest.mark.parametrize("cutout_size", [0, 5])
def test_host_resident_equals_device_resident(augmentation, cutout_size):
    batches = [
        epoch_of(make_loader(resident=resident), augmentation=augmentation, cutout_size=cutout_size)
        for resident in ("device", "host")
    ]
    assert len(batches[0]) > PREFETCH + 1
    assert_same_batches(*batches)


def test_host_resident_gathers_only_a_few_batches_ahead(monkeypatch):
    loader = make_loader(resident="host")
    fetched = []
    monkeypatch.setattr(loader, "fetch", lambda share: fetched.append(share) or Loader.fetch(loader, share))
    next(loader.evaluation_batches(1))
    assert 1 <= len(fetched) <= PREFETCH + 1


@pytest.mark.parametrize(("augmentation", "cutout_size"), [("crop_flip", 0), ("none", 5)])
def test_augmentation_and_blank_reach_the_training_batches(augmentation, cutout_size):
    plain, changed = (
        epoch_of(make_loader()),
        epoch_of(make_loader(), augmentation=augmentation, cutout_size=cutout_size),
    )
    assert numbers(plain) == numbers(changed)
    assert all(not torch.equal(a.images, b.images) for a, b in zip(plain, changed, strict=True))


@pytest.mark.parametrize("blanks", [{"cutout": 5}, {"erasing": 1.0}])
def test_what_autoencoders_draw_has_nothing_blanked_out(blanks):
    made = []
    for keep_whole, each in ((True, {}), (True, blanks), (False, blanks)):
        torch.manual_seed(0)
        batches = make_loader(keep_whole=keep_whole).training_batches(
            seed=1, epoch=0, batch_size=4, augmentation=Augmentation(**each)
        )
        made.append(list(batches))
    plain, blanked, unasked = made
    for before, after, other in zip(plain, blanked, unasked, strict=True):
        assert torch.equal(before.targets, before.images)
        assert torch.equal(after.targets, before.images)
        assert not torch.equal(after.images, before.images)
        assert torch.equal(after.images, other.images)
        assert other.whole is None


def test_stored_images_survive_an_augmented_epoch():
    for resident in ("device", "host"):
        loader = make_loader(resident=resident)
        epoch_of(loader, augmentation="crop_flip", cutout_size=5)
        assert torch.equal(loader.images if resident == "device" else loader.split.images, numbered_split(23).images)


def test_normalise_equals_hand_arithmetic():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    expected = [[-0.2, 0.2, 1.8], [-2.0, -1.2, 2.0], [-0.35, -0.25, 0.15]]  # (x / 255 - mean) / std
    result = make_loader().normalise(images)
    torch.testing.assert_close(result[0, :, 0], torch.tensor(expected))


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
@pytest.mark.parametrize("resident", ["device", "host"])
def test_a_batch_by_its_indices_is_the_same_on_every_process(shard, resident):
    loader, index = make_loader(shard=shard, resident=resident), torch.tensor([3, 0, 4])
    batch = loader.batch(index)
    assert batch.labels.tolist() == [3, 0, 4]
    np.testing.assert_allclose(batch.images.numpy(), normalised(numbered_split(23).images[index]), atol=1e-5)
    assert torch.equal(loader.pictures(index), numbered_split(23).images[index] / 255)


def feature_split(num=23, copies=2, dim=3):
    """Feature d of copy v of image i is i + v / 10 + d / 100, as bf16 would round it."""
    image, copy, feature = torch.meshgrid(torch.arange(num), torch.arange(copies), torch.arange(dim), indexing="ij")
    return numbered_split(num)._replace(features=(image + copy / 10 + feature / 100).bfloat16())


def make_feature_loader(num=23, copies=2, resident="device", **options):
    residence = Residence(resident == "device", "of a test")
    return FeatureLoader(feature_split(num, copies), INFO, CPU, residence=residence, **options)


def copies_of(batches):
    """Which copy of its image each row of the batches is."""
    copies = []
    for features, labels, _ in batches:
        of_images = feature_split().features[labels].float()  # [B, 2, 3]
        matches = (features[:, None] == of_images).all(dim=2)
        assert (matches.sum(dim=1) == 1).all()
        copies += matches.int().argmax(dim=1).tolist()
    return copies


@pytest.mark.parametrize("resident", ["device", "host"])
def test_features_take_the_place_of_their_images_in_the_same_order(resident):
    features = feature_split(copies=1).features
    batches, images = epoch_of(make_feature_loader(copies=1, resident=resident)), epoch_of(make_loader())
    assert numbers(batches) == numbers(images)
    for batch in batches:
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.images, features[batch.labels, 0].float())


@pytest.mark.parametrize("resident", ["device", "host"])
def test_evaluation_takes_the_features_of_the_images_as_they_are(resident):
    loader = make_feature_loader(resident=resident, channels_last=True)
    batches = list(loader.evaluation_batches(4))
    assert sum(numbers(batches), []) == list(range(23))
    assert copies_of(batches) == [0] * 23
    batch = loader.batch(torch.tensor([5, 2]))
    assert torch.equal(batch.images, feature_split().features[[5, 2], 0].float())
    assert batch.labels.tolist() == [5, 2]


def test_training_draws_a_copy_of_each_image_by_the_seed():
    loader = make_feature_loader()
    draws = []
    for seed in range(40):
        torch.manual_seed(seed)
        draws.append(copies_of(loader.training_batches(**{**EPOCH, "batch_size": 23})))
        torch.manual_seed(seed)
        assert copies_of(loader.training_batches(**{**EPOCH, "batch_size": 23})) == draws[-1]
    draws = np.array(draws)  # [seeds, images]
    assert 0.4 < draws.mean() < 0.6
    assert (draws.mean(axis=0) > 0.2).all()
    assert (draws.mean(axis=0) < 0.8).all()


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
@pytest.mark.parametrize("resident", ["device", "host"])
def test_pictures_are_the_images_behind_the_features(shard, resident):
    loader, index = make_feature_loader(shard=shard, resident=resident), torch.tensor([7, 0, 7])
    assert torch.equal(loader.pictures(index), numbered_split(23).images[index] / 255)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_shards_of_features_are_together_the_batches_of_one_process(num_processes):
    shards = [epoch_of(make_feature_loader(24, shard=Shard(rank, num_processes))) for rank in range(num_processes)]
    together = [sum(parts, []) for parts in zip(*map(numbers, shards), strict=True)]
    assert together == numbers(epoch_of(make_feature_loader(24)))


@pytest.mark.parametrize(
    ("num", "num_processes", "micro_batches", "expected"), [(23, 1, 1, 23), (23, 2, 1, 22), (23, 2, 3, 18)]
)
def test_the_largest_batch_is_the_split_but_for_what_cannot_be_shared_out(num, num_processes, micro_batches, expected):
    loader = make_loader(num, shard=Shard(0, num_processes))
    assert loader.largest_batch(micro_batches) == expected
    assert loader.steps_per_epoch(expected, micro_batches) == 1
