"""What makes blurs keeps the last one for windows of the same shape."""

import threading
import weakref

import numpy as np
import torch

from napari_deblur.steps.plane_psf import BlurFactory


def test_windows_of_one_shape_share_what_was_computed():
    kernel = np.full((3, 3), 1 / 9, np.float32)
    factory = BlurFactory(kernel=kernel, pedestal=0.25)
    first = factory((20, 30), (0, 0), "cpu")
    assert factory((20, 30), (5, 7), torch.device("cpu")) is first
    assert first.pedestal == 0.25
    other = factory((20, 31), (0, 0), "cpu")
    assert other is not first
    assert other.image_shape == (20, 31)
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(factory((20, 31), (0, 0), "cpu")))
    thread.start()
    thread.join()
    # A blur has memory to work in, which two threads must not share.
    assert elsewhere[0] is not other


def test_a_blur_outlives_the_thread_that_made_it():
    """A plan's clean-up must not be left to the end of a thread, when Python code cannot be run any more."""
    made = []
    factory = BlurFactory(kernel=np.ones((3, 3), np.float32) / 9)
    thread = threading.Thread(target=lambda: made.append(weakref.ref(factory((32, 32), (0, 0), "cpu"))))
    thread.start()
    thread.join()
    assert made[0]() is not None
    factory = None
    assert made[0]() is None
