"""A tiny training with Keras, whose weights at the end go into the file that is named."""

import os
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from pacing import end_time_box

from backprop_trainers.keras import BackpropCallback


class Places(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        for place, wanted in enumerate((1, 3)):
            if epoch == wanted:
                end_time_box(place)


keras.utils.set_random_seed(3)
x = np.random.randn(64, 4).astype("float32")
y = x.sum(axis=1, keepdims=True)
model = keras.Sequential(
    [
        keras.Input((4,)),
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.Dropout(0.1),
        keras.layers.Dense(1),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
callback = BackpropCallback()
model.fit(x, y, epochs=6, batch_size=8, validation_data=(x, y), verbose=0, callbacks=[Places(), callback])
if int(model.optimizer.iterations) == 48:
    np.savez(sys.argv[1], *model.get_weights())
