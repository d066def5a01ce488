"""Writes the files of this folder with gguf-py, so that they come from a writer that is not ours.

    pip install gguf==0.19.0 numpy && python make_corpus.py
"""

import os

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType, GGUFWriter

os.chdir(os.path.dirname(os.path.abspath(__file__)))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_type(path, **options):
    writer = GGUFWriter(path, "toy", **options)
    writer.add_uint8("toy.u8", 200)
    writer.add_int8("toy.i8", -100)
    writer.add_uint16("toy.u16", 60000)
    writer.add_int16("toy.i16", -30000)
    writer.add_uint32("toy.u32", 4000000000)
    writer.add_int32("toy.i32", -2000000000)
    writer.add_uint64("toy.u64", 2**63 + 5)
    writer.add_int64("toy.i64", -(2**62))
    writer.add_float32("toy.f32", 0.5)
    writer.add_float64("toy.f64", 0.1)
    writer.add_bool("toy.bool", True)
    writer.add_string("toy.string", "größer als ｜")
    for kind in GGUFValueType:
        if kind in (GGUFValueType.ARRAY, GGUFValueType.STRING, GGUFValueType.BOOL):
            continue
        writer.add_key_value("toy.array." + kind.name, [1, 0, 2], GGUFValueType.ARRAY, kind)
    writer.add_array("toy.array.bool", [True, False])
    writer.add_array("toy.array.string", ["a", "", "｜"])
    writer.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("half", np.arange(5, dtype=np.float16))
    blocks = np.arange(2 * 34, dtype=np.uint8).reshape(2, 34)
    writer.add_tensor("blocks", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    finish(writer)


every_type("every-type.gguf")
every_type("big-endian.gguf", endianess=GGUFEndian.BIG)

writer = GGUFWriter("alignment-8.gguf", "toy")
writer.add_custom_alignment(8)
for i in range(3):
    writer.add_tensor(f"t{i}", np.full(i + 1, i, dtype=np.float32))
finish(writer)

finish(GGUFWriter("no-tensors.gguf", "toy"))

writer = GGUFWriter("split.gguf", "toy", split_max_tensors=2)
writer.add_string("general.name", "in three parts")
for i in range(5):
    writer.add_tensor(f"t{i}", np.full(i + 1, i, dtype=np.float32))
finish(writer)
