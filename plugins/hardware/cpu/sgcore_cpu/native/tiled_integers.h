// Products with weights of 4 or 8 bits for many tokens, by tiles: the sums of integers.h, for 16 tokens and 16 rows at once.
//
// A panel is unpacked once for all tokens of a thread, and a whole number near its zero subtracted, which makes signed bytes of
// the weights. What is left of a zero is mostly nothing; else it is multiplied as in integers.h.
#pragma once

#include <utility>

#include "integers.h"
#include "tiles.h"

#if defined(SGCORE_TILES)

namespace SGCORE_LEVEL {

static_assert(PARTS == 1 && ROWS == TILE_ROWS);

typedef int8_t Bytes __attribute__((vector_size(VECTOR_BYTES)));

// A segment of a tile's tokens. `sums` are those of the numbers and, in their unit, of the rests.
struct TileSegment {
    float rates[TILE_ROWS], sums[TILE_ROWS];
    bool has_rest;
};

// Tokens from `first`.
inline void gather_segments(const Inputs &x, int64_t first, int64_t count, TileSegment *to) {
    int64_t segments = x.in / x.segment;
    for (int64_t s = 0; s < segments; ++s) {
        to[s] = {};
        for (int64_t t = 0; t < count; ++t) {
            const Segment &given = x.segments[(first + t) * segments + s];
            to[s].rates[t] = given.whole.rate;
            to[s].sums[t] = given.whole.sum + given.rest.sum / LEFT;
            to[s].has_rest |= given.rest.rate > 0;
        }
    }
}

inline Share tokens_of(int64_t tile, int64_t tokens) {
    int64_t begin = tile * TILE_ROWS, end = begin + TILE_ROWS;
    return {begin, end < tokens ? end : tokens};
}

template <class T>
void round_tiles(const T *x, int64_t x_row, const Inputs &to, int64_t tiles, TileSegment *segments, int64_t threads) {
    in_parallel(threads_for(to.tokens * to.in, threads), [&](int thread, int team) {
        Share mine = share(tiles, thread, team);
        for (int64_t tile = mine.begin; tile < mine.end; ++tile) {
            Share tokens = tokens_of(tile, to.tokens);
            for (int64_t token = tokens.begin; token < tokens.end; ++token) round_token(x + token * x_row, to, token);
            gather_segments(to, tokens.begin, tokens.end - tokens.begin, segments + tile * (to.in / to.segment));
        }
    });
}

// A panel of signed bytes, and for each segment its scales and what is left of its zeros.
class UnpackedPanel {
  public:
    UnpackedPanel(const IntegerWeight &w, int64_t segment)
        : numbers(w.in * ROWS), scales(w.in / segment * VECTOR_BYTES), zeros(w.in / segment * VECTOR_BYTES),
          widened(w.rows % ROWS ? w.panel_bytes() + 2 * w.scale_bytes() : 0), segment(segment) {}

    template <int BITS> void unpack(const IntegerWeight &w, int64_t panel) {
        bool is_whole = (panel + 1) * ROWS <= w.rows;
        is_whole ? unpack_whole<BITS>(w, panel) : unpack_whole<BITS>(widened_rest(w, widened.at), 0);
    }

    Buffer numbers, scales, zeros;
    bool has_zeros = false;

  private:
    template <int BITS> void unpack_whole(const IntegerWeight &w, int64_t panel) {
        const uint8_t *from = w.packed + panel * w.panel_bytes();
        uint8_t *to = numbers.at;
        Floats *scale_to = (Floats *)scales.at, *zero_to = (Floats *)zeros.at;
        Ints found{};
        for (int64_t group = 0; group < w.groups(); ++group) {
            Floats scale, zero;
            w.read(panel, group, 0, scale, zero);
            Ints whole = BITS == 8 ? Ints{} + 128 : nearest(larger(Floats{}, -larger(splat(-15.0f), -zero)));
            zero -= __builtin_convertvector(whole, Floats);
            found |= zero != Floats{};
            for (int64_t i = 0; i < w.group; i += segment) {
                *scale_to++ = scale;
                *zero_to++ = zero;
            }
            for (int64_t unit = 0; unit < w.group * BITS / 32; ++unit, from += UNIT) {
                __builtin_prefetch(from + AHEAD);
                Ints weights[8 / BITS];
                SGCORE_LEVEL::unpack<BITS>(from, weights);
                for (Ints four : weights) {
                    Bytes centred = (Bytes)four - (Bytes)(whole * 0x01010101);
                    std::memcpy(to, &centred, UNIT);
                    to += UNIT;
                }
            }
        }
        has_zeros = sum(__builtin_convertvector(found, Floats)) != 0;
    }

    Buffer widened;
    int64_t segment;
};

struct TileSums {
    Ints whole[TILE_ROWS], rest[TILE_ROWS];
};

// A tile of tokens, and a panel.
struct TiledBlock {
    const int8_t *numbers, *rests;
    int64_t in, segment;
    const TileSegment *tokens;
    const uint8_t *weights;
    const Floats *scales, *zeros;

