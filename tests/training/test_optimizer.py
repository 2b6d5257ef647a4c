import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from training.optimizer import SGD, build_optimizer
from training.recipe import Recipe
from training.schedules import Warmup

START = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
RATES = [0.1, 0.2, 0.3, 0.3, 0.05]


def gradients(steps: int) -> list[np.ndarray]:
    random = np.random.RandomState(0)
    return [random.normal(size=START.shape).astype("float32") for _ in range(steps)]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_equals_torch_while_the_rate_changes(momentum, nesterov):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Parameter(torch.tensor(START))
    torch_sgd = torch.optim.SGD(
        [theirs], lr=1.0, momentum=momentum, nesterov=nesterov, weight_decay=0.1
    )
    ours = keras.Variable(START, name="kernel")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0.0, 1.0, 3.0], RATES[:3] + [0.05]
    )
    sgd = SGD(schedule, momentum, nesterov, l2=0.1, penalized=[ours.path])
    for rate, gradient in zip(RATES, gradients(5), strict=True):
        torch_sgd.param_groups[0]["lr"] = rate
        theirs.grad = torch.tensor(gradient)
        torch_sgd.step()
        sgd.apply([tf.constant(gradient)], [ours])
        np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-5)


def test_the_penalty_is_that_of_a_loss():
    def train(l2: float, in_loss: float) -> np.ndarray:
        variable = keras.Variable(START, name="kernel")
        sgd = SGD(0.1, 0.9, l2=l2, penalized=[variable.path])
        for gradient in gradients(4):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(gradient * variable.value)
                loss += in_loss / 2 * tf.reduce_sum(variable.value**2)
            sgd.apply([tape.gradient(loss, variable.value)], [variable])
        return variable.numpy()

    np.testing.assert_allclose(train(0.2, 0.0), train(0.0, 0.2), rtol=1e-5)


def test_only_kernels_are_penalized(small_net):
    net = small_net(input_shape=(8, 8, 1), classes=3)
    recipe = Recipe(momentum=0.0, weight_decay=0.5, schedule="constant", reference_batch_size=0)
    before = {variable.path: variable.numpy() for variable in net.trainable_variables}
    optimizer = build_optimizer(recipe, net, steps_per_epoch=10)
    optimizer.apply(
        [tf.zeros(variable.shape) for variable in net.trainable_variables], net.trainable_variables
    )
    kernels = {variable.path for variable in keras_preact.decayed_variables(net)}
    assert kernels and kernels != set(before)
    for variable in net.trainable_variables:
        factor = 1 - 0.1 * 0.5 if variable.path in kernels else 1.0
        np.testing.assert_allclose(variable.numpy(), factor * before[variable.path], rtol=1e-6)


def test_layer_decay_is_a_rate_for_each_stage(small_net):
    """Against the rule of the momentum and of the schedule, written out."""
    net = small_net(input_shape=(8, 8, 1), classes=3)
    recipe = Recipe(
        momentum=0.9,
        weight_decay=0.0,
        learning_rate=0.4,
        schedule="step",
        step_epochs=(1.0,),
        epochs=2,
        reference_batch_size=0,
        layer_decay=0.5,
        ema_momentum=0.25,
    )
    optimizer = build_optimizer(recipe, net, steps_per_epoch=1)
    variables = net.trainable_variables
    before = [variable.numpy() for variable in variables]
    gradient = [np.full(variable.shape, 2.0, "float32") for variable in variables]
    for _ in range(2):
        optimizer.apply([tf.constant(each) for each in gradient], variables)
    # Steps of rate 0.4 and 0.04, velocities 2 and 0.9 * 2 + 2; the average is 1/10 the first.
    first, second = 0.4 * 2.0, 0.4 * 2.0 + 0.04 * 3.8
    factors = {"stem_": 0.125, "stage2_": 0.25, "stage3_": 0.5, "head_norm": 1, "predictions": 1}
    seen = set()
    for variable, start in zip(variables, before, strict=True):
        name = next(name for name in factors if variable.path.startswith(name))
        seen.add(name)
        np.testing.assert_allclose(variable.numpy(), start - factors[name] * second, atol=1e-6)
    assert seen == set(factors)
    optimizer.finalize_variable_values(variables)
    for variable, start in zip(variables, before, strict=True):
        name = next(name for name in factors if variable.path.startswith(name))
        average = factors[name] * (0.1 * first + 0.9 * second)
        np.testing.assert_allclose(variable.numpy(), start - average, atol=1e-6)


