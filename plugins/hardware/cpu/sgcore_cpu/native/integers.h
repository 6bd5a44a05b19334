// Products with weights of 4 or 8 bits in groups of input features that share a scale and a zero.
//
// A weight lies in panels of 16 rows. In a panel 64 bytes have a few features of all its rows, 4 bytes a row, so that a
// vector's lane holds features of one row, which meet the same features of a token (`add_products`):
//
//   8 bits: byte 4 r + i of the unit u has the feature 4 u + i of row r;
//   4 bits: byte 4 r + i of the unit u has the feature 8 u + i of row r in its low half, 8 u + 4 + i in its high half.
//
// Scales, and zeros, lie in the same panels: (groups, 16). Rows that fill no panel are the last one, which has n < 16 rows
// in place of 16; it is widened to a whole one before it is multiplied.
//
// A result is the sum, over segments (groups or parts of them) and over what inputs.h makes of an input, of
//   scale * rate * (weights * numbers - zero * sum of numbers)
// whose inner products are exact integers.
#pragma once

#include "dots.h"
#include "inputs.h"

namespace SGCORE_LEVEL {

constexpr int ROWS = 16;
constexpr int PARTS = ROWS / WIDTH;  // Vectors of a panel.
constexpr int64_t UNIT = 4 * ROWS;   // Bytes.
constexpr int64_t AHEAD = 4096;      // Bytes: with 4 bits the processor, which foresees what is read next, does so too late.
constexpr int MOST_TOKENS = REGISTERS / PARTS * 3 / 8;

struct IntegerWeight {
    const uint8_t *packed;
    int64_t rows, in, bits, group;
    const uint8_t *scales, *zeros;  // No zeros: the middle of the range.
    int number_bytes;               // Of scales and zeros: 2 (float16) or 4 (float32).

    int64_t units() const { return in * bits / 32; }
    int64_t groups() const { return in / group; }
    int64_t panel_bytes() const { return units() * UNIT; }
    int64_t scale_bytes() const { return groups() * ROWS * number_bytes; }

    SGCORE_INLINE void read(int64_t panel, int64_t group, int part, Floats &scale, Floats &zero) const {
        int64_t at = ((panel * groups() + group) * ROWS + part * WIDTH) * number_bytes;
        scale = load_numbers(scales + at);
        zero = zeros == nullptr ? splat(1 << (bits - 1)) : load_numbers(zeros + at);
    }

