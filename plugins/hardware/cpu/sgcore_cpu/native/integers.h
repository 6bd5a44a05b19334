// Products with weights of 4 or 8 bits in groups. Inputs become integers of 16 bits with a scale for each segment of
// features, which changes a result by less than float16 would; their products are summed exactly.
#pragma once

#include "products.h"
#include "rows.h"

namespace SGCORE_LEVEL {

constexpr int LANES = 2 * WIDTH;  // Numbers of 16 bits in a vector.
constexpr int BLOCK = 32;         // Features that lie together in a weight of 4 bits.
constexpr int PARTS = BLOCK / LANES;
constexpr float LARGEST = 32512.0f;
constexpr int64_t AHEAD = 4096;   // Bytes: a row of the weight is too short for the processor to foresee the next.
constexpr int64_t FEW_TOKENS = 4;  // Up to so many read the weight where it is; more share an unpacked panel of it.

typedef int16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));
typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef int16_t HalfShorts __attribute__((vector_size(VECTOR_BYTES / 2)));

// Lane i of the result: a[i] and the products of the numbers 2 i and 2 i + 1.
SGCORE_INLINE Ints add_products(Ints a, Shorts x, Shorts y) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)a, (__m512i)x, (__m512i)y);
#elif defined(__AVX512BW__)
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

SGCORE_INLINE Shorts shorts(const uint8_t *at) {
    Bytes x;
    std::memcpy(&x, at, sizeof x);
    return __builtin_convertvector(x, Shorts);
}

SGCORE_INLINE Shorts shorts(const int16_t *at) {
    Shorts x;
    std::memcpy(&x, at, sizeof x);
    return x;
}

// The BLOCK features whose first byte is at `at`.
template <int BITS> SGCORE_INLINE void unpack(const uint8_t *at, Shorts *to) {
    if constexpr (BITS == 8) {
        for (int i = 0; i < PARTS; ++i) to[i] = shorts(at + i * LANES);
        return;
    }
#if defined(__AVX512F__)
    __m256i both = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at));
    __m256i low = _mm256_and_si256(both, _mm256_set1_epi16(15)), high = _mm256_srli_epi16(both, 4);
    to[0] = (Shorts)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
    for (int i = 0; i < PARTS / 2; ++i) {
        Shorts both = shorts(at + i * LANES);
        to[i] = both & 15;
        to[i + PARTS / 2] = both >> 4;
    }
#endif
}

#if defined(__F16C__)
SGCORE_INLINE float half_precision(uint16_t bits) { return _cvtsh_ss(bits); }
#else
SGCORE_INLINE float half_precision(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest < 0x400) return (sign ? -5.9604645e-8f : 5.9604645e-8f) * float(rest);
    uint32_t wide = sign | ((rest << 13) + (112u << 23));
    float result;
    std::memcpy(&result, &wide, 4);
    return result;
}
#endif

enum ScaleType { FLOAT32, FLOAT16, BFLOAT16 };

struct Weight {
    const uint8_t *packed;
    int64_t row_bytes, in, rows;
    const void *scales;
    int64_t scale_row, scale_group;
    int scale_type;
    const void *zeros;  // Null: the middle of the range.
    int64_t zero_row, zero_group;
    int zeros_are_floats;  // float32, of any value; else uint8.
    int64_t group;

    const uint8_t *at(int64_t row) const { return packed + (row < rows ? row : rows - 1) * row_bytes; }
};

SGCORE_INLINE float to_float(float x) { return x; }
SGCORE_INLINE float to_float(uint16_t x) { return half_precision(x); }
SGCORE_INLINE float to_float(BFloat16 x) { return widen(x); }

constexpr int64_t GROUPS = 32;  // Whose scales and zeros are read together.

