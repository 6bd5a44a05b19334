// What does not depend on the level: the processor's features, and torch's OpenMP runtime.
#define SGCORE_LEVEL sgcore_cpu_baseline
#include "runtime.h"

#include <dlfcn.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define EXPORT __attribute__((visibility("default")))

extern "C" {

void (*sgcore_cpu_fork)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
int (*sgcore_cpu_thread)() = nullptr;
int (*sgcore_cpu_team)() = nullptr;

// Whether the process has an OpenMP runtime with GNU's interface, which LLVM's and Intel's have too.
EXPORT int sgcore_cpu_find_openmp() {
    auto fork = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    auto thread = dlsym(RTLD_DEFAULT, "omp_get_thread_num");
    auto team = dlsym(RTLD_DEFAULT, "omp_get_num_threads");
    if (fork == nullptr || thread == nullptr || team == nullptr) return 0;
    sgcore_cpu_thread = reinterpret_cast<int (*)()>(thread);
    sgcore_cpu_team = reinterpret_cast<int (*)()>(team);
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

// The best of the levels that this processor runs, as a number: 0 baseline, 1 avx2, 2 avx512, 3 avx512_vnni,
// 4 avx512_bf16, 5 amx.
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
#else
    return 0;
#endif
}

struct Call {
    void (*run)(const uint64_t *words);
    const uint64_t *words;
};

EXPORT void sgcore_cpu_replay(const Call *calls, int64_t count) {
    for (const Call *call = calls; call < calls + count; call++) call->run(call->words);
}
}
