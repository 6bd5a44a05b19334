// Products with weights of 4 or 8 bits for many tokens, by tiles: the sums of integers.h, for 16 tokens and 16 rows at once.
//
// A panel is unpacked once for all tokens of a thread, and a whole number near its zero subtracted, which makes signed bytes of
// the weights. Results are those of integers.h to the last bit, so that a token's don't depend on how many others there are: sums
// of integers are exact, and all that is rounded is rounded in the same order.
#pragma once

#include <utility>

#include "integers.h"
#include "tiled_inputs.h"

#if defined(SGCORE_TILES)

namespace SGCORE_LEVEL {

static_assert(PARTS == 1 && ROWS == TILE_ROWS);

typedef int8_t Bytes __attribute__((vector_size(VECTOR_BYTES)));

// A panel of signed bytes, and for each segment its scales, and what its zeros are more than the whole numbers that were
// subtracted: with 4 bits exactly that, since the numbers are near the zeros; with 8 bits the zeros themselves.
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
    bool has_fractions = false;  // Of zeros.

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
            Floats subtracted = __builtin_convertvector(whole, Floats);
            found |= zero != subtracted;
            if (BITS == 4) zero -= subtracted;
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
        has_fractions = sum(__builtin_convertvector(found, Floats)) != 0;
    }

    Buffer widened;
    int64_t segment;
};

constexpr int DEPTH = 4;  // Sums of segments that lie in the first cache until they are scaled: those of rests in the second half.

struct alignas(64) SegmentSums {
    Ints sums[DEPTH][4][TILE_ROWS];
    Floats totals[4][TILE_ROWS];
};

// TOKENS tiles of tokens, and PANELS panels.
template <int BITS, int TOKENS, int PANELS> struct IntegerBlock {
    const TiledInputs &x;
    const TileBlock &block;
    const UnpackedPanel *panels;

    void run(SegmentSums &to, Ahead ahead) const {
        for (Floats(&totals)[TILE_ROWS] : to.totals) std::memset(totals, 0, sizeof totals);
        for (int64_t s = 0; s < x.count(); s += DEPTH) {
            int count = int(x.count() - s < DEPTH ? x.count() - s : DEPTH);
            ahead.fetch();
            if (has_rest(s, count)) {
                for (int i = 0; i < count; i += DEPTH / 2) add<true>(s + i, count - i < DEPTH / 2 ? count - i : DEPTH / 2, to);
            } else {
                add<false>(s, count, to);
            }
        }
    }

  private:
    const TileSegment *segments(int t) const { return x.segments_of(block.token / TILE_ROWS + t); }

    bool has_rest(int64_t s, int count) const {
        bool has = false;
        for (int t = 0; t < TOKENS; ++t)
            for (int i = 0; i < count; ++i) has |= segments(t)[s + i].has_rests();
        return has;
    }

    template <bool HAS_REST> void add(int64_t s, int count, SegmentSums &to) const {
        multiply(x.numbers, s, count, to.sums);
        if (HAS_REST) multiply(x.rests, s, count, to.sums + DEPTH / 2);
        scale<HAS_REST>(s, count, to);
    }

    void multiply(const int8_t *numbers, int64_t s, int count, Ints (*sums)[4][TILE_ROWS]) const {
        using Sums = TileSums<DotBytes, TOKENS, PANELS>;
        int64_t segment = x.segment, bytes = segment * ROWS;
        const int8_t *first = numbers + block.token * x.in + s * segment * block.first;
        const int8_t *second = numbers + (block.token + TILE_ROWS) * x.in + s * segment * block.second;
        const uint8_t *left = panels[0].numbers.at + s * bytes, *right = panels[PANELS - 1].numbers.at + s * bytes;
        for (int i = 0; i < count; ++i, left += bytes, right += bytes) {
            Sums::zero();
            Sums::add(first + i * segment * block.first, segment, second + i * segment * block.second, left, right);
            Sums::store(sums[i]);
        }
    }

    template <bool HAS_REST> void scale(int64_t s, int count, SegmentSums &to) const {
        std::make_integer_sequence<int, TILE_ROWS> all;
        for (int t = 0; t < TOKENS; ++t)
            for (int p = 0; p < PANELS; ++p)
                panels[p].has_fractions ? scale<HAS_REST, true>(t, p, s, count, to, all) : scale<HAS_REST, false>(t, p, s, count, to, all);
    }

    // Totals have constant indices, so that they stay in registers.
    template <bool HAS_REST, bool HAS_FRACTIONS, int... T>
    void scale(int t, int p, int64_t s, int count, SegmentSums &to, std::integer_sequence<int, T...>) const {
        Floats(&made)[TILE_ROWS] = to.totals[2 * t + p];
        const TileSegment *given = segments(t) + s;
        Floats totals[] = {made[T]...};
        for (int i = 0; i < count; ++i) {
            Floats scale = ((const Floats *)panels[p].scales.at)[s + i];
            Floats zero = ((const Floats *)panels[p].zeros.at)[s + i];
            const Ints(&sums)[TILE_ROWS] = to.sums[i][2 * t + p], (&rests)[TILE_ROWS] = to.sums[DEPTH / 2 + i % (DEPTH / 2)][2 * t + p];
            auto centred = [&](Ints sum, float numbers) {
                Floats made = __builtin_convertvector(sum, Floats);
                if (BITS == 8 && HAS_FRACTIONS) made += 128.0f * numbers;
                return HAS_FRACTIONS ? made - zero * numbers : made;
            };
            ((totals[T] += centred(sums[T], given[i].sums[T]) * (scale * given[i].rates[T])), ...);
            if (HAS_REST) ((totals[T] += centred(rests[T], given[i].rest_sums[T]) * (scale * given[i].rest_rates[T])), ...);
        }
        ((made[T] = totals[T]), ...);
    }
};

