import math
import random

from analysis.compare.varied_settings import lies_evenly_on_log, setting_of


def test_a_logarithmic_axis_is_for_what_lies_evenly_on_it():
    draw = random.Random(0)
    assert lies_evenly_on_log([math.exp(draw.uniform(-10, -4)) for _ in range(20)])
    assert not lies_evenly_on_log([draw.uniform(0.005, 0.7) for _ in range(20)])
    assert not lies_evenly_on_log([0.0, 1.0, 100.0])
    assert setting_of("lr", [1e-3, 2e-3]).is_log
    assert setting_of("batch_size", [16, 64, 256, 1024]).is_log
    assert not setting_of("cutout", [0, 4, 8]).is_log
