"""Exports of other heads than one softmax: several labels, logits, embeddings, several outputs."""

import collections
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact.output_kinds import output_kind
from keras_preact.preprocessing import Preprocessing
from keras_preact.serving.export import export_savedmodel
from keras_preact.serving.heads import heads_of

PREPROCESSING = Preprocessing(input_size=16, crop_fraction=1.0)
NAMES = ["odd", "even", "low", "high", "prime"]
OPTIONS = {"input_shape": (16, 16, 3), "classes": len(NAMES)}
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
FILES = [tf.io.encode_png(image).numpy() for image in PIXELS]
UNREADABLE = "not a JPEG, PNG, GIF, BMP or WebP file"


def export(model, folder, **options):
    path = folder / model.name
    export_savedmodel(model, path, preprocessing=PREPROCESSING, warm_up_batch_sizes=(), **options)
    return tf.saved_model.load(str(path)), json.loads(
        (path / "assets.extra/model.json").read_text()
    )


def run(loaded, signature, files):
    outputs = loaded.signatures[signature](image_bytes=tf.constant(files, tf.string))
    return {name: each.numpy() for name, each in outputs.items()}


def expected(model):
    images = np.stack([PREPROCESSING.resize_and_crop(image) for image in PIXELS])
    return keras.tree.map_structure(np.asarray, model(PREPROCESSING.normalize(images)))


def spread(model, layer="predictions"):
    """Let scores of images lie on both sides of zero, and differ between images."""
    kernel, bias = model.get_layer(layer).get_weights()
    model.get_layer(layer).set_weights([kernel * 3, np.linspace(-1, 1, len(bias))])
    return model


def test_of_several_labels_all_above_the_threshold_are_given(small_net, tmp_path):
    model = spread(small_net(**OPTIONS, classifier_activation="sigmoid", name="several"))
    loaded, card = export(model, tmp_path, class_names=NAMES, threshold=0.4)
    wanted = expected(model)
    answer = run(loaded, "classify", [*FILES, b"no image"])
    assert answer["classes"].shape == answer["scores"].shape == (4, len(NAMES))
    counts = set()
    for classes, scores, probabilities in zip(
        answer["classes"], answer["scores"], wanted, strict=False
    ):
        order = [index for index in np.argsort(-probabilities) if probabilities[index] > 0.4]
        counts.add(len(order))
        rest = len(NAMES) - len(order)
        assert [each.decode() for each in classes] == [NAMES[i] for i in order] + [""] * rest
        np.testing.assert_allclose(scores, [*probabilities[order], *[0] * rest], atol=1e-5)
    # Neither none nor all, or the threshold would show nothing.
    assert counts & {1, 2, 3, 4}
    assert not answer["classes"][3].any() and not answer["scores"][3].any()
    assert answer["errors"].tolist() == [b"", b"", b"", UNREADABLE.encode()]
    # Of these sums none is 1, and all are given.
    given = run(loaded, "serving_bytes", FILES)["probabilities"]
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert np.abs(wanted.sum(axis=1) - 1).min() > 0.1
    assert card["outputs"]["probabilities"] == {
        "kind": "labels",
        "classes": 5,
        "threshold": 0.4,
        "says": "any of 5 labels, each with a probability of its own (sigmoid); `classify` gives "
        "those above 0.4",
    }
    assert card["export"]["threshold"] == 0.4
    assert "any of 5 labels" in (tmp_path / "several/assets.extra/README.md").read_text()


def test_few_of_the_labels_and_none(small_net, tmp_path):
    model = spread(small_net(**OPTIONS, classifier_activation="sigmoid", name="few"))
    loaded, _ = export(model, tmp_path, top_k=2, threshold=0.0)
    answer = run(loaded, "classify", FILES)
    order = np.argsort(-expected(model), axis=1)[:, :2]
    assert answer["classes"].astype(str).tolist() == order.astype(str).tolist()
    assert run(loaded, "classify", [])["classes"].shape == (0, 2)


def test_logits_are_named_so_and_order_the_classes(small_net, tmp_path):
    model = spread(small_net(**OPTIONS, classifier_activation=None, name="logits"))
    loaded, card = export(model, tmp_path, class_names=NAMES, top_k=3)
    wanted = expected(model)
    assert wanted.min() < 0
    images = tf.constant(PIXELS, tf.float32)
    for signature in ("serving_default", "single_pass"):
        given = loaded.signatures[signature](images=images)
        assert list(given) == ["logits"]
        np.testing.assert_allclose(given["logits"], wanted, atol=1e-4)
    answer = run(loaded, "classify", FILES)
    order = np.argsort(-wanted, axis=1)[:, :3]
    assert answer["classes"].astype(str).tolist() == [[NAMES[i] for i in row] for row in order]
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(wanted, order, 1), atol=1e-4)
    assert card["outputs"]["logits"]["kind"] == "logits"


