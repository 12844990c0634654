"""Cost against published numbers, and against two counts that share no code with it."""

import csv
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import pytest

from mobilenets import cost, zoo
from mobilenets.spec import Block, Conv, Spec, SqueezeExcite

REFERENCE = Path(__file__).parent / "reference"
LARGE, SMALL = zoo.v3_large, zoo.v3_small

# Each model of tests/reference/reference_costs.csv: the family and the rule that reproduce it.
TIMM = {
    "mobilenetv1_100": zoo.v1,
    "mobilenetv1_125": zoo.v1,
    "mobilenetv2_035": zoo.v2,
    "mobilenetv2_050": zoo.v2,
    "mobilenetv2_075": zoo.v2,
    "mobilenetv2_100": zoo.v2,
    "mobilenetv2_140": zoo.v2,
    "mobilenetv3_large_075": LARGE,
    "mobilenetv3_large_100": LARGE,
    "mobilenetv3_small_050": SMALL,
    "mobilenetv3_small_075": SMALL,
    "mobilenetv3_small_100": SMALL,
    "tf_mobilenetv3_large_075": LARGE,
    "tf_mobilenetv3_large_100": LARGE,
    "tf_mobilenetv3_small_075": SMALL,
    "tf_mobilenetv3_small_100": SMALL,
    "tf_mobilenetv3_large_minimal_100": partial(LARGE, minimalistic=True),
    "tf_mobilenetv3_small_minimal_100": partial(SMALL, minimalistic=True),
    "mobilenetv4_conv_small_035": zoo.v4_conv_small,
    "mobilenetv4_conv_small_050": zoo.v4_conv_small,
    "mobilenetv4_conv_small": zoo.v4_conv_small,
    "mobilenetv4_conv_medium": zoo.v4_conv_medium,
    "mobilenetv4_conv_large": zoo.v4_conv_large,
    "mobilenetv4_hybrid_medium": zoo.v4_hybrid_medium,
    "mobilenetv4_hybrid_medium_075": zoo.v4_hybrid_medium,
    "mobilenetv4_hybrid_large": zoo.v4_hybrid_large,
    "mobilenetv4_hybrid_large_075": zoo.v4_hybrid_large,
    "mobilenet_edgetpu_100": zoo.edgetpu,
    **{f"mobilenet_edgetpu_v2_{size}": partial(zoo.edgetpu_v2, size=size) for size in ("xs", "s", "m", "l")},
}
KERAS = {
    "MobileNet": zoo.v1,
    "MobileNetV2": zoo.v2,
    "MobileNetV3Large": LARGE,
    "MobileNetV3Small": SMALL,
    "MobileNetV3Large minimalistic": partial(LARGE, minimalistic=True),
    "MobileNetV3Small minimalistic": partial(SMALL, minimalistic=True),
}
TORCHVISION = {"mobilenet_v2": zoo.v2, "mobilenet_v3_large": LARGE, "mobilenet_v3_small": SMALL}
TRANSFORMERS = {"MobileNetV1ForImageClassification": zoo.v1, "MobileNetV2ForImageClassification": zoo.v2}
PAPERS = {
    "MobileNetV1": zoo.v1,
    "MobileNetV1 Shallow (5 of the 512-channel 14x14 blocks removed)": partial(zoo.v1, shallow=True),
    "Conv MobileNet (full convolutions)": partial(zoo.v1, full=True),
    "Conv MobileNet Shallow": partial(zoo.v1, full=True, shallow=True),
    "MobileNetV2": zoo.v2,
    "MobileNetV3-Large": LARGE,
    "MobileNetV3-Small": SMALL,
    "MobileNetV3-Small (head 1280, as in the earlier paper table)": partial(SMALL, head=1280),
    "MobileNetV3-Large minimalistic": partial(LARGE, minimalistic=True),
    "MobileNetV3-Small minimalistic": partial(SMALL, minimalistic=True),
    "MobileNetV4-ConvSmall": zoo.v4_conv_small,
    "MobileNetV4-ConvMedium": zoo.v4_conv_medium,
    "MobileNetV4-ConvLarge": zoo.v4_conv_large,
    "MobileNetV4-ConvMediumSeg": zoo.v4_conv_medium_seg,
    "MobileNetV4-HybridMedium": zoo.v4_hybrid_medium,
    "MobileNetV4-HybridLarge": zoo.v4_hybrid_large,
    "MobilenetEdgeTPU": zoo.edgetpu,
}
LIBRARIES = {
    "timm": ("timm", TIMM),
    "keras": ("keras", KERAS),
    "torchvision": ("torchvision", TORCHVISION),
    "transformers": ("paper", TRANSFORMERS),
    "spec-arithmetic": ("paper", PAPERS),
}

