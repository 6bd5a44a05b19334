// The noise of a draw: sgcore/noise.py to the last bit.
#pragma once

#include "vector.h"

namespace SGCORE_LEVEL {

inline uint64_t row_key(int64_t seed, int64_t position) {
    uint64_t z = uint64_t(seed) * 0x9e3779b97f4a7c15 + (uint64_t(position) + 1) * 0xd1b54a32d192ed03;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

SGCORE_INLINE Words mixed(Words x) {
    x = (x ^ x >> 16) * 0x7feb352d;
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
}

// Rounded before anything is added to it: compilers make one operation of a product and a sum where the processor has one.
SGCORE_INLINE Floats product(Floats a, Floats b) {
    Floats made = a * b;
#if defined(__aarch64__)
    asm("" : "+w"(made));
#elif defined(__x86_64__)
    asm("" : "+v"(made));
#endif
    return made;
}

struct Parts {
    Floats fraction, exponent;
};

SGCORE_INLINE Parts split(Floats x) {
    const int32_t root = 0x3f3504f3;
    Ints bits = (Ints)x - root;
    return {(Floats)((bits & 0x7fffff) + root) - 1.0f, __builtin_convertvector(bits >> 23, Floats)};
}

SGCORE_INLINE Floats logarithm(Parts x) {
    const float factors[] = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                             -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
    Floats square = product(x.fraction, x.fraction), series = splat(7.0376836292e-2f);
    for (float factor : factors) series = product(series, x.fraction) + factor;
    Floats rest = product(product(x.fraction, square), series) + product(x.exponent, splat(-2.12194440e-4f)) - product(square, splat(0.5f));
    return x.fraction + rest + product(x.exponent, splat(0.693359375f));
}

SGCORE_INLINE Floats gumbel(uint64_t key, Words ids) {
    Ints bits = (Ints)(mixed(mixed(ids ^ uint32_t(key)) + uint32_t(key >> 32)) >> 1);
    const float unit = 4.656612873077393e-10f;  // 2^-31
    Floats below = product(__builtin_convertvector(bits, Floats) + 0.5f, splat(unit));
    Parts parts = split(product(__builtin_convertvector(0x7fffffff - bits, Floats) + 0.5f, splat(unit)));
    Ints is_small = below < splat(0.25f);
    parts = {select(is_small, -below, parts.fraction), select(is_small, Floats{}, parts.exponent)};
    return -logarithm(split(-logarithm(parts)));
}

}  // namespace SGCORE_LEVEL
