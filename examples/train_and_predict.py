"""Train a model of scikit-learn in one worker, put it into S3, predict in many. ::

    python examples/train_and_predict.py s3://bucket/models/iris.pickle

The workers need scikit-learn: ``pip install scikit-learn`` here; in Lambda an image of your own, made from Sparklet's.
A model is a pickle, and whoever writes it can run code where it is loaded: its SHA-256 travels with the calls.
"""

import argparse
import hashlib
import pickle
from functools import cache
from typing import Any

import boto3

from sparklet import LambdaExecutor, remote


@remote(memory_mb=3008, timeout_s=300)
def train(uri: str, regularization: float = 1.0) -> str:
    """Fit a classifier of iris flowers, store it; its SHA-256."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=regularization, max_iter=1000).fit(*load_iris(return_X_y=True))
    body = pickle.dumps(model)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    return hashlib.sha256(body).hexdigest()


@cache  # once a worker, not once a call
def load(uri: str, sha256: str) -> Any:
    """A stored model; ValueError if it is not the one that was trained."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    body = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    if hashlib.sha256(body).hexdigest() != sha256:
        raise ValueError(f"{uri} is not the model that was trained")
    return pickle.loads(body)  # noqa: S301 - its digest was checked


@remote(memory_mb=1769, timeout_s=60)
def predict(uri: str, sha256: str, flowers: list[list[float]]) -> list[int]:
    """The kinds of some flowers."""
    kinds: list[int] = load(uri, sha256).predict(flowers).tolist()
    return kinds


def main() -> None:
    """Read the arguments, train, print the share of right predictions."""
    from sklearn.datasets import load_iris

    parser = argparse.ArgumentParser()
    parser.add_argument("uri")
    parser.add_argument("--backend", default="processes")
    given = parser.parse_args()
    flowers, kinds = load_iris(return_X_y=True)
    batches = [flowers[first : first + 25].tolist() for first in range(0, len(flowers), 25)]
    with LambdaExecutor(given.backend, codec="cloudpickle"):
        sha256 = train.submit(given.uri).result()
        found = predict.map([given.uri] * len(batches), [sha256] * len(batches), batches)
        right = sum(kind == one for kind, one in zip(kinds, (one for batch in found for one in batch), strict=True))
    print(f"{right} of {len(kinds)} are right")


if __name__ == "__main__":
    main()