def test_embeddings_have_no_classes(small_net, tmp_path):
    model = small_net(**OPTIONS, include_top=False, pooling="avg", name="embedding")
    loaded, card = export(model, tmp_path)
    assert set(loaded.signatures) == {"serving_default", "single_pass", "serving_bytes", "features"}
    answer = run(loaded, "serving_bytes", [*FILES, b""])
    assert set(answer) == {"embedding", "errors"}
    np.testing.assert_allclose(answer["embedding"][:3], expected(model), atol=1e-4)
    assert not answer["embedding"][3].any() and answer["errors"][3] == UNREADABLE.encode()
    features = run(loaded, "features", FILES)
    assert set(features) == {"embedding", "stage2", "stage3", "errors"}
    np.testing.assert_allclose(features["embedding"], answer["embedding"][:3], atol=1e-5)
    assert card["outputs"]["embedding"]["kind"] == "values"
    assert card["architecture"]["classes"] is None
    assert not [*(tmp_path / "embedding" / "assets").iterdir()]


@pytest.fixture(scope="module")
def several_outputs(small_net):
    """Return a net that tells the digit, its properties and where it is."""
    body = small_net(input_shape=(16, 16, 3), include_top=False, pooling="avg")
    heads = {
        "properties": keras.layers.Dense(2, "sigmoid", name="properties"),
        "box": keras.layers.Dense(4, name="box"),
        "digit": keras.layers.Dense(3, "softmax", name="digit"),
    }
    outputs = {name: layer(body.output) for name, layer in heads.items()}
    return keras.Model(body.input, outputs, name="several_outputs")


def test_several_outputs_are_each_served_as_they_are(several_outputs, tmp_path):
    names = {"properties": ["odd", "low"], "digit": ["one", "two", "three"]}
    loaded, card = export(several_outputs, tmp_path, class_names=names)
    wanted = expected(several_outputs)
    answer = run(loaded, "serving_bytes", FILES)
    assert set(answer) == {*wanted, "errors"}
    for name, numbers in wanted.items():
        np.testing.assert_allclose(answer[name], numbers, atol=1e-4)
    answer = run(loaded, "classify", FILES)
    assert set(answer) == {
        *("digit_classes", "digit_scores", "properties_classes", "properties_scores", "errors")
    }
    best = [names["digit"][index] for index in wanted["digit"].argmax(1)]
    assert answer["digit_classes"][:, 0].astype(str).tolist() == best
    counts = (wanted["properties"] > 0.5).sum(1)
    assert (answer["properties_classes"] != b"").sum(1).tolist() == counts.tolist()
    kinds = {name: each["kind"] for name, each in card["outputs"].items()}
    assert kinds == {"box": "values", "digit": "classes", "properties": "labels"}
    lines = (tmp_path / "several_outputs/assets/digit.labels.txt").read_text().splitlines()
    assert lines == names["digit"]


def test_outputs_in_an_order_of_their_own_keep_their_names(several_outputs):
    box, digit, properties = several_outputs.outputs
    outputs = collections.OrderedDict(properties=properties, digit=digit, box=box)
    model = keras.Model(several_outputs.input, outputs)
    heads = heads_of(model, PREPROCESSING, {"digit": ["one", "two", "three"]})
    found = {head.name: (head.kind, len(head.labels)) for head in heads}
    assert found == {"properties": ("labels", 2), "digit": ("classes", 3), "box": ("values", 0)}
    for head, output in zip(heads, model.outputs, strict=True):
        assert output is outputs[head.name]


@keras.saving.register_keras_serializable(package="tests")
class Scores(keras.Model):
    """A subclassed model, of which no layer tells what it gives."""

    def __init__(self, activation, name=None):
        super().__init__(name=name)
        self.dense = keras.layers.Dense(3, activation, name="dense")

    def get_config(self):
        return {"activation": keras.activations.serialize(self.dense.activation), "name": self.name}

    def call(self, images):
        return self.dense(keras.ops.mean(images, axis=(1, 2)))


@pytest.mark.parametrize(("activation", "kind"), [("softmax", "classes"), ("sigmoid", "values")])
def test_a_gray_image_tells_what_a_subclassed_model_gives(tmp_path, activation, kind):
    images = keras.Input((16, 16, 3))
    model = keras.Model(images, Scores(activation)(images), name=kind)
    assert outputs_of(model) == [None]
    loaded, card = export(model, tmp_path)
    ((name, output),) = card["outputs"].items()
    assert output["kind"] == kind
    np.testing.assert_allclose(
        run(loaded, "serving_bytes", FILES)[name], expected(model), atol=1e-5
    )