// Of GROUPS groups of ROWS rows; rows that there aren't are the last one.
template <int ROWS> struct GroupNumbers {
    float scales[GROUPS][ROWS];
    int16_t zeros[GROUPS][ROWS];    // Subtracted from the integers.
    float offsets[GROUPS][ROWS];    // Scale times zero, where zeros are no integers.

    template <class S> SGCORE_INLINE void read_scales(const Weight &w, const S *from, int64_t row, int64_t first, int64_t count) {
        for (int r = 0; r < ROWS; ++r) {
            const S *at = from + (row + r < w.rows ? row + r : w.rows - 1) * w.scale_row + first * w.scale_group;
            for (int64_t g = 0; g < count; ++g) scales[g][r] = to_float(at[g * w.scale_group]);
        }
    }

    template <int BITS> void read(const Weight &w, int64_t row, int64_t first, int64_t count) {
        if (w.scale_type == FLOAT32) read_scales(w, static_cast<const float *>(w.scales), row, first, count);
        if (w.scale_type == FLOAT16) read_scales(w, static_cast<const uint16_t *>(w.scales), row, first, count);
        if (w.scale_type == BFLOAT16) read_scales(w, static_cast<const BFloat16 *>(w.scales), row, first, count);
        for (int r = 0; r < ROWS; ++r) {
            int64_t at = (row + r < w.rows ? row + r : w.rows - 1) * w.zero_row + first * w.zero_group;
            for (int64_t g = 0; g < count; ++g, at += w.zero_group) {
                zeros[g][r] = w.zeros == nullptr ? 1 << (BITS - 1) : 0;
                if (w.zeros_are_floats)
                    offsets[g][r] = scales[g][r] * static_cast<const float *>(w.zeros)[at];
                else if (w.zeros != nullptr)
                    zeros[g][r] = static_cast<const uint8_t *>(w.zeros)[at];
            }
        }
    }
};

// Calls body(group, its place among those that were read) for all groups of some rows.
template <int BITS, int ROWS, class Body>
SGCORE_INLINE void for_groups(const Weight &w, int64_t row, GroupNumbers<ROWS> &read, const Body &body) {
    int64_t groups = w.in / w.group;
    for (int64_t first = 0; first < groups; first += GROUPS) {
        int64_t count = groups - first < GROUPS ? groups - first : GROUPS;
        read.template read<BITS>(w, row, first, count);
        for (int64_t g = 0; g < count; ++g) body(first + g, g);
    }
}

// Inputs as integers: x = numbers * rates, with a rate for each segment of each token.
struct Numbers {
    int16_t *numbers;  // (tokens, in)
    float *rates;      // (segments, tokens)
    float *sums;       // (segments, tokens): of x.
    int64_t tokens, in, segment;
};

SGCORE_INLINE void to_shorts(const float *x, float scale, int16_t *to) {
    const float rounder = 12582912.0f;
    Floats shifted = load(x) * scale + rounder;
    Ints whole = (Ints)shifted - (Ints)splat(rounder);
    HalfShorts result = __builtin_convertvector(whole, HalfShorts);
    std::memcpy(to, &result, sizeof result);
}

template <class T> void quantize_segment(const T *x, int64_t size, float *rate, float *total, int16_t *numbers) {
    Floats peak{}, all{};
    for (int64_t i = 0; i < size; i += WIDTH) {
        Floats a = load(x + i);
        peak = larger(peak, larger(a, -a));
        all += a;
    }
    *total = sum(all);
    float largest = most(peak);
    *rate = largest / LARGEST;
    float scale = largest > 0 ? LARGEST / largest : 0.0f;
    for (int64_t i = 0; i < size; i += WIDTH) {
        float wide[WIDTH];
        store(wide, load(x + i));
        to_shorts(wide, scale, numbers + i);
    }
}

template <class T> void quantize(const T *x, int64_t x_row, const Numbers &n, int64_t threads) {
    int64_t segments = n.in / n.segment;
    in_parallel(threads_for(n.tokens * n.in, threads), [&](int thread, int team) {
        Share mine = share(n.tokens, thread, team);
        for (int64_t token = mine.begin; token < mine.end; ++token)
            for (int64_t s = 0; s < segments; ++s) {
                int64_t at = s * n.segment;
                quantize_segment(x + token * x_row + at, n.segment, n.rates + s * n.tokens + token,
                                 n.sums + s * n.tokens + token, n.numbers + token * n.in + at);
            }
    });
}

template <class T> struct Result {
    T *out;  // (tokens, rows)
    const T *bias;
    int64_t rows;

    SGCORE_INLINE void put(int64_t token, int64_t row, float value) const {
        store(out + token * rows + row, bias == nullptr ? value : value + widen(bias[row]));
    }
};

