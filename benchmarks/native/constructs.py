"""The generated suite: what a script may do, one construct at a time, on values of every type.

It ships with ``generated.py`` to the workers, so it imports nothing but pyspark.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyspark.sql import DataFrame, SparkSession

Make = Callable[[SparkSession, str, Mapping[str, Any]], DataFrame]

AT_ONCE = 25  # columns in one folder
INTS, FRACTIONS, TEXTS = ("i", "l"), ("d", "n"), ("s", "t", "u")
NUMBERS = (*INTS, *FRACTIONS)
TIMES = ("da", "ts")
FLAT = (*NUMBERS, "f", "b", *TEXTS, *TIMES, "bi")
CASTS = ("STRING", "INT", "BIGINT", "SMALLINT", "DOUBLE", "FLOAT", "DECIMAL(10,2)", "BOOLEAN", "DATE", "TIMESTAMP")
OF_NUMBERS = (
    *("abs", "sqrt", "exp", "ln", "log10", "floor", "ceil", "round", "bround", "sign", "sin", "atan", "cbrt", "hex"),
    *(
        "negative",
        "positive",
        "degrees",
        "expm1",
        "log1p",
        "rint",
        "isnan",
        "width_bucket4",
        "format_number2",
        "round-1",
    ),
)
OF_INTS = ("bin", "factorial", "bit_count", "shiftleft3", "shiftright2", "chr", "~", "timestamp_seconds", "date_add")
OF_TEXTS = (
    *("upper", "lower", "length", "trim", "ltrim", "rtrim", "initcap", "reverse", "ascii", "base64", "md5", "sha1"),
    *("crc32", "soundex", "octet_length", "bit_length", "to_date", "to_timestamp", "hex", "unhex"),
)
TEXT_PATTERNS = {
    "split": "split({}, ' ')",
    "split_limit": "split({}, '-', 2)",
    "substring": "substring({}, 2, 3)",
    "substring_end": "substring({}, -2)",
    "instr": "instr({}, 'a')",
    "locate": "locate('1', {}, 2)",
    "regexp_replace": "regexp_replace({}, '[0-9]+', '#')",
    "regexp_extract": "regexp_extract({}, '([0-9]+)-', 1)",
    "lpad": "lpad({}, 5, '*')",
    "rpad": "rpad({}, 3, 'xy')",
    "translate": "translate({}, 'a1', 'b')",
    "concat_ws": "concat_ws('-', {}, NULL, 'x')",
    "concat": "{} || '!'",
    "levenshtein": "levenshtein({}, 'abc')",
    "like": "{} LIKE '%1_'",
    "rlike": "{} RLIKE '^[0-9]+$'",
    "substring_index": "substring_index({}, '-', 2)",
    "sha2": "sha2({}, 256)",
    "repeat": "repeat({}, 2)",
    "to_date_format": "to_date({}, 'yyyy-MM-dd')",
    "to_timestamp_format": "to_timestamp({}, 'yyyy-MM-dd HH:mm:ss')",
    "unix_timestamp": "unix_timestamp({}, 'yyyy-MM-dd')",
    "in": "{} IN ('1', 'a', '')",
    "less": "{} < 'a'",
    "equal_number": "{} = 1",
    "encode": "encode({}, 'UTF-16LE')",
    "overlay": "overlay({} PLACING '_' FROM 2)",
    "plus": "{} + 1",
    "parse_url": "parse_url({}, 'HOST')",
    "url_encode": "url_encode({})",
}
OF_TIMES = (
    *(
        "year",
        "month",
        "day",
        "dayofweek",
        "dayofyear",
        "weekofyear",
        "quarter",
        "last_day",
        "weekday",
        "hour",
        "minute",
    ),
    *("second", "unix_timestamp", "to_date", "unix_date"),
)
TIME_PATTERNS = {
    **{f"trunc_{unit}": f"date_trunc('{unit}', {{}})" for unit in ("year", "quarter", "week", "day", "hour")},
    **{
        f"format_{n}": f"date_format({{}}, '{each}')"
        for n, each in enumerate(("yyyy-MM-dd", "EEE d MMM yy", "DDD", "HH:mm:ss.SSS"))
    },
    "next_day": "next_day({}, 'MO')",
    "add_months": "add_months({}, 1)",
    "months_between": "months_between({}, DATE '2013-01-31')",
    "datediff": "datediff({}, DATE '2013-01-31')",
    "plus_days": "date_add({}, 30)",
    "interval": "{} + INTERVAL 1 MONTH",
    "to_utc": "to_utc_timestamp({}, 'Europe/Berlin')",
    "from_utc": "from_utc_timestamp({}, 'America/New_York')",
    "extract_epoch": "extract(SECOND FROM {})",
    "less": "{} < DATE '2013-01-31'",
}
NESTED = {
    "array": (
        *(
            "size(ai)",
            "sort_array(ai)",
            "sort_array(ai, false)",
            "array_contains(ai, 1)",
            "array_max(ai)",
            "array_min(ai)",
        ),
        *("array_distinct(ai)", "slice(ai, 1, 2)", "element_at(ai, 1)", "element_at(ai, -1)", "array_position(ai, 1)"),
        *("array_remove(ai, 1)", "ai[0]", "ai[9]", "array_join(sa, ',')", "array_join(sa, ',', '?')", "reverse(ai)"),
        *(
            "concat(ai, ai)",
            "array_union(ai, array(1))",
            "array_except(ai, array(1))",
            "array_intersect(ai, array(1, 2))",
        ),
        *("transform(ai, x -> x + 1)", "filter(ai, x -> x > 0)", "aggregate(ai, 0, (a, x) -> a + coalesce(x, 0))"),
        *(
            "exists(ai, x -> x < 0)",
            "forall(ai, x -> x < 9)",
            "arrays_zip(ai, sa)",
            "cast(ai AS STRING)",
            "to_json(struct(ai))",
        ),
        *(
            "explode(ai)",
            "explode_outer(ai)",
            "posexplode(ai)",
            "array_repeat(i, 2)",
            "flatten(array(ai, ai))",
            "array_sort(ai)",
        ),
        *("ai = ai", "hash(ai)", "cardinality(ai)", "shuffle(array(1))", "array_compact(ai)", "array_append(ai, 5)"),
    ),
    "map": (
        *("map_keys(m)", "map_values(m)", "m['a']", "element_at(m, 'a')", "size(m)", "explode(m)", "map_entries(m)"),
        *("cast(m AS STRING)", "to_json(m)", "map_filter(m, (k, v) -> v > 0)", "transform_values(m, (k, v) -> v + 1)"),
        *("map_contains_key(m, 'a')", "map_concat(m, map('z', 1))", "map_from_entries(map_entries(m))"),
    ),
    "struct": (
        *(
            "st.x",
            "st.y",
            "to_json(st)",
            "cast(st AS STRING)",
            "st = st",
            "named_struct('a', st.x, 'b', s)",
            "hash(st)",
        ),
        *("struct(i, s).i", "to_csv(st)", "st IS NULL", "coalesce(st, named_struct('x', 0, 'y', ''))"),
    ),
    "json": (
        *(
            "get_json_object(j, '$.a')",
            "get_json_object(j, '$.b[0]')",
            "get_json_object(j, '$.c.d')",
            "json_tuple(j, 'a', 'b')",
        ),
        *(
            "from_json(j, 'a INT, b ARRAY<INT>')",
            "from_json(j, 'a STRING')",
            "from_json(j, 'a DOUBLE')",
            "from_json(j, 'c STRUCT<d: INT>')",
        ),
        *(
            "json_array_length(get_json_object(j, '$.b'))",
            "schema_of_json('{\"a\": 1}')",
            "from_json(j, 'a DATE')",
            "json_object_keys(j)",
        ),
    ),
    "null": (
        *(
            "coalesce(i, 0)",
            "nvl(s, '?')",
            "nullif(i, 0)",
            "ifnull(d, 0.0)",
            "nvl2(i, 1, 2)",
            "if(b, i, l)",
            "i IS NULL",
            "isnull(s)",
        ),
        *(
            "nanvl(d, 0D)",
            "CASE WHEN i > 0 THEN 'p' WHEN i < 0 THEN 'n' END",
            "greatest(i, 0)",
            "least(d, 0D)",
            "greatest(s, 'a')",
        ),
        *(
            "i <=> NULL",
            "b AND NULL",
            "b OR NULL",
            "NOT b",
            "b = true",
            "xxhash64(s)",
            "hash(i)",
            "hash(s)",
            "hash(d)",
            "hash(n)",
        ),
        *(
            "xxhash64(i, s, d)",
            "hash(da)",
            "hash(ts)",
            "CAST(bi AS STRING)",
            "hex(bi)",
            "base64(bi)",
            "length(bi)",
            "decode(bi, 'UTF-8')",
        ),
        *(
            "coalesce(n, 0)",
            "concat(i, s)",
            "i || d",
            "CAST(d AS STRING) || 'x'",
            "format_string('%d %s', i, s)",
            "format_string('%.2f', d)",
        ),
        *(
            "struct(*)",
            "monotonically_increasing_id() * 0",
            "spark_partition_id() * 0",
            "typeof(n + i)",
            "typeof(i / l)",
            "width_bucket(d, 0, 9, 3)",
        ),
    ),
}
AGGREGATES = (
    "sum",
    "avg",
    "min",
    "max",
    "count",
    "stddev",
    "variance",
    "count(DISTINCT {})",
    "stddev_pop",
    "skewness",
    "kurtosis",
)
OF_GROUPS = (
    *(
        "sort_array(collect_list(i))",
        "sort_array(collect_set(s))",
        "percentile(i, 0.5)",
        "percentile_approx(l, 0.5)",
        "corr(d, i)",
    ),
    *(
        "approx_count_distinct(i)",
        "bool_and(b)",
        "bool_or(b)",
        "count_if(b)",
        "bit_and(i)",
        "bit_xor(l)",
        "max_by(id, i)",
    ),
    *(
        "median(i)",
        "mode(b)",
        "sum(i) FILTER (WHERE b)",
        "covar_samp(i, l)",
        "regr_slope(i, l)",
        "count(i, s)",
        "any_value(1)",
    ),
    *(
        "histogram_numeric(i, 3)",
        "sum(DISTINCT i)",
        "min(struct(i, id))",
        "try_sum(l)",
        "try_avg(n)",
    ),
)
WINDOWS = (
    *(
        "row_number()",
        "rank()",
        "dense_rank()",
        "percent_rank()",
        "cume_dist()",
        "ntile(3)",
        "lag(i)",
        "lead(s, 2)",
        "lag(i, 1, 0)",
    ),
    *(
        "sum(i)",
        "avg(n)",
        "max(s)",
        "first_value(i)",
        "last_value(i)",
        "nth_value(i, 2)",
        "count(*)",
        "collect_list(b)",
    ),
)
SEVERAL = ("explode", "posexplode", "json_tuple", "struct(*)")  # columns or rows
ORDER = "PARTITION BY g ORDER BY i, id"
QUERIES = {
    "distinct": "SELECT DISTINCT i, b FROM v",
    "union": "SELECT i, s FROM v UNION SELECT i, s FROM v",
    "union_widened": "SELECT i AS x FROM v UNION ALL SELECT n FROM v",
    "intersect": "SELECT b, g FROM v WHERE id < 50 INTERSECT SELECT b, g FROM v",
    "except": "SELECT i FROM v EXCEPT SELECT i FROM v WHERE b",
    "inner_join": "SELECT a.id, c.id AS other FROM v a JOIN v c ON a.i = c.i",
    "left_join": "SELECT a.id, c.s FROM v a LEFT JOIN v c ON a.id = c.id + 1",
    "full_join": "SELECT a.id, c.id AS other FROM v a FULL JOIN v c ON a.id = c.id + 150",
    "null_safe_join": "SELECT a.id, c.id AS other FROM v a JOIN v c ON a.i <=> c.i",
    "join_floats": "SELECT a.id, c.id AS other FROM v a JOIN v c ON a.d = c.d",
    "join_mixed_types": "SELECT a.id, c.id AS other FROM v a JOIN v c ON a.i = c.t",
    "semi_join": "SELECT id FROM v a LEFT SEMI JOIN v c ON a.id = c.id + 1",
    "anti_join": "SELECT id FROM v a LEFT ANTI JOIN v c ON a.i = c.l",
    "in_query": "SELECT id FROM v WHERE i NOT IN (SELECT i FROM v WHERE b)",
    "exists_query": "SELECT id FROM v a WHERE EXISTS (SELECT 1 FROM v c WHERE c.id = a.id + 1)",
    "scalar_query": "SELECT id, (SELECT max(i) FROM v) AS v FROM v",
    "rollup": "SELECT g, b, count(*) AS n, grouping_id() AS k FROM v GROUP BY ROLLUP (g, b)",
    "cube": "SELECT g, b, sum(i) AS n FROM v GROUP BY CUBE (g, b)",
    "grouping_sets": "SELECT g, b, sum(l) AS n FROM v GROUP BY GROUPING SETS ((g), (b), ())",
    "having": "SELECT g, count(*) AS n FROM v GROUP BY g HAVING count(i) > 3",
    "pivot": "SELECT * FROM (SELECT g, b, i FROM v) PIVOT (max(i) FOR b IN (true, false))",
    "unpivot": "SELECT * FROM (SELECT id, i, l FROM v) UNPIVOT (x FOR name IN (i, l))",
    "lateral_view": "SELECT id, x FROM v LATERAL VIEW explode(ai) AS x",
    "lateral_outer": "SELECT id, x FROM v LATERAL VIEW OUTER explode(ai) AS x",
    "order_limit": "SELECT id, d FROM v ORDER BY d, id LIMIT 20",
    "order_nulls": "SELECT id, s FROM v ORDER BY s DESC NULLS FIRST, id LIMIT 20",
    "order_text": "SELECT id, s FROM v ORDER BY s, id LIMIT 30 OFFSET 5",
    "group_floats": "SELECT d, count(*) AS n FROM v GROUP BY d",
    "group_nulls": "SELECT i, count(*) AS n FROM v GROUP BY i",
    "group_text": "SELECT upper(s) AS s, count(*) AS n FROM v GROUP BY upper(s)",
    "empty_sum": "SELECT sum(i) AS n, count(*) AS c, max(s) AS m FROM v WHERE id < 0",
    "values": "SELECT * FROM VALUES (1, 'a', 1.50), (2, NULL, 2.0) AS t(a, b, c)",
    "range": "SELECT id FROM range(5)",
    "cte": "WITH w AS (SELECT g, max(i) AS m FROM v GROUP BY g) SELECT v.id FROM v JOIN w ON v.i = w.m",
    "window_filter": f"SELECT id FROM (SELECT id, row_number() OVER ({ORDER}) AS r FROM v) WHERE r = 1",
    "sequence": "SELECT explode(sequence(DATE '2013-01-01', DATE '2013-01-05')) AS day",
    "literals": "SELECT 1.0 AS a, 1e0 AS b, 1BD AS c, 2147483648 AS d, X'1F' AS f, TIMESTAMP '2013-01-01' AS g",
    "stack": "SELECT stack(2, 1, 'a', 2, 'b')",
}
FRAME = "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING"
NUMBER_PATTERNS = {
    "width_bucket4": "width_bucket({}, 0, 10, 4)",
    "format_number2": "format_number({}, 2)",
    "round-1": "round({}, -1)",
}
INT_PATTERNS = {
    "shiftleft3": "shiftleft({}, 3)",
    "shiftright2": "shiftright({}, 2)",
    "~": "~{}",
    "date_add": "date_add(DATE '2013-01-01', {})",
}
PAIRS = (
    ("i", "l"),
    ("i", "d"),
    ("l", "n"),
    ("n", "n"),
    ("d", "n"),
    ("i", "t"),
    ("f", "d"),
    ("d", "d"),
    ("da", "i"),
)
OPERATORS = ("+", "-", "*", "/", "%", "=", "<", "<=>", "div", "&")
CSV: Mapping[str, Mapping[str, Any]] = {
    "header": {},
    "sep": {"sep": ";"},
    "sep_tab": {"sep": "\t"},
    "quote": {"quote": "'"},
    "no_quote": {"quote": ""},
    "escape_quote": {"escape": '"'},
    "null_value": {"nullValue": "NA"},
    "empty_value": {"emptyValue": "-"},
    "leading": {"ignoreLeadingWhiteSpace": True},
    "trailing": {"ignoreTrailingWhiteSpace": True},
    "both_spaces": {"ignoreLeadingWhiteSpace": True, "ignoreTrailingWhiteSpace": True},
    "comment": {"comment": "#"},
    "multi_line": {"multiLine": True},
    "fail_fast": {"mode": "FAILFAST"},
    "drop": {"mode": "DROPMALFORMED"},
    "latin1": {"encoding": "ISO-8859-1"},
    "utf16": {"encoding": "UTF-16"},
    "no_header": {"header": False},
    "enforce": {"enforceSchema": False},
    "line_sep": {"lineSep": "\r"},
    "nan": {"nanValue": "NA"},
    "date_format": {"dateFormat": "dd/MM/yyyy"},
    "timestamp_format": {"timestampFormat": "dd/MM/yyyy HH:mm"},
    "max_chars": {"maxCharsPerColumn": 4},
    "unescaped": {"unescapedQuoteHandling": "STOP_AT_DELIMITER"},
    "corrupt": {"columnNameOfCorruptRecord": "d"},
    "escape_other": {"escape": "^"},
    "glob": {"pathGlobFilter": "*.csv"},
}
SCHEMAS = {"text": "a STRING, b STRING, c STRING", "typed": "a INT, b DOUBLE, c DATE", "guessed": ""}
JSON: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "multi_line": {"multiLine": True},
    "comments": {"allowComments": True},
    "single_quotes": {"allowSingleQuotes": False},
    "zeros": {"allowNumericLeadingZeros": True},
    "strings": {"primitivesAsString": True},
    "decimals": {"prefersDecimal": True},
    "drop": {"mode": "DROPMALFORMED"},
    "fail_fast": {"mode": "FAILFAST"},
    "drop_null": {"dropFieldIfAllNull": True},
    "sampled": {"samplingRatio": 1.0},
    "unquoted": {"allowUnquotedFieldNames": True},
}
JSON_SCHEMAS = {
    "guessed": "",
    "typed": "a INT, b ARRAY<INT>, c STRUCT<d: INT>, e DATE",
    "text": "a STRING, b STRING, c STRING",
}
WRITTEN = {
    "csv": (
        {},
        {"header": True},
        {"header": True, "nullValue": "NA"},
        {"sep": ";", "quoteAll": True},
        {"emptyValue": ""},
        {"escape": '"'},
        {"compression": "gzip"},
        {"timestampFormat": "dd.MM.yyyy"},
    ),
    "json": ({}, {"ignoreNullFields": False}, {"compression": "gzip"}, {"dateFormat": "dd/MM/yyyy"}),
    "text": ({},),
    "orc": ({},),
}


def expressions() -> Iterator[tuple[str, str]]:
    """Names and SQL of all expressions of one row."""
    yield from _casts()
    for names, of, patterns in (
        (OF_NUMBERS, NUMBERS, NUMBER_PATTERNS),
        (OF_INTS, INTS, INT_PATTERNS),
        (OF_TEXTS, TEXTS, {}),
        (OF_TIMES, TIMES, {}),
    ):
        for name in names:
            yield from ((f"{name}_{column}", patterns.get(name, f"{name}({{}})").format(column)) for column in of)
    for kind, named, of in (("text", TEXT_PATTERNS, TEXTS), ("time", TIME_PATTERNS, TIMES)):
        for name, pattern in named.items():
            yield from ((f"{kind}_{name}_{column}", pattern.format(column)) for column in of)
    yield from _operators()
    for kind, calls in NESTED.items():
        yield from ((f"{kind}_{n}", each) for n, each in enumerate(calls))


def _casts() -> Iterator[tuple[str, str]]:
    for column in FLAT:
        for kind in CASTS:
            if (kind != "DATE" or column in (*TEXTS, "ts")) and (kind == "STRING" or column != "bi"):
                yield f"cast_{kind.split('(')[0].lower()}_{column}", f"CAST({column} AS {kind})"


def _operators() -> Iterator[tuple[str, str]]:
    for one, other in PAIRS:
        for n, each in enumerate(OPERATORS):
            if (one, other) == ("i", "l") or (each in ("+", "-") if one == "da" else each not in ("div", "&")):
                yield f"operator_{n}_{one}_{other}", f"{one} {each} {other}"


def columns() -> dict[str, list[tuple[str, str]]]:
    """Names and SQL of what makes one column each, by the query that has it."""
    rows = [(name, text) for name, text in expressions() if not text.startswith(SEVERAL)]
    groups = [(f"group_{n}", text) for n, text in enumerate(OF_GROUPS)]
    for call in AGGREGATES:
        ordered = ("s", "da", "ts", "b") if call.startswith(("min", "max", "count")) else ("s",)
        for column in (*NUMBERS, *ordered):
            name = f"{call.partition('(')[0]}{'_distinct' * ('{' in call)}_{column}"
            groups.append((f"aggregate_{name}", call.format(column) if "{" in call else f"{call}({column})"))
    over = [(f"window_{n}", f"{text} OVER ({ORDER})") for n, text in enumerate(WINDOWS)]
    over += [(f"window_rows_{n}", f"{text} OVER ({ORDER} {FRAME})") for n, text in enumerate(WINDOWS) if n > 8]
    return {"SELECT id, {} FROM v": rows + over, "SELECT g, {} FROM v GROUP BY g": groups}


def frames() -> Iterator[tuple[str, str, Make]]:
    """Name, description and maker of what makes rows; a maker gets session, address of values, addresses of files."""
    for name, text in expressions():
        if text.startswith(SEVERAL):
            yield name, text, _asked(f"SELECT id, {text} FROM v")
    for name, query in QUERIES.items():
        yield f"query_{name}", query, _asked(query)
    for kind, schema in SCHEMAS.items():
        for name, options in CSV.items():
            yield f"csv_{kind}_{name}", f"csv {options}, {kind}", _read("csv", {"header": True, **options}, schema)
    for kind, schema in JSON_SCHEMAS.items():
        for name, options in JSON.items():
            yield f"json_{kind}_{name}", f"json {options}, {kind}", _read("json", options, schema)
    yield "text_lines", "text", _read("text", {}, "value STRING")
    yield "text_whole", "text, wholetext", _read("text", {"wholetext": True}, "value STRING")


def _asked(query: str) -> Make:
    return lambda spark, values, files: spark.sql(query)


def _read(form: str, options: Mapping[str, Any], schema: str) -> Make:
    def make(spark: SparkSession, values: str, files: Mapping[str, Any]) -> DataFrame:
        reader = spark.read.format(form).options(**options)
        reader = reader.schema(schema) if schema else reader.options(inferSchema=True)
        kind = options.get("encoding", form).lower()
        return reader.load(files[kind if kind in files else form])

    return make


def writers() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, format and options of all writers beside plain Parquet."""
    for form, each in WRITTEN.items():
        yield from ((f"write_{form}_{n}", form, options) for n, options in enumerate(each))
    yield "write_partitioned", "parquet", {"partitionBy": ["g", "b"]}
    yield "write_partitioned_text", "parquet", {"partitionBy": ["s"]}
    yield "write_partitioned_day", "parquet", {"partitionBy": ["da"]}
    yield "write_gzip", "parquet", {"compression": "gzip"}