template <int BITS, class T>
void multiply_tiles(const IntegerWeight &w, const TiledInputs &x, const Result<T> &to, int64_t threads) {
    TileGrid grid(x.tokens, x.in, (w.rows + ROWS - 1) / ROWS, threads);
    in_parallel(threads_for(w.rows * w.in, threads), [&](int thread, int team) {
        Share mine = share(grid.count(), thread, team);
        UnpackedPanel panels[] = {{w, x.segment}, {w, x.segment}};
        int64_t unpacked = -1;
        Tiles tiles;
        SegmentSums made;
        for (int64_t i = mine.begin; i < mine.end; ++i) {
            TileBlock block = grid.at(i);
            int count = 1 + block.has_pair;
            for (int p = 0; unpacked != block.panel && p < count; ++p) panels[p].template unpack<BITS>(w, block.panel + p);
            unpacked = block.panel;
            tiles.shape(block.first, block.second ? block.second : block.first, int(x.segment));
            Ahead ahead(w.packed + (block.panel + count) * w.panel_bytes(), count * w.panel_bytes(), block, x.count() / DEPTH + 1);
            with_sizes(block, [&](auto t, auto p) { IntegerBlock<BITS, t, p>{x, block, panels}.run(made, ahead); });
            for (int t = 0; t < block.first + block.second; ++t)
                for (int p = 0; p < count; ++p)
                    to.put(block.token + t, (block.panel + p) * ROWS, made.totals[t / TILE_ROWS * 2 + p][t % TILE_ROWS]);
        }
    });
}

template <class T>
void linear_int_tiles(const T *x, int64_t x_row, const IntegerWeight &w, const Inputs &inputs, const Result<T> &to,
                      int64_t threads) {
    static_assert(sizeof(TileSegment) == TILE_ROWS * sizeof(Segment));
    TiledInputs tiled{inputs.numbers, inputs.rests, (TileSegment *)inputs.segments, inputs.tokens, inputs.in, inputs.segment};
    in_parallel(threads_for(inputs.tokens * inputs.in, threads), [&](int thread, int team) {
        Share mine = share(inputs.tokens, thread, team);
        TileRounder rounder(tiled, inputs.coarseness);
        for (int64_t token = mine.begin; token < mine.end; ++token) rounder.run(x + token * x_row, token);
    });
    w.bits == 4 ? multiply_tiles<4>(w, tiled, to, threads) : multiply_tiles<8>(w, tiled, to, threads);
}

}  // namespace SGCORE_LEVEL

#endif
