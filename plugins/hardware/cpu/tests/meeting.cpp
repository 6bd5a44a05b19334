// Threads of a team share work, and read what others have written before they met. Built with -fsanitize=thread, which finds what
// the language's memory model leaves unordered, whatever order this processor keeps.
#include <thread>
#include <vector>

#include "runtime.h"

namespace {

constexpr int THREADS = 4, ROUNDS = 300;
constexpr int64_t UNITS = 32;
int64_t cells[UNITS], copies[UNITS];

bool take_part(const SgcoreCpuMember &me) {
    sgcore_cpu_member = &me;
    bool is_right = true;
    for (int64_t round = 1; round <= ROUNDS; ++round) {
        SGCORE_LEVEL::in_turns(UNITS, THREADS, [&](int64_t unit, int) { cells[unit] = round * unit; });
        SGCORE_LEVEL::in_parallel(THREADS - 1, [&](int thread, int team) {
            for (int64_t unit = thread; unit < UNITS; unit += team) copies[unit] = cells[UNITS - 1 - unit];
        });
        for (int64_t unit = 0; unit < UNITS; ++unit) is_right &= copies[unit] == round * (UNITS - 1 - unit);
        me.meet();
    }
    sgcore_cpu_member = nullptr;
    return is_right;
}

}  // namespace

int main() {
    SgcoreCpuTeam team;
    int wrong = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < THREADS; ++i)
        threads.emplace_back([&, i] {
            if (!take_part({team, i, THREADS})) __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
        });
    for (std::thread &thread : threads) thread.join();
    return wrong;
}
