import pytest
import torch

from distrib.images.views import views_of

IMAGES = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)


@pytest.mark.parametrize(("kind", "count"), [("one", 1), ("mirror", 2), ("shift", 6)])
def test_the_shares_of_all_views_add_up_to_1(kind, count):
    found = list(views_of(IMAGES, kind))
    assert len(found) == count
    assert sum(share for _, share in found) == 1
    assert torch.equal(found[0][0], IMAGES)
    assert all(view.shape == IMAGES.shape and view.dtype == torch.uint8 for view, _ in found)


def test_images_are_mirrored_and_shifted_by_a_pixel_with_the_edge_repeated():
    same, up_left, down_right, mirrored, *_ = [view for view, _ in views_of(IMAGES, "shift")]
    assert torch.equal(up_left[:, 1:, 1:], same[:, :-1, :-1])
    assert torch.equal(up_left[:, 0, 1:], same[:, 0, :-1])
    assert torch.equal(down_right[:, :-1, :-1], same[:, 1:, 1:])
    assert torch.equal(down_right[:, :, -1], down_right[:, :, -2])
    assert torch.equal(mirrored, same.flip(2))
