import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.steps.known_plane import plane_through


@pytest.mark.parametrize("azimuth_deg", [0, 90, 37, -140])
def test_a_plane_is_found_again(azimuth_deg):
    tilt, pixel = np.radians(6), (0.5, 0.65)
    points = [(10, 20), (400, 60), (120, 480), (300, 300)]

    def depth(y, x):
        along = (x - 200) * pixel[1] * np.cos(np.radians(azimuth_deg))
        along += (y - 150) * pixel[0] * np.sin(np.radians(azimuth_deg))
        return np.tan(tilt) * along

    plane = plane_through(points, [depth(*point) for point in points], pixel)
    assert plane.tilt_deg == pytest.approx(6)
    assert plane.azimuth_deg == pytest.approx(azimuth_deg)
    assert depth(*plane.zero_at_px) == pytest.approx(0, abs=1e-9)
    assert plane.residual_um == pytest.approx(0, abs=1e-9)
    off = plane_through(points, [depth(*point) + 3 * (point[0] == 300) for point in points], pixel)
    assert off.residual_um > 0.1


@pytest.mark.parametrize(
    ("points", "depths", "rule"),
    [
        ([(0, 0), (10, 10)], [0, 1], "at least 3"),
        ([(0, 0), (10, 10), (20, 20)], [0, 1, 2], "one line"),
        ([(5, 5), (5, 5), (5, 5)], [0, 1, 2], "one line"),
        ([(0, 0), (10, 0), (0, 10)], [2, 2, 2], "differ in depth"),
        ([(0, 0), (10, 0), (0, 10)], [2, 2, np.nan], "finite"),
    ],
)
def test_points_that_say_nothing_are_refused(points, depths, rule):
    with pytest.raises(InvalidInputError, match=rule):
        plane_through(points, depths, (1.0, 1.0))
