import numpy as np
import pytest
import torch

from analysis.look import panels
from analysis.look.panels import draw_grid
from models.core.panel import Panel


@pytest.fixture
def small_grids(monkeypatch):
    monkeypatch.setattr(panels, "MIN_SIDE", 64)


def plain_tiles(*colours):
    return torch.tensor(colours, dtype=torch.float32)[:, :, None, None].expand(-1, 3, 32, 32)


@pytest.mark.usefixtures("small_grids")
def test_a_grid_goes_row_by_row_with_a_white_gap():
    picture = draw_grid(Panel(plain_tiles((1, 0, 0), (0, 1, 0), (0, 0, 0.2)), columns=2))
    # Tiles of 32 pixels are shown twice as large, 4 pixels apart.
    assert picture.size == (4 + 64 + 4 + 64 + 4, 4 + 64 + 4 + 64 + 4)
    white, red, green, blue = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 51)
    at = {(3, 3): white, (4, 4): red, (67, 67): red, (68, 67): white, (71, 4): white, (72, 4): green}
    at |= {(135, 67): green, (136, 4): white, (4, 71): white, (4, 72): blue, (67, 135): blue, (100, 100): white}
    assert {place: picture.getpixel(place) for place in at} == at


@pytest.mark.usefixtures("small_grids")
def test_small_images_are_enlarged_without_smoothing_and_large_ones_left_alone():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, :, ::2] = 1
    picture = draw_grid(Panel(pixels))
    assert {colour for _, colour in picture.getcolors()} == {(0, 0, 0), (255, 255, 255)}
    assert draw_grid(Panel(torch.zeros(1, 3, 100, 75))).size == (4 + 75 + 4, 4 + 100 + 4)


@pytest.mark.usefixtures("small_grids")
@pytest.mark.parametrize("marks", [(True, False), (False, True), ()])
def test_captions_are_green_for_right_red_for_wrong_and_else_grey(marks):
    picture = draw_grid(Panel(torch.zeros(2, 3, 32, 32), ("HHH", "HHH"), marks))
    assert picture.size == (4 + 64 + 4 + 64 + 4, 4 + 64 + 16 + 4)
    for i, left in enumerate((4, 72)):
        below = picture.crop((left, 4 + 64, left + 64, 4 + 64 + 16))
        red, green, _ = np.asarray(below, dtype=float).mean(axis=(0, 1))
        assert red < 255
        assert np.sign(green - red) == ((1 if marks[i] else -1) if marks else 0)


@pytest.mark.parametrize("letter", "ßüñčłαЖ…±")
def test_letters_of_other_languages_are_drawn(letter):
    missing, drawn = (bytes(panels.font_of(12).getmask(text)) for text in ("\U0010ffff", letter))
    assert drawn != missing
    assert any(drawn)


def test_letters_that_the_font_lacks_are_drawn_as_numbers_which_can_be_told_apart():
    assert panels.drawable("ß 漢\n🦊…") == "ß \\u6f22\n\\U0001f98a…"
    grids = [draw_grid(Panel(torch.zeros(1, 3, 32, 32), (name,))).tobytes() for name in ("漢", "🦊", r"\u6f22")]
    assert grids[0] != grids[1]
    assert grids[0] == grids[2]
    tables = [panels.draw_table(torch.zeros(1, 1, 3, 8, 8), ["a"], [name], [[""]]) for name in ("漢", r"\u6f22")]
    assert tables[0].tobytes() == tables[1].tobytes()
