// Vectors of the width that the compiler's flags allow. Everything lives in a namespace of its level, so that code for one
// level is never linked into another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define SGCORE_INLINE inline __attribute__((always_inline))

namespace SGCORE_LEVEL {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
constexpr int REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
constexpr int REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16;
constexpr int REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16;
constexpr int REGISTERS = 16;
#endif
constexpr int WIDTH = VECTOR_BYTES / 4;

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t Words __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef int8_t Narrow __attribute__((vector_size(VECTOR_BYTES / 4)));

constexpr float LARGEST = 127.0f;  // Of 8 bits.

struct BFloat16 {
    uint16_t bits;
};

SGCORE_INLINE Floats splat(float x) { return x - Floats{}; }

SGCORE_INLINE float widen(float x) { return x; }
SGCORE_INLINE float widen(BFloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

SGCORE_INLINE Floats load(const float *at) {
    Floats x;
    std::memcpy(&x, at, VECTOR_BYTES);
    return x;
}

SGCORE_INLINE Floats load(const BFloat16 *at) {
#if defined(__AVX512F__)
    Words wide = (Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__AVX2__)
    Words wide = (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
#elif defined(__aarch64__)
    Words wide = (Words)vmovl_u16(vld1_u16((const uint16_t *)at));
#else
    Halves x;
    std::memcpy(&x, at, VECTOR_BYTES / 2);
    Words wide = __builtin_convertvector(x, Words);
#endif
    return (Floats)(wide << 16);
}

// GCC widens bytes one by one where it isn't told the instruction.
SGCORE_INLINE Floats load(const int8_t *at) {
#if defined(__AVX512F__)
    Ints wide = (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at));
#elif defined(__AVX2__)
    Ints wide = (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at));
#elif defined(__aarch64__)
    int32_t four;
    std::memcpy(&four, at, sizeof four);
    Ints wide = (Ints)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)))));
#else
    Narrow x;
    std::memcpy(&x, at, sizeof x);
    Ints wide = __builtin_convertvector(x, Ints);
#endif
    return __builtin_convertvector(wide, Floats);
}

SGCORE_INLINE void store(float *at, Floats x) { std::memcpy(at, &x, VECTOR_BYTES); }

// To nearest, ties to even; every NaN becomes the usual one.
SGCORE_INLINE void store(BFloat16 *at, Floats x) {
    Words bits = (Words)x;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Words is_nan = (Words)(x != x);
    Halves result = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), Halves);
    std::memcpy(at, &result, VECTOR_BYTES / 2);
}

SGCORE_INLINE void store(int8_t *at, Ints x) {
#if defined(__aarch64__)
    int16x4_t halves = vmovn_s32((int32x4_t)x);
    int32_t narrow = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(halves, halves))), 0);
#else
    Narrow narrow = __builtin_convertvector(x, Narrow);
#endif
    std::memcpy(at, &narrow, sizeof narrow);
}

// Adding `rounder` leaves the nearest integer, of two the even one, in the lowest bits of a float.
SGCORE_INLINE Ints nearest(Floats x) {
    const float rounder = 12582912.0f;
    return (Ints)(x + rounder) - (Ints)splat(rounder);
}

SGCORE_INLINE void store(float *at, float x) { *at = x; }
SGCORE_INLINE void store(BFloat16 *at, float x) {
    BFloat16 row[WIDTH];
    store(row, splat(x));
    *at = row[0];
}

SGCORE_INLINE Floats select(Ints mask, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask));
}
SGCORE_INLINE Floats larger(Floats a, Floats b) { return select(a > b, a, b); }

// Lane i gets the lane order[i] of a, or of b from WIDTH on.
SGCORE_INLINE Floats shuffled(Floats a, Floats b, Ints order) {
#if defined(__clang__)
    Floats result;
    for (int i = 0; i < WIDTH; ++i) result[i] = order[i] < WIDTH ? a[order[i]] : b[order[i] - WIDTH];
    return result;
#else
    return __builtin_shuffle(a, b, order);
#endif
}

// Lane i gets what lane i ^ STEP has.
template <int STEP> SGCORE_INLINE Floats swapped(Floats x) {
    Ints order;
    for (int i = 0; i < WIDTH; ++i) order[i] = i ^ STEP;
    return shuffled(x, x, order);
}

template <int STEP = WIDTH / 2> SGCORE_INLINE float sum(Floats x) {
    x += swapped<STEP>(x);
    if constexpr (STEP > 1) return sum<STEP / 2>(x);
    return x[0];
}

template <int STEP = WIDTH / 2> SGCORE_INLINE float most(Floats x) {
    x = larger(x, swapped<STEP>(x));
    if constexpr (STEP > 1) return most<STEP / 2>(x);
    return x[0];
}

// Lanes i and i + STEP of pairs of vectors change places, for i without the bit STEP.
template <int STEP> SGCORE_INLINE void exchange(Floats &a, Floats &b) {
    Ints low, high;
    for (int i = 0; i < WIDTH; ++i) {
        low[i] = i & STEP ? WIDTH + i - STEP : i;
        high[i] = i & STEP ? WIDTH + i : i + STEP;
    }
    Floats first = shuffled(a, b, low), second = shuffled(a, b, high);
    a = first;
    b = second;
}

template <int STEP> SGCORE_INLINE void transpose_from(Floats *x) {
    for (int i = 0; i < WIDTH; ++i)
        if (!(i & STEP)) exchange<STEP>(x[i], x[i + STEP]);
    if constexpr (STEP * 2 < WIDTH) transpose_from<STEP * 2>(x);
}

// Within 2 units in the last place; 0 below -87, which -inf is too.
SGCORE_INLINE Floats exponential(Floats x) {
    const float log2e = 1.44269504088896341f, rounder = 12582912.0f;
    Ints is_small = x < splat(-87.0f);
    x = select(x > splat(88.0f), splat(88.0f), select(is_small, splat(-87.0f), x));
    Floats shifted = x * log2e + rounder;
    Floats whole = shifted - rounder;
    Floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats series = splat(1.9875691500e-4f);
    series = series * rest + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    Floats result = series * rest * rest + rest + 1.0f;
    Ints power = __builtin_convertvector(whole, Ints) << 23;
    return select(is_small, Floats{}, (Floats)((Ints)result + power));
}

SGCORE_INLINE float exponential(float x) { return exponential(splat(x))[0]; }

}  // namespace SGCORE_LEVEL
