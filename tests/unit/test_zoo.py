"""The networks: against published parameter counts, against torchvision, and in what they refuse."""

import subprocess
import sys
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distrib.settings import Model, SettingsError
from distrib.zoo import names, registry, speednet
from distrib.zoo.anatomy import parameters
from distrib.zoo.borrowed import classifiers
from distrib.zoo.head import features_and_logits, head
from distrib.zoo.resnet import Padding, resnet


def outline(name: str, *, classes: int = 10, image_size: int = 32, **options) -> nn.Module:
    return registry.blueprint(Model(model=name, **options), classes=classes, image_size=image_size)


def images(number: int, size: int, device: str = "meta") -> torch.Tensor:
    return torch.zeros(number, 3, size, size, device=device)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("resnet101", 42_512_970),
        ("resnet152", 58_156_618),
    ],
)
def test_cifar_stem_has_the_published_number_of_parameters(name, count):
    assert parameters(outline(name)) == count


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_papers_number_of_parameters(depth, millions):
    digits = 2 if millions < 1 else 1
    assert round(parameters(outline(f"resnet{depth}")) / 1e6, digits) == millions


def test_imagenet_resnet50_has_the_published_number_of_parameters():
    assert parameters(outline("resnet50", classes=1000, image_size=224)) == 25_557_032


@pytest.mark.parametrize("depth", names.IMAGENET_DEPTHS)
def test_torchvisions_weights_load_and_give_the_same_logits(depth):
    from torchvision import models

    torch.manual_seed(depth)
    theirs = models.get_model(f"resnet{depth}", weights=None, num_classes=10).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = registry.build(Model(model=f"resnet{depth}", stem="imagenet"), classes=10, image_size=64).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    batch = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [*names.IMAGENET_DEPTHS, *names.CIFAR_DEPTHS])
def test_plain_networks_are_the_resnets_without_shortcuts(depth):
    residual, plain = outline(f"resnet{depth}").state_dict(), outline(f"plain{depth}").state_dict()
    assert not any("downsample" in key for key in plain)
    body = {key: value.shape for key, value in residual.items() if "downsample" not in key}
    assert body == {key: value.shape for key, value in plain.items()}


def test_a_plain_network_adds_nothing():
    plain = resnet(18, classes=10, shortcuts=False).eval()
    batch = torch.rand(1, 64, 8, 8)
    nn.init.zeros_(plain.layer1[0].bn2.weight)
    assert not plain.layer1[0](batch).any()


def test_option_a_shortcut_subsamples_and_pads_with_zeros():
    batch = torch.rand(2, 3, 5, 4)
    padded = Padding(2, 2)(batch)
    assert padded.shape == (2, 5, 3, 2)
    assert torch.equal(padded[:, :3], batch[:, :, ::2, ::2])
    assert not padded[:, 3:].any()


def test_initialisation():
    torch.manual_seed(0)
    net = registry.build(Model(model="resnet18"), classes=1000, image_size=32)
    conv, norm = net.layer4[1].conv2, net.layer4[1].bn2
    assert conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert torch.all(norm.weight == 1)
    assert not norm.bias.any()
    assert net.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not net.fc.bias.any()


@pytest.mark.parametrize("name", names.OWN)
@pytest.mark.parametrize("sizes", [(8, 28, 64), (224,)])
def test_our_networks_take_any_size(name, sizes):
    sizes = [max(size, 16) if name == "speednet" else size for size in sizes]
    net = outline(name, classes=7, image_size=sizes[0])
    for size in sizes:
        features = net.features(images(2, size))
        assert features.shape == (2, net.fc.in_features)
        assert net.fc(features).shape == (2, 7)


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet9", "simplecnn", "speednet", "torchvision/resnet18", "torchvision/squeezenet1_1"]
)
def test_features_and_logits_come_of_one_pass(name):
    net = registry.build(Model(model=name), classes=3, image_size=32).eval()
    batch, passes = torch.randn(2, 3, 32, 32), []
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    features, logits = features_and_logits(net, batch)
    assert len(passes) == 1
    assert torch.equal(logits, net(batch))
    where, layer = head(net)
    assert features.shape == (2, layer.weight.shape[1])
    if name.endswith("squeezenet1_1"):  # has a ReLU between its head and the mean: only the shapes agree
        return
    assert where == ("net.fc" if name.startswith("torchvision/") else "fc")
    torch.testing.assert_close(layer(features), logits / speednet.SCALE if name == "speednet" else logits)
    assert len(layer._forward_pre_hooks) == 0


