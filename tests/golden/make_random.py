"""Record what JAX draws: ``python tests/golden/make_random.py`` writes random.json beside it.

Needs JAX, of which the package and its tests know nothing. Floats are written as the integers that
have their bits, and long draws as the SHA-256 of their little-endian bytes.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

SEEDS = (0, 42, 2**32 + 5, -1)
FOLDED = (0, 1, 2**31, 2**32 - 1)
RANGE = (-3.1, 7.7)
PROBABILITY = 0.3
MANY = 100_000
# Up to the last number below 1, so that every branch of the inverse error function is taken.
FAR = (1e-30, 0.1, 0.5, 0.65, 0.9, 0.99, 0.999, 0.9995, 1 - 1e-5, 1 - 4e-7, 1 - 6e-8)
FARTHER = (1 - 1e-8, 1 - 1e-9, 1 - 1e-12, 1 - 2.0**-53)


def main() -> None:
    """Record with the float64 and 64-bit seeds of ``jax_enable_x64``, on a CPU."""
    jax: Any = importlib.import_module("jax")
    numpy: Any = importlib.import_module("numpy")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    draw = jax.random

    def as_bits(values: Any) -> Any:
        array = numpy.asarray(values)
        return array.view(f"uint{8 * array.dtype.itemsize}").tolist()

    def digest(values: Any) -> str:
        return hashlib.sha256(numpy.asarray(values).tobytes()).hexdigest()

    def draws(key: Any) -> dict[str, Any]:
        return {
            "bits": draw.bits(key, (2, 3), "uint32").tolist(),
            "bits_scalar": int(draw.bits(key, (), "uint32")),
            "uniform": {dtype: as_bits(draw.uniform(key, (6,), dtype)) for dtype in ("float32", "float64")},
            "uniform_in_range": {
                dtype: as_bits(draw.uniform(key, (6,), dtype, *RANGE)) for dtype in ("float32", "float64")
            },
            "normal": {dtype: as_bits(draw.normal(key, (24,), dtype)) for dtype in ("float32", "float64")},
            "bernoulli": draw.bernoulli(key, numpy.float32(PROBABILITY), (24,)).tolist(),
        }

    keys = {seed: draw.key(seed) for seed in SEEDS}
    key = keys[42]
    record = {
        "jax": jax.__version__,
        "range": RANGE,
        "probability": PROBABILITY,
        "seeds": [
            {
                "seed": seed,
                "key": draw.key_data(keys[seed]).tolist(),
                "split": draw.key_data(draw.split(keys[seed], 3)).tolist(),
                "fold_in": [
                    [data, draw.key_data(draw.fold_in(keys[seed], data)).tolist()] for data in FOLDED
                ],
                **draws(keys[seed]),
            }
            for seed in SEEDS
        ],
        "many": {
            "count": MANY,
            "bits": digest(draw.bits(key, (MANY,), "uint32").astype("int64")),
            "uniform_float32": digest(draw.uniform(key, (MANY,), "float32", *RANGE)),
            "uniform_float64": digest(draw.uniform(key, (MANY,), "float64", *RANGE)),
            "normal_float32": digest(draw.normal(key, (MANY,), "float32")),
        },
        "erfinv": {
            "float32": [
                [as_bits(numpy.float32(u)), as_bits(jax.lax.erf_inv(numpy.float32(u)))]
                for x in FAR
                for u in (x, -x)
            ],
            "float64": [
                [as_bits(numpy.float64(u)), as_bits(jax.lax.erf_inv(numpy.float64(u)))]
                for x in FAR + FARTHER
                for u in (x, -x)
            ],
        },
    }
    path = Path(__file__).with_name("random.json")
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
