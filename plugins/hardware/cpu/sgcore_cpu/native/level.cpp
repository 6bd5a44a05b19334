// The C interface of one level: every function's name ends with the level's. `is_bfloat16` says the type of T,
// `is_int8` whether the pool has 8 bits and not that type.
#include "attention.h"
#include "bfloats.h"
#include "products.h"
#include "replay.h"
#include "rows.h"
#include "sampling.h"
#include "tiled_bfloats.h"
#include "tiled_integers.h"

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define EXPORT(name) extern "C" __attribute__((visibility("default"))) void JOIN(name, SGCORE_LEVEL)

using namespace SGCORE_LEVEL;

namespace {

// A layer's own arguments.
struct Layer {
    const void *q;
    int64_t q_row;
    const void *keys, *values;
    void *out;
    double scale;
};

template <class T, class C> void attend_and_merge(const Layer &l, void *const *p, const int64_t *n, int64_t threads) {
    Attention<T, C> a{(const T *)l.q, l.q_row, (const C *)l.keys, (const C *)l.values, (const int32_t *)p[0], n[0], n[1],
                      (const Piece *)p[1], n[2], (const int64_t *)p[2], (const int64_t *)p[3], (T *)l.out,
                      (float *)p[4], (float *)p[5], (float *)p[6], n[3], n[4], n[5], n[6], float(l.scale), n[7]};
    attend(a, threads);
    if (n[8] > 0) merge(a, (const int64_t *)p[7], (const int64_t *)p[8], (const int64_t *)p[9], n[8], threads);
}

// Calls run(T{}, C{}) with the type of numbers that are computed with, and that of the pool.
template <class Run> void with_types(int is_bfloat16, int is_int8, const Run &run) {
    auto with = [&](auto t) { is_int8 ? run(t, int8_t{}) : run(t, t); };
    is_bfloat16 ? with(BFloat16{}) : with(float{});
}

}  // namespace

EXPORT(add_rms_norm)
(const void *x, int64_t x_row, const void *residual, int64_t residual_row, const void *weight, float eps, void *out,
 void *total, int64_t rows, int64_t size, int is_bfloat16, int64_t threads) {
    auto run = [&](auto t) {
        using T = decltype(t);
        add_rms_norm<T>({(const T *)x, x_row, (const T *)residual, residual_row, (const T *)weight, eps, (T *)out,
                         (T *)total, rows, size}, threads);
    };
    is_bfloat16 ? run(BFloat16{}) : run(float{});
}

EXPORT(silu_mul)(const void *x, void *out, int64_t rows, int64_t size, int is_bfloat16, int64_t threads) {
    is_bfloat16 ? silu_mul((const BFloat16 *)x, (BFloat16 *)out, rows, size, threads)
                : silu_mul((const float *)x, (float *)out, rows, size, threads);
}

EXPORT(rotary_write)
(void *qkv, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, const void *q_norm, const void *k_norm,
 float eps, const void *cos, const void *sin, void *keys, void *values, const int64_t *slots, int is_bfloat16,
 int is_int8, int64_t threads) {
    with_types(is_bfloat16, is_int8, [&](auto t, auto c) {
        using T = decltype(t);
        using C = decltype(c);
        int64_t row = (heads + 2 * kv_heads) * head_dim;
        rotary_write<T, C>({(T *)qkv, row, tokens, heads, kv_heads, head_dim, (const T *)q_norm, (const T *)k_norm, eps,
                            (const T *)cos, (const T *)sin, (C *)keys, (C *)values, slots}, threads);
    });
}

EXPORT(copy_rows)
(void *to, int64_t to_rows, const int64_t *to_places, void *from, int64_t from_rows, const int64_t *from_places,
 int64_t rows, int64_t bytes, int64_t) {
    in_parallel(1, [&](int, int) {
        copy_rows({(uint8_t *)to, to_rows, to_places}, {(uint8_t *)from, from_rows, from_places}, rows, bytes);
    });
}

EXPORT(greedy)(const void *logits, int64_t rows, int64_t size, int64_t *out, int is_bfloat16, int64_t threads) {
    is_bfloat16 ? greedy((const BFloat16 *)logits, rows, size, out, threads)
                : greedy((const float *)logits, rows, size, out, threads);
}

