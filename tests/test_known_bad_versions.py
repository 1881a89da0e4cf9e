"""No range and no pin admits a release that is known to be malicious or to run code of a file."""

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_packaging import EVERYTHING, constraints

# Package, releases, public identifier. Extend it when an advisory concerns what we depend on.
KNOWN_BAD = [
    ("lightning", "==2.6.2", "GHSA-w37p-236h-pfx3"),  # malicious
    ("lightning", "==2.6.3", "GHSA-w37p-236h-pfx3"),  # malicious
    ("lightning", "<2.6.6", "GHSA-qqmf-gpg7-g8gw"),  # checkpoints run code
    ("torch", "<2.10", "CVE-2026-24747"),  # weights_only=True can be escaped
    ("pillow", "<12.1.1", "CVE-2026-25990"),  # out-of-bounds write, PSD images
    ("pillow", "<12.3", "CVE-2026-55379"),
    ("filelock", "<3.20.1", "CVE-2025-68146"),  # follows a link in place of the lock file
    ("filelock", "<3.20.3", "CVE-2026-22701"),
    ("pyyaml", "<5.4", "CVE-2020-14343"),  # full_load runs code
    ("opencv-python-headless", "<4.8.1.78", "CVE-2023-4863"),  # libwebp
    ("pytorch-lightning", "<2.6.6", "PYSEC-2026-3967"),
]


def admits(specifier: SpecifierSet, bad: str) -> bool:
    """Whether a range of ours has a release in common with one that is bad."""
    if bad.startswith("=="):
        return specifier.contains(bad.removeprefix("=="))
    lowest = [Version(part.version) for part in specifier if part.operator in (">=", "==", "~=")]
    return max(lowest, default=Version("0")) < Version(bad.removeprefix("<"))


@pytest.mark.parametrize(("name", "bad", "identifier"), KNOWN_BAD)
def test_no_range_or_pin_admits_it(name: str, bad: str, identifier: str) -> None:
    requirements = [Requirement(line) for line in EVERYTHING]
    ranges = [r.specifier for r in requirements if canonicalize_name(r.name) == name]
    assert not any(admits(specifier, bad) for specifier in ranges), identifier
    assert not SpecifierSet(bad).contains(constraints()[name]), identifier


@pytest.mark.parametrize(
    ("ours", "bad", "is_admitted"),
    [
        (">=2.6,<2.8", "==2.6.2", True),
        (">=2.6,!=2.6.2", "==2.6.2", False),
        (">=2.6,<2.14", "<2.10", True),
        (">=2.10,<2.14", "<2.10", False),
        ("<2", "<1.5", True),
    ],
)
def test_ranges_are_compared(ours: str, bad: str, is_admitted: bool) -> None:
    assert admits(SpecifierSet(ours), bad) == is_admitted
