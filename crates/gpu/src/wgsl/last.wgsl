// The last workgroup to come goes on with what the others wrote, which spares a launch. It reaches that one since the
// bindings are coherent and a storage barrier is on either side of the count. The kernel has the binding `arrived`:
// counters that are zero before and after.
var<workgroup> last: u32;

// Whether this workgroup is the last one of `count` to come by counter `at`; all its threads ask.
fn comes_last(at: u32, count: u32, thread: u32) -> bool {
    storageBarrier();
    if thread == 0u { last = u32(atomicAdd(&arrived[at], 1u) == count - 1u); }
    if workgroupUniformLoad(&last) == 0u { return false; }
    storageBarrier();
    if thread == 0u { atomicStore(&arrived[at], 0u); }
    return true;
}
