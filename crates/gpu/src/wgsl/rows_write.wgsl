// Writing a cached row: the WIDTH values in `row_values` to the row that begins at word `at` of `store`,
// rounded bit for bit as on the CPU. All threads of the workgroup take part.
//
// Source of the roundings: `RowLayout::encode`, which says where they come from.
var<workgroup> row_values: array<f32, WIDTH>;
//#if LATENT8 || INDEX4
// The largest magnitude of each four values, as bits: those of finite numbers, infinities and NaN
// order alike.
var<workgroup> row_largest: array<u32, WIDTH / 4u>;
//#endif

fn magnitude_bits(x: f32) -> u32 { return bitcast<u32>(x) & 0x7fffffffu; }

// f32 to f16, to nearest even.
fn to_f16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let m = bits & 0x7fffffffu;
    if m > 0x7f800000u { return sign | 0x7e00u | ((m >> 13u) & 0x3ffu); }
    if m >= 0x477ff000u { return sign | 0x7c00u; }
    if m < 0x38800000u {
        // Subnormal: adding 2^(-14 + 13) leaves the rounded mantissa in the lowest bits.
        let denormal = bitcast<u32>(bitcast<f32>(m) + 0.5) - 0x3f000000u;
        return sign | denormal;
    }
    let rounded = m + 0x0fffu + ((m >> 13u) & 1u);
    return sign | ((rounded - 0x38000000u) >> 13u);
}

// f32 to bf16, to nearest even.
fn to_bf16(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) > 0x7f800000u { return (bits >> 16u) | 0x40u; }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// The least power of two that is at least the number with these bits, as E8M0; 255 if it is not finite.
fn scale_byte(bits: u32) -> u32 {
    if bits >= 0x7f800000u { return 255u; }
    return (bits >> 23u) + select(0u, 1u, (bits & 0x7fffffu) != 0u);
}

// The scale byte of values with this largest magnitude: `least` at least, times `inverse`.
fn block_scale(largest: u32, least: f32, inverse: f32) -> u32 {
    if largest >= 0x7f800000u { return 255u; }
    return scale_byte(bitcast<u32>(max(bitcast<f32>(largest), least) * inverse));
}

// What a value is multiplied by to be divided by the scale.
fn inverse_scale(e: u32) -> f32 { return bitcast<f32>((254u - e) << 23u); }

// E4M3 of x times `inverse`, in a block with scale byte `e`.
fn e4m3_code(x: f32, e: u32, inverse: f32) -> u32 {
    let sign = (bitcast<u32>(x) >> 24u) & 0x80u;
    if e == 255u { return sign | 0x7fu; }
    let m = min(abs(x * inverse), 448.0);
    let exponent = max(i32(bitcast<u32>(m) >> 23u) - 127, -6);
    let eighths = u32(round(m * bitcast<f32>(u32(3 - exponent + 127) << 23u)));
    return sign | ((u32(exponent + 6) << 3u) + eighths);
}

// E2M1 of x times `inverse`, ties to the even code; minus zero is zero.
fn e2m1_code(x: f32, e: u32, inverse: f32) -> u32 {
    if e == 255u { return 0u; }
    let y = x * inverse;
    let m = abs(y);
    var code = 7u;
    if m <= 0.25 { code = 0u; } else if m < 0.75 { code = 1u; } else if m <= 1.25 { code = 2u; }
    else if m < 1.75 { code = 3u; } else if m <= 2.5 { code = 4u; } else if m < 3.5 { code = 5u; }
    else if m <= 5.0 { code = 6u; }
    return code | select(0u, 8u, y < 0.0 && code != 0u);
}

