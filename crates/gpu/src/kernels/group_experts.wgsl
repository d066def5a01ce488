// Sorts the (row, expert) pairs of a batch by expert, and cuts each expert's into tiles of TILE pairs.
//
// One workgroup: histogram, exclusive sums, scatter. The order of pairs inside an expert does not matter
// to any result.
struct Params { pairs: u32, experts: u32, tiles: u32 }

@group(0) @binding(0) var<storage, read>       ids: array<u32>;     // [pairs]
@group(0) @binding(1) var<storage, read_write> order: array<u32>;   // [pairs]
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4u>; // [tiles]: (expert, first, pairs, 0)
var<immediate> p: Params;

var<workgroup> counts: array<atomic<u32>, EXPERTS>;
var<workgroup> starts: array<u32, EXPERTS + 1u>;
var<workgroup> tile_starts: array<u32, EXPERTS + 1u>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var e = thread; e < EXPERTS; e += THREADS) { atomicStore(&counts[e], 0u); }
    workgroupBarrier();
    for (var i = thread; i < p.pairs; i += THREADS) { atomicAdd(&counts[ids[i]], 1u); }
    workgroupBarrier();
    if thread == 0u {
        var at = 0u;
        var tile = 0u;
        for (var e = 0u; e < EXPERTS; e += 1u) {
            starts[e] = at;
            tile_starts[e] = tile;
            let count = atomicLoad(&counts[e]);
            at += count;
            tile += (count + TILE - 1u) / TILE;
        }
        starts[EXPERTS] = at;
        tile_starts[EXPERTS] = tile;
    }
    workgroupBarrier();
    for (var e = thread; e < EXPERTS; e += THREADS) {
        let count = starts[e + 1u] - starts[e];
        for (var i = 0u; i * TILE < count; i += 1u) {
            tiles[tile_starts[e] + i] = vec4u(e, starts[e] + i * TILE, min(count - i * TILE, TILE), 0u);
        }
        atomicStore(&counts[e], starts[e]);
    }
    for (var i = tile_starts[EXPERTS] + thread; i < p.tiles; i += THREADS) { tiles[i] = vec4u(0u); }
    workgroupBarrier();
    for (var i = thread; i < p.pairs; i += THREADS) { order[atomicAdd(&counts[ids[i]], 1u)] = i; }
}