def test_no_layer_decay_leaves_the_optimizer_as_it_was(small_net):
    net = small_net(input_shape=(8, 8, 1), classes=3)
    assert build_optimizer(Recipe(), net, steps_per_epoch=1).rate_factors == {}


def test_moving_average_of_the_weights():
    """As TensorFlow's, which begins with the weights after the first update."""
    variable, updates = keras.Variable(START, name="kernel"), tf.Variable(0)
    sgd = SGD(0.1, 0.9, use_ema=True, ema_momentum=0.25)
    seen = tf.Variable(START)
    # Momenta of 1/10, 2/11, 3/12 and then 0.25.
    theirs = tf.train.ExponentialMovingAverage(0.25, num_updates=updates)
    for step, gradient in enumerate(gradients(5)):
        sgd.apply([tf.constant(gradient)], [variable])
        seen.assign(variable.value)
        updates.assign(step - 1)
        theirs.apply([seen])
    sgd.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), theirs.average(seen).numpy(), rtol=1e-5)


def test_mixed_float16_scales_the_loss_and_skips_overflows(small_net):
    net = small_net(input_shape=(8, 8, 1), classes=3, dtype="mixed_float16")
    optimizer = build_optimizer(Recipe(dtype_policy="mixed_float16"), net, steps_per_epoch=10)
    optimizer.build(net.trainable_variables)
    before = [variable.numpy() for variable in net.trainable_variables]
    scale = float(optimizer.dynamic_scale)
    overflow = [tf.fill(variable.shape, np.inf) for variable in net.trainable_variables]
    optimizer.apply(overflow, net.trainable_variables)
    assert float(optimizer.scale_loss(1.0)) == scale / 2
    assert int(optimizer.iterations) == 0
    for variable, value in zip(net.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_mixed_float16_scales_the_loss_of_a_linear_probe_too(small_net):
    """Its checkpoints name the optimizer's variables, whatever is trained."""
    net = small_net(input_shape=(8, 8, 1), classes=3, dtype="mixed_float16")
    for layer in net.layers[:-1]:
        layer.trainable = False
    optimizer = build_optimizer(Recipe(dtype_policy="mixed_float16"), net, steps_per_epoch=10)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def test_the_optimizer_is_serializable():
    schedule = Warmup(keras.optimizers.schedules.CosineDecay(0.1, 10), 5, 0.01, 0.1)
    sgd = SGD(
        schedule,
        0.8,
        True,
        l2=0.1,
        penalized=["a/kernel"],
        rate_factors={"a/kernel": 0.25},
        use_ema=True,
        ema_momentum=0.7,
    )
    config = keras.saving.serialize_keras_object(sgd)
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, SGD)
    assert again.rate_factors == {"a/kernel": 0.25}
    assert again.get_config() == sgd.get_config()
    assert config["registered_name"] == "training>SGD"


def test_a_second_weight_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay=0.1"):
        SGD(0.1, weight_decay=0.1)


def test_factors_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="0 or more. Received: {'a': -1.0}"):
        SGD(0.1, rate_factors={"a": -1.0, "b": 1.0})
    with pytest.raises(ValueError, match="`rate_factors` must name.*nowhere/kernel"):
        SGD(0.1, rate_factors={"nowhere/kernel": 0.5}).build([keras.Variable(START)])


def test_a_penalty_on_an_unknown_variable_is_refused():
    sgd = SGD(0.1, l2=0.1, penalized=["nowhere/kernel"])
    with pytest.raises(ValueError, match="nowhere/kernel"):
        sgd.build([keras.Variable(START)])
