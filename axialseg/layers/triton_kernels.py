"""Triton kernels of axial attention's core, forward and backward; importing this needs Triton.

Not one L x L map is in memory: a program holds one tile of logits, M queries x M keys. Tiles out of
the span are skipped. The backward pass computes the weights again from the row-wise log-sum-exp,
three times: for the gradients of the queries, of the keys and values, and of the tables. Every
program writes to places of its own, so there are no atomics, and one input always gives one result.

Position terms in a tile. Of queries i0 + m and keys j0 + n only 2M - 1 offsets occur, j - i =
j0 - i0 + (n - m). With the window of table rows w = 0 .. 2M - 1, row w of the offset
j0 - i0 + w - (M - 1), the products T[m, w] = q_m . rq_w are one matrix product; the logit (m, n) is
T[m, n - m + M - 1], a gather along a row (`_skew`). The sum over the keys of weight times row goes
the other way: the weights are gathered into the places of their offsets (`_unskew`), then
multiplied with the window. For k . rk the same is done seen from the keys.

Sizes: a range must be a power of two, and a product wants at least 16 along every side; so the
window has 2M rows rather than 2M - 1, and the channels of a head are padded, D and DV, to powers of
two from 16 on. What is loaded from beyond an axis, a head or a table is 0.

Pointers are to tensors as of `AttentionCore`; the arguments `x_b, x_c, x_s, x_l` are the strides of
x's images, channels, sequences and positions. Tables, `scales` and float32 numbers of each query,
``[B, S, h, L]`` (`lse` and `mean`), are contiguous. All sums are float32.
"""

import triton
import triton.language as tl

HIDDEN = tl.constexpr(-1e30)  # a logit out of sight; finite, as -inf - -inf would be NaN


