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

// What the largest number of a row of 8 bits stands for, divided by that.
template <class T> float rate_of(const T *x, int64_t size) {
    Floats peak{};
    float rest = 0;
    for_row(size, [&](int64_t i) { Floats a = load(x + i); peak = larger(peak, larger(a, -a)); },
            [&](int64_t i) { float a = __builtin_fabsf(widen(x[i])); rest = a > rest ? a : rest; });
    return (most(peak) > rest ? most(peak) : rest) / LARGEST;
}

constexpr int64_t NO_TOKEN = -1;  // Of a row whose logits are broken.

// The largest number of a row; NaN where there is any.
template <class T> float peak_of(const T *x, int64_t size) {
    Floats found = splat(-__builtin_inff());
    Ints is_nan{};
    float rest = -__builtin_inff();
    for_row(size, [&](int64_t i) { Floats a = load(x + i); found = larger(a, found); is_nan |= a != a; },
            [&](int64_t i) { float a = widen(x[i]); rest = a <= rest ? rest : a; });
    for (int i = 0; i < WIDTH; ++i)
        if (is_nan[i]) return __builtin_nanf("");
    return most(found) > rest ? most(found) : rest;
}

SGCORE_INLINE bool is_finite(float x) { return x - x == 0; }

// The lowest of the places with the largest number.
template <class T> int64_t largest(const T *x, int64_t size) {
    float value = peak_of(x, size);
    if (!is_finite(value)) return NO_TOKEN;
    int64_t place = 0;
    while (widen(x[place]) != value) ++place;
    return place;
}

template <class T> void greedy(const T *logits, int64_t rows, int64_t size, int64_t *out, int64_t threads) {
    in_parallel(threads_for(rows * size, threads), [&](int thread, int team) {
        Share mine = share(rows, thread, team);
        for (int64_t row = mine.begin; row < mine.end; ++row) out[row] = largest(logits + row * size, size);
    });
}

// Rows of a matrix, each at its number or at the one that `places` has for it; negative ones count from the end.
struct PlacedRows {
    uint8_t *first;
    int64_t count;
    const int64_t *places;  // Null: each row's own.

    uint8_t *at(int64_t row, int64_t bytes) const {
        int64_t place = places == nullptr ? row : places[row] < 0 ? places[row] + count : places[row];
        return place < 0 || place >= count ? nullptr : first + place * bytes;
    }
};

// `rows` rows; one that has no place is left out.
inline void copy_rows(const PlacedRows &to, const PlacedRows &from, int64_t rows, int64_t bytes) {
    for (int64_t row = 0; row < rows; ++row) {
        uint8_t *target = to.at(row, bytes), *source = from.at(row, bytes);
        if (target != nullptr && source != nullptr) std::memcpy(target, source, bytes);
    }
}

}  // namespace SGCORE_LEVEL
