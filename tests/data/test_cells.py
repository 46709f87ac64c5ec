import datetime
import struct

import pyarrow as pa
import pytest

from t5ray.data.cells import values_of

NS = pa.time64("ns")


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        (NS, 1, "00:00:00.000000001"),
        (pa.list_(NS), [1, None], ["00:00:00.000000001", None]),
        (pa.large_list(NS), [1], ["00:00:00.000000001"]),
        (pa.list_(NS, 2), [1, 2], ["00:00:00.000000001", "00:00:00.000000002"]),
        (
            pa.struct({"at": NS, "n": pa.int64(), "more": pa.list_(pa.struct({"at": NS}))}),
            {"at": 1, "n": 7, "more": [{"at": 3_600_000_000_002}]},
            {"at": "00:00:00.000000001", "n": 7, "more": [{"at": "01:00:00.000000002"}]},
        ),
        (pa.map_(pa.string(), NS), [("k", 1)], [("k", "00:00:00.000000001")]),
        (pa.map_(NS, pa.int8()), [(1, 1)], [("00:00:00.000000001", 1)]),
        (pa.list_(pa.time64("us")), [1], [datetime.time(microsecond=1)]),
    ],
    ids=str,
)
def test_times_of_day_in_nanoseconds_are_text_wherever_they_stand(
    kind: pa.DataType, cell: object, value: object
) -> None:
    table = pa.table({"n": [1, 2], "at": pa.array([cell, None], kind)})
    assert values_of(table) == ([{"n": 1, "at": value}, {"n": 2, "at": None}], {})


def test_times_beside_a_cell_without_a_value_are_text_as_well() -> None:
    noise = pa.StringArray.from_buffers(1, pa.py_buffer(struct.pack("2i", 0, 1)), pa.py_buffer(b"\xff"))
    both = pa.StructArray.from_arrays([pa.array([1], NS), noise], ["at", "noise"])
    rows, problems = values_of(pa.table({"both": both}))
    assert rows == [{"both": {"at": "00:00:00.000000001", "noise": "\\xff"}}]
    assert problems == {0: "`both` must be UTF-8 text, but holds byte 0xff"}
