"""Top-1 and top-5 accuracy: against torchmetrics' own, by class, in batches and over processes."""

import json

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from axialseg.metrics.accuracy_report import accuracy_record, accuracy_table
from axialseg.metrics.top_accuracy import ClassAccuracy, TopAccuracy, TopAccuracyResult


def guesses(images: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1.0
    return logits, labels


@pytest.mark.parametrize("classes", [5, 12, 1000])
def test_equals_torchmetrics(classes: int) -> None:
    ours = TopAccuracy(classes)
    theirs = {k: MulticlassAccuracy(classes, top_k=k, average="micro") for k in (1, 5)}
    by_class = MulticlassAccuracy(classes, average=None)
    for seed, images in enumerate((7, 1, 150, 32)):
        logits, labels = guesses(images, classes, seed)
        ours.update(logits, labels)
        for metric in (*theirs.values(), by_class):
            metric.update(logits, labels)
    result = ours.compute()
    assert result.images == 190
    assert result.top1 == pytest.approx(float(theirs[1].compute()), abs=1e-7)
    assert result.top5 == pytest.approx(float(theirs[5].compute()), abs=1e-7)
    expected = by_class.compute()
    for label, row in enumerate(result.per_class):
        if row.images:
            assert row.top1 / row.images == pytest.approx(float(expected[label]))
    assert sum(row.images for row in result.per_class) == 190
    assert sum(row.top5 for row in result.per_class) == round(result.top5 * 190)


def test_batches_do_not_matter() -> None:
    logits, labels = guesses(60, 9)
    whole, parts = TopAccuracy(9), TopAccuracy(9)
    whole.update(logits, labels)
    for start in range(0, 60, 7):
        parts.update(logits[start : start + 7], labels[start : start + 7])
    assert whole.compute() == parts.compute()


def test_processes_are_summed() -> None:
    # What torchmetrics does with the states of two ranks.
    ranks = [TopAccuracy(9) for _ in range(2)]
    whole = TopAccuracy(9)
    for seed, rank in enumerate(ranks):
        logits, labels = guesses(11, 9, seed)
        rank.update(logits, labels)
        whole.update(logits, labels)
    both = TopAccuracy(9)
    both.counts = torch.stack([rank.counts for rank in ranks]).sum(0)
    assert both.compute() == whole.compute()
    assert TopAccuracy(9)._reductions["counts"] is not None


def test_guessing_all_alike_scores_by_chance() -> None:
    metric = TopAccuracy(10)
    metric.update(torch.zeros(50, 10), torch.arange(50) % 10)
    assert metric.compute()[:3] == (50, 0.1, 0.5)


def test_few_classes() -> None:
    metric = TopAccuracy(3)
    metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert metric.compute() == TopAccuracyResult(
        3, 2 / 3, 1.0, (ClassAccuracy(2, 1, 2), ClassAccuracy(1, 1, 1), ClassAccuracy(0, 0, 0))
    )


def test_nothing_scored() -> None:
    assert TopAccuracy(2).compute()[:3] == (0, 0.0, 0.0)


def test_half_precision_logits() -> None:
    metric = TopAccuracy(3)
    metric.update(torch.eye(3, dtype=torch.bfloat16), torch.tensor([0, 1, 2]))
    assert metric.compute().top1 == 1.0


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (4,)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of 4 classes"):
        TopAccuracy(4).update(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))


RESULT = TopAccuracyResult(
    8, 0.5, 0.875, (ClassAccuracy(6, 4, 6), ClassAccuracy(2, 0, 1), ClassAccuracy(0, 0, 0))
)


def test_record_is_in_per_cent_and_unrounded() -> None:
    record = accuracy_record(RESULT, ("n1", "n2", "n3"), ("cat", "dog", "unicorn"))
    assert json.loads(json.dumps(record)) == record
    assert (record["top1"], record["top5"]) == (50.0, 87.5)
    assert record["classes"] == [
        {"class_id": "n1", "name": "cat", "images": 6, "top1": 100.0 * 4 / 6, "top5": 100.0},
        {"class_id": "n2", "name": "dog", "images": 2, "top1": 0.0, "top5": 50.0},
        {"class_id": "n3", "name": "unicorn", "images": 0, "top1": None, "top5": None},
    ]


def test_table_has_each_class_that_occurs() -> None:
    lines = accuracy_table(RESULT, ("cat", "dog", "unicorn")).splitlines()
    assert lines[0].split() == ["top-1", "50.00"]
    assert lines[1].split() == ["top-5", "87.50"]
    assert lines[3].split() == ["class", "top-1", "top-5", "images"]
    assert [line.split() for line in lines[4:]] == [
        ["cat", "66.67", "100.00", "6"],
        ["dog", "0.00", "50.00", "2"],
    ]
    assert len({len(line) for line in lines[3:]}) == 1


def test_table_of_many_classes_has_the_lowest() -> None:
    rows = tuple(ClassAccuracy(100, number, 100) for number in range(1000))
    names = tuple(f"a class with quite a long name, the number {number}" for number in range(1000))
    lines = accuracy_table(TopAccuracyResult(100_000, 0.5, 1.0, rows), names).splitlines()
    assert lines[3] == "The 20 of 1000 classes with the lowest top-1:"
    assert len(lines) == 5 + 20
    assert lines[5].split()[-3:] == ["0.00", "100.00", "100"]
    assert lines[-1].split()[-3:] == ["19.00", "100.00", "100"]
    assert max(len(line) for line in lines[4:]) == 63