@pytest.mark.parametrize(("name", "least"), [("resnet18", 8), ("resnet34", 8), ("resnet50", 2)])
def test_a_resnet_is_not_so_narrow_that_its_shortcuts_crash(name, least):
    assert outline(name, width=least).conv1.out_channels == least
    assert outline(name.replace("resnet", "plain"), width=1).conv1.out_channels == 1
    with pytest.raises(SettingsError, match=f"--width of a ResNet-{name[-2:]} is at least {least}"):
        outline(name, width=least - 1)


@pytest.mark.parametrize(("name", "width", "features"), [("resnet18", 16, 128), ("resnet50", 16, 512)])
def test_width_of_a_resnet(name, width, features):
    net = outline(name, width=width)
    assert net.conv1.out_channels == width
    assert net.fc.in_features == features


@pytest.mark.parametrize(
    ("name", "features"), [("resnet20", 32), ("plain20", 32), ("resnet9", 64), ("simplecnn", 64), ("speednet", 32)]
)
def test_width_of_the_others(name, features):
    assert outline(name, width=8).fc.in_features == features


def test_automatic_stem_follows_the_size():
    assert isinstance(outline("resnet18", image_size=64).maxpool, nn.Identity)
    assert isinstance(outline("resnet18", image_size=65).maxpool, nn.MaxPool2d)
    assert isinstance(outline("plain50", image_size=224, stem="cifar").maxpool, nn.Identity)


def test_weights_are_a_function_of_the_seed():
    for name in ("resnet18", "simplecnn", "torchvision/shufflenet_v2_x0_5"):
        first, second = (
            (torch.manual_seed(5), registry.build(Model(model=name), classes=10, image_size=32).state_dict())[1]
            for _ in range(2)
        )
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_every_name_has_a_builder():
    assert set(registry.BUILDERS) == set(names.OWN)


def _check_borrowed(name: str) -> None:
    size = 224
    net = outline(f"torchvision/{name}", classes=7, image_size=size)
    with torch.no_grad():
        assert net.train()(images(2, size)).shape == (2, 7)
        features, _ = features_and_logits(net.eval(), images(2, size))
    assert features.shape == (2, head(net)[1].weight.shape[1])


@pytest.mark.parametrize("name", ["googlenet", "regnet_y_400mf", "squeezenet1_1", "vit_b_32"])
def test_torchvisions_classifiers_get_a_head_of_our_size(name):
    _check_borrowed(name)


@pytest.mark.slow
def test_every_classifier_of_torchvision_gets_a_head_of_our_size():
    for name in classifiers():
        _check_borrowed(name)


def test_position_embeddings_follow_the_size():
    assert outline("torchvision/vit_b_16", image_size=64)(images(2, 64)).shape == (2, 10)


def test_published_weights_are_loaded_and_the_head_is_fresh(monkeypatch):
    from torchvision import models

    theirs = models.shufflenet_v2_x0_5(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: theirs)
    model = Model(model="torchvision/shufflenet_v2_x0_5", pretrained=True)
    net = registry.build(model, classes=10, image_size=32)
    assert torch.equal(net.net.conv1[0].weight, theirs["conv1.0.weight"])
    assert net.net.fc.weight.shape == (10, 1024)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_pretrained_inceptions_have_one_output(name, monkeypatch):
    from torchvision import models

    with torch.device("meta"):
        theirs = models.get_model(name, weights=None, aux_logits=True, init_weights=False).state_dict()
    theirs = {key: torch.ones_like(value, device="cpu") for key, value in theirs.items()}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: theirs)
    net = registry.build(Model(model=f"torchvision/{name}", pretrained=True), classes=5, image_size=96)
    assert net(torch.zeros(2, 3, 96, 96)).shape == (2, 5)
    assert not any("aux" in key.lower() for key in net.state_dict())


