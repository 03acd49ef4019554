"""Figures read off compiled programs, against what small ones do by hand."""

import pytest

from flaxcnn.accelerators import count, hlo

GPU = """HloModule jit_train_epoch, is_scheduled=true

FileNames
1 "/somewhere/flaxcnn/engine/epoch.py"
2 "/somewhere/jax/lax.py"
FunctionNames
1 "train_epoch.<locals>.body"
2 "add"
FileLocations
1 {file_name_id=1 function_name_id=1 line=33 end_line=33 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=9 end_line=9 column=1 end_column=2}
StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%taken (p0: u8[1000,8], p1: s32[4,1]) -> f32[4,8] {
  %p0 = u8[1000,8]{1,0} parameter(0)
  %p1 = s32[4,1]{1,0} parameter(1)
  %gather = u8[4,8]{1,0} gather(%p0, %p1), offset_dims={1}
  ROOT %convert = f32[4,8]{1,0} convert(%gather)
}

%stored (p0: f32[20,8], p1: f32[1,8], p2: s32[]) -> f32[20,8] {
  %p0 = f32[20,8]{1,0} parameter(0)
  %p1 = f32[1,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %update = f32[20,8]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)
}

%body (t: (s32[], f32[4,8], /*index=2*/u8[1000,8])) -> (s32[], f32[4,8], u8[1000,8]) {
  %t = (s32[], f32[4,8]{1,0}, /*index=2*/u8[1000,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %rows = s32[4,1]{1,0} get-tuple-element(%t), index=1
  %data = u8[1000,8]{1,0} get-tuple-element(%t), index=2
  %batch = f32[4,8]{1,0} fusion(%data, %rows), kind=kLoop, calls=%taken, metadata={op_name="a/b" stack_frame_id=2}
  %conv = (f32[4,8]{1,0}, u8[0]{0}) custom-call(%batch, %batch), window={size=3x3}, custom_call_target="__cudnn$convForward"
  %turned = f32[8,4]{1,0} transpose(%batch), dimensions={1,0}
  %sum = f32[4,8]{1,0} all-reduce-start(%batch), replica_groups={}
  %summed = f32[4,8]{1,0} all-reduce-done(%sum)
  ROOT %out = (s32[], f32[4,8]{1,0}, u8[1000,8]{1,0}) tuple(%i, %summed, %data)
}

%cond (t: (s32[], f32[4,8], u8[1000,8])) -> pred[] {
  %t = (s32[], f32[4,8]{1,0}, u8[1000,8]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %copy = f32[4,8]{1,0} copy(%a)
  %while = (s32[], f32[4,8]{1,0}, u8[1000,8]{1,0}) while(%copy), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"20"}}
  ROOT %r = f32[4,8]{1,0} get-tuple-element(%while), index=1
}
"""  # noqa: E501

TPU = """HloModule jit_train_epoch

%fused (p: f32[128,20]) -> f32[128,20] {
  %p = f32[128,20]{1,0:T(8,128)} parameter(0)
  %conv = f32[128,20]{1,0:T(8,128)} convolution(%p, %p), window={size=3x3}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/transpose(jvp(CNN))/conv"}
  %dot = f32[128,20]{1,0:T(8,128)} convolution(%p, %p), dim_labels=bf_io->bf
  ROOT %s = f32[128,20]{1,0:T(8,128)} add(%conv, %dot)
}

%body (t: (f32[128,20])) -> (f32[128,20]) {
  %t = (f32[128,20]{1,0:T(8,128)}) parameter(0)
  %x = f32[128,20]{1,0:T(8,128)} get-tuple-element(%t), index=0
  %f = f32[128,20]{1,0:T(8,128)S(1)} fusion(%x), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"700"}}
  %g = f32[128,20]{1,0:T(8,128)} select-and-scatter(%f, %f, %x), window={size=2x2}
  ROOT %out = (f32[128,20]{1,0:T(8,128)}) tuple(%g)
}

ENTRY %main (a: f32[128,20]) -> f32[128,20] {
  %a = f32[128,20]{1,0:T(8,128)} parameter(0)
  %big = f32[128,20]{1,0:T(8,128)} copy(%a), backend_config={"window_config":{"estimated_cycles":"9999"}}
  %w = (f32[128,20]{1,0:T(8,128)}) while(%big), condition=%c, body=%body
  ROOT %r = f32[128,20]{1,0:T(8,128)} get-tuple-element(%w), index=0
}
"""  # noqa: E501

GRAPH = """000: kCommandBuffer [source | sink]
    001: kCustomKernel [source        | next=002 (1) ] sort_1 grid: [1, 1, 1]
    002: kWhile        [prev=001 (1)  | next=006 (1) ]
condition:
        003: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1]
      body:
        004: kConvolution  [source | next=005 (1) ] ConvolutionCmd
        005: kCustomKernel [prev=004 (1) | sink] wrapped_transpose_9 grid: [1, 1, 1]
    006: kCustomKernel [prev=002 (1)  | sink         ] wrapped_slice grid: [1, 1, 1]
"""
NO_GRAPH = """000: kCommandBuffer [source       | next=003 (1)]
    001: kCopy         [source       | sink        ] MemcpyDeviceToDeviceCmd
    002: kCustomKernel [source       | sink        ] sort_1 grid: [1, 1, 1]
003: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    004: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source       | next=006 (1)]
        005: kCustomKernel [source       | sink        ] input_transpose_fusion grid: [9, 1, 1]
        006: kCustomKernel [source       | sink        ] loop_add_fusion grid: [9, 1, 1]
    007: kConvolution   [prev=000 (1) | next=036 (1)] ConvolutionCmd
    008: kCustomKernel  [prev=035 (1) | next=037 (1)] loop_reduce_window_fusion grid: [800, 1, 1]
000: kCommandBuffer [prev=022 (1) | sink        ]
    009: kCopy         [source | sink] MemcpyDeviceToDeviceCmd
"""


