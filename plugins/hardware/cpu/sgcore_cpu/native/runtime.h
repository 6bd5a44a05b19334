// Threads of the OpenMP runtime that the process already has, which is torch's.
#pragma once

#include <cstdint>

// Found by `sgcore_cpu_find_openmp`; without one, work runs in the calling thread.
extern "C" void (*sgcore_cpu_fork)(void (*)(void *), void *, unsigned, unsigned);
extern "C" int (*sgcore_cpu_thread)();
extern "C" int (*sgcore_cpu_team)();

namespace SGCORE_LEVEL {

// Calls work(thread, threads) in each thread of a team of at most `threads`. All that the caller may have are forked, as for
// torch: GNU's runtime ends the threads that a smaller team leaves over, and the next larger one starts them anew.
template <class Work> void in_parallel(int64_t threads, const Work &work) {
    if (threads <= 1 || sgcore_cpu_fork == nullptr) return work(0, 1);
    auto some = [&] {
        int team = threads < sgcore_cpu_team() ? int(threads) : sgcore_cpu_team();
        if (sgcore_cpu_thread() < team) work(sgcore_cpu_thread(), team);
    };
    auto enter = [](void *data) { (*static_cast<decltype(some) *>(data))(); };
    sgcore_cpu_fork(enter, &some, 0, 0);
}

struct Share {
    int64_t begin, end;
};

// The thread's part of `count` things.
inline Share share(int64_t count, int thread, int threads) {
    return {count * thread / threads, count * (thread + 1) / threads};
}

}  // namespace SGCORE_LEVEL