@triton.jit
def _tile(
    base, first, count, channels, position_stride, channel_stride,
    M: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Positions first .. first + M of a head, float32 [M, D]; 0 beyond them and its channels."""
    position = first + tl.arange(0, M)[:, None]
    channel = tl.arange(0, D)[None, :]
    pointers = base + position * position_stride + channel * channel_stride
    visible = (position < count) & (channel < channels)
    return tl.load(pointers, mask=visible, other=0.0).to(tl.float32)


@triton.jit
def _store(
    base, first, count, channels, position_stride, channel_stride, x,
    M: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Writes what `_tile` reads, in the type of the target."""
    position = first + tl.arange(0, M)[:, None]
    channel = tl.arange(0, D)[None, :]
    pointers = base + position * position_stride + channel * channel_stride
    visible = (position < count) & (channel < channels)
    tl.store(pointers, x.to(base.dtype.element_ty), mask=visible)


@triton.jit
def _window(rows, first, span, channels, M: tl.constexpr, D: tl.constexpr):
    """Rows first .. first + 2M of a table ``[span, channels]``, float32 [2M, D]; 0 beyond it."""
    row = first + tl.arange(0, 2 * M)[:, None]
    channel = tl.arange(0, D)[None, :]
    visible = (row >= 0) & (row < span) & (channel < channels)
    return tl.load(rows + row * channels + channel, mask=visible, other=0.0).to(tl.float32)


@triton.jit
def _skew(x, M: tl.constexpr):
    """x: [M, 2M], a column for each offset -> [M, M], a column for each position."""
    column = tl.arange(0, M)[None, :] - tl.arange(0, M)[:, None] + (M - 1)
    return tl.gather(x, column, 1)


@triton.jit
def _unskew(x, M: tl.constexpr):
    """x: [M, M], a column for each position -> [M, 2M], one for each offset; `_skew`'s adjoint."""
    column = tl.arange(0, 2 * M)[None, :] + tl.arange(0, M)[:, None] - (M - 1)
    exists = (column >= 0) & (column < M)
    return tl.where(exists, tl.gather(x, tl.where(exists, column, 0), 1), 0.0)


@triton.jit
def _logits(
    q, k, query_rows, key_rows, first_row, span, depth, content_scale, query_scale, key_scale,
    CONTENT: tl.constexpr, QUERY_POSITION: tl.constexpr, KEY_POSITION: tl.constexpr,
    M: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of queries and keys [M, D], by the window that begins at `first_row`; float32 [M, M]."""
    logits = tl.zeros([M, M], tl.float32)
    if CONTENT:
        logits += content_scale * tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if QUERY_POSITION:
        window = _window(query_rows, first_row, span, depth, M, D)
        logits += query_scale * _skew(tl.dot(q, tl.trans(window), input_precision=PRECISION), M)
    if KEY_POSITION:
        # Seen from the keys, the offsets run the other way: row of column m - n.
        window = _window(key_rows, first_row, span, depth, M, D)
        products = tl.dot(k, tl.trans(window), input_precision=PRECISION)
        logits += key_scale * tl.trans(_skew_keys(products, M))
    return logits


@triton.jit
def _skew_keys(x, M: tl.constexpr):
    """x: [M keys, 2M], a column for each offset -> [M keys, M queries]."""
    column = tl.arange(0, M)[:, None] - tl.arange(0, M)[None, :] + (M - 1)
    return tl.gather(x, column, 1)


@triton.jit
def _unskew_keys(x, M: tl.constexpr):
    """x: [M keys, M queries] -> [M keys, 2M], a column for each offset; `_skew_keys`' adjoint."""
    column = tl.arange(0, M)[:, None] - tl.arange(0, 2 * M)[None, :] + (M - 1)
    exists = (column >= 0) & (column < M)
    return tl.where(exists, tl.gather(x, tl.where(exists, column, 0), 1), 0.0)


@triton.jit
def _in_sight(i0, j0, length, reach, M: tl.constexpr):
    """Whether both positions exist and the key is within the span, bool [M, M]."""
    i = i0 + tl.arange(0, M)[:, None]
    j = j0 + tl.arange(0, M)[None, :]
    return (i < length) & (j < length) & (j - i <= reach) & (i - j <= reach)


@triton.jit
def _scales(
    scales, head, heads,
    CONTENT: tl.constexpr, QUERY_POSITION: tl.constexpr, KEY_POSITION: tl.constexpr,
):  # fmt: skip
    """The scales of the three terms, 0 where a term is absent."""
    content = 0.0
    query = 0.0
    key = 0.0
    row = scales + head
    if CONTENT:
        content = tl.load(row)
        row += heads
    if QUERY_POSITION:
        query = tl.load(row)
        row += heads
    if KEY_POSITION:
        key = tl.load(row)
    return content, query, key


@triton.jit
def _slopes(
    weights_in_sight, logits, lse, mean, content_grad, position_grad, value, value_rows, first_row,
    span, value_depth,
    VALUE: tl.constexpr, VALUE_POSITION: tl.constexpr,
    M: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights and the gradient of the logits, both [M, M]."""
    weights = tl.where(weights_in_sight, tl.exp(logits - lse[:, None]), 0.0)
    grad = tl.zeros([M, M], tl.float32)
    if VALUE:
        grad += tl.dot(content_grad, tl.trans(value), input_precision=PRECISION)
    if VALUE_POSITION:
        window = _window(value_rows, first_row, span, value_depth, M, DV)
        grad += _skew(tl.dot(position_grad, tl.trans(window), input_precision=PRECISION), M)
    return weights, weights * (grad - mean[:, None])


@triton.jit
def forward_kernel(
    query, key, value, scales, query_rows, key_rows, value_rows, output, lse,
    q_b, q_c, q_s, q_l, k_b, k_c, k_s, k_l, v_b, v_c, v_s, v_l, o_b, o_c, o_s, o_l,
    sequences, length, span, heads, depth, value_depth,
    CONTENT: tl.constexpr, QUERY_POSITION: tl.constexpr, KEY_POSITION: tl.constexpr,
    VALUE: tl.constexpr, VALUE_POSITION: tl.constexpr,
    M: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries: what they retrieve, and the log-sum-exp of their logits."""
    image = (tl.program_id(0) // sequences).to(tl.int64)
    sequence = (tl.program_id(0) % sequences).to(tl.int64)
    i0 = tl.program_id(1) * M
    head = tl.program_id(2)
    reach = span // 2
    query += image * q_b + sequence * q_s + head * depth * q_c
    key += image * k_b + sequence * k_s + head * depth * k_c
    value += image * v_b + sequence * v_s + head * value_depth * v_c
    output += image * o_b + sequence * o_s + head * value_depth * o_c
    a, b, c = _scales(scales, head, heads, CONTENT, QUERY_POSITION, KEY_POSITION)

    q = _tile(query, i0, length, depth, q_l, q_c, M, D)
    largest = tl.full([M], HIDDEN, tl.float32)
    total = tl.zeros([M], tl.float32)
    content = tl.zeros([M, DV], tl.float32)
    position = tl.zeros([M, DV], tl.float32)
    first = tl.maximum(i0 - reach, 0) // M * M
    last = tl.minimum(i0 + M + reach, length)
    for j0 in range(first, last, M):
        first_row = j0 - i0 - (M - 1) + reach
        k = _tile(key, j0, length, depth, k_l, k_c, M, D)
        logits = _logits(
            q, k, query_rows, key_rows, first_row, span, depth, a, b, c,
            CONTENT, QUERY_POSITION, KEY_POSITION, M, D, PRECISION,
        )  # fmt: skip
        in_sight = _in_sight(i0, j0, length, reach, M)
        logits = tl.where(in_sight, logits, HIDDEN)
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.where(in_sight, tl.exp(logits - new_largest[:, None]), 0.0)
        shrink = tl.exp(largest - new_largest)
        total = total * shrink + tl.sum(weights, 1)
        largest = new_largest
        if VALUE:
            v = _tile(value, j0, length, value_depth, v_l, v_c, M, DV)
            content = content * shrink[:, None] + tl.dot(weights, v, input_precision=PRECISION)
        if VALUE_POSITION:
            window = _window(value_rows, first_row, span, value_depth, M, DV)
            retrieved = tl.dot(_unskew(weights, M), window, input_precision=PRECISION)
            position = position * shrink[:, None] + retrieved

    total = tl.where(total > 0, total, 1.0)  # a query beyond the axis sees nothing
    if VALUE:
        content = content / total[:, None]
        _store(output, i0, length, value_depth, o_l, o_c, content, M, DV)
        output += heads * value_depth * o_c
    if VALUE_POSITION:
        position = position / total[:, None]
        _store(output, i0, length, value_depth, o_l, o_c, position, M, DV)
    i = i0 + tl.arange(0, M)
    row = (image * sequences + sequence) * heads + head
    tl.store(lse + row * length + i, largest + tl.log(total), mask=i < length)


@triton.jit
def query_kernel(
    query, key, value, scales, query_rows, key_rows, value_rows, output, output_grad, lse, mean,
    query_grad, scale_parts,
    q_b, q_c, q_s, q_l, k_b, k_c, k_s, k_l, v_b, v_c, v_s, v_l, o_b, o_c, o_s, o_l,
    g_b, g_c, g_s, g_l, dq_b, dq_c, dq_s, dq_l,
    sequences, length, span, heads, depth, value_depth,
    CONTENT: tl.constexpr, QUERY_POSITION: tl.constexpr, KEY_POSITION: tl.constexpr,
    VALUE: tl.constexpr, VALUE_POSITION: tl.constexpr,
    M: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries: their gradients, and their parts of the first two scales' gradients."""
    image = (tl.program_id(0) // sequences).to(tl.int64)
    sequence = (tl.program_id(0) % sequences).to(tl.int64)
    i0 = tl.program_id(1) * M
    head = tl.program_id(2)
    reach = span // 2
    query += image * q_b + sequence * q_s + head * depth * q_c
    key += image * k_b + sequence * k_s + head * depth * k_c
    value += image * v_b + sequence * v_s + head * value_depth * v_c
    output += image * o_b + sequence * o_s + head * value_depth * o_c
    output_grad += image * g_b + sequence * g_s + head * value_depth * g_c
    query_grad += image * dq_b + sequence * dq_s + head * depth * dq_c
    a, b, c = _scales(scales, head, heads, CONTENT, QUERY_POSITION, KEY_POSITION)

    q = _tile(query, i0, length, depth, q_l, q_c, M, D)
    content_grad = tl.zeros([M, DV], tl.float32)
    position_grad = tl.zeros([M, DV], tl.float32)
    average = tl.zeros([M], tl.float32)  # sum_j w dw = sum_c y dy
    if VALUE:
        content_grad = _tile(output_grad, i0, length, value_depth, g_l, g_c, M, DV)
        y = _tile(output, i0, length, value_depth, o_l, o_c, M, DV)
        average += tl.sum(content_grad * y, 1)
        output += heads * value_depth * o_c
        output_grad += heads * value_depth * g_c
    if VALUE_POSITION:
        position_grad = _tile(output_grad, i0, length, value_depth, g_l, g_c, M, DV)
        y = _tile(output, i0, length, value_depth, o_l, o_c, M, DV)
        average += tl.sum(position_grad * y, 1)
    row = (image * sequences + sequence) * heads + head
    i = i0 + tl.arange(0, M)
    tl.store(mean + row * length + i, average, mask=i < length)
    log_sum = tl.load(lse + row * length + i, mask=i < length, other=0.0)

    by_content = tl.zeros([M, D], tl.float32)
    by_position = tl.zeros([M, D], tl.float32)
    first = tl.maximum(i0 - reach, 0) // M * M
    last = tl.minimum(i0 + M + reach, length)
    for j0 in range(first, last, M):
        first_row = j0 - i0 - (M - 1) + reach
        k = _tile(key, j0, length, depth, k_l, k_c, M, D)
        v = tl.zeros([M, DV], tl.float32)
        if VALUE:
            v = _tile(value, j0, length, value_depth, v_l, v_c, M, DV)
        logits = _logits(
            q, k, query_rows, key_rows, first_row, span, depth, a, b, c,
            CONTENT, QUERY_POSITION, KEY_POSITION, M, D, PRECISION,
        )  # fmt: skip
        _, slopes = _slopes(
            _in_sight(i0, j0, length, reach, M), logits, log_sum, average, content_grad,
            position_grad, v, value_rows, first_row, span, value_depth,
            VALUE, VALUE_POSITION, M, DV, PRECISION,
        )  # fmt: skip
        if CONTENT:
            by_content += tl.dot(slopes, k, input_precision=PRECISION)
        if QUERY_POSITION:
            window = _window(query_rows, first_row, span, depth, M, D)
            by_position += tl.dot(_unskew(slopes, M), window, input_precision=PRECISION)
    _store(query_grad, i0, length, depth, dq_l, dq_c, a * by_content + b * by_position, M, D)
    parts = scale_parts + (row * tl.num_programs(1) + tl.program_id(1)) * 3
    tl.store(parts, tl.sum(q * by_content))
    tl.store(parts + 1, tl.sum(q * by_position))


@triton.jit
def key_kernel(
    query, key, value, scales, query_rows, key_rows, value_rows, output_grad, lse, mean,
    key_grad, value_grad, scale_parts,
    q_b, q_c, q_s, q_l, k_b, k_c, k_s, k_l, v_b, v_c, v_s, v_l,
    g_b, g_c, g_s, g_l, dk_b, dk_c, dk_s, dk_l, dv_b, dv_c, dv_s, dv_l,
    sequences, length, span, heads, depth, value_depth,
    CONTENT: tl.constexpr, QUERY_POSITION: tl.constexpr, KEY_POSITION: tl.constexpr,
    VALUE: tl.constexpr, VALUE_POSITION: tl.constexpr,
    M: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys: their gradients, their values', and their part of the third scale's."""
    image = (tl.program_id(0) // sequences).to(tl.int64)
    sequence = (tl.program_id(0) % sequences).to(tl.int64)
    j0 = tl.program_id(1) * M
    head = tl.program_id(2)
    reach = span // 2
    query += image * q_b + sequence * q_s + head * depth * q_c
    key += image * k_b + sequence * k_s + head * depth * k_c
    value += image * v_b + sequence * v_s + head * value_depth * v_c
    output_grad += image * g_b + sequence * g_s + head * value_depth * g_c
    key_grad += image * dk_b + sequence * dk_s + head * depth * dk_c
    value_grad += image * dv_b + sequence * dv_s + head * value_depth * dv_c
    a, b, c = _scales(scales, head, heads, CONTENT, QUERY_POSITION, KEY_POSITION)
    position_output_grad = output_grad
    if VALUE:
        position_output_grad += heads * value_depth * g_c
    row = (image * sequences + sequence) * heads + head

    k = _tile(key, j0, length, depth, k_l, k_c, M, D)
    v = tl.zeros([M, DV], tl.float32)
    if VALUE:
        v = _tile(value, j0, length, value_depth, v_l, v_c, M, DV)
    by_content = tl.zeros([M, D], tl.float32)
    by_position = tl.zeros([M, D], tl.float32)
    of_value = tl.zeros([M, DV], tl.float32)
    first = tl.maximum(j0 - reach, 0) // M * M
    last = tl.minimum(j0 + M + reach, length)
    for i0 in range(first, last, M):
        first_row = j0 - i0 - (M - 1) + reach
        q = _tile(query, i0, length, depth, q_l, q_c, M, D)
        content_grad = tl.zeros([M, DV], tl.float32)
        position_grad = tl.zeros([M, DV], tl.float32)
        if VALUE:
            content_grad = _tile(output_grad, i0, length, value_depth, g_l, g_c, M, DV)
        if VALUE_POSITION:
            position_grad = _tile(position_output_grad, i0, length, value_depth, g_l, g_c, M, DV)
        i = i0 + tl.arange(0, M)
        log_sum = tl.load(lse + row * length + i, mask=i < length, other=0.0)
        average = tl.load(mean + row * length + i, mask=i < length, other=0.0)
        logits = _logits(
            q, k, query_rows, key_rows, first_row, span, depth, a, b, c,
            CONTENT, QUERY_POSITION, KEY_POSITION, M, D, PRECISION,
        )  # fmt: skip
        weights, slopes = _slopes(
            _in_sight(i0, j0, length, reach, M), logits, log_sum, average, content_grad,
            position_grad, v, value_rows, first_row, span, value_depth,
            VALUE, VALUE_POSITION, M, DV, PRECISION,
        )  # fmt: skip
        if CONTENT:
            by_content += tl.dot(tl.trans(slopes), q, input_precision=PRECISION)
        if KEY_POSITION:
            window = _window(key_rows, first_row, span, depth, M, D)
            by_offset = _unskew_keys(tl.trans(slopes), M)
            by_position += tl.dot(by_offset, window, input_precision=PRECISION)
        if VALUE:
            of_value += tl.dot(tl.trans(weights), content_grad, input_precision=PRECISION)
    _store(key_grad, j0, length, depth, dk_l, dk_c, a * by_content + c * by_position, M, D)
    if VALUE:
        _store(value_grad, j0, length, value_depth, dv_l, dv_c, of_value, M, DV)
    part = scale_parts + (row * tl.num_programs(1) + tl.program_id(1)) * 3 + 2
    tl.store(part, tl.sum(k * by_position))


@triton.jit
def table_kernel(
    query, key, value, scales, query_rows, key_rows, value_rows, output_grad, lse, mean,
    query_parts, key_parts, value_parts,
    q_b, q_c, q_s, q_l, k_b, k_c, k_s, k_l, v_b, v_c, v_s, v_l, g_b, g_c, g_s, g_l,
    sequences, length, span, heads, depth, value_depth, items, tiles,
    CONTENT: tl.constexpr, QUERY_POSITION: tl.constexpr, KEY_POSITION: tl.constexpr,
    VALUE: tl.constexpr, VALUE_POSITION: tl.constexpr,
    M: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One diagonal of tiles, whose window of the tables is one, over a share of all sequences."""
    diagonal = tl.program_id(0) - tl.num_programs(0) // 2  # tile of the keys - tile of the queries
    reach = span // 2
    first_row = diagonal * M - (M - 1) + reach
    of_query = tl.zeros([2 * M, D], tl.float32)
    of_key = tl.zeros([2 * M, D], tl.float32)
    of_value = tl.zeros([2 * M, DV], tl.float32)
    first = tl.maximum(-diagonal, 0)
    last = tl.minimum(tiles - diagonal, tiles)
    for item in range(tl.program_id(1), items, tl.num_programs(1)):
        head = item % heads
        sequence = (item // heads % sequences).to(tl.int64)
        image = (item // heads // sequences).to(tl.int64)
        q_head = query + image * q_b + sequence * q_s + head * depth * q_c
        k_head = key + image * k_b + sequence * k_s + head * depth * k_c
        v_head = value + image * v_b + sequence * v_s + head * value_depth * v_c
        g_head = output_grad + image * g_b + sequence * g_s + head * value_depth * g_c
        p_head = g_head
        if VALUE:
            p_head += heads * value_depth * g_c
        a, b, c = _scales(scales, head, heads, CONTENT, QUERY_POSITION, KEY_POSITION)
        row = (image * sequences + sequence) * heads + head
        for tile in range(first, last):
            i0 = tile * M
            j0 = (tile + diagonal) * M
            q = _tile(q_head, i0, length, depth, q_l, q_c, M, D)
            k = _tile(k_head, j0, length, depth, k_l, k_c, M, D)
            v = tl.zeros([M, DV], tl.float32)
            content_grad = tl.zeros([M, DV], tl.float32)
            position_grad = tl.zeros([M, DV], tl.float32)
            if VALUE:
                v = _tile(v_head, j0, length, value_depth, v_l, v_c, M, DV)
                content_grad = _tile(g_head, i0, length, value_depth, g_l, g_c, M, DV)
            if VALUE_POSITION:
                position_grad = _tile(p_head, i0, length, value_depth, g_l, g_c, M, DV)
            i = i0 + tl.arange(0, M)
            log_sum = tl.load(lse + row * length + i, mask=i < length, other=0.0)
            average = tl.load(mean + row * length + i, mask=i < length, other=0.0)
            logits = _logits(
                q, k, query_rows, key_rows, first_row, span, depth, a, b, c,
                CONTENT, QUERY_POSITION, KEY_POSITION, M, D, PRECISION,
            )  # fmt: skip
            weights, slopes = _slopes(
                _in_sight(i0, j0, length, reach, M), logits, log_sum, average, content_grad,
                position_grad, v, value_rows, first_row, span, value_depth,
                VALUE, VALUE_POSITION, M, DV, PRECISION,
            )  # fmt: skip
            if QUERY_POSITION:
                by_offset = tl.trans(_unskew(slopes, M))
                of_query += tl.dot(by_offset, b * q, input_precision=PRECISION)
            if KEY_POSITION:
                by_offset = tl.trans(_unskew_keys(tl.trans(slopes), M))
                of_key += tl.dot(by_offset, c * k, input_precision=PRECISION)
            if VALUE_POSITION:
                by_offset = tl.trans(_unskew(weights, M))
                of_value += tl.dot(by_offset, position_grad, input_precision=PRECISION)
    part = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * 2 * M
    if QUERY_POSITION:
        _store(query_parts + part * depth, 0, 2 * M, depth, depth, 1, of_query, 2 * M, D)
    if KEY_POSITION:
        _store(key_parts + part * depth, 0, 2 * M, depth, depth, 1, of_key, 2 * M, D)
    if VALUE_POSITION:
        target = value_parts + part * value_depth
        _store(target, 0, 2 * M, value_depth, value_depth, 1, of_value, 2 * M, DV)
