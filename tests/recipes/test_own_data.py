"""The rules of the recipe for own data: what follows from what."""

from typing import Any

import pytest

from axialseg.recipes.own_data import Facts, choices, working_size

PHOTOGRAPHS = Facts(
    images=50,
    size=(360, 480),
    small_stuff=0.05,
    small_thing=0.002,
    is_gpu=False,
    devices=1,
    cores=2,
    parameters=1_300_000,
    is_pretrained=False,
    decoded_bytes=60 * 2**20,
    free_bytes=16 * 2**30,
)


def values(given: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    made = choices(PHOTOGRAPHS._replace(**facts), given or {})
    assert all(choice.reason for choice in made)
    return {choice.key: choice.value for choice in made}


def test_fifty_photographs_on_a_small_cpu() -> None:
    assert values() == {
        "data.train_transform.resize_range": None,
        "data.crop_size": [241, 321],
        "schedule.batch_size": 8,
        "trainer.max_steps": 1800,
        "schedule.lr": 7e-3,
        "schedule.optimizer.turn": 5.0,
        "schedule.parameter_groups.backbone_lr_multiplier": 1.0,
        "schedule.warmup_steps": 90,
        "trainer.val_check_interval": 360,
        "model.postprocess.stuff_area_limit": 172,
        "model.postprocess.thing_area_limit": 41,
        "data.cache": True,
        "data.num_workers": 0,
        "data.val_num_workers": 0,
    }


def test_steps_grow_with_the_root_of_the_images_within_limits() -> None:
    steps = [values(images=n)["trainer.max_steps"] for n in (2, 36, 144, 367, 10**6)]
    assert steps == [1500, 1500, 3000, 4800, 5000]
    assert values(images=10**6, is_gpu=True)["trainer.max_steps"] == 90000


def test_a_pretrained_start_takes_fewer_steps_and_spares_the_backbone() -> None:
    found = values(images=144, is_pretrained=True)
    assert found["trainer.max_steps"] == 1500
    assert found["schedule.lr"] == 3.5e-3
    assert found["schedule.parameter_groups.backbone_lr_multiplier"] == 0.1
    large = values(parameters=50_000_000)
    assert (large["schedule.lr"], large["schedule.optimizer.turn"]) == (2.5e-4, 80.0)


def test_what_is_given_stays_and_the_rest_follows() -> None:
    found = values({"schedule.batch_size": 4, "trainer.max_steps": 8})
    assert not {"schedule.batch_size", "trainer.max_steps"} & set(found)
    assert found["schedule.lr"] == 3.5e-3
    assert found["schedule.warmup_steps"] == 3  # below the steps
    assert found["trainer.val_check_interval"] == 8
    assert values({"trainer.max_steps": 1})["schedule.warmup_steps"] == 0


def test_large_photographs_are_made_smaller() -> None:
    found = values(size=(3000, 4000))
    assert found["data.train_transform.resize_range"] == [512, 512]
    assert working_size((3000, 4000), [512, 512]) == (384, 512)
    assert found["data.crop_size"] == [257, 337]
    found = values(size=(3000, 4000), is_gpu=True)
    assert found["data.train_transform.resize_range"] == [1024, 1024]
    assert found["data.crop_size"] == [641, 641]


@pytest.mark.parametrize("size", [(1, 1), (20, 3000), (64, 48), (5000, 5000)])
@pytest.mark.parametrize("is_gpu", [False, True])
def test_crops_fit_the_grids_of_the_net(size: tuple[int, int], is_gpu: bool) -> None:
    stride = 32 if is_gpu else 16
    for side in values(size=size, is_gpu=is_gpu)["data.crop_size"]:
        assert side >= 33
        assert side % stride == 1


def test_devices_share_the_batch_evenly() -> None:
    assert values(devices=3)["schedule.batch_size"] == 9
    assert values(images=3, devices=2)["schedule.batch_size"] == 4
    assert values(images=1)["schedule.batch_size"] == 2  # a batch norm needs more than one


def test_limits_follow_the_segments_where_they_are_small() -> None:
    found = values(small_stuff=0.0005, small_thing=0.0001)
    assert found["model.postprocess.stuff_area_limit"] == 43  # half of 0.0005 of 172,800
    assert found["model.postprocess.thing_area_limit"] == 8
    found = values(small_stuff=None, small_thing=None)
    assert found["model.postprocess.stuff_area_limit"] == 172


def test_loaders_follow_memory_and_cores() -> None:
    found = values(decoded_bytes=10 * 2**30, cores=8)
    assert not found["data.cache"]
    assert found["data.num_workers"] == 2
    assert values(decoded_bytes=10 * 2**30, cores=1)["data.num_workers"] == 0
    assert not values(free_bytes=None)["data.cache"]
    assert values(is_gpu=True, cores=16)["data.num_workers"] == 8