def test_no_network_is_an_error_that_says_what_to_do(monkeypatch):
    def unreachable(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    model = Model(model="torchvision/resnet18", pretrained=True)
    with pytest.raises(SettingsError, match=r"Leave --pretrained out, or fetch https://.*\.pth elsewhere"):
        registry.build(model, classes=10, image_size=32)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet19", "'resnet9'"),
        ("resnet-50", "'resnet50'"),
        ("simplecn", "'simplecnn'"),
        ("torchvision/resnet5", "'resnet50'"),
        ("torchvision/densenet_121", "'densenet121'"),
    ],
)
def test_unknown_names_name_the_nearest(name, near):
    with pytest.raises(SettingsError, match=f"did you mean {near}"):
        outline(name)


def test_what_does_not_go_together():
    for name in ("resnet20", "plain110", "resnet9", "simplecnn", "speednet"):
        with pytest.raises(SettingsError, match=f"leave it out with {name}"):
            outline(name, stem="cifar")
    with pytest.raises(SettingsError, match="--image-size 8 or more"):
        outline("simplecnn", image_size=7)
    with pytest.raises(SettingsError, match="speednet needs --image-size 16 or more"):
        outline("speednet", image_size=15)
    with pytest.raises(SettingsError, match="--first-weights whitened goes with speednet, not resnet18"):
        Model(model="resnet18", first_weights="whitened")
    with pytest.raises(SettingsError, match="--pretrained and --first-weights"):
        Model(model="torchvision/resnet18", pretrained=True, first_weights="identity")


def test_whitened_patches_are_not_correlated():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.nn.functional.avg_pool2d(torch.randn(64, 3, 34, 34, generator=draw), 3, 1)  # neighbours are alike
    net = registry.build(Model(model="speednet", width=4, first_weights="whitened"), classes=3, image_size=32)
    assert not net.stem.weight.requires_grad
    net.stem.fit(pixels)
    out = (net.stem(pixels) - net.stem.bias[:, None, None]).detach().transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(out[:12], -out[12:])
    covariance = out[:12] @ out[:12].T / out.shape[1]
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 1e-4
    variances = covariance.diag()
    assert variances.max() < 1
    assert variances.min() > 0.8
    before = pixels.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).T.double()
    assert (before @ before.T / before.shape[1]).diag().max() < 0.5  # not white from the start
    assert registry.build(Model(model="speednet", width=4), classes=3, image_size=32).stem.weight.requires_grad


def test_an_identity_at_first_passes_on_what_comes_in():
    net = registry.build(Model(model="resnet20", first_weights="identity"), classes=3, image_size=32)
    layer = net.layer2[0].conv1
    assert layer.out_channels == 2 * layer.in_channels
    images = torch.randn(2, 16, 8, 8)
    out = torch.nn.functional.conv2d(images, layer.weight, padding=1)
    assert torch.equal(out[:, :16], images)
    assert not torch.equal(out[:, 16:], images)
    plain = registry.build(Model(model="resnet20"), classes=3, image_size=32).layer2[0].conv1
    assert not torch.equal(torch.nn.functional.conv2d(images, plain.weight, padding=1)[:, :16], images)


@pytest.mark.parametrize(("name", "size"), [("inception_v3", 8), ("maxvit_t", 64), ("vit_b_16", 40), ("vgg11", 16)])
def test_sizes_that_do_not_suit(name, size):
    with pytest.raises(SettingsError, match=f"--image-size {size} does not suit --model torchvision/{name}"):
        outline(f"torchvision/{name}", image_size=size)


def test_names_are_checked_without_torch():
    code = "import sys; from distrib.zoo import names; names.check('resnet18'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(SettingsError, match=r"`distrib models` lists; did you mean 'resnet18'\?"):
        names.check("resnet18x")
    names.check("torchvision/anything")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1)])
def test_a_pool_before_a_relu_is_the_same_to_the_bit(pool, dtype):
    """So the small networks and the ImageNet stem have it, against what their papers draw."""
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randn(4, 8, 33, 33, generator=draw).mul(4).round().div(4).to(dtype)  # many ties, and zeros
    weights, found = torch.randn(pool(drawn).shape, generator=draw).to(dtype), []
    for layers in ((pool, F.relu), (F.relu, pool)):
        images = drawn.clone().requires_grad_()
        out = layers[1](layers[0](images))
        out.backward(weights)
        found.append((out, images.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][1].count_nonzero() > 1000
