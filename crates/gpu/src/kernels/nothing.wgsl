// Begins and ends.
@group(0) @binding(0) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    // Nobody; what is bound has to be used.
    if thread == THREADS { y[0] = 0.0; }
}