def test_a_step_on_a_gpu():
    found = count.step(hlo.parse(GPU), "gpu")
    batch = 4 * 8 * 4
    gathered = 4 * 8 + 4 * 4 + batch  # rows taken, their numbers, the result: not the data set
    expected = gathered + 3 * batch + 2 * batch + batch  # convolution, transpose, sums
    assert found["bytes_accessed"] == expected == found["main_bytes"]
    assert found["convolutions"] == {"forward": 1}
    assert found["collectives"] == {"all-reduce": 1}
    assert found["collective_bytes"] == batch
    assert (found["kernels"], found["transposes"], found["trips"]) == (4, 1, 20)
    assert found["custom_calls"] == {}
    assert found["cycles"] is None
    largest = {row["name"]: row for row in found["largest"]}
    assert largest["conv"]["op"] == "__cudnn$convForward"
    assert largest["batch"]["source"] == "flaxcnn/engine/epoch.py:33 body"  # not jax's own line


def test_an_update_in_place_is_as_large_as_the_update():
    line = "  %f = f32[20,8]{1,0} fusion(%a, %b, %c), kind=kLoop, calls=%stored"
    module = hlo.parse(GPU)
    one = hlo.instruction(line)
    kinds = {"a": "f32[20,8]{1,0}", "b": "f32[1,8]{1,0}", "c": "s32[]"}
    around = {name: hlo.Instruction(name, kind, "copy", (), "", False)
              for name, kind in kinds.items()}  # fmt: skip
    module.computations["around"] = around
    assert count.moved(module, one, "around") == 0 + 8 * 4 + 4 + 8 * 4


def test_a_step_on_a_tpu():
    found = count.step(hlo.parse(TPU), "tpu")
    padded = 128 * 128 * 4  # 20 channels take 128 lanes
    assert found["cycles"] == 700  # of the loop alone
    assert found["bytes_accessed"] == 2 * padded + 4 * padded
    assert found["main_bytes"] == padded + 2 * padded  # what is on the chip is not counted
    assert found["unestimated_bytes"] == 4 * padded
    assert found["convolutions"] == {"backward": 1}  # a product of matrices is none
    assert found["largest"][0]["name"] == "f"


def test_what_is_fetched_ahead_on_a_tpu():
    piece = "f32[8,128]{1,0:T(8,128)S(1)}"
    lines = {
        "whole": "%whole = f32[32,128]{1,0:T(8,128)} parameter(0)",
        "cut": f"%cut = ((f32[32,128]{{1,0:T(8,128)}}), {piece}, s32[]{{:S(2)}}) "
        "slice-start(%whole), slice={[0:8], [0:128]}",
        "had": f"%had = {piece} slice-done(%cut)",
        "join": f'%join = {piece} custom-call(%had), custom_call_target="ConcatBitcast"',
    }
    around = {name: hlo.instruction(line) for name, line in lines.items()}
    module = hlo.Module({"main": around}, "main")
    nbytes = 8 * 128 * 4
    moved = {name: [count.moved(module, one, "main", main) for main in (False, True)]
             for name, one in around.items()}  # fmt: skip
    assert moved["cut"] == [2 * nbytes, nbytes]  # read from main memory, written on the chip
    assert moved["had"] == moved["join"] == moved["whole"] == [0, 0]
    # Others compute meanwhile: it is in the bytes of main memory, and no work without an estimate.
    found = count.step(module, "tpu")
    assert (found["main_bytes"], found["unestimated_bytes"]) == (nbytes, 0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("f32[]", 4),
        ("(f32[2,3]{1,0}, u8[5]{0})", 29),
        ("bf16[3,100]{1,0:T(8,128)(2,1)}", 8 * 128 * 2),
        ("f32[3,100]{0,1:T(8,128)}", 128 * 104 * 4),
        ("pred[7]", 7),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(kind, expected):
    assert hlo.size(kind) == expected


def test_a_loop_inside_a_graph_costs_the_host_nothing():
    found = count.launches(count.thunks(GRAPH))
    assert found == {"kernels": 2, "launches": 0, "call_launches": 1, "transposes": 1}


def test_launches_of_a_loop_outside_of_graphs():
    found = count.launches(count.thunks(NO_GRAPH))
    assert found == {"kernels": 4, "launches": 3, "call_launches": 2, "transposes": 1}


def test_a_program_without_a_loop_is_a_step():
    text = "\n".join(NO_GRAPH.splitlines()[:3])
    found = count.launches(count.thunks(text))
    assert found == {"kernels": 2, "launches": 1, "call_launches": 0, "transposes": 0}
    module = hlo.parse(GPU.replace(" while(", " negate("))
    assert count.loop(module) == ("main", 1)
