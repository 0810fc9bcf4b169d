"""A small shop's files, as users have them, for the scripts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ORDERS = """id,customer,ordered,amount,status,note
1,7,2013-01-02 10:30:00,19.99,paid,
2,8,2013-01-02 23:59:59,-5.00,refund,"said ""no"", twice"
3,7,2013-02-28 00:00:00,1200.5,paid, padded\x20
4,,2013-03-31 02:30:00,0.1,open,é
5,9,2012-02-29 12:00:00,NA,open,"a,b"
6,8,,33.335,paid,NULL
7,9,2013-12-31 23:00:00,33.345,PAID,""
"""
PLAIN = """id,customer,ordered,amount,status,note
1,7,2013-01-02 10:30:00,19.99,paid,first
2,8,2013-01-02 23:59:59,-5.00,refund,second
3,7,2013-02-28 00:00:00,1200.5,paid,third
4,9,2013-03-31 02:30:00,0.1,open,fourth
5,9,2012-02-29 12:00:00,7.25,open,fifth
6,8,2013-06-30 08:15:00,33.335,paid,sixth
"""
CUSTOMERS = "customer;name;city;since\n7;Ada;Oslo;02.01.2013\n8;Émilie;Paris;28.02.2012\n9;Grace;;29.02.2012\n"
EVENTS = [
    {"id": 1, "kind": "click", "at": "2013-01-02T03:04:05Z", "tags": ["a", "b"], "geo": {"lat": 59.9, "lon": 10.7}},
    {"id": 2, "kind": "view", "at": "2013-01-02T03:04:05.678+01:00", "tags": [], "geo": None},
    {"id": 3, "kind": "click", "at": None, "tags": None, "geo": {"lat": -0.0, "lon": 1e-7}, "extra": {"n": 1}},
    {"id": 4, "kind": None, "at": "not a time", "tags": ["b", None, "ß"], "geo": {"lat": None, "lon": 180}},
]
LOG = """10.0.0.1 - - [02/Jan/2013:10:30:00 +0000] "GET /a?x=1 HTTP/1.1" 200 512
10.0.0.2 - - [bad] "POST /b" 500 -

noise
"""


def write(folder: Path, *, plain: bool = False) -> dict[str, Any]:
    """Write all files, the orders with quotes and gaps or plain.

    The options of a run that has the orders as input and the others as parameters.
    """
    folder.mkdir()
    (folder / "orders.csv").write_text(PLAIN if plain else ORDERS, encoding="utf-8")
    (folder / "customers.csv").write_text(CUSTOMERS, encoding="utf-8")
    (folder / "events.json").write_text("\n".join(map(json.dumps, EVENTS)), encoding="utf-8")
    (folder / "access.log").write_text(LOG, encoding="utf-8")
    moments = pa.array([0, 1357101045000000, None, 1364693400000000], pa.timestamp("us", tz="UTC"))
    prices = pa.array([None, "1.10", "-2.25", "3.00"]).cast(pa.decimal128(10, 2))
    rows = pa.table(
        {
            "id": [1, 2, 3, 4],
            "price": prices,
            "at": moments,
            "kind": ["x", "y", "x", None],
            "share": [0.1, 0.2, float("nan"), -0.0],
        }
    )
    pq.write_table(rows, folder / "prices.parquet")
    pq.write_table(rows.drop(["share"]).append_column("more", pa.array([1, 2, 3, 4])), folder / "later.parquet")
    named = {
        "customers": "customers.csv",
        "events": "events.json",
        "log": "access.log",
        "prices": "prices.parquet",
        "later": "later.parquet",
    }
    return {"inputs": [str(folder / "orders.csv")], "files": {name: str(folder / file) for name, file in named.items()}}
