"""The oracle itself, against attention over explicit lists of keys, one query at a time."""

import torch
from hypothesis import given
from torch.nn.functional import scaled_dot_product_attention

from lvsa_core import FrameGrid, Pattern, TokenLayout, reference_attend
from lvsa_core.reference import token_mask
from tests.support.strategies import Call, calls, examples


def visible_keys(call: Call, query: int) -> list[int]:
    """Keys of one query token, from the words of the layout's docstring."""
    layout, patches = call.layout, call.layout.grid.patches
    video = {layout.kv_before + row: layout.held_frames[row // patches] for row in range(layout.kv_rows)}
    others = [*range(layout.kv_before), *range(layout.kv_tokens - layout.kv_after, layout.kv_tokens)]
    row = query - layout.q_before
    if not 0 <= row < layout.video_rows:
        return [*others, *video]
    frame = (row + layout.q_offset) // patches
    if frame >= layout.grid.frames:
        return []
    return [*others, *(key for key, of in video.items() if call.pattern.allows(frame, of))]


@examples(20)
@given(calls(max_frames=6))
def test_one_query_at_a_time(call: Call) -> None:
    out = reference_attend(call.q, call.k, call.v, call.pattern, call.layout, scale=call.scale)
    assert out.dtype == call.q.dtype and out.shape == call.q.shape
    q, k, v = (x.double().transpose(1, 2) for x in (call.q, call.k, call.v))
    for query in range(call.layout.q_tokens):
        keys = visible_keys(call, query)
        expected = torch.zeros_like(q[:, :, query : query + 1])
        if keys:
            expected = scaled_dot_product_attention(
                q[:, :, query : query + 1], k[:, :, keys], v[:, :, keys], scale=call.scale, enable_gqa=True
            )
        rounding = torch.finfo(out.dtype).eps  # on top of that of float32, in which the oracle computes 16 bits
        torch.testing.assert_close(out[:, query].double(), expected[:, :, 0], rtol=rounding, atol=5e-6)


def test_mask_of_a_rank() -> None:
    layout = TokenLayout(FrameGrid(3, 2), kv_before=1, q_after=1, pad=1, q_offset=3, q_rows=4)
    assert token_mask(Pattern(3, window=0, n_first=0, keyframe_interval=3), layout).int().tolist() == [
        [1, 1, 1, 1, 1, 0, 0, 0],  # row 3 of the video, in frame 1: the text, the anchor 0 and itself
        [1, 1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],  # padding
        [1, 1, 1, 1, 1, 1, 1, 0],  # text
    ]
