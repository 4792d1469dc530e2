"""train.py with Ctrl-C pressed at the first step of an epoch: `interrupt.py EPOCH OVERRIDES...`."""

import signal
import sys

from nano_cv.training.learner import Learner
from train import train

EPOCH = int(sys.argv.pop(1))
step = Learner.training_step


def interrupted(self, batch, index):
    if self.current_epoch == EPOCH and index == 0:
        signal.raise_signal(signal.SIGINT)
    return step(self, batch, index)


Learner.training_step = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of the background
train()