VARIANT = "a variant of timm's own, in no MobileNet paper"
EXCLUDED = {
    **dict.fromkeys(
        (
            "mobilenetv1_100h",  # a head convolution
            "mobilenetv2_110d",  # depth multipliers
            "mobilenetv2_120d",
            "mobilenetv3_large_150d",
            "mobilenetv3_rw",
            "mobilenetv4_conv_aa_medium",  # anti-aliased strides
            "mobilenetv4_conv_aa_large",
            "mobilenetv4_conv_blur_medium",
        ),
        VARIANT,
    ),
}


def reference(name):
    with (REFERENCE / name).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


COSTS = reference("reference_costs.csv")


def test_every_row_is_mapped_or_excluded_for_a_reason():
    models = {(row["library"], row["model"]) for row in COSTS}
    mapped = {(library, model) for library, (_, table) in LIBRARIES.items() for model in table}
    excluded = {(library, model) for library, model in models if model in EXCLUDED}
    assert mapped | excluded == models
    assert not mapped & excluded
    assert set(EXCLUDED) == {model for _, model in excluded}
    assert Counter(row["model"] in EXCLUDED for row in COSTS) == {False: 268, True: 9}


@pytest.mark.parametrize("library", LIBRARIES)
def test_totals_agree_with_every_reference_row(library):
    rule, table = LIBRARIES[library]
    for row in COSTS:
        if row["library"] != library or row["model"] in EXCLUDED:
            continue
        spec = table[row["model"]](
            float(row["width"]),
            rule=rule,
            classes=int(row["num_classes"]),
            resolution=int(row["resolution"]),
        )
        counted = cost.count(spec)
        assert (
            counted.params,
            counted.params + counted.statistics,
            counted.macs - counted.product_macs,
            counted.macs,
        ) == (
            int(row["params"]),
            int(row["params_incl_bn_running_stats"]),
            int(row["macs"]),
            int(row["macs_incl_attention_matmul"]),
        ), row


ARCHITECTURES = {
    "MobileNetV1": zoo.v1(),
    "MobileNetV1 Shallow": zoo.v1(shallow=True),
    "Conv MobileNet (full-convolution baseline)": zoo.v1(full=True),
    "MobileNetV2": zoo.v2(),
    "MobileNetV3-Large": LARGE(),
    "MobileNetV3-Small": SMALL(),
    "MobileNetV3-Large minimalistic": LARGE(minimalistic=True),
    "MobileNetV3-Small minimalistic": SMALL(minimalistic=True),
    "MobileNetV4-ConvSmall": zoo.v4_conv_small(),
    "MobileNetV4-ConvMedium": zoo.v4_conv_medium(),
    "MobileNetV4-ConvLarge": zoo.v4_conv_large(),
    "MobileNetV4-ConvMediumSeg": zoo.v4_conv_medium_seg(),
    "MobileNetV4-HybridMedium": zoo.v4_hybrid_medium(),
    "MobileNetV4-HybridLarge": zoo.v4_hybrid_large(),
    "MobilenetEdgeTPU": zoo.edgetpu(rule="paper"),
    **{f"MobileNet-EdgeTPU-V2-{size}": zoo.edgetpu_v2(size=size) for size in ("xs", "s", "m", "l")},
}


def test_every_architecture_is_mapped():
    variants = {row["variant"] for row in reference("architectures.csv")}
    assert variants == ARCHITECTURES.keys()


@pytest.mark.parametrize("variant", ARCHITECTURES)
def test_blocks_agree_with_every_row_of_the_architecture(variant):
    """Parameters, MACs, channels, sides and shortcuts of each block, the pooling, head and classifier."""
    spec = ARCHITECTURES[variant]
    rows = [row for row in reference("architectures.csv") if row["variant"] == variant]
    units = defaultdict(list)
    for layer in cost.count(spec).layers:
        units[".".join(layer.path.split(".")[:2])].append(layer)
    assert len(units) == len(rows)
    for index, (row, layers) in enumerate(zip(rows, units.values(), strict=True)):
        assert sum(layer.params for layer in layers) == int(row["params"]), row
        assert sum(layer.macs for layer in layers) == int(row["macs"]), row
        side = int(row["output_resolution"])
        assert layers[-1].output == (int(row["out_channels"]), side, side), row
        if row["residual"]:
            assert spec.blocks[index].residual == (row["residual"] == "yes"), row


