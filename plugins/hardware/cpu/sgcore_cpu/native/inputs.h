// Inputs of the products with integers: a token's features in segments that are rounded to 8 bits with a rate of their own,
// as llama.cpp's Q8_1 are. What rounding leaves is rounded to 8 bits itself, and multiplied as well: 16 bits in all. Weights
// that have an error of their own do without where a token's rate is not far above its others.
#pragma once

#include "rows.h"

namespace SGCORE_LEVEL {

constexpr int64_t SEGMENT_TOKENS = 16;  // Tiles have the segments of so many tokens together.
constexpr float LEFT = 254.0f;  // Times the largest number that rounding leaves, 0.5, is LARGEST.

// x = numbers * rate; `sum` is that of the numbers.
struct Rounded {
    float rate, sum;
};

// x = whole + rest, the rest with a rate of 0 where there is none.
struct Segment {
    Rounded whole, rest;
};

struct Inputs {
    int8_t *numbers, *rests;  // (tokens, in)
    Segment *segments;        // (tokens, in / segment)
    int64_t tokens, in, segment;
    float coarseness;  // Times the root of a token's mean squared rate: above, there is a rest.
};

template <class T> Segment round_segment(const T *x, int64_t size, float rate, bool is_far, int8_t *numbers, int8_t *rests) {
    float scale = rate > 0 ? 1.0f / rate : 0.0f;
    Ints total{}, left{};
    for (int64_t i = 0; i < size; i += WIDTH) {
        Floats scaled = load(x + i) * scale;
        Ints whole = nearest(scaled);
        Ints rest = is_far ? nearest((scaled - __builtin_convertvector(whole, Floats)) * LEFT) : Ints{};
        store(numbers + i, whole);
        store(rests + i, rest);
        total += whole;
        left += rest;
    }
    float sums[] = {sum(__builtin_convertvector(total, Floats)), sum(__builtin_convertvector(left, Floats))};
    return {{rate, sums[0]}, {is_far ? rate / LEFT : 0.0f, sums[1]}};
}

template <class T> void round_token(const T *x, const Inputs &to, int64_t token) {
    int64_t count = to.in / to.segment, first = token * to.in;
    Segment *segments = to.segments + token * count;
    float squares = 0;
    for (int64_t s = 0; s < count; ++s) {
        float rate = segments[s].whole.rate = rate_of(x + s * to.segment, to.segment);
        squares += rate * rate;
    }
    float most = to.coarseness * __builtin_sqrtf(squares / float(count));
    for (int64_t s = 0; s < count; ++s) {
        int64_t at = s * to.segment;
        float rate = segments[s].whole.rate;
        segments[s] = round_segment(x + at, to.segment, rate, rate > most, to.numbers + first + at, to.rests + first + at);
    }
}

template <class T> void round_inputs(const T *x, int64_t x_row, const Inputs &to, int64_t threads) {
    in_parallel(threads_for(to.tokens * to.in, threads), [&](int thread, int team) {
        Share mine = share(to.tokens, thread, team);
        for (int64_t token = mine.begin; token < mine.end; ++token) round_token(x + token * x_row, to, token);
    });
}

}  // namespace SGCORE_LEVEL
