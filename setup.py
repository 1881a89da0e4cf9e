"""What the wheel holds: the package, and conf/ and experiments/ as folders inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["axialseg*"]), "axialseg.conf", "axialseg.experiments"],
    package_dir={"axialseg.conf": "conf", "axialseg.experiments": "experiments"},
    package_data={
        "": ["*.yaml", "*.csv", "*.css", "*.html", "*.js"],
        "axialseg.conf": ["**/*.yaml", "**/*.sbatch"],
        "axialseg.experiments": ["**/*.yaml"],
    },
)
