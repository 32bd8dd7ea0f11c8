// The scheduler behind cusim.h.
//
// A thread of the grid is started on a free fiber and keeps it until it returns, so that threads
// which never wait run one after another on one stack. A thread that waits goes over to the next
// one directly; the launcher gets control back when a block has ended or nobody can go on.
//
// This file is compiled without sanitizers, one object for every kind of program: it asks at run
// time which of their run-time libraries is there, and its own bookkeeping must not be watched.
#include "cusim.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CUSIM_INSTRUMENTED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(CUSIM_INSTRUMENTED)
#error "compile cusim.cpp without -fsanitize, and link it to what is compiled with it"
#endif

#define CUSIM_IF_LINKED extern "C" __attribute__((weak))
CUSIM_IF_LINKED void __asan_poison_memory_region(const volatile void*, size_t);
CUSIM_IF_LINKED void __asan_unpoison_memory_region(const volatile void*, size_t);
CUSIM_IF_LINKED void __sanitizer_start_switch_fiber(void**, const void*, size_t);
CUSIM_IF_LINKED void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
CUSIM_IF_LINKED void* __tsan_get_current_fiber();
CUSIM_IF_LINKED void* __tsan_create_fiber(unsigned);
CUSIM_IF_LINKED void __tsan_destroy_fiber(void*);
CUSIM_IF_LINKED void __tsan_switch_to_fiber(void*, unsigned);
CUSIM_IF_LINKED void __tsan_acquire(void*);
CUSIM_IF_LINKED void __tsan_release(void*);

// Saves the caller's context on its stack and its stack pointer at *save; goes on at load.
extern "C" void cusim_switch(void** save, void* load) asm("cusim_switch");

#ifdef __ELF__
#define CUSIM_FUNCTION ".globl cusim_switch\n.hidden cusim_switch\n.type cusim_switch,%function\n"
#define CUSIM_END ".size cusim_switch, .-cusim_switch\n"
#else
#define CUSIM_FUNCTION ".globl cusim_switch\n"
#define CUSIM_END
#endif

#if defined(__x86_64__) && !defined(CUSIM_UCONTEXT)
asm(".text\n.p2align 4\n" CUSIM_FUNCTION
    "cusim_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n" CUSIM_END);