    // Two segments at a time are on the way, the even and the odd ones in tiles of their own.
    template <int ODD> SGCORE_INLINE void start(int64_t s, TileSums &to) const {
        tile_load<6 + ODD>(weights + s * segment * ROWS, UNIT);
        multiply<ODD, ODD>(numbers + s * segment, to.whole);
        if (tokens[s].has_rest) multiply<2 + ODD, ODD>(rests + s * segment, to.rest);
    }

    template <int SUMS, int ODD> SGCORE_INLINE void multiply(const int8_t *from, Ints *to) const {
        tile_zero<SUMS>();
        tile_load<4 + ODD>(from, in);
        tile_dot_bytes<SUMS, 4 + ODD, 6 + ODD>();
        tile_store<SUMS>(to, VECTOR_BYTES);
    }

    template <bool HAS_ZEROS, int... T>
    SGCORE_INLINE void finish(int64_t s, const TileSums &sums, Floats *totals, std::integer_sequence<int, T...>) const {
        ((totals[T] += found<HAS_ZEROS>(s, sums.whole[T], T) * scales[s] * tokens[s].rates[T]), ...);
        if (!tokens[s].has_rest) return;
        Floats scale = scales[s] * (1 / LEFT);
        ((totals[T] += found<false>(s, sums.rest[T], T) * scale * tokens[s].rates[T]), ...);
    }

    template <bool HAS_ZEROS> SGCORE_INLINE Floats found(int64_t s, Ints sums, int t) const {
        Floats numbers = __builtin_convertvector(sums, Floats);
        return HAS_ZEROS ? numbers - zeros[s] * tokens[s].sums[t] : numbers;
    }
};

// The block comes as a copy, and totals have constant indices, so that they stay in registers.
template <bool HAS_ZEROS, int... T>
void multiply_tile(const TiledBlock block, TileSums (&sums)[2], Floats *to, std::integer_sequence<int, T...> all) {
    int64_t segments = block.in / block.segment;
    Floats totals[TILE_ROWS] = {};
    block.start<0>(0, sums[0]);
    for (int64_t s = 0; s < segments; s += 2) {
        if (s + 1 < segments) block.start<1>(s + 1, sums[1]);
        block.finish<HAS_ZEROS>(s, sums[0], totals, all);
        if (s + 2 < segments) block.start<0>(s + 2, sums[0]);
        if (s + 1 < segments) block.finish<HAS_ZEROS>(s + 1, sums[1], totals, all);
    }
    ((to[T] = totals[T]), ...);
}

// Panels and tiles are shared among the threads, the tiles of a panel one after the other.
template <int BITS, class T>
void multiply_tiles(const IntegerWeight &w, const Inputs &x, const TileSegment *segments, int64_t tiles, const Result<T> &to,
                    int64_t threads) {
    int64_t panels = (w.rows + ROWS - 1) / ROWS;
    in_parallel(threads_for(w.rows * w.in, threads), [&](int thread, int team) {
        Share mine = share(panels * tiles, thread, team);
        UnpackedPanel unpacked(w, x.segment);
        Tiles shaped;
        TileSums sums[2] = {};
        for (int64_t at = mine.begin; at < mine.end; ++at) {
            int64_t panel = at / tiles, tile = at % tiles;
            if (tile == 0 || at == mine.begin) unpacked.unpack<BITS>(w, panel);
            Share tokens = tokens_of(tile, x.tokens);
            int count = int(tokens.end - tokens.begin);
            shaped.shape(count, count, int(x.segment));
            TiledBlock block{x.numbers + tokens.begin * x.in, x.rests + tokens.begin * x.in, x.in, x.segment,
                             segments + tile * (x.in / x.segment), unpacked.numbers.at, (const Floats *)unpacked.scales.at,
                             (const Floats *)unpacked.zeros.at};
            std::make_integer_sequence<int, TILE_ROWS> all;
            Floats made[TILE_ROWS];
            unpacked.has_zeros ? multiply_tile<true>(block, sums, made, all) : multiply_tile<false>(block, sums, made, all);
            for (int t = 0; t < count; ++t) to.put(tokens.begin + t, panel * ROWS, made[t]);
        }
    });
}

template <class T>
void linear_int_tiles(const T *x, int64_t x_row, const IntegerWeight &w, const Inputs &inputs, const Result<T> &to,
                      int64_t threads) {
    int64_t tiles = (inputs.tokens + TILE_ROWS - 1) / TILE_ROWS;
    Buffer made(tiles * (inputs.in / inputs.segment) * int64_t(sizeof(TileSegment)));
    TileSegment *segments = reinterpret_cast<TileSegment *>(made.at);
    round_tiles(x, x_row, inputs, tiles, segments, threads);
    w.bits == 4 ? multiply_tiles<4>(w, inputs, segments, tiles, to, threads)
                : multiply_tiles<8>(w, inputs, segments, tiles, to, threads);
}

}  // namespace SGCORE_LEVEL

#endif
