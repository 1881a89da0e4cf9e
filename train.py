"""Trains a model: `python train.py model=... data=... experiments=... key=value ...`.

The work is done in axialseg/commands/train.py; the settings are in conf/ and experiments/.
"""

from axialseg.commands.train import main

if __name__ == "__main__":
    main()