static void* first_context(char*, char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, entry, no one to return to
  for (int i = 0; i < 8; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(entry);
  return frame;
}
#elif defined(__aarch64__) && !defined(CUSIM_UCONTEXT)
asm(".text\n.p2align 4\n" CUSIM_FUNCTION
    "cusim_switch:\n"
    "  stp x29, x30, [sp, #-160]!\n"
    "  stp x19, x20, [sp, #16]\n  stp x21, x22, [sp, #32]\n  stp x23, x24, [sp, #48]\n"
    "  stp x25, x26, [sp, #64]\n  stp x27, x28, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n"
    "  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n"
    "  mov sp, x1\n"
    "  ldp x19, x20, [sp, #16]\n  ldp x21, x22, [sp, #32]\n  ldp x23, x24, [sp, #48]\n"
    "  ldp x25, x26, [sp, #64]\n  ldp x27, x28, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n"
    "  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  ldp x29, x30, [sp], #160\n"
    "  ret\n" CUSIM_END);

static void* first_context(char*, char* top, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(top) - 20;
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[1] = reinterpret_cast<void*>(entry);
  return frame;
}
#else
#include <ucontext.h>

extern "C" void cusim_switch(void** save, void* load) {
  ucontext_t self;
  *save = &self;
  swapcontext(&self, static_cast<ucontext_t*>(load));
}

static void* first_context(char* stack, char* top, void (*entry)()) {
  char* place = top - (sizeof(ucontext_t) + 63) / 64 * 64;
  ucontext_t* context = new (place) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = place - stack;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
#endif

namespace cusim {

Position here;

namespace {

constexpr int most_threads = 1024, most_resident = 4, most_slots = 64;
constexpr size_t page = 4096, red_zone = 64;
// A guard lies below each stack. With 17 pages from one to the next, stacks do not all compete for
// the same few sets of the cache.
constexpr size_t stack_size = 16 * page, stack_stride = stack_size + page;
// What a GPU has without asking for more; the arena has room for the red zones, too.
constexpr size_t most_shared = 48 << 10, arena_size = 64 << 10, token_count = 4096;
// ThreadSanitizer tells some 250 of its threads apart; those of ended blocks are kept up to here.
constexpr size_t most_kept = 200;

struct Fiber {
  void* context = nullptr;      // null: it begins anew
  const void* stack = nullptr;  // lowest address, and the size, for AddressSanitizer
  size_t size = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Block;

// What a switch touches comes first, on one line of the cache.
struct alignas(64) Thread {
  enum State { ready, at_barrier, in_warp, returned };
  uint3 index;
  int number;
  Block* block;
  Fiber* fiber;  // null: not yet started
  State state;
  // Where it waits; in a warp's collective what it brings, and what it gets.
  unsigned mask;
  Site site;
  uint64_t value, result;
  int source;
  char* token;
  void *watched, *published, *received;  // ThreadSanitizer's
};

struct Block {
  uint3 index;
  std::vector<Thread> threads;
  int live, arrived, agreed, agreed_last;
  const Thread* first;                  // to arrive
  unsigned waiting[most_threads / 32];  // by warp, the lanes in a collective
  char* arena = nullptr;
  size_t used, data;
  struct {
    const void* declaration;
    size_t offset;
  } slots[most_slots];
  int slot_count;
  unsigned tokens_used;
  bool under_way = false;
};

struct Failure {
  const char* what = nullptr;
  const Thread *first = nullptr, *second = nullptr;
};

enum class Grain { thread, warp, block };

struct Simulator {
  std::mutex one_at_a_time;
  bool settled = false, order_given = false;
  int order = forward;
  uint64_t seed = 0, random_state = 0;
  Grain grain = Grain::thread;
  bool asan = __sanitizer_start_switch_fiber != nullptr, tsan = __tsan_create_fiber != nullptr;
  std::string message;

  void (*body)(const void*) = nullptr;
  const void* arguments = nullptr;
  Block blocks[most_resident];
  // The next one to run is the last. No vector: ThreadSanitizer sees what the library calls.
  Thread* ready[most_resident * most_threads];
  size_t ready_count = 0;
  std::vector<uint64_t> shuffled;  // the order of blocks, if it is random
  bool block_ended = false;
  Failure failure;
  Thread* running = nullptr;

  Fiber launcher;
  Fiber *on = &launcher, *left = nullptr;
  std::unique_ptr<Fiber[]> fibers[most_resident];
  char* stacks[most_resident] = {};
  std::vector<Fiber*> free;

  void *watched_launcher = nullptr, *watched_now = nullptr;
  std::vector<void*> ended;  // ThreadSanitizer's threads, of blocks that have ended
  char all_done = 0;
};

Simulator s;

uint64_t next_random(uint64_t below) {
  uint64_t z = s.random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (z ^ z >> 31) % below;
}

// --- fibers

void watch_as(void* watched) {
  if (!s.tsan || watched == s.watched_now) return;
  s.watched_now = watched;
  __tsan_switch_to_fiber(watched, 1);  // 1: the switch itself orders nothing
}

void arrived_on_fiber() {
  if (s.asan) __sanitizer_finish_switch_fiber(s.on->fake_stack, &s.left->stack, &s.left->size);
}

inline void switch_to(Fiber* to) {
  if (to == s.on) return;
  Fiber* from = s.on;
  s.left = from;
  s.on = to;
  if (s.asan) __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->size);
  cusim_switch(&from->context, to->context);
  arrived_on_fiber();
}

// A token stands for one meeting of threads: ThreadSanitizer takes what they did before it to
// happen before what they do after it.
char* new_token(Block& block) {
  return block.arena + arena_size + block.tokens_used++ % token_count;
}

void fiber_main();

Fiber* fiber_for(const Thread& thread) {
  Fiber* fiber;
  size_t r = thread.block - s.blocks;
  if (s.tsan) {
    fiber = &s.fibers[r][thread.number];  // a stack of its own: each access in it is watched
  } else {
    fiber = s.free.back();
    s.free.pop_back();
  }
  if (!fiber->context) {
    char* stack = static_cast<char*>(const_cast<void*>(fiber->stack));
    size_t colour = uintptr_t(stack) / page % 16 * 192;  // the tops differ within their pages, too
    fiber->context = first_context(stack, stack + stack_size - colour, fiber_main);
    fiber->fake_stack = nullptr;
  }
  return fiber;
}

inline Thread* pick() {
  if (s.failure.what || s.block_ended || !s.ready_count) return nullptr;
  size_t last = --s.ready_count;
  if (s.order >= random) std::swap(s.ready[next_random(last + 1)], s.ready[last]);
  return s.ready[last];
}

// Leaves the running thread for the next one that can go on, or for the launcher if there is none.
void go_on() {
  Thread* next = pick();
  if (!next) {
    watch_as(s.watched_launcher);
    return switch_to(&s.launcher);
  }
  s.running = next;
  next->state = Thread::ready;
  here.thread = next->index;
  here.block = next->block->index;
  here.lane = next->number % 32;
  if (!next->fiber) next->fiber = fiber_for(*next);
  watch_as(next->watched);
  switch_to(next->fiber);
}

[[noreturn]] void fail(const char* what, const Thread* first, const Thread* second = nullptr) {
  s.failure = {what, first, second};
  go_on();
  abort();
}

void fiber_main() {
  arrived_on_fiber();
  for (;;) {
    s.body(s.arguments);
    Thread& thread = *s.running;
    thread.state = Thread::returned;
    if (--thread.block->live == 0) s.block_ended = true;
    if (!s.tsan) s.free.push_back(s.on);
    go_on();  // comes back when this fiber has been given another thread
  }
}

// Of count threads from the first one those that the mask names, which repeats every 32.
void make_ready(Thread* first, int count, unsigned mask) {
  size_t n = s.ready_count;
  for (int j = 0; j < count; ++j) {
    int i = s.order == reverse ? j : count - 1 - j;
    if (mask >> i % 32 & 1) s.ready[n++] = first + i;
  }
  s.ready_count = n;
}

// In mixed order others may go first.
void give_way() {
  if (s.order != mixed) return;
  s.ready[s.ready_count++] = s.running;
  go_on();
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

// --- the collectives of a warp

// The lanes of the mask have met once all of them wait with the same mask at the same place.
void try_warp(Block& block, int warp, unsigned mask, const Site& site) {
  if ((block.waiting[warp] & mask) != mask) return;
  Thread* lanes = &block.threads[warp * 32];
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    if (lanes[i].mask != mask || !same(lanes[i].site, site)) return;
    votes |= unsigned(lanes[i].value & 1) << i;
  }
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1) lanes[i].result = lanes[i].source < 0 ? votes : lanes[lanes[i].source].value;
  block.waiting[warp] &= ~mask;
  make_ready(lanes, 32, mask);
}

uint64_t meet_in_warp(unsigned mask, uint64_t value, int source, Site site, bool orders_memory) {
  Thread& thread = *s.running;
  Block& block = *thread.block;
  int warp = thread.number / 32, lane = thread.number % 32;
  thread.site = site;
  thread.mask = mask;
  thread.source = source;
  thread.value = value;
  if (!(mask >> lane & 1)) fail("the mask does not name the lane that calls", &thread);
  if (source >= 0 && !(mask >> source & 1))
    fail("a shuffle reads a lane outside of its mask", &thread);
  int lanes = int(block.threads.size()) - warp * 32;
  if (lanes < 32 && mask >> lanes)
    fail("the mask names lanes that the block does not have", &thread);
  if (s.tsan && orders_memory) {
    unsigned there = block.waiting[warp] & mask;
    const Thread* other = there ? &block.threads[warp * 32 + __builtin_ctz(there)] : nullptr;
    thread.token = other && other->mask == mask ? other->token : new_token(block);
    __tsan_release(thread.token);
  }
  thread.state = Thread::in_warp;
  block.waiting[warp] |= 1u << lane;
  try_warp(block, warp, mask, site);
  go_on();
  if (s.tsan && orders_memory) __tsan_acquire(thread.token);
  return thread.result;
}

// --- blocks

void* map(void* at, size_t size) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
  void* p = mmap(at, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (p == MAP_FAILED) {
    std::perror("cusim: mmap");
    abort();
  }
  return p;
}

// Stacks and arena of the resident-th block. Made once and kept.
void provide(int resident) {
  Block& block = s.blocks[resident];
  if (block.arena) return;
  block.arena = static_cast<char*>(map(nullptr, arena_size + token_count));
  if (s.asan) __asan_poison_memory_region(block.arena, arena_size);
  char* stacks = static_cast<char*>(map(nullptr, most_threads * stack_stride));
  s.stacks[resident] = stacks;
  s.fibers[resident] = std::make_unique<Fiber[]>(most_threads);
  for (int i = most_threads; i-- > 0;) {
    Fiber& fiber = s.fibers[resident][i];
    mprotect(stacks + i * stack_stride, page, PROT_NONE);
    fiber.stack = stacks + i * stack_stride + page;
    fiber.size = stack_size;
    s.free.push_back(&fiber);
  }
}

// ThreadSanitizer forgets what was done in memory that is mapped anew, and blocks that use the
// same place one after another are not in each other's way. The threads it watches are made
// after that: they have seen what their maker has.
void watch(Block& block) {
  size_t resident = &block - s.blocks, count = block.threads.size();
  munmap(block.arena, arena_size + token_count);  // forgets the tokens, too
  block.arena = static_cast<char*>(map(nullptr, arena_size + token_count));
  map(s.stacks[resident], count * stack_stride);  // without the guards: other builds have them
  size_t grain = s.grain == Grain::thread ? 1 : s.grain == Grain::warp ? 32 : count;
  for (size_t i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    s.fibers[resident][i].context = nullptr;
    thread.watched = i % grain ? block.threads[i - 1].watched : __tsan_create_fiber(0);
    thread.published = thread.received = nullptr;
  }
}

// The end of a launch, and not that of a block, orders what its threads did before what follows.
void forget(void* watched) {
  watch_as(watched);
  __tsan_release(&s.all_done);
  watch_as(s.watched_launcher);
  __tsan_destroy_fiber(watched);
}

void unwatch(Block& block) {
  const void* previous = nullptr;
  for (Thread& thread : block.threads) {
    if (thread.published) __tsan_destroy_fiber(thread.published);
    if (thread.received) __tsan_destroy_fiber(thread.received);
    if (thread.watched != previous) s.ended.push_back(thread.watched);
    previous = thread.watched;
  }
  // Its numbers are given out again: the longer a thread is kept, the more blocks are told apart.
  if (s.ended.size() <= most_kept) return;
  size_t surplus = s.ended.size() - most_kept;
  for (size_t i = 0; i < surplus; ++i) forget(s.ended[i]);
  s.ended.erase(s.ended.begin(), s.ended.begin() + surplus);
}

void start(Block& block, uint64_t number) {
  const dim3& grid = here.grid_size;
  block.index = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                 unsigned(number / grid.x / grid.y)};
  int count = int(block.threads.size());
  block.live = count;
  block.arrived = block.agreed = 0;
  for (int w = 0; w < (count + 31) / 32; ++w) block.waiting[w] = 0;
  block.used = red_zone;
  block.data = 0;
  block.slot_count = 0;
  block.tokens_used = 0;
  block.under_way = true;
  if (s.tsan) watch(block);
  for (Thread& thread : block.threads) {
    thread.fiber = nullptr;
    thread.site = {};
  }
  make_ready(block.threads.data(), count, ~0u);
}

void end(Block& block) {
  block.under_way = false;
  if (s.asan) __asan_poison_memory_region(block.arena, block.used);
  if (s.tsan) unwatch(block);
}

// After a failure threads are left where they stand, and their fibers begin anew.
void abandon_fibers() {
  s.ready_count = 0;
  s.free.clear();
  for (int r = most_resident; r-- > 0;) {
    if (!s.fibers[r]) continue;
    if (s.asan)
      for (int i = 0; i < most_threads; ++i)
        __asan_unpoison_memory_region(s.fibers[r][i].stack, stack_size);
    for (int i = most_threads; i-- > 0;) {
      s.fibers[r][i].context = nullptr;
      s.free.push_back(&s.fibers[r][i]);
    }
  }
}

// Nobody can go on: says who waits for whom.
void explain(const Block& block) {
  const Thread *in_warp = nullptr, *at_barrier = nullptr, *returned = nullptr;
  for (const Thread& thread : block.threads) {
    if (thread.state == Thread::in_warp && !in_warp) in_warp = &thread;
    if (thread.state == Thread::at_barrier && !at_barrier) at_barrier = &thread;
    if (thread.state == Thread::returned && !returned) returned = &thread;
  }
  if (!in_warp) {
    s.failure = {"a divergent barrier: other threads have returned", at_barrier, returned};
    return;
  }
  const Thread* lanes = &block.threads[in_warp->number / 32 * 32];
  for (int i = 0; i < 32; ++i) {
    const Thread* other = lanes + i;
    if (!(in_warp->mask >> i & 1)) continue;
    if (other->state == Thread::in_warp && other->mask == in_warp->mask &&
        same(other->site, in_warp->site))
      continue;
    s.failure = {"a deadlock: a warp's collective waits for a lane that is elsewhere", in_warp,
                 other};
    return;
  }
  s.failure = {"a deadlock", in_warp, at_barrier};
}

// --- a launch

std::string index_text(const uint3& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string describe(const Thread& thread) {
  std::string text = ", thread " + index_text(thread.index);
  if (thread.state == Thread::returned) return text + " has returned";
  if (!thread.site.file) return text + " before it waited anywhere";
  return text + " at " + thread.site.file + ":" + std::to_string(thread.site.line);
}

// What failed, in words; called by the launcher, after the last switch.
cudaError_t report(const char* name, cudaError_t code) {
  const Failure& f = s.failure;
  s.message = std::string(name) + ": " + f.what;
  if (f.first) s.message += "; block " + index_text(f.first->block->index) + describe(*f.first);
  if (f.second) s.message += describe(*f.second);
  fprintf(stderr, "cusim: %s\n", s.message.c_str());
  s.failure = {};
  return code;
}

bool read_order(const char* text) {
  const char* names[] = {"fwd", "rev", "rand:", "mix:"};
  for (int order = forward; order <= mixed; ++order) {
    size_t length = strlen(names[order]);
    if (strncmp(text, names[order], length)) continue;
    char* end = const_cast<char*>(text + length);
    uint64_t seed = order >= random ? strtoull(text + length, &end, 10) : 0;
    if (*end || (order >= random && end == text + length)) return false;
    set_order(order, seed);
    return true;
  }
  return false;
}

bool read_grain(const char* text) {
  const char* names[] = {"thread", "warp", "block"};
  for (int grain = 0; grain < 3; ++grain) {
    if (strcmp(text, names[grain])) continue;
    s.grain = Grain(grain);
    return true;
  }
  return false;
}

const char* read_environment() {
  if (s.settled) return nullptr;
  const char *order = getenv("CUSIM_ORDER"), *grain = getenv("CUSIM_GRAIN");
  if (grain && !read_grain(grain)) return "CUSIM_GRAIN is none of thread, warp and block";
  if (order && !s.order_given && !read_order(order))
    return "CUSIM_ORDER is none of fwd, rev, rand:SEED and mix:SEED";
  s.settled = true;
  return nullptr;
}

const char* check(const dim3& grid, const dim3& block) {
  if (!grid.x || !grid.y || !grid.z || grid.x >> 31 || grid.y >> 16 || grid.z >> 16)
    return "no such grid is possible";
  if (!block.x || !block.y || !block.z || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      block.x * block.y * block.z > most_threads)
    return "no such block is possible";
  return nullptr;
}

void lay_out(Block& block, const dim3& size) {
  block.threads.resize(size.x * size.y * size.z);
  for (unsigned i = 0; i < block.threads.size(); ++i) {
    Thread& thread = block.threads[i];
    thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.number = int(i);
    thread.block = &block;
  }
}

void run_blocks(uint64_t count) {
  int resident = s.order == mixed ? most_resident : 1;
  for (int r = 0; r < resident; ++r) {
    provide(r);
    lay_out(s.blocks[r], here.block_size);
  }
  s.random_state = s.seed;
  s.shuffled.resize(s.order >= random ? count : 0);
  for (uint64_t i = 0; i < s.shuffled.size(); ++i) {
    uint64_t j = next_random(i + 1);
    s.shuffled[i] = s.shuffled[j];
    s.shuffled[j] = i;
  }
  for (uint64_t next = 0;;) {
    bool under_way = false;
    for (int r = 0; r < resident; ++r) {
      Block& block = s.blocks[r];
      if (block.under_way && !block.live) end(block);
      if (!block.under_way && next < count) {
        uint64_t i = next++;
        start(block, s.order >= random ? s.shuffled[i] : s.order == reverse ? count - 1 - i : i);
      }
      under_way |= block.under_way;
    }
    if (!under_way) return;
    s.block_ended = false;
    go_on();
    if (s.failure.what) return;
    if (s.block_ended) continue;
    for (const Block& block : s.blocks)
      if (block.under_way) return explain(block);
  }
}

std::string record_path;

}  // namespace

void set_order(int order, uint64_t seed) {
  s.order = order;
  s.seed = seed;
  s.order_given = true;
}

bool recording = false, recording_only = false;

// The line, and the arguments at the offsets of parameters.
void record(const void* kernel, dim3 grid, dim3 block, const Argument* arguments, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    size_t alignment = arguments[i].alignment;
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    bytes.append(static_cast<const char*>(arguments[i].data), arguments[i].size);
  }
  FILE* file = fopen(record_path.c_str(), "ab");
  if (!file) return;
  long long distance =
      static_cast<const char*>(kernel) - reinterpret_cast<const char*>(&cusim_record);
  fprintf(file, "%lld %u %u %zu\n", distance, grid.x * grid.y * grid.z, block.x * block.y * block.z,
          bytes.size());
  fwrite(bytes.data(), 1, bytes.size(), file);
  fclose(file);
}

namespace {
int64_t bytes_moved[2];
int64_t gradients_in_double;
}  // namespace

void moved(int read, int written) {
  bytes_moved[0] += read;
  bytes_moved[1] += written;
}

void in_double(int count) {
  gradients_in_double += count;
}

// What in_double() was told since the last time.
extern "C" int64_t cusim_in_double() {
  int64_t times = gradients_in_double;
  gradients_in_double = 0;
  return times;
}

// What moved() was told since the last time: bytes read, and bytes written.
extern "C" void cusim_moved(int64_t* bytes) {
  for (int k = 0; k < 2; ++k) {
    bytes[k] = bytes_moved[k];
    bytes_moved[k] = 0;
  }
}

const char* last_message() {
  return s.message.c_str();
}

cudaError_t run(const char* name, dim3 grid, dim3 block, void (*body)(const void*),
                const void* arguments) {
  std::lock_guard<std::mutex> lock(s.one_at_a_time);
  s.failure.what = read_environment();
  if (!s.failure.what) s.failure.what = check(grid, block);
  if (s.failure.what) return report(name, cudaErrorInvalidConfiguration);
  s.body = body;
  s.arguments = arguments;
  here.block_size = block;
  here.grid_size = grid;
  if (s.tsan) s.watched_launcher = s.watched_now = __tsan_get_current_fiber();
  run_blocks(uint64_t(grid.x) * grid.y * grid.z);
  cudaError_t code = s.failure.what ? report(name, cudaErrorLaunchFailure) : cudaSuccess;
  if (code != cudaSuccess) {
    for (Block& b : s.blocks)
      if (b.under_way) end(b);
    abandon_fibers();
  }
  if (s.tsan) {
    for (void* watched : s.ended) forget(watched);
    s.ended.clear();
    __tsan_acquire(&s.all_done);
  }
  return code;
}

int barrier(bool predicate, Site site) {
  Thread& thread = *s.running;
  Block& block = *thread.block;
  thread.site = site;
  if (block.arrived && !same(site, block.first->site))
    fail("a divergent barrier: threads wait at different ones", &thread, block.first);
  if (s.tsan) {
    thread.token = block.arrived ? block.first->token : new_token(block);
    __tsan_release(thread.token);
  }
  if (!block.arrived) block.first = &thread;
  block.agreed += predicate;
  thread.state = Thread::at_barrier;
  int count = int(block.threads.size());
  if (++block.arrived == count) {
    block.agreed_last = block.agreed;
    block.arrived = block.agreed = 0;
    make_ready(block.threads.data(), count, ~0u);
  }
  go_on();
  if (s.tsan) __tsan_acquire(thread.token);
  return block.agreed_last;
}

void warp_barrier(unsigned mask, Site site) {
  meet_in_warp(mask, 0, -1, site, true);
}

unsigned ballot(unsigned mask, bool predicate, Site site) {
  return unsigned(meet_in_warp(mask, predicate, -1, site, false));
}

uint64_t shuffle(unsigned mask, uint64_t value, int source, Site site) {
  return meet_in_warp(mask, value, source, site, false);
}

// C++'s fences, which ThreadSanitizer does not know: what a thread has done before a fence is
// published by its atomics after it, and what others have published through atomics is received by
// the next fence. Two more threads of ThreadSanitizer stand for the two states: "published", made
// at a fence, has seen what its maker had, and no more; "received" has seen what the atomics found.
void before_atomic() {
  give_way();
}

void after_atomic(const void* address) {
  if (s.tsan) {
    Thread& thread = *s.running;
    void* place = const_cast<void*>(address);
    if (!thread.received) thread.received = __tsan_create_fiber(0);
    watch_as(thread.received);
    __tsan_acquire(place);
    if (thread.published) {
      watch_as(thread.published);
      __tsan_release(place);
    }
    watch_as(thread.watched);
  }
  give_way();
}

void fence() {
  give_way();
  if (!s.tsan) return;
  Thread& thread = *s.running;
  if (thread.received) {
    char* token = new_token(*thread.block);
    watch_as(thread.received);
    __tsan_release(token);
    watch_as(thread.watched);
    __tsan_acquire(token);
    __tsan_destroy_fiber(thread.received);
    thread.received = nullptr;
  }
  if (thread.published) __tsan_destroy_fiber(thread.published);
  thread.published = __tsan_create_fiber(0);
}

// A variable lies where only its own alignment holds and no greater one; 8 is what
// AddressSanitizer can tell apart. It is full of NaN until the block writes it.
void* slot(const void* declaration, size_t size, size_t alignment) {
  Block& block = *s.running->block;
  for (int i = 0; i < block.slot_count; ++i)
    if (block.slots[i].declaration == declaration) return block.arena + block.slots[i].offset;
  if (alignment < 8) alignment = 8;
  size_t offset = block.used / (2 * alignment) * (2 * alignment) + alignment;
  if (offset < block.used) offset += 2 * alignment;
  size_t words = (size + 7) / 8, used = offset + words * 8 + red_zone;
  if (block.data + size > most_shared || used > arena_size || block.slot_count == most_slots)
    fail("more shared memory than a block may have", s.running);
  block.data += size;
  block.used = used;
  block.slots[block.slot_count++] = {declaration, offset};
  char* p = block.arena + offset;
  if (s.asan) __asan_unpoison_memory_region(p, size);
  // Volatile: as a call of memset ThreadSanitizer would take it for an access of this thread's.
  for (size_t i = 0; i < words; ++i) reinterpret_cast<volatile uint64_t*>(p)[i] = ~uint64_t(0);
  return p;
}

}  // namespace cusim

void cusim_record_only(bool only) {
  cusim::recording_only = only;
}
void cusim_record(const char* path) {
  cusim::recording = path != nullptr;
  cusim::record_path = path ? path : "";
}
