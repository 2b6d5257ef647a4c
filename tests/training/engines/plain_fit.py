"""Train a model of Keras itself as one of several workers, those of `TF_CONFIG`."""

import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
batches = tf.data.Dataset.from_tensors((np.ones((4, 3)), np.eye(2)[[0, 1, 0, 1]])).repeat()
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
model.fit(batches.with_options(options), steps_per_epoch=2, verbose=0)
