import pytest
import torch

from distrib.images.views import views_of

IMAGES = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)


@pytest.mark.parametrize(
    ("kind", "shares"), [("one", [1]), ("mirror", [0.5, 0.5]), ("shift", [0.25, 0.125, 0.125, 0.25, 0.125, 0.125])]
)
def test_the_shares_of_all_views_add_up_to_1_and_half_is_of_those_not_shifted(kind, shares):
    found = list(views_of(IMAGES, kind))
    assert [share for _, share in found] == shares
    assert sum(shares) == 1
    assert torch.equal(found[0][0], IMAGES)
    assert all(view.shape == IMAGES.shape and view.dtype == torch.uint8 for view, _ in found)


def test_images_are_mirrored_and_shifted_by_a_pixel_with_the_edge_repeated():
    same, up_left, down_right, mirrored, *_ = [view for view, _ in views_of(IMAGES, "shift")]
    assert torch.equal(up_left[:, 1:, 1:], same[:, :-1, :-1])
    assert torch.equal(up_left[:, 0, 1:], same[:, 0, :-1])
    assert torch.equal(down_right[:, :-1, :-1], same[:, 1:, 1:])
    assert torch.equal(down_right[:, :, -1], down_right[:, :, -2])
    assert torch.equal(mirrored, same.flip(2))