NAMES = zoo.names()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_torch_counts_the_same(name):
    """Parameters by `numel`, MACs by torch's own flop counter, memory by hooks; nothing is computed."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from mobilenets.network import MobileNet

    spec = zoo.build(name)
    counted = cost.count(spec)
    with torch.device("meta"):
        network = MobileNet(spec).eval()
        picture = torch.empty(1, spec.channels, spec.resolution, spec.resolution)
    live = record_live_values(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(picture)
    assert counter.get_total_flops() == 2 * counted.macs
    assert sum(p.numel() for p in network.parameters()) == counted.params
    statistics = [b for key, b in network.named_buffers() if not key.endswith("num_batches_tracked")]
    assert sum(b.numel() for b in statistics) == counted.statistics
    for layer in counted.layers:
        if layer.path == "pool":
            continue
        module = network.get_submodule(layer.path)
        assert sum(p.numel() for p in module.parameters()) == layer.params
        channels, side, _ = layer.output
        assert live[layer.path][0] == channels * side * side
    assert {path: 4 * values for path, (_, values) in live.items()} == {
        layer.path: layer.live_bytes for layer in counted.layers
    }
    assert 4 * max(values for _, values in live.values()) == counted.activation_bytes


def record_live_values(network):
    """Path → (values in its output, values that lie in memory while it runs), filled by a forward pass."""
    from mobilenets.layers import SharedKeyAttention

    live, held, inner = {}, [], {}

    def inside_attention(path, attention):
        """Queries, keys and values as their convolutions give them, and one score a query and key."""
        values = {}

        def hook(module, inputs, output):
            values[module] = output

        def close(module, inputs, output):
            query, key, value = (values[part] for part in (module.query, module.key, module.value))
            scores = module.heads * query[0, 0].numel() * key[0, 0].numel()
            inner[path] = query.numel() + key.numel() + value.numel() + scores

        for part in (attention.query, attention.key, attention.value):
            part.register_forward_hook(hook)
        attention.register_forward_hook(close)

    def around(path):
        def hook(module, inputs, output):
            (x,) = inputs
            shortcut = held[-1].numel() if held and held[-1] is not x else 0
            inside = inner.get(path, 0)
            live[path] = (output.numel(), max(x.numel() + output.numel(), inside) + shortcut)

        return hook

    def release(module, inputs, output):
        held.pop()

    for index, block in enumerate(network.blocks):
        if block.residual:
            block.register_forward_pre_hook(lambda module, inputs: held.append(inputs[0]))
            block.register_forward_hook(release)
        for name, op in block.named_children():
            if isinstance(op, SharedKeyAttention):
                inside_attention(f"blocks.{index}.{name}", op)
            op.register_forward_hook(around(f"blocks.{index}.{name}"))
    network.pool.register_forward_hook(around("pool"))
    for index, conv in enumerate(network.head):
        conv.register_forward_hook(around(f"head.{index}"))
    network.classifier.register_forward_hook(around("classifier"))
    return live


BY_HAND = Spec(
    name="by hand",
    source="",
    blocks=(
        Block((Conv("conv", 3, 4, 2, "relu"),), 0),
        Block(
            (
                Conv("expand", 1, 6, 1, "relu"),
                SqueezeExcite(2),
                Conv("depthwise", 3, 6, 1, depthwise=True),
                Conv("project", 1, 4),
            ),
            1,
            residual=True,
        ),
    ),
    head=(Conv("conv", 1, 5, norm=False),),
    classes=3,
    resolution=32,
)


def test_a_network_counted_by_hand():
    counted = cost.count(BY_HAND)
    assert [layer.params for layer in counted.layers] == [
        3 * 4 * 9 + 8,
        4 * 6 + 12,
        6 * 2 + 2 + 2 * 6 + 6,
        6 * 9 + 12,
        6 * 4 + 8,
        0,
        4 * 5 + 5,
        5 * 3 + 3,
    ]
    area = 16 * 16
    assert [layer.macs for layer in counted.layers] == [
        27 * 4 * area,
        24 * area,
        24,
        54 * area,
        24 * area,
        0,
        20,
        15,
    ]
    assert counted.statistics == 2 * (4 + 6 + 6 + 4)
    expand = counted.layers[1]
    assert expand.bytes_moved == 4 * (4 * 6 + 6 + 4 * area + 6 * area)
    assert expand.live_bytes == 4 * (4 + 6) * area
    depthwise = counted.layers[3]
    assert depthwise.live_bytes == 4 * (6 + 6 + 4) * area
    assert counted.activation_bytes == depthwise.live_bytes
    assert cost.count(BY_HAND, bytes_per_value=1).activation_bytes * 4 == counted.activation_bytes


def test_kinds_are_the_fields_words():
    kinds = [layer.kind for layer in cost.count(BY_HAND).layers]
    assert kinds == [
        "conv 3×3 /2",
        "pointwise",
        "squeeze-and-excite",
        "depthwise 3×3",
        "pointwise",
        "global average pool",
        "pointwise",
        "linear",
    ]
