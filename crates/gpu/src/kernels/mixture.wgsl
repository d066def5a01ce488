// The mixture of each row, where no product takes it along: see `mixes`. One workgroup.
struct Params { n: u32, iterations: u32, eps: f32 }
var<immediate> p: Params;
//#include mixes

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    mixtures(p.n, p.iterations, p.eps, thread);
}
