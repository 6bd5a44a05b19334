// Sums of products of bytes: inputs with a sign, and weights without one, or less `BELOW`.
#pragma once

#include "vector.h"

namespace SGCORE_LEVEL {

typedef int16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));

// What `add_products` takes weights less of: NEON multiplies bytes that both have signs.
#if defined(__aarch64__)
template <int BITS> constexpr int BELOW = BITS == 8 ? 128 : 0;
#else
template <int BITS> constexpr int BELOW = 0;
#endif

// Lane i of the result: a[i] and the products of the numbers 2 i and 2 i + 1.
SGCORE_INLINE Ints add_pairs(Ints a, Shorts x, Shorts y) {
#if defined(__AVX512BW__)
    return a + (Ints)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
    return a + (Ints)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#elif defined(__SSE2__)
    return a + (Ints)__builtin_ia32_pmaddwd128(x, y);
#else
    Ints u = (Ints)x, v = (Ints)y;
    return a + (u << 16 >> 16) * (v << 16 >> 16) + (u >> 16) * (v >> 16);
#endif
}

// Lane i of the result: a[i] and the products of its four bytes of w, of BITS bits, and of x, which has no -128.
template <int BITS> SGCORE_INLINE Ints add_products(Ints a, Ints w, Ints x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)a, (__m512i)w, (__m512i)x);
#elif defined(__ARM_FEATURE_DOTPROD)
    return (Ints)vdotq_s32((int32x4_t)a, (int8x16_t)w, (int8x16_t)x);
#elif defined(__aarch64__)
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t high = vmull_high_s8((int8x16_t)w, (int8x16_t)x);
    return (Ints)vpadalq_s16((int32x4_t)a, vpaddq_s16(low, high));
#else
#if defined(__AVX512BW__)
    // Pairs of products fit 16 bits only where weights are small.
    if constexpr (BITS == 4) return add_pairs(a, (Shorts)_mm512_maddubs_epi16((__m512i)w, (__m512i)x), Shorts{} + 1);
#elif defined(__AVX2__)
    if constexpr (BITS == 4) return add_pairs(a, (Shorts)_mm256_maddubs_epi16((__m256i)w, (__m256i)x), Shorts{} + 1);
#endif
    a = add_pairs(a, (Shorts)(w & 0x00ff00ff), (Shorts)x << 8 >> 8);
    return add_pairs(a, (Shorts)(w >> 8 & 0x00ff00ff), (Shorts)x >> 8);
#endif
}

SGCORE_INLINE float half_precision(uint16_t bits) {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest < 0x400) return (sign ? -5.9604645e-8f : 5.9604645e-8f) * float(rest);
    uint32_t wide = sign | ((rest << 13) + (112u << 23));
    float result;
    std::memcpy(&result, &wide, 4);
    return result;
#endif
}

SGCORE_INLINE Floats load_halves(const uint16_t *at) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
#elif defined(__F16C__)
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
#elif defined(__aarch64__)
    return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)));
#else
    Floats x;
    for (int i = 0; i < WIDTH; ++i) x[i] = half_precision(at[i]);
    return x;
#endif
}

}  // namespace SGCORE_LEVEL
