// Threads of the OpenMP runtime that the process already has, which is torch's.
#pragma once

#include <cstdint>

// What threads share that make many calls together: each makes all of them, and does its part where work is shared.
struct SgcoreCpuTeam {
    alignas(64) int arrived = 0;
    alignas(64) unsigned meetings = 0;
    alignas(64) int64_t next = 0;  // Of the units that are handed out; 0 after each meeting.
};

struct SgcoreCpuMember {
    SgcoreCpuTeam &team;
    int thread, threads;

    // Returns once all threads are here.
    void meet() const;
};

extern "C" {
// Found by `sgcore_cpu_find_openmp`; without one, work runs in the calling thread.
extern void (*sgcore_cpu_fork)(void (*)(void *), void *, unsigned, unsigned);
extern int (*sgcore_cpu_thread)();
extern int (*sgcore_cpu_threads)();
// This thread's place in a team; null: it is in none, and forks where work is shared.
extern thread_local const SgcoreCpuMember *sgcore_cpu_member;
}

namespace SGCORE_LEVEL {

struct Share {
    int64_t begin, end;
};

// One of `parts` parts of `count` things that are nearly equal.
inline Share share(int64_t count, int64_t part, int64_t parts) {
    return {count * part / parts, count * (part + 1) / parts};
}

// All threads that the caller may have are forked, as for torch: GNU's runtime ends those that a smaller team leaves
// over, and the next larger one starts them anew.
template <class Work> void fork(int64_t threads, const Work &work) {
    if (threads <= 1 || sgcore_cpu_fork == nullptr) return work(0, 1);
    auto some = [&] {
        int team = threads < sgcore_cpu_threads() ? int(threads) : sgcore_cpu_threads();
        if (sgcore_cpu_thread() < team) work(sgcore_cpu_thread(), team);
    };
    auto enter = [](void *data) { (*static_cast<decltype(some) *>(data))(); };
    sgcore_cpu_fork(enter, &some, 0, 0);
}

// Calls work(thread, threads) in each of at most `threads` threads, and returns when all are done.
template <class Work> void in_parallel(int64_t threads, const Work &work) {
    const SgcoreCpuMember *me = sgcore_cpu_member;
    if (me == nullptr) return fork(threads, work);
    int team = threads < me->threads ? int(threads) : me->threads;
    if (me->thread < team) work(me->thread, team);
    me->meet();
}

// Calls work(unit, thread) for each of `count` units; a thread that is done with one takes the next.
template <class Work> void in_turns(int64_t count, int64_t threads, const Work &work) {
    int64_t own = 0;
    int64_t *next = sgcore_cpu_member == nullptr ? &own : &sgcore_cpu_member->team.next;
    in_parallel(threads, [&](int thread, int) {
        for (;;) {
            int64_t unit = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
            if (unit >= count) return;
            work(unit, thread);
        }
    });
}

constexpr int64_t TOKENS_A_PART = 4, MOST_PARTS = 64;  // Of each thread.

// Calls work(share) for parts of a weight's `panels`, which threads take in turns. The more tokens, the longer a panel takes,
// and the smaller the parts: one whose core does something else for a while gets fewer. With few, long runs are read fastest.
template <class Work> void in_panels(int64_t panels, int64_t tokens, int64_t threads, const Work &work) {
    int64_t each = 1 + tokens / TOKENS_A_PART, wanted = threads * (each < MOST_PARTS ? each : MOST_PARTS);
    int64_t parts = wanted < panels ? wanted : panels;
    in_turns(parts, threads, [&](int64_t part, int) { work(share(panels, part, parts)); });
}

}  // namespace SGCORE_LEVEL
