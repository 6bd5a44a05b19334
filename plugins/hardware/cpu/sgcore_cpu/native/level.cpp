// The C interface of one level: every function's name ends with the level's. `is_bfloat16` says the type of T.
#include "attention.h"
#include "bfloats.h"
#include "products.h"
#include "rows.h"
#include "sampling.h"

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define EXPORT(name) extern "C" __attribute__((visibility("default"))) void JOIN(name, SGCORE_LEVEL)

using namespace SGCORE_LEVEL;

namespace {

template <class T> Attention<T> attention_of(void *const *p, const int64_t *n, double scale) {
    return {(const T *)p[0], n[0], (const T *)p[1], (const T *)p[2], (const int32_t *)p[3], n[1], n[2],
            (const Piece *)p[4], n[3], (const int64_t *)p[5], (const int64_t *)p[6], (T *)p[7],
            (float *)p[8], (float *)p[9], (float *)p[10], n[4], n[5], n[6], n[7], float(scale), n[8]};
}

template <class T> void attend_and_merge(void *const *p, const int64_t *n, double scale, int64_t threads) {
    Attention<T> a = attention_of<T>(p, n, scale);
    attend(a, threads);
    if (n[9] > 0) merge(a, (const int64_t *)p[11], (const int64_t *)p[12], (const int64_t *)p[13], n[9], threads);
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
 int64_t threads) {
    auto run = [&](auto t) {
        using T = decltype(t);
        int64_t row = (heads + 2 * kv_heads) * head_dim;
        rotary_write<T>({(T *)qkv, row, tokens, heads, kv_heads, head_dim, (const T *)q_norm, (const T *)k_norm, eps,
                         (const T *)cos, (const T *)sin, (T *)keys, (T *)values, slots}, threads);
    };
    is_bfloat16 ? run(BFloat16{}) : run(float{});
}

EXPORT(greedy)(const void *logits, int64_t rows, int64_t size, int64_t *out, int is_bfloat16, int64_t threads) {
    is_bfloat16 ? greedy((const BFloat16 *)logits, rows, size, out, threads)
                : greedy((const float *)logits, rows, size, out, threads);
}

EXPORT(sample)
(const float *logits, int64_t rows, int64_t size, const int64_t *top_k, const double *top_p, const double *min_p,
 const double *uniform, uint64_t *keys, int64_t *out, int64_t threads) {
    sample({logits, rows, size, top_k, top_p, min_p, uniform, keys, out}, threads);
}

// `pointers` and `sizes` are in the order of `Attention`, then those of `merge`.
EXPORT(attention)(void *const *pointers, const int64_t *sizes, double scale, int is_bfloat16, int64_t threads) {
    is_bfloat16 ? attend_and_merge<BFloat16>(pointers, sizes, scale, threads)
                : attend_and_merge<float>(pointers, sizes, scale, threads);
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
    linear_bfloats({(const BFloat16 *)x, x_row, tokens, in, (const uint8_t *)panels,
                    {(BFloat16 *)out, (const BFloat16 *)bias, rows}}, threads);
}

// `scratch` has what inputs.h makes of x, segments first, and a panel with its scales and zeros.
EXPORT(linear_int)
(const void *x, int64_t x_row, int64_t tokens, int64_t in, const void *packed, int64_t rows, int64_t bits,
 const void *scales, const void *zeros, int number_bytes, int64_t group, int64_t segment, const void *bias, void *out,
 void *scratch, float coarseness, int is_bfloat16, int64_t threads) {
    auto bytes = [](const void *at) { return static_cast<const uint8_t *>(at); };
    IntegerWeight w{bytes(packed), rows, in, bits, group, bytes(scales), bytes(zeros), number_bytes};
    Segment *segments = static_cast<Segment *>(scratch);
    int8_t *numbers = reinterpret_cast<int8_t *>(segments + tokens * (in / segment));
    Inputs inputs{numbers, numbers + tokens * in, segments, tokens, in, segment, coarseness};
    uint8_t *rest = reinterpret_cast<uint8_t *>(inputs.rests + tokens * in);
    auto run = [&](auto t) {
        using T = decltype(t);
        linear_int<T>((const T *)x, x_row, w, inputs, {(T *)out, (const T *)bias, rows}, rest, threads);
    };
    is_bfloat16 ? run(BFloat16{}) : run(float{});
}