// Some rows of the weight and a few tokens; every weight is read once, in the order of memory.
template <int BITS, int ROWS, int TOKENS, class T>
void multiply_few(const Weight &w, const Numbers &x, int64_t row, const Result<T> &result) {
    constexpr int64_t BYTES = BLOCK * BITS / 8;
    Floats totals[ROWS][TOKENS] = {};
    float offsets[ROWS][TOKENS] = {};
    int64_t segments = w.group / x.segment, blocks = x.segment / BLOCK;
    const uint8_t *packed[ROWS];
    for (int r = 0; r < ROWS; ++r) packed[r] = w.at(row + r);
    const int16_t *numbers = x.numbers;
    const float *rates = x.rates, *x_sums = x.sums;
    GroupNumbers<ROWS> read;
    for_groups<BITS>(w, row, read, [&](int64_t, int64_t place) {
        Shorts zeros[ROWS];
        for (int r = 0; r < ROWS; ++r) zeros[r] = read.zeros[place][r] - Shorts{};
        for (int64_t s = 0; s < segments; ++s, rates += x.tokens, x_sums += x.tokens) {
            Ints sums[ROWS][TOKENS] = {};
            for (int64_t block = 0; block < blocks; ++block, numbers += BLOCK) {
                Shorts inputs[TOKENS][PARTS];
                for (int t = 0; t < TOKENS; ++t)
                    for (int i = 0; i < PARTS; ++i) inputs[t][i] = shorts(numbers + t * x.in + i * LANES);
                for (int r = 0; r < ROWS; ++r, packed[r - 1] += BYTES) {
                    __builtin_prefetch(packed[r] + AHEAD);
                    Shorts weights[PARTS];
                    unpack<BITS>(packed[r], weights);
                    for (int i = 0; i < PARTS; ++i)
                        for (int t = 0; t < TOKENS; ++t)
                            sums[r][t] = add_products(sums[r][t], weights[i] - zeros[r], inputs[t][i]);
                }
            }
            for (int r = 0; r < ROWS; ++r)
                for (int t = 0; t < TOKENS; ++t)
                    totals[r][t] += __builtin_convertvector(sums[r][t], Floats) * (read.scales[place][r] * rates[t]);
            if (w.zeros_are_floats)
                for (int r = 0; r < ROWS; ++r)
                    for (int t = 0; t < TOKENS; ++t) offsets[r][t] += read.offsets[place][r] * x_sums[t];
        }
    });
    for (int r = 0; r < ROWS; ++r)
        for (int t = 0; t < TOKENS; ++t) result.put(t, row + r, sum(totals[r][t]) - offsets[r][t]);
}

template <int BITS, int TOKENS, class T>
void few_tokens(const Weight &w, const Numbers &x, const Result<T> &result, int64_t threads) {
    if constexpr (TOKENS > 1) {
        if (x.tokens < TOKENS) return few_tokens<BITS, TOKENS - 1>(w, x, result, threads);
    }
    constexpr int ROWS = TOKENS == 1 ? 4 : 2;
    in_parallel(threads_for(w.rows * w.in / 4, threads), [&](int thread, int team) {
        Share mine = share(w.rows / ROWS, thread, team);
        for (int64_t row = mine.begin; row < mine.end; ++row)
            multiply_few<BITS, ROWS, TOKENS>(w, x, row * ROWS, result);
        if (thread == team - 1)
            for (int64_t row = w.rows / ROWS * ROWS; row < w.rows; ++row)
                multiply_few<BITS, 1, TOKENS>(w, x, row, result);
    });
}

// WIDTH rows of a weight, unpacked: pairs of features (in / 2, WIDTH, 2), scales and offsets (segments, WIDTH).
struct UnpackedRows {
    int16_t *pairs;
    float *scales, *offsets;
    bool has_offsets;
};

template <int BITS> void unpack_rows(const Weight &w, int64_t row, int64_t segment, UnpackedRows to) {
    const uint8_t *packed[WIDTH];
    for (int r = 0; r < WIDTH; ++r) packed[r] = w.at(row + r);
    GroupNumbers<WIDTH> read;
    int64_t at = 0;
    for_groups<BITS>(w, row, read, [&](int64_t, int64_t place) {
        for (int64_t s = 0; s < w.group / segment; ++s, to.scales += WIDTH, to.offsets += WIDTH) {
            store(to.scales, load(read.scales[place]));
            if (w.zeros_are_floats) store(to.offsets, load(read.offsets[place]));
        }
        for (int64_t i = 0; i < w.group; i += BLOCK, at += BLOCK * BITS / 8, to.pairs += BLOCK * WIDTH) {
            Shorts block[PARTS][WIDTH];
            for (int r = 0; r < WIDTH; ++r) {
                Shorts parts[PARTS];
                unpack<BITS>(packed[r] + at, parts);
                for (int part = 0; part < PARTS; ++part) block[part][r] = parts[part] - read.zeros[place][r];
            }
            for (int part = 0; part < PARTS; ++part) transpose_from<1>((Floats *)block[part]);
            std::memcpy(to.pairs, block, sizeof block);
        }
    });
}

