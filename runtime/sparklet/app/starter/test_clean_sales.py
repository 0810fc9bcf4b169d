"""Tests the script with a few rows: run `pytest`, or `pytest --sparklet-worker`."""

from decimal import Decimal

SCHEMA = "id BIGINT, article STRING, pieces INT, price DECIMAL(9, 2), returned BOOLEAN"
HEADER = "id,article,pieces,price,returned\n"


def test_what_was_returned_is_left_out(sparklet_job):
    sales = f"{HEADER}1,apple,4,0.50,false\n2,eggs,1,0.30,true\n"
    done = sparklet_job("clean_sales.py", inputs={"day.csv": sales}, params={"schema": SCHEMA})

    assert [(row["id"], row["total"]) for row in done.output()] == [(1, Decimal("2.00"))]
    assert done.rows == 1