EXPORT(sample)
(const float *logits, int64_t rows, int64_t size, const int64_t *top_k, const double *top_p, const double *min_p,
 const int64_t *seeds, const int64_t *positions, uint64_t *keys, int64_t *out, int64_t threads) {
    sample({logits, rows, size, top_k, top_p, min_p, seeds, positions, keys, out}, threads);
}

// `pointers` and `sizes` are what layers of a kind share in a step, in the order of `Attention`, then those of `merge`.
EXPORT(attention)
(const void *q, int64_t q_row, const void *keys, const void *values, void *out, void *const *pointers,
 const int64_t *sizes, double scale, int is_bfloat16, int is_int8, int64_t threads) {
    Layer layer{q, q_row, keys, values, out, scale};
    with_types(is_bfloat16, is_int8, [&](auto t, auto c) {
        attend_and_merge<decltype(t), decltype(c)>(layer, pointers, sizes, threads);
    });
}

EXPORT(pack_panels)(const float *weight, int64_t out, int64_t in, float *packed, int64_t threads) {
    pack_panels(weight, out, in, packed, threads);
}

EXPORT(linear_panels)
(const float *x, int64_t x_row, int64_t tokens, int64_t in, const float *panels, const float *bias, float *out,
 int64_t rows, int64_t threads) {
    linear_panels({x, x_row, tokens, in, panels, bias, out, rows}, threads);
}

EXPORT(linear_bfloats)
(const void *x, int64_t x_row, int64_t tokens, int64_t in, const void *panels, const void *bias, void *out, int64_t rows,
 int64_t threads) {
    BFloatLinear product{(const BFloat16 *)x, x_row, tokens, in, (const uint8_t *)panels,
                         {(BFloat16 *)out, (const BFloat16 *)bias, rows}};
#if defined(SGCORE_TILES)
    if (in % TILE_FEATURES == 0) return linear_bfloats_tiles(product, threads);
#endif
    linear_bfloats(product, threads);
}

// `scratch` has what inputs.h makes of x, first the segments of tokens rounded up to `SEGMENT_TOKENS`, and a panel with its scales
// and zeros.
EXPORT(linear_int)
(const void *x, int64_t x_row, int64_t tokens, int64_t in, const void *packed, int64_t rows, int64_t bits,
 const void *scales, const void *zeros, int number_bytes, int64_t group, int64_t segment, const void *bias, void *out,
 void *scratch, float coarseness, int is_bfloat16, int64_t threads) {
    auto bytes = [](const void *at) { return static_cast<const uint8_t *>(at); };
    IntegerWeight w{bytes(packed), rows, in, bits, group, bytes(scales), bytes(zeros), number_bytes};
    Segment *segments = static_cast<Segment *>(scratch);
    int8_t *numbers = reinterpret_cast<int8_t *>(segments + (tokens + SEGMENT_TOKENS - 1) / SEGMENT_TOKENS * SEGMENT_TOKENS * (in / segment));
    Inputs inputs{numbers, numbers + tokens * in, segments, tokens, in, segment, coarseness};
    uint8_t *rest = reinterpret_cast<uint8_t *>(inputs.rests + tokens * in);
    auto run = [&](auto t) {
        using T = decltype(t);
        Result<T> to{(T *)out, (const T *)bias, rows};
#if defined(SGCORE_TILES)
        if (tokens >= INTEGERS_TILED_FROM) return linear_int_tiles((const T *)x, x_row, w, inputs, to, threads);
#endif
        linear_int((const T *)x, x_row, w, inputs, to, rest, threads);
    };
    is_bfloat16 ? run(BFloat16{}) : run(float{});
}

#define FROM_WORDS(name) EXPORT(name##_from_words)(const uint64_t *words) { FromWords<JOIN(name, SGCORE_LEVEL)>::run(words); }
FROM_WORDS(add_rms_norm)
FROM_WORDS(silu_mul)
FROM_WORDS(rotary_write)
FROM_WORDS(copy_rows)
FROM_WORDS(greedy)
FROM_WORDS(sample)
FROM_WORDS(attention)
FROM_WORDS(pack_panels)
FROM_WORDS(linear_panels)
FROM_WORDS(linear_bfloats)
FROM_WORDS(linear_int)