def outputs_of(model):
    return [output_kind(each) for each in model.outputs]


def test_layers_tell_the_kind_of_an_output(small_net, several_outputs):
    logits = small_net(**OPTIONS, classifier_activation=None)
    images = keras.Input((16, 16, 3))

    def after(function):
        return outputs_of(keras.Model(logits.input, function(logits.output)))

    assert outputs_of(logits) == ["logits"]
    assert after(keras.layers.Activation("linear")) == ["logits"]
    assert after(keras.layers.Activation("sigmoid")) == ["labels"]
    assert after(keras.ops.sigmoid) == ["labels"]
    assert after(keras.layers.Softmax()) == ["classes"]
    assert after(lambda x: keras.ops.softmax(x)) == ["classes"]
    # Which classes, if any, these numbers are of, no layer says.
    assert after(keras.layers.Activation("relu")) == [None]
    assert after(keras.layers.Dense(3)) == ["values"]
    assert output_kind(keras.layers.Dense(3)(logits.output), named=True) == "logits"
    pooled = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(images))
    nested = keras.Sequential([images, small_net(**OPTIONS, classifier_activation="sigmoid")])
    assert outputs_of(nested) == ["labels"]
    assert outputs_of(several_outputs) == ["values", "classes", "labels"]
    several = [
        small_net(seed, **OPTIONS, classifier_activation="sigmoid", name=f"net{seed}")(images)
        for seed in (1, 2)
    ]
    assert outputs_of(keras.Model(images, keras.layers.Average()(several))) == ["labels"]
    # The name of the layer that gives an ensemble's logits does not depend on the order of a set.
    for name in ("predictions", "scores", "logits", "head", "last"):
        names, kind = ["predictions", name], "logits" if name == "predictions" else "values"
        ends = [
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name=name)])(pooled)
            for name in names
        ]
        assert outputs_of(keras.Model(images, keras.layers.Average()(ends))) == [kind]
        assert outputs_of(keras.Model(images, keras.layers.Average()(ends[::-1]))) == [kind]
    mixed = [several[0], logits(images)]
    assert outputs_of(keras.Model(images, keras.layers.Average()(mixed))) == [None]
    maps = small_net(**OPTIONS, include_top=False)
    assert outputs_of(maps) == ["values"]


@pytest.mark.parametrize(
    ("options", "export_options", "message"),
    [
        (
            {},
            {"threshold": 0.3},
            r"for several labels.*Received: 0.3 for probabilities \(classes\)",
        ),
        ({"classifier_activation": "sigmoid"}, {"threshold": 1.0}, r"in \[0, 1\). Received: 1.0"),
        ({"classifier_activation": "sigmoid"}, {"class_names": ["a"]}, "5 classes. Received: 1"),
        ({}, {"class_names": {"a": ["b"]}}, r"no other. Received: names for \['a'\]"),
        (
            {"include_top": False, "pooling": "avg"},
            {"class_names": NAMES},
            r"no scores of classes.*of the shape \(None, 16\)",
        ),
        ({"include_top": False}, {}, 'pooling="avg"` for embeddings. Received: outputs'),
    ],
)
def test_options_that_do_not_fit_the_head(small_net, tmp_path, options, export_options, message):
    with pytest.raises(ValueError, match=message):
        export(small_net(**OPTIONS, **options), tmp_path, **export_options)
    assert not [*tmp_path.iterdir()]


def test_outputs_and_names_that_do_not_fit(several_outputs, tmp_path):
    for names, received in ((["a"], r"\['a'\]"), ({"digits": ["a"]}, r"\['digits'\]")):
        with pytest.raises(ValueError, match=f"by output, .*'properties'.*Received: {received}"):
            export(several_outputs, tmp_path, class_names=names)
    box, digit, _ = several_outputs.outputs
    for outputs, received in (
        ({"errors": box, "b": digit}, "errors"),
        ({"a b": box, "c": digit}, "a b"),
        # Commands give these names to other entries of an answer.
        ({"error": box, "b": digit}, "error"),
        ({"image": box, "b": digit}, "image"),
        ({"a": [box, digit]}, r"\['a', 'a'\]"),
    ):
        with pytest.raises(ValueError, match=f"Several outputs need names.*Received: .*{received}"):
            export(keras.Model(several_outputs.input, outputs), tmp_path)
    with pytest.raises(ValueError, match=r"names of features, .*Received: \['stage2'\]"):
        export(keras.Model(several_outputs.input, {"stage2": box, "b": digit}), tmp_path)


def test_a_softmax_over_another_axis_is_told(tmp_path):
    images = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Softmax(axis=0)(pooled))
    with pytest.raises(ValueError, match="must be probabilities that sum to 1.*sum to 3"):
        export(model, tmp_path)