    SGCORE_INLINE Floats load_numbers(const uint8_t *at) const {
        return number_bytes == 2 ? load_halves((const uint16_t *)at) : load((const float *)at);
    }
};

// The results of a panel's rows for a token; `rows` that there are.
template <class T> struct Result {
    T *out;  // (tokens, rows)
    const T *bias;
    int64_t rows;

    SGCORE_INLINE void put(int64_t token, int64_t row, Floats values) const {
        T *to = out + token * rows + row;
        if (row + WIDTH <= rows) return store(to, bias == nullptr ? values : values + load(bias + row));
        for (int64_t i = 0; row + i < rows; ++i)
            store(to + i, bias == nullptr ? values[i] : values[i] + widen(bias[row + i]));
    }
};

// The features of a unit: vectors of bytes less `BELOW`, the first ones first.
template <int BITS> SGCORE_INLINE void unpack(const uint8_t *at, Ints *to) {
    Ints both;
    std::memcpy(&both, at, sizeof both);
    if constexpr (BELOW<BITS> == 128) both ^= int32_t(0x80808080);
    to[0] = BITS == 4 ? both & 0x0f0f0f0f : both;
    if constexpr (BITS == 4) to[1] = both >> 4 & 0x0f0f0f0f;
}

// Rows of a panel, and a segment of TOKENS inputs that lie `in` bytes, and `segments` elements, apart.
template <int BITS, int TOKENS> struct Block {
    const uint8_t *packed;
    int64_t in, segments, units;
    Floats scales[PARTS], zeros[PARTS], totals[TOKENS][PARTS];

    SGCORE_INLINE void add(const int8_t *numbers, const Segment *inputs, Rounded Segment::*rounded) {
        constexpr int FOURS = 8 / BITS;
        Ints sums[TOKENS][PARTS] = {};
        for (int64_t unit = 0; unit < units; ++unit) {
            const uint8_t *at = packed + unit * UNIT;
            if constexpr (BITS == 4) __builtin_prefetch(at + AHEAD);
            Ints weights[PARTS][FOURS];
            for (int p = 0; p < PARTS; ++p) unpack<BITS>(at + p * VECTOR_BYTES, weights[p]);
            for (int four = 0; four < FOURS; ++four, numbers += 4)
                for (int t = 0; t < TOKENS; ++t) {
                    int32_t input;
                    std::memcpy(&input, numbers + t * in, 4);
                    for (int p = 0; p < PARTS; ++p)
                        sums[t][p] = add_products<BITS>(sums[t][p], weights[p][four], input - Ints{});
                }
        }
        for (int t = 0; t < TOKENS; ++t)
            for (int p = 0; p < PARTS; ++p) {
                Rounded input = inputs[t * segments].*rounded;
                Floats centred = __builtin_convertvector(sums[t][p], Floats) - zeros[p] * input.sum;
                totals[t][p] += centred * (scales[p] * input.rate);
            }
    }

    SGCORE_INLINE bool has_rest(const Segment *inputs) const {
        bool has = false;
        for (int t = 0; t < TOKENS; ++t) has |= inputs[t * segments].rest.rate > 0;
        return has;
    }
};

// A panel and TOKENS from `token`; `row` is the panel's first in the result.
template <int BITS, int TOKENS, class T>
void multiply_panel(const IntegerWeight &w, int64_t panel, const Inputs &x, int64_t token, int64_t row, const Result<T> &to) {
    int64_t segments = x.in / x.segment;
    const int8_t *numbers = x.numbers + token * x.in, *rests = x.rests + token * x.in;
    const Segment *inputs = x.segments + token * segments;
    Block<BITS, TOKENS> block{w.packed + panel * w.panel_bytes(), x.in, segments, x.segment * BITS / 32, {}, {}, {}};
    for (int64_t at = 0; at < x.in; at += x.segment, ++inputs) {
        if (at % w.group == 0)
            for (int p = 0; p < PARTS; ++p) {
                w.read(panel, at / w.group, p, block.scales[p], block.zeros[p]);
                if constexpr (BELOW<BITS> != 0) block.zeros[p] -= float(BELOW<BITS>);
            }
        block.add(numbers + at, inputs, &Segment::whole);
        if (block.has_rest(inputs)) block.add(rests + at, inputs, &Segment::rest);
        block.packed += block.units * UNIT;
    }
    for (int t = 0; t < TOKENS; ++t)
        for (int p = 0; p < PARTS; ++p) to.put(token + t, row + p * WIDTH, block.totals[t][p]);
}

// `count` tokens, of at most TOKENS.
template <int BITS, int TOKENS, class T>
SGCORE_INLINE void multiply_some(int64_t count, const IntegerWeight &w, int64_t panel, const Inputs &x, int64_t token,
                                 int64_t row, const Result<T> &to) {
    if constexpr (TOKENS > 1) {
        if (count < TOKENS) return multiply_some<BITS, TOKENS - 1>(count, w, panel, x, token, row, to);
    }
    multiply_panel<BITS, TOKENS>(w, panel, x, token, row, to);
}

// All tokens in blocks of nearly the same size.
template <int BITS, class T>
void multiply_tokens(const IntegerWeight &w, int64_t panel, const Inputs &x, int64_t row, const Result<T> &to) {
    int64_t blocks = (x.tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    for (int64_t block = 0; block < blocks; ++block) {
        Share mine = share(x.tokens, block, blocks);
        multiply_some<BITS, MOST_TOKENS>(mine.end - mine.begin, w, panel, x, mine.begin, row, to);
    }
}

// The last rows as a panel of its own, in `scratch`.
inline IntegerWeight widened_rest(const IntegerWeight &w, uint8_t *scratch) {
    int64_t whole = w.rows / ROWS, rest = w.rows % ROWS;
    IntegerWeight made = w;
    auto widen_panel = [&](const uint8_t *from, int64_t count, int64_t bytes) {
        uint8_t *to = scratch;
        for (int64_t i = 0; i < count; ++i, scratch += ROWS * bytes)
            std::memcpy(scratch, from + i * rest * bytes, rest * bytes);
        return to;
    };
    made.packed = widen_panel(w.packed + whole * w.panel_bytes(), w.units(), 4);
    made.scales = widen_panel(w.scales + whole * w.scale_bytes(), w.groups(), w.number_bytes);
    if (w.zeros != nullptr) made.zeros = widen_panel(w.zeros + whole * w.scale_bytes(), w.groups(), w.number_bytes);
    return made;
}

template <int BITS, class T>
void multiply_all(const IntegerWeight &w, const Inputs &x, const Result<T> &to, uint8_t *scratch, int64_t threads) {
    int64_t whole = w.rows / ROWS, panels = (w.rows + ROWS - 1) / ROWS;
    in_panels(panels, x.tokens, threads_for(w.rows * w.in / 4, threads), [&](Share mine) {
        for (int64_t panel = mine.begin; panel < mine.end; ++panel)
            if (panel < whole) multiply_tokens<BITS>(w, panel, x, panel * ROWS, to);
            else multiply_tokens<BITS>(widened_rest(w, scratch), 0, x, panel * ROWS, to);
    });
}

template <class T>
void linear_int(const T *x, int64_t x_row, const IntegerWeight &w, const Inputs &inputs, const Result<T> &to, uint8_t *scratch,
                int64_t threads) {
    round_inputs(x, x_row, inputs, threads);
    w.bits == 4 ? multiply_all<4>(w, inputs, to, scratch, threads) : multiply_all<8>(w, inputs, to, scratch, threads);
}

}  // namespace SGCORE_LEVEL
