// Operations on the rows of a matrix, each read and written once.
#pragma once

#include "runtime.h"
#include "vector.h"

namespace SGCORE_LEVEL {

constexpr int64_t WORTH_A_THREAD = 1 << 14;  // Elements; fewer take less time than waking a thread.

inline int64_t threads_for(int64_t elements, int64_t threads) {
    int64_t worth = elements / WORTH_A_THREAD + 1;
    return worth < threads ? worth : threads;
}

// As float32 and back to the row's type, so that rounding is the type's.
template <class T> SGCORE_INLINE Floats rounded(Floats x) {
    T row[WIDTH];
    store(row, x);
    return load(row);
}
template <> SGCORE_INLINE Floats rounded<float>(Floats x) { return x; }

// Calls body(at) for whole vectors, then tail(at) for what is left.
template <class Body, class Tail> SGCORE_INLINE void for_row(int64_t size, const Body &body, const Tail &tail) {
    int64_t i = 0;
    for (; i + WIDTH <= size; i += WIDTH) body(i);
    for (; i < size; ++i) tail(i);
}

template <class T> SGCORE_INLINE float narrowed(float x) {
    T one;
    store(&one, x);
    return widen(one);
}

template <class T> float inverse_norm(const T *x, int64_t size, float eps) {
    Floats squares{};
    float rest = 0;
    for_row(size, [&](int64_t i) { Floats a = load(x + i); squares += a * a; },
            [&](int64_t i) { float a = widen(x[i]); rest += a * a; });
    return 1.0f / __builtin_sqrtf((sum(squares) + rest) / float(size) + eps);
}

template <class T> void norm_row(const T *x, const T *weight, float eps, T *out, int64_t size) {
    float scale = inverse_norm(x, size, eps);
    for_row(size, [&](int64_t i) { store(out + i, load(weight + i) * rounded<T>(load(x + i) * scale)); },
            [&](int64_t i) { store(out + i, widen(weight[i]) * narrowed<T>(widen(x[i]) * scale)); });
}

template <class T> struct Norm {
    const T *x;
    int64_t x_row;
    const T *residual;  // Null: none is added, and nothing written to `total`.
    int64_t residual_row;
    const T *weight;
    float eps;
    T *out, *total;
    int64_t rows, size;
};

template <class T> void add_rms_norm(const Norm<T> &n, int64_t threads) {
    in_parallel(threads_for(n.rows * n.size, threads), [&](int thread, int team) {
        Share mine = share(n.rows, thread, team);
        for (int64_t row = mine.begin; row < mine.end; ++row) {
            const T *x = n.x + row * n.x_row;
            if (n.residual != nullptr) {
                const T *other = n.residual + row * n.residual_row;
                T *total = n.total + row * n.size;
                for_row(n.size, [&](int64_t i) { store(total + i, load(x + i) + load(other + i)); },
                        [&](int64_t i) { store(total + i, widen(x[i]) + widen(other[i])); });
                x = total;
            }
            norm_row(x, n.weight, n.eps, n.out + row * n.size, n.size);
        }
    });
}

SGCORE_INLINE Floats silu(Floats x) { return x / (1.0f + exponential(-x)); }

// (rows, 2 size) -> (rows, size)
template <class T> void silu_mul(const T *x, T *out, int64_t rows, int64_t size, int64_t threads) {
    in_parallel(threads_for(rows * size, threads), [&](int thread, int team) {
        Share mine = share(rows * size, thread, team);
        int64_t row = mine.begin / size;
        for (int64_t at = mine.begin; at < mine.end; at = ++row * size) {
            int64_t end = (row + 1) * size < mine.end ? (row + 1) * size : mine.end;
            const T *gate = x + row * size + at, *up = gate + size;
            T *to = out + at;
            for_row(end - at, [&](int64_t i) { store(to + i, rounded<T>(silu(load(gate + i))) * load(up + i)); },
                    [&](int64_t i) {
                        store(to + i, narrowed<T>(silu(splat(widen(gate[i])))[0]) * widen(up[i]));
                    });
        }
    });
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

template <class T> struct Rotary {
    T *qkv;
    int64_t qkv_row, tokens, heads, kv_heads, head_dim;
    const T *q_norm, *k_norm;  // Null: no norms.
    float eps;
    const T *cos, *sin;
    T *keys, *values;
    const int64_t *slots;
};

// Norms and rotates the heads of q and k where they are, and stores k and v in the pool.
template <class T> void rotary_token(const Rotary<T> &r, int64_t token) {
    T *row = r.qkv + token * r.qkv_row;
    int64_t slot = r.slots[token], width = r.kv_heads * r.head_dim;
    for (int64_t head = 0; head < r.heads + r.kv_heads; ++head) {
        T *x = row + head * r.head_dim;
        if (r.q_norm != nullptr) norm_row(x, head < r.heads ? r.q_norm : r.k_norm, r.eps, x, r.head_dim);
        rotate(x, r.cos + token * r.head_dim, r.sin + token * r.head_dim, r.head_dim);
    }
    const T *k = row + r.heads * r.head_dim;
    std::memcpy(r.keys + slot * width, k, width * sizeof(T));
    std::memcpy(r.values + slot * width, k + width, width * sizeof(T));
}

template <class T> void rotary_write(const Rotary<T> &r, int64_t threads) {
    in_parallel(threads_for(r.tokens * r.qkv_row, threads), [&](int thread, int team) {
        Share mine = share(r.tokens, thread, team);
        for (int64_t token = mine.begin; token < mine.end; ++token) rotary_token(r, token);
    });
}

// The lowest of the places with the largest number.
template <class T> int64_t largest(const T *x, int64_t size) {
    Floats found = splat(-__builtin_inff());
    float rest = -__builtin_inff();
    for_row(size, [&](int64_t i) { found = larger(load(x + i), found); },
            [&](int64_t i) { rest = widen(x[i]) > rest ? widen(x[i]) : rest; });
    float value = most(found) > rest ? most(found) : rest;
    for (int64_t i = 0; i < size; ++i)
        if (widen(x[i]) == value) return i;
    return 0;
}

template <class T> void greedy(const T *logits, int64_t rows, int64_t size, int64_t *out, int64_t threads) {
    in_parallel(threads_for(rows * size, threads), [&](int thread, int team) {
        Share mine = share(rows, thread, team);
        for (int64_t row = mine.begin; row < mine.end; ++row) out[row] = largest(logits + row * size, size);
    });
}

}  // namespace SGCORE_LEVEL
