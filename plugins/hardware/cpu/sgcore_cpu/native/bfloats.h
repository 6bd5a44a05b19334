// Products in bfloat16, summed in float32.
//
// A weight (out, in) lies in panels of 16 rows; in a panel 64 bytes have two features of all its rows, so that a vector's lane
// holds features of one row, which meet the same two of a token.
#pragma once

#include "integers.h"

namespace SGCORE_LEVEL {

constexpr int CHAINS = 2;  // Sums of each result: one alone would wait for itself.

struct BFloatLinear {
    const BFloat16 *x;
    int64_t x_row, tokens, in;
    const uint8_t *panels;
    Result<BFloat16> to;
};

// Lane i of the result: a[i] and the products of its two numbers of w and of x.
SGCORE_INLINE Floats add_bfloats(Floats a, Words w, uint32_t x) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)a, (__m512bh)w, (__m512bh)(x - Words{}));
#else
    a += (Floats)(w << 16) * (Floats)((x << 16) - Words{});
    return a + (Floats)(w & 0xffff0000) * (Floats)((x & 0xffff0000) - Words{});
#endif
}

template <int TOKENS> void multiply_bfloats(const BFloatLinear &l, int64_t panel, int64_t token) {
    Floats sums[CHAINS][TOKENS][PARTS] = {};
    const BFloat16 *x = l.x + token * l.x_row;
    const uint8_t *at = l.panels + panel * l.in / 2 * UNIT;
    for (int64_t i = 0; i < l.in; i += 2 * CHAINS)
        for (int c = 0; c < CHAINS; ++c, at += UNIT) {
            Words weights[PARTS];
            for (int p = 0; p < PARTS; ++p) std::memcpy(&weights[p], at + p * VECTOR_BYTES, VECTOR_BYTES);
            for (int t = 0; t < TOKENS; ++t) {
                uint32_t pair;
                std::memcpy(&pair, x + t * l.x_row + i + 2 * c, 4);
                for (int p = 0; p < PARTS; ++p) sums[c][t][p] = add_bfloats(sums[c][t][p], weights[p], pair);
            }
        }
    for (int t = 0; t < TOKENS; ++t)
        for (int p = 0; p < PARTS; ++p) l.to.put(token + t, panel * ROWS + p * WIDTH, sums[0][t][p] + sums[1][t][p]);
}

template <int TOKENS> SGCORE_INLINE void multiply_some_bfloats(int64_t count, const BFloatLinear &l, int64_t panel, int64_t token) {
    if constexpr (TOKENS > 1) {
        if (count < TOKENS) return multiply_some_bfloats<TOKENS - 1>(count, l, panel, token);
    }
    multiply_bfloats<TOKENS>(l, panel, token);
}

inline void linear_bfloats(const BFloatLinear &l, int64_t threads) {
    int64_t blocks = (l.tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    in_panels(l.to.rows / ROWS, l.tokens, threads_for(l.to.rows * l.in / 4, threads), [&](Share mine) {
        for (int64_t panel = mine.begin; panel < mine.end; ++panel)
            for (int64_t block = 0; block < blocks; ++block) {
                Share tokens = share(l.tokens, block, blocks);
                multiply_some_bfloats<MOST_TOKENS>(tokens.end - tokens.begin, l, panel, tokens.begin);
            }
    });
}

}  // namespace SGCORE_LEVEL
