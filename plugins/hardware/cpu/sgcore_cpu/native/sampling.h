// Tokens drawn from filtered logits: only the most probable ones are sorted, where that settles which are kept.
#pragma once

#include <algorithm>

#include "noise.h"
#include "rows.h"

namespace SGCORE_LEVEL {

struct Sampling {
    const float *logits;  // (rows, size)
    int64_t rows, size;
    const int64_t *top_k;
    const double *top_p, *min_p;
    const int64_t *seeds, *positions;  // All (rows,).
    uint64_t *keys;                    // (threads, size + 1)
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

// How many of the sorted keys the filters keep, or -1 where `count` of them don't tell; `mass` is that of all.
inline int64_t kept_of(const Sampling &s, int64_t row, const uint64_t *keys, int64_t count, double mass, float peak) {
    int64_t most = s.top_k[row] < s.size ? s.top_k[row] : s.size, known = most < count ? most : count;
    bool knows_all = known == most || count == s.size;
    auto weight = [&](int64_t i) { return double(__builtin_expf(logit_of(keys[i]) - peak)); };
    if (most < s.size) {
        if (!knows_all) return -1;
        mass = 0;
        for (int64_t i = 0; i < known; ++i) mass += weight(i);
    }
    int64_t end = 0;
    double before = 0, last = s.top_p[row] < 1 ? s.top_p[row] * mass : __builtin_inf();
    for (; end < known; ++end) {
        double here = weight(end);
        if (end > 0 && (before > last || here < s.min_p[row])) break;
        before += here;
    }
    return knows_all || end < known ? end : -1;
}

// The largest sum of a logit and its noise, and the lowest id that has it.
struct Best {
    float score = -__builtin_inff();
    int64_t id = NO_TOKEN;

    SGCORE_INLINE void take(float other, int64_t other_id) {
        if (other < score || (other == score && other_id >= id)) return;
        score = other;
        id = other_id;
    }
};

inline int64_t draw_from_all(const float *x, int64_t size, uint64_t key) {
    Floats best = splat(-__builtin_inff());
    Ints places{}, ids;
    for (int i = 0; i < WIDTH; ++i) ids[i] = i;
    int64_t begin = 0;
    for (; begin + WIDTH <= size; begin += WIDTH, ids += WIDTH) {
        Floats scores = load(x + begin) + gumbel(key, (Words)ids);
        Ints is_more = scores > best;
        best = select(is_more, scores, best);
        places = (Ints)select(is_more, (Floats)ids, (Floats)places);
    }
    Best found;
    for (int i = 0; i < WIDTH; ++i)
        if (best[i] > -__builtin_inff()) found.take(best[i], places[i]);
    Floats rest = gumbel(key, (Words)ids);
    for (int64_t i = begin; i < size; ++i) found.take(x[i] + rest[i - begin], i);
    return found.id;
}

inline int64_t draw_from(const uint64_t *keys, int64_t count, uint64_t key) {
    Best found;
    for (int64_t begin = 0; begin < count; begin += WIDTH) {
        Words ids{};
        int here = count - begin < WIDTH ? int(count - begin) : WIDTH;
        for (int i = 0; i < here; ++i) ids[i] = uint32_t(keys[begin + i]);
        Floats noise = gumbel(key, ids);
        for (int i = 0; i < here; ++i) found.take(logit_of(keys[begin + i]) + noise[i], ids[i]);
    }
    return found.id;
}

inline int64_t sample_row(const Sampling &s, int64_t row, uint64_t *keys) {
    const float *x = s.logits + row * s.size;
    float peak = peak_of(x, s.size);
    if (!is_finite(peak)) return NO_TOKEN;
    uint64_t key = row_key(s.seeds[row], s.positions[row]);
    bool has_most = s.top_k[row] < s.size, has_mass = s.top_p[row] < 1;
    if (!has_most && !has_mass && s.min_p[row] <= 0) return draw_from_all(x, s.size, key);
    double mass = has_mass && !has_most ? mass_of(x, s.size, peak) : 0;
    for (float reach : {4.0f, 8.0f, 16.0f, __builtin_inff()}) {
        int64_t count = collect(x, s.size, peak - reach, keys);
        std::sort(keys, keys + count);
        int64_t kept = kept_of(s, row, keys, count, mass, peak);
        if (kept >= 0) return draw_from(keys, kept, key);
    }
    return NO_TOKEN;
}

inline void sample(const Sampling &s, int64_t threads) {
    in_parallel(threads_for(s.rows * s.size, threads), [&](int thread, int team) {
        Share mine = share(s.rows, thread, team);
        for (int64_t row = mine.begin; row < mine.end; ++row) s.out[row] = sample_row(s, row, s.keys + thread * (s.size + 1));
    });
}

}  // namespace SGCORE_LEVEL
