"""Random functional models with many kinds of Keras layers, skips, shared layers and noise."""

import keras
import numpy as np

from tfp_bayes.layers import (
    DenseFlipout,
    DenseReparameterization,
    MCDropout,
    MCSpatialDropout1D,
    MCSpatialDropout2D,
    MCSpatialDropout3D,
)

layers, ops = keras.layers, keras.ops

SHAPES = [(40,), (24,), (7, 40), (6, 8), (6, 6, 40), (8, 8, 3), (4, 4, 4, 34), (5,)]
ACTIVATIONS = [
    "relu",
    "relu6",
    "elu",
    "selu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "hard_sigmoid",
    "softplus",
    "softsign",
    "linear",
    "mish",
    "celu",
    "leaky_relu",
    "softmax",
    "log_softmax",
    "glu",
    "hard_tanh",
    "hard_shrink",
    "tanh_shrink",
    "sparse_plus",
    "squareplus",
]
MOST_ELEMENTS = 6000


class RandomGraph:
    """A random `model` and inputs `x` for it. The seed determines both, including weights."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)
        self.shared = {}
        tokens = self.chance(0.1)
        shape = (7,) if tokens else self.pick(SHAPES)
        inputs = keras.Input(shape, dtype="int32" if tokens else "float32")
        self.tensors = [inputs]
        if tokens:
            self.tensors = [layers.Embedding(6, 36, mask_zero=self.chance(0.6))(inputs)]
        for _ in range(self.rng.integers(3, 9)):
            self.step()
        if not any("mc_" in str(x._keras_history.operation.name) for x in self.tensors):
            self.tensors.append(MCDropout(0.5)(self.tensors[-1]))
        outputs = [self.head(self.tensors[-1])]
        if self.chance(0.3):
            outputs.append(self.head(self.pick(self.tensors)))
        self.model = keras.Model(inputs, outputs)
        self.randomize_weights()
        if tokens:
            self.x = self.rng.integers(0, 6, (5, *shape)).astype("int32")
        else:
            self.x = self.rng.normal(size=(5, *shape)).astype("float32")

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def chance(self, p):
        return self.rng.random() < p

    def step(self):
        """Add a tensor, usually computed from the last one."""
        x = self.tensors[-1] if self.chance(0.75) else self.pick(self.tensors)
        kinds = [self.noise, self.noise, self.linear, self.linear, self.keeping, self.of_rank]
        kind = self.pick([*kinds, self.keeping, self.of_rank, self.merge, self.nested, self.reuse])
        try:
            y = kind(x)
        except (ValueError, TypeError, AttributeError):  # no such layer for this shape
            return
        known = isinstance(y, keras.KerasTensor) and None not in y.shape[1:] and len(y.shape) > 1
        if known and 0 < np.prod(y.shape[1:]) <= MOST_ELEMENTS:
            self.tensors.append(y)

    def head(self, x):
        if len(x.shape) > 2 and self.chance(0.7):
            x = layers.Flatten()(x)
        if self.chance(0.15):
            return layers.Activation("sigmoid")(x)
        return layers.Dense(3, activation=self.pick(["softmax", "sigmoid"]))(x)

    def randomize_weights(self):
        for v in self.model.variables:
            if v.dtype == "float32" and v.shape:
                noise = 0.2 * self.rng.normal(size=v.shape)
                v.assign_add(np.abs(noise) if "variance" in v.name else noise)

    # Kinds of steps.

    def noise(self, x):
        rate = self.pick([0.2, 0.5, 0.7])
        rank = len(x.shape)
        spatial = {3: MCSpatialDropout1D, 4: MCSpatialDropout2D, 5: MCSpatialDropout3D}.get(rank)
        if spatial and self.chance(0.7):
            first = self.chance(0.1)
            return spatial(rate, "channels_first" if first else "channels_last")(x)
        if rank > 2 and self.chance(0.3):
            return MCDropout(rate, (None, *[1] * (rank - 2), None))(x)
        return MCDropout(rate)(x)

    def linear(self, x):
        """Add a linear layer, which may consume a dropout mask or compute units to drop."""
        units = int(self.pick([4, 17, 32, 40]))
        arguments = {"activation": self.pick(ACTIVATIONS), "use_bias": self.chance(0.8)}
        rank = len(x.shape) - 2
        if rank == 0 or self.chance(0.3):
            dense = self.pick([layers.Dense] * 6 + [DenseFlipout, DenseReparameterization])
            return dense(units, **arguments)(x)
        size, padding = int(self.pick([1, 2, 3])), self.pick(["valid", "same"])
        if rank == 1 and self.chance(0.3):
            padding = "causal"
        stretch = self.pick([{}, {}, {"strides": 2}, {"dilation_rate": 2}])
        convolution = [layers.Conv1D, layers.Conv2D, layers.Conv3D][rank - 1]
        if self.chance(0.2):
            arguments["groups"] = 2
        return convolution(units, size, padding=padding, **stretch, **arguments)(x)

    def keeping(self, x):
        """Add an operation for any rank that keeps or almost keeps the shape."""
        unary = [ops.relu, ops.tanh, ops.abs, ops.square, ops.sin, ops.sigmoid, ops.negative]
        return self.pick(
            [
                lambda: layers.Activation(self.pick(ACTIVATIONS))(x),
                lambda: layers.Activation("relu")(x),
                lambda: layers.ReLU()(x),
                lambda: layers.ReLU(**self.pick([{"max_value": 1.0}, {"threshold": 0.2}]))(x),
                lambda: layers.ReLU(negative_slope=0.2)(x),
                lambda: self.pick([layers.LeakyReLU, layers.PReLU, layers.ELU, layers.Softmax])()(
                    x
                ),
                lambda: self.pick([layers.BatchNormalization, layers.LayerNormalization])()(x),
                lambda: self.pick([layers.UnitNormalization, layers.RMSNormalization])()(x),
                lambda: layers.GroupNormalization(self.pick([1, 2]))(x),
                lambda: self.pick([layers.Dropout, layers.GaussianDropout, layers.AlphaDropout])(
                    0.5
                )(x),
                lambda: layers.GaussianNoise(1.0)(x),
                lambda: layers.SpectralNormalization(layers.Dense(8))(x),
                lambda: layers.Rescaling(0.5, 0.1)(x),
                lambda: layers.ActivityRegularization(0.1)(x),
                lambda: layers.Masking(0.0)(x),
                lambda: layers.EinsumDense("...x,xy->...y", (9,), bias_axes="y")(x),
                lambda: self.pick(unary)(x),
                lambda: x * 0.5 + 0.1,
                lambda: x[..., : max(1, x.shape[-1] - 2)],
                lambda: ops.where(x > 0, x, 0.1 * x),
                lambda: layers.Lambda(lambda t: 0.5 * t)(x),
            ]
        )()

    def of_rank(self, x):
        rank = len(x.shape) - 2
        return self.pick([self.on_vectors, self.on_steps, self.on_images, self.on_volumes][rank])(x)

    @property
    def on_vectors(self):
        return [
            lambda x: layers.Reshape((-1, 4))(x),
            lambda x: layers.RepeatVector(3)(x),
            layers.Flatten(),
            lambda x: ops.expand_dims(x, 1),
            lambda x: layers.Reshape((2, 2, -1))(x),
        ]

    def order(self):
        return self.pick(["channels_last"] * 3 + ["channels_first"])

    @property
    def on_steps(self):
        padding = self.pick(["valid", "same"])
        pool = self.pick([layers.MaxPooling1D, layers.AveragePooling1D])
        whole = self.pick([layers.GlobalMaxPooling1D, layers.GlobalAveragePooling1D])
        recurrent = self.pick([layers.LSTM, layers.GRU, layers.SimpleRNN])
        return [
            pool(2, padding=padding),
            pool(2, 1, padding=padding),
            whole(data_format=self.order(), keepdims=self.chance(0.3)),
            layers.Flatten(data_format=self.order()),
            layers.Permute((2, 1)),
            layers.Cropping1D(1),
            layers.ZeroPadding1D(1),
            layers.UpSampling1D(2),
            recurrent(6, return_sequences=self.chance(0.5), dropout=0.3),
            layers.Bidirectional(recurrent(4)),
            layers.TimeDistributed(layers.Dense(5)),
            lambda x: layers.MultiHeadAttention(2, 4, dropout=0.3)(x, x),
            lambda x: self.pick([layers.Attention, layers.AdditiveAttention])()([x, x]),
            layers.SeparableConv1D(5, 2),
            layers.DepthwiseConv1D(2),
            layers.Conv1DTranspose(5, 2, strides=2),
            layers.SpatialDropout1D(0.5),
            lambda x: ops.mean(x, axis=1),
            lambda x: x[:, -1],
        ]

    @property
    def on_images(self):
        padding = self.pick(["valid", "same"])
        pool = self.pick([layers.MaxPooling2D, layers.AveragePooling2D])
        whole = self.pick([layers.GlobalMaxPooling2D, layers.GlobalAveragePooling2D])
        return [
            pool(2, padding=padding),
            pool(2, 1, padding=padding),
            whole(data_format=self.order(), keepdims=self.chance(0.3)),
            layers.Flatten(data_format=self.order()),
            layers.Permute((2, 3, 1)),
            layers.Cropping2D(1),
            layers.ZeroPadding2D(1),
            layers.UpSampling2D(2),
            layers.Resizing(5, 5),
            layers.SeparableConv2D(5, 2),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.Conv2DTranspose(5, 2),
            layers.SpatialDropout2D(0.5),
            layers.RandomFlip(),
            layers.RandomRotation(0.3),
            layers.RandomTranslation(0.3, 0.3),
            layers.RandomZoom(0.3),
            layers.Reshape((-1, 8)),
            layers.TimeDistributed(layers.LSTM(5)),
            layers.ConvLSTM1D(4, 2),
            lambda x: ops.max(x, axis=(1, 2)),
        ]

    @property
    def on_volumes(self):
        pool = self.pick([layers.MaxPooling3D, layers.AveragePooling3D])
        whole = self.pick([layers.GlobalMaxPooling3D, layers.GlobalAveragePooling3D])
        return [
            pool(2, padding=self.pick(["valid", "same"])),
            whole(data_format=self.order()),
            layers.Flatten(),
            layers.Cropping3D(1),
            layers.UpSampling3D(1),
            layers.SpatialDropout3D(0.5),
            layers.Conv3DTranspose(4, 2),
            layers.TimeDistributed(layers.Conv2D(4, 2)),
        ]

    def merge(self, x):
        same = [y for y in self.tensors if y.shape == x.shape]
        y = self.pick(same)
        kinds = [layers.Add, layers.Multiply, layers.Subtract, layers.Maximum, layers.Average]
        if self.chance(0.3):
            return x + y
        return self.pick([*kinds, layers.Concatenate, layers.Minimum])()([x, y])

    def nested(self, x):
        inner = keras.Input(x.shape[1:])
        image = [layers.RandomFlip()] if len(x.shape) == 4 else []
        y = self.pick([MCDropout(0.5), layers.Dropout(0.5), *image])(inner)
        y = layers.Dense(20, activation="relu")(y)
        return keras.Model(inner, MCDropout(0.3)(y) if self.chance(0.5) else y)(x)

    def reuse(self, x):
        """Call a shared layer, which may have been called before."""
        key = (x.shape[-1], int(self.rng.integers(2)))
        made = MCDropout(0.4) if key[1] else layers.Dense(key[0], activation="relu")
        return self.shared.setdefault(key, made)(x)
