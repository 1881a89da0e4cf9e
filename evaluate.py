"""Scores a checkpoint: `python evaluate.py run=<folder>` or `ckpt=<file>`, and `key=value ...`.

The work is done in axialseg/commands/evaluate.py; the settings are the run's own.
"""

from axialseg.commands.evaluate import main

if __name__ == "__main__":
    main()