// A block of tokens and VECTORS times WIDTH rows.
template <int TOKENS, int VECTORS, class T>
void multiply_unpacked(const UnpackedRows *w, const Numbers &x, int64_t token, int64_t row, const Result<T> &result) {
    Floats totals[TOKENS][VECTORS] = {};
    const int16_t *numbers = x.numbers + token * x.in;
    for (int64_t s = 0; s < x.in / x.segment; ++s) {
        Ints sums[TOKENS][VECTORS] = {};
        for (int64_t at = s * x.segment; at < (s + 1) * x.segment; at += 2) {
            Shorts weights[VECTORS];
            for (int v = 0; v < VECTORS; ++v) weights[v] = shorts(w[v].pairs + at * WIDTH);
            for (int t = 0; t < TOKENS; ++t) {
                int32_t pair;
                std::memcpy(&pair, numbers + t * x.in + at, 4);
                Shorts input = (Shorts)(pair - Ints{});
                for (int v = 0; v < VECTORS; ++v) sums[t][v] = add_products(sums[t][v], weights[v], input);
            }
        }
        for (int v = 0; v < VECTORS; ++v) {
            Floats scales = load(w[v].scales + s * WIDTH);
            for (int t = 0; t < TOKENS; ++t)
                totals[t][v] += __builtin_convertvector(sums[t][v], Floats) * (scales * x.rates[s * x.tokens + token + t]);
            if (!w[v].has_offsets) continue;
            Floats offsets = load(w[v].offsets + s * WIDTH);
            for (int t = 0; t < TOKENS; ++t) totals[t][v] -= offsets * x.sums[s * x.tokens + token + t];
        }
    }
    for (int t = 0; t < TOKENS; ++t)
        for (int v = 0; v < VECTORS; ++v)
            for (int i = 0; i < WIDTH && row + v * WIDTH + i < result.rows; ++i)
                result.put(token + t, row + v * WIDTH + i, totals[t][v][i]);
}

template <int TOKENS, int VECTORS, class T>
void some_tokens(int count, const UnpackedRows *w, const Numbers &x, int64_t token, int64_t row, const Result<T> &result) {
    if constexpr (TOKENS > 1) {
        if (count < TOKENS) return some_tokens<TOKENS - 1, VECTORS>(count, w, x, token, row, result);
    }
    multiply_unpacked<TOKENS, VECTORS>(w, x, token, row, result);
}

template <int BITS, class T>
void many_tokens(const Weight &w, const Numbers &x, const Result<T> &result, char *scratch, int64_t threads) {
    constexpr int VECTORS = 2, MOST = REGISTERS == 32 ? 6 : 3;
    int64_t panels = (w.rows + VECTORS * WIDTH - 1) / (VECTORS * WIDTH), blocks = (x.tokens + MOST - 1) / MOST;
    int64_t pair_bytes = w.in * WIDTH * 2, scale_bytes = w.in / x.segment * WIDTH * 4;
    in_parallel(threads, [&](int thread, int team) {
        UnpackedRows unpacked[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            char *at = scratch + (thread * VECTORS + v) * (pair_bytes + 2 * scale_bytes);
            float *scales = reinterpret_cast<float *>(at + pair_bytes);
            unpacked[v] = {reinterpret_cast<int16_t *>(at), scales, scales + scale_bytes / 4, w.zeros_are_floats != 0};
        }
        Share mine = share(panels, thread, team);
        for (int64_t panel = mine.begin; panel < mine.end; ++panel) {
            int64_t row = panel * VECTORS * WIDTH;
            for (int v = 0; v < VECTORS; ++v) {
                int64_t first = row + v * WIDTH;
                unpack_rows<BITS>(w, first < w.rows ? first : row, x.segment, unpacked[v]);
            }
            for (int64_t block = 0; block < blocks; ++block) {
                Share tokens = share(x.tokens, int(block), int(blocks));
                int count = int(tokens.end - tokens.begin);
                some_tokens<MOST, VECTORS>(count, unpacked, x, tokens.begin, row, result);
            }
        }
    });
}

template <int BITS, class T>
void linear_int(const T *x, int64_t x_row, const Weight &w, const Numbers &numbers, const Result<T> &result,
                char *scratch, int64_t threads) {
    quantize(x, x_row, numbers, threads);
    if (numbers.tokens <= FEW_TOKENS)
        few_tokens<BITS, FEW_TOKENS>(w, numbers, result, threads);
    else
        many_tokens<BITS>(w, numbers, result, scratch, threads);
}

}  // namespace SGCORE_LEVEL
