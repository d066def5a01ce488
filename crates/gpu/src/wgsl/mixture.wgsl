// What a sub-layer needs at its end, given the products z that `entry` speaks of and the inverse RMS of the streams:
//
//   post[j] = 2σ(z[HC+j]·scale[1] + base[HC+j]);  comb = sinkhorn(..)
//
// By one thread. The kernel has `z_at` and bindings `base`, `scale` and `mix`: [n, HC + HC·HC].
//#include sigmoid
fn mixture(row: u32, inverse: f32, iterations: u32, eps: f32) {
    let to = row * (HC + HC * HC);
    //#repeat j HC
    mix[to + $ju] = 2.0 * sigmoid(z_at(row, HC + $ju) * inverse * scale[1] + base[HC + $ju]);
    var m$j: array<f32, HC>;
    //#repeat k HC
    m$j[$k] = z_at(row, 2u * HC + $ju * HC + $ku) * inverse * scale[2] + base[2u * HC + $ju * HC + $ku];
    //#end
    var largest$j = m$j[0];
    //#repeat k HC
    largest$j = max(largest$j, m$j[$k]);
    //#end
    var sum$j = 0.0;
    //#repeat k HC
    m$j[$k] = exp(m$j[$k] - largest$j);
    sum$j += m$j[$k];
    //#end
    //#repeat k HC
    m$j[$k] = m$j[$k] / sum$j + eps;
    //#end
    //#end
    for (var i = 0u; i < iterations; i += 1u) {
        if i > 0u {
            //#repeat j HC
            var row_sum$j = eps;
            //#repeat k HC
            row_sum$j += m$j[$k];
            //#end
            row_sum$j = 1.0 / row_sum$j;
            //#repeat k HC
            m$j[$k] *= row_sum$j;
            //#end
            //#end
        }
        //#repeat k HC
        var column_sum$k = eps;
        //#repeat j HC
        column_sum$k += m$j[$k];
        //#end
        column_sum$k = 1.0 / column_sum$k;
        //#repeat j HC
        m$j[$k] *= column_sum$k;
        //#end
        //#end
    }
    //#repeat j HC
    //#repeat k HC
    mix[to + HC + $ju * HC + $ku] = m$j[$k];
    //#end
    //#end
}
