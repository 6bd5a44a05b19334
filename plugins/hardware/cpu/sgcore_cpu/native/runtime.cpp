// What does not depend on the level: the processor's features, and torch's OpenMP runtime.
#define SGCORE_LEVEL sgcore_cpu_baseline
#include "runtime.h"

#include <dlfcn.h>
#include <sched.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#if !defined(SGCORE_SOURCES)
#define SGCORE_SOURCES ""
#endif

#define EXPORT __attribute__((visibility("default")))

namespace {

constexpr int SPINS = 4096;  // Looks at what others have done before their turn is left to whoever waits for the core.

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // `yield` takes no time on most processors.
#endif
}

}  // namespace

void SgcoreCpuMember::meet() const {
    unsigned meeting = __atomic_load_n(&team.meetings, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&team.arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        team.arrived = 0;
        team.next = 0;
        __atomic_store_n(&team.meetings, meeting + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 1; __atomic_load_n(&team.meetings, __ATOMIC_ACQUIRE) == meeting; ++spins)
        spins % SPINS ? relax() : (void)sched_yield();
}

extern "C" {

void (*sgcore_cpu_fork)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
int (*sgcore_cpu_thread)() = nullptr;
int (*sgcore_cpu_threads)() = nullptr;
thread_local const SgcoreCpuMember *sgcore_cpu_member = nullptr;

// Whether the process has an OpenMP runtime with GNU's interface, which LLVM's and Intel's have too.
EXPORT int sgcore_cpu_find_openmp() {
    auto fork = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    auto thread = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    auto threads = dlsym(RTLD_DEFAULT, "omp_get_num_threads");
    if (fork == nullptr || thread == nullptr || threads == nullptr) return 0;
    sgcore_cpu_thread = reinterpret_cast<int (*)()>(thread);
    sgcore_cpu_threads = reinterpret_cast<int (*)()>(threads);
    sgcore_cpu_fork = reinterpret_cast<void (*)(void (*)(void *), void *, unsigned, unsigned)>(fork);
    return 1;
}

#if defined(__x86_64__)
// The kernel gives a process tiles when it asks for them (arch_prctl(2)); compilers' own tests know nothing of that.
static bool has_tiles() {
    const unsigned bfloat16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25, all = bfloat16 | tile | int8;
    const long request_permission = 0x1023, tile_data = 18;
    unsigned a, b, c, found = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &found) || (found & all) != all) return false;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

// The best of the levels that this processor runs, as a number: 0 baseline; 1 avx2, 2 avx512, 3 avx512_vnni,
// 4 avx512_bf16, 5 amx; on ARM 1 neon_dotprod.
EXPORT int sgcore_cpu_best_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return 1;
    if (!__builtin_cpu_supports("avx512vnni")) return 2;
    if (!__builtin_cpu_supports("avx512bf16")) return 3;
    static const bool is_tiled = has_tiles();
    return is_tiled ? 5 : 4;
#elif defined(__aarch64__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? 1 : 0;
#else
    return 0;
#endif
}

// A hash of the sources that this was compiled from (build.py).
EXPORT const char *sgcore_cpu_sources() { return SGCORE_SOURCES; }

struct Call {
    void (*run)(const uint64_t *words);
    const uint64_t *words;
};

// One team makes all the calls: threads that meet after each part wait less than those that are woken for it.
EXPORT void sgcore_cpu_replay(const Call *calls, int64_t count, int64_t threads) {
    SgcoreCpuTeam team;
    SGCORE_LEVEL::fork(threads, [&](int thread, int made) {
        SgcoreCpuMember me{team, thread, made};
        sgcore_cpu_member = &me;
        for (const Call *call = calls; call < calls + count; call++) call->run(call->words);
        sgcore_cpu_member = nullptr;
    });
}
}
