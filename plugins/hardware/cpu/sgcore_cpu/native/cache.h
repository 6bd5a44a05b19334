// Keys and values in the pool: a head's row of a token has numbers of a type C, and behind those of 8 bits a float that they
// have to be multiplied with.
#pragma once

#include <type_traits>

#include "rows.h"

namespace SGCORE_LEVEL {

constexpr float LEAST_SCALE = 1e-12f;  // So that a row of zeros can be divided by it.

template <class C> constexpr bool HAS_SCALES = std::is_same_v<C, int8_t>;

template <class C> constexpr int64_t row_size(int64_t head_dim) {
    return HAS_SCALES<C> ? head_dim + int64_t(sizeof(float)) : head_dim;
}

template <class C> SGCORE_INLINE float scale_of(const C *row, int64_t head_dim) {
    float scale = 1;
    if constexpr (HAS_SCALES<C>) std::memcpy(&scale, row + head_dim, sizeof scale);
    return scale;
}

template <class T> void round_row(const T *x, int64_t size, int8_t *row) {
    float rate = rate_of(x, size), scale = rate > LEAST_SCALE ? rate : LEAST_SCALE;
    for_row(size, [&](int64_t i) { store(row + i, nearest(load(x + i) / scale)); },
            [&](int64_t i) { row[i] = int8_t(nearest(splat(widen(x[i]) / scale))[0]); });
    std::memcpy(row + size, &scale, sizeof scale);
}

// The rows of a token's heads.
template <class T, class C> void keep(const T *x, int64_t heads, int64_t head_dim, C *rows) {
    if constexpr (HAS_SCALES<C>) {
        for (int64_t head = 0; head < heads; ++head)
            round_row(x + head * head_dim, head_dim, rows + head * row_size<C>(head_dim));
    } else {
        std::memcpy(rows, x, heads * head_dim * sizeof(T));
    }
}

template <class T> void rotate(T *x, const T *cos, const T *sin, int64_t size) {
    int64_t half = size / 2;
    T *second = x + half;
    for_row(half,
            [&](int64_t i) {
                Floats a = load(x + i), b = load(second + i);
                store(x + i, a * load(cos + i) - b * load(sin + i));
                store(second + i, b * load(cos + half + i) + a * load(sin + half + i));
            },
            [&](int64_t i) {
                float a = widen(x[i]), b = widen(second[i]);
                store(x + i, a * widen(cos[i]) - b * widen(sin[i]));
                store(second + i, b * widen(cos[half + i]) + a * widen(sin[half + i]));
            });
}

template <class T, class C> struct Rotary {
    T *qkv;
    int64_t qkv_row, tokens, heads, kv_heads, head_dim;
    const T *q_norm, *k_norm;  // Null: no norms.
    float eps;
    const T *cos, *sin;
    C *keys, *values;
    const int64_t *slots;
};

// Norms and rotates the heads of q and k where they are, and stores k and v in the pool.
template <class T, class C> void rotary_token(const Rotary<T, C> &r, int64_t token) {
    T *row = r.qkv + token * r.qkv_row;
    for (int64_t head = 0; head < r.heads + r.kv_heads; ++head) {
        T *x = row + head * r.head_dim;
        if (r.q_norm != nullptr) norm_row(x, head < r.heads ? r.q_norm : r.k_norm, r.eps, x, r.head_dim);
        rotate(x, r.cos + token * r.head_dim, r.sin + token * r.head_dim, r.head_dim);
    }
    const T *k = row + r.heads * r.head_dim;
    int64_t place = r.slots[token] * r.kv_heads;
    keep(k, r.kv_heads, r.head_dim, r.keys + place * row_size<C>(r.head_dim));
    keep(k + r.kv_heads * r.head_dim, r.kv_heads, r.head_dim, r.values + place * row_size<C>(r.head_dim));
}

template <class T, class C> void rotary_write(const Rotary<T, C> &r, int64_t threads) {
    in_parallel(threads_for(r.tokens * r.qkv_row, threads), [&](int thread, int team) {
        Share mine = share(r.tokens, thread, team);
        for (int64_t token = mine.begin; token < mine.end; ++token) rotary_token(r, token);
    });
}

}  // namespace SGCORE_LEVEL
