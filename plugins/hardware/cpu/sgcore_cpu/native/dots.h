// Sums of products of bytes: weights without a sign, inputs with one.
#pragma once

#include "vector.h"

namespace SGCORE_LEVEL {

typedef int16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));

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

// Lane i of the result: a[i] and the products of its four bytes of w, of BITS bits, and of x.
template <int BITS> SGCORE_INLINE Ints add_products(Ints a, Ints w, Ints x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)a, (__m512i)w, (__m512i)x);
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
#else
    Floats x;
    for (int i = 0; i < WIDTH; ++i) x[i] = half_precision(at[i]);
    return x;
#endif
}

}  // namespace SGCORE_LEVEL
