// Runs a kernel in Metal's language on the CPU: each thread of a workgroup is a coroutine, and those that meet at a
// barrier wait for each other. Workgroups run one after the other.
//
// A program includes this, then the kernel, and calls `run_group` for each workgroup. Threads take turns in their
// order or, with `backward`, in the opposite one, so that a missing barrier shows.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <metal_stdlib>

namespace {

constexpr uint MOST = 1024;
constexpr size_t STACK = 256 << 10;

// A place where so many threads wait for each other, again and again.
struct Meeting {
    uint size, waiting, round;
};

ucontext_t scheduler, contexts[MOST];
char* stacks[MOST];
bool done[MOST];
uint current, threads, finished;
bool backward, moved;
Meeting workgroup, simdgroups[MOST / 32];
uint told[MOST / 32][2][32];
void (*body)(uint);

void fail(const char* why) {
    fprintf(stderr, "%s\n", why);
    exit(1);
}

void meet(Meeting& m) {
    uint round = m.round;
    moved = true;
    if (++m.waiting == m.size) {
        m.waiting = 0;
        m.round++;
    }
    while (m.round == round) swapcontext(&contexts[current], &scheduler);
    moved = true;
}

void one_thread() {
    body(current);
    done[current] = moved = true;
    finished++;
}

void run_group(uint count, void (*kernel_of_thread)(uint)) {
    body = kernel_of_thread;
    threads = count;
    finished = 0;
    workgroup = {count, 0, 0};
    for (uint i = 0; i < count; i++) {
        simdgroups[i / 32] = {count - i / 32 * 32 < 32 ? count - i / 32 * 32 : 32, 0, 0};
        done[i] = false;
        if (!stacks[i]) stacks[i] = (char*)malloc(STACK);
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = STACK;
        contexts[i].uc_link = &scheduler;
        makecontext(&contexts[i], one_thread, 0);
    }
    while (finished < count) {
        moved = false;
        for (uint turn = 0; turn < count; turn++) {
            current = backward ? count - 1 - turn : turn;
            if (!done[current]) swapcontext(&scheduler, &contexts[current]);
        }
        if (!moved) fail("some threads wait at a barrier that the others never reach");
    }
}

// What a file beside the program holds.
char* read_file(const char* name, size_t* size) {
    FILE* file = fopen(name, "rb");
    if (!file) fail(name);
    fseek(file, 0, SEEK_END);
    *size = ftell(file);
    rewind(file);
    char* bytes = (char*)aligned_alloc(64, (*size + 64) / 64 * 64);
    if (fread(bytes, 1, *size, file) != *size) fail(name);
    fclose(file);
    return bytes;
}

void write_file(const char* name, const char* bytes, size_t size) {
    FILE* file = fopen(name, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file)) fail(name);
}

} // namespace

namespace metal {
void threadgroup_barrier(mem_flags) { meet(workgroup); }
void simdgroup_barrier(mem_flags) { meet(simdgroups[current / 32]); }
uint this_lane() { return current % 32; }
const uint* of_all_lanes(uint mine) {
    Meeting& group = simdgroups[current / 32];
    uint* values = told[current / 32][group.round % 2];
    values[current % 32] = mine;
    meet(group);
    return values;
}
} // namespace metal
