// Tokens drawn from filtered logits: only the most probable ones are sorted, where that settles which is drawn.
#pragma once

#include <algorithm>

#include "rows.h"

namespace SGCORE_LEVEL {

struct Sampling {
    const float *logits;  // (rows, size)
    int64_t rows, size;
    const int64_t *top_k;
    const double *top_p, *min_p, *uniform;  // (rows,)
    uint64_t *keys;                         // (threads, size + 1)
    int64_t *out;
};

// Ascending keys are descending logits, and ascending ids among equals.
SGCORE_INLINE uint64_t key_of(float logit, int64_t id) {
    uint32_t bits;
    std::memcpy(&bits, &logit, 4);
    uint32_t ascending = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return uint64_t(~ascending) << 32 | uint64_t(id);
}

SGCORE_INLINE float logit_of(uint64_t key) {
    uint32_t ascending = ~uint32_t(key >> 32), bits = ascending & 0x80000000 ? ascending & 0x7fffffff : ~ascending;
    float logit;
    std::memcpy(&logit, &bits, 4);
    return logit;
}

inline double mass_of(const float *x, int64_t size, float peak) {
    Floats total{};
    double rest = 0;
    for_row(size, [&](int64_t i) { total += exponential(load(x + i) - peak); },
            [&](int64_t i) { rest += exponential(x[i] - peak); });
    return double(sum(total)) + rest;
}

inline int64_t collect(const float *x, int64_t size, float least, uint64_t *keys) {
    int64_t count = 0;
    for (int64_t i = 0; i < size; ++i) {
        keys[count] = key_of(x[i], i);
        count += x[i] >= least;
    }
    return count;
}

// The token, or -1 where `count` sorted keys don't tell; `mass` is that of all.
inline int64_t choose(const Sampling &s, int64_t row, const uint64_t *keys, int64_t count, double mass, float peak) {
    int64_t most = s.top_k[row] < s.size ? s.top_k[row] : s.size, known = most < count ? most : count;
    bool knows_all = known == most || count == s.size;
    auto weight = [&](int64_t i) { return double(__builtin_expf(logit_of(keys[i]) - peak)); };
    if (most < s.size) {
        if (!knows_all) return -1;
        mass = 0;
        for (int64_t i = 0; i < known; ++i) mass += weight(i);
    }
    int64_t end = 0;
    double before = 0;
    for (; end < known; ++end) {
        double here = weight(end);
        if ((end > 0 && before > s.top_p[row] * mass) || here < s.min_p[row]) break;
        before += here;
    }
    bool is_open = s.top_p[row] >= 1 && s.min_p[row] <= 0;
    bool is_settled = knows_all || end < known;
    double target = s.uniform[row] * (is_settled ? before : mass), sum = 0;
    if (!is_settled && !(is_open && target < before)) return -1;
    for (int64_t i = 0; i < end; ++i) {
        sum += weight(i);
        if (sum > target) return int64_t(uint32_t(keys[i]));
    }
    return int64_t(uint32_t(keys[end > 0 ? end - 1 : 0]));
}

inline int64_t sample_row(const Sampling &s, int64_t row, uint64_t *keys) {
    const float *x = s.logits + row * s.size;
    float peak = peak_of(x, s.size);
    if (!is_finite(peak)) return NO_TOKEN;
    double mass = mass_of(x, s.size, peak);
    for (float reach : {4.0f, 8.0f, 16.0f, __builtin_inff()}) {
        int64_t count = collect(x, s.size, peak - reach, keys);
        std::sort(keys, keys + count);
        int64_t found = choose(s, row, keys, count, mass, peak);
        if (found >= 0) return found;
    }
    return 0;
}

inline void sample(const Sampling &s, int64_t threads) {
    in_parallel(threads_for(s.rows * s.size, threads), [&](int thread, int team) {
        Share mine = share(s.rows, thread, team);
        for (int64_t row = mine.begin; row < mine.end; ++row) s.out[row] = sample_row(s, row, s.keys + thread * (s.size + 1));
    });
}

}  // namespace SGCORE_LEVEL