//#if INDEX4
// The normalised Hadamard transform of `row_values`, butterflies of growing distance.
fn hadamard(thread: u32) {
    for (var distance = 1u; distance < WIDTH; distance *= 2u) {
        for (var i = thread; i < WIDTH / 2u; i += THREADS) {
            let left = (i / distance) * 2u * distance + i % distance;
            let a = row_values[left];
            let b = row_values[left + distance];
            row_values[left] = a + b;
            row_values[left + distance] = a - b;
        }
        workgroupBarrier();
    }
    for (var i = thread; i < WIDTH; i += THREADS) { row_values[i] *= HADAMARD; }
    workgroupBarrier();
}
//#endif

//#if LATENT8 || INDEX4
fn find_largest(thread: u32) {
    for (var i = thread; i < WIDTH / 4u; i += THREADS) {
        row_largest[i] = max(
            max(magnitude_bits(row_values[4u * i]), magnitude_bits(row_values[4u * i + 1u])),
            max(magnitude_bits(row_values[4u * i + 2u]), magnitude_bits(row_values[4u * i + 3u])));
    }
    workgroupBarrier();
}

fn largest_of(first: u32, count: u32) -> u32 {
    var largest = 0u;
    for (var i = 0u; i < count; i += 1u) { largest = max(largest, row_largest[first + i]); }
    return largest;
}

fn fp8_scale(block: u32) -> u32 { return block_scale(largest_of(16u * block, 16u), 1e-4, 1.0 / 448.0); }

// The floor is 6 · 2^-126.
fn fp4_scale(block: u32) -> u32 {
    return block_scale(largest_of(8u * block, 8u), 0x1.8p-124f, 1.0 / 6.0);
}
//#endif

//#if !READ_ONLY
fn store_row(at: u32, thread: u32) {
    workgroupBarrier();
//#if ROWS_F32
    for (var i = thread; i < WIDTH; i += THREADS) { store[at + i] = bitcast<u32>(row_values[i]); }
//#endif
//#if ROWS_F16
    for (var i = thread; i < WIDTH / 2u; i += THREADS) {
        store[at + i] = to_f16(row_values[2u * i]) | (to_f16(row_values[2u * i + 1u]) << 16u);
    }
//#endif
//#if LATENT8
    find_largest(thread);
    let plain = WIDTH - ROPE;
    for (var i = thread; i < plain / 4u; i += THREADS) {
        let e = fp8_scale(i / 16u);
        let inverse = inverse_scale(min(e, 253u));
        var word = 0u;
        for (var k = 0u; k < 4u; k += 1u) {
            word |= e4m3_code(row_values[4u * i + k], e, inverse) << (8u * k);
        }
        store[at + i] = word;
    }
    for (var i = thread; i < ROPE / 2u; i += THREADS) {
        store[at + plain / 4u + i] =
            to_bf16(row_values[plain + 2u * i]) | (to_bf16(row_values[plain + 2u * i + 1u]) << 16u);
    }
    let blocks = plain / 64u;
    for (var i = thread; i < (blocks + 3u) / 4u; i += THREADS) {
        var word = 0u;
        for (var k = 0u; k < 4u && 4u * i + k < blocks; k += 1u) {
            word |= fp8_scale(4u * i + k) << (8u * k);
        }
        store[at + plain / 4u + ROPE / 2u + i] = word;
    }
//#endif
//#if INDEX4
    hadamard(thread);
    find_largest(thread);
    for (var i = thread; i < WIDTH / 8u; i += THREADS) {
        let e = fp4_scale(i / 4u);
        let inverse = inverse_scale(min(e, 253u));
        var word = 0u;
        for (var k = 0u; k < 8u; k += 1u) {
            word |= e2m1_code(row_values[8u * i + k], e, inverse) << (4u * k);
        }
        store[at + i] = word;
    }
    let blocks = WIDTH / 32u;
    for (var i = thread; i < (blocks + 3u) / 4u; i += THREADS) {
        var word = 0u;
        for (var k = 0u; k < 4u && 4u * i + k < blocks; k += 1u) {
            word |= fp4_scale(4u * i + k) << (8u * k);
        }
        store[at + WIDTH / 8u + i] = word;
    }
//#endif
    workgroupBarrier();
}
//#endif
