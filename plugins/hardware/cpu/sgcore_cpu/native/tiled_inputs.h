// Inputs of the products with integers, rounded as inputs.h does it, in the order in which tiles take them.
#pragma once

#include "inputs.h"
#include "tiles.h"

#if defined(SGCORE_TILES)

namespace SGCORE_LEVEL {

constexpr int INTEGERS_TILED_FROM = 32;  // Tokens: unpacking a panel takes as long as some of them.

// A segment of a tile's tokens: what `Segment` has of one.
struct TileSegment {
    float rates[TILE_ROWS], sums[TILE_ROWS], rest_rates[TILE_ROWS], rest_sums[TILE_ROWS];

    // A rate is no less than 0.
    bool has_rests() const {
        uint32_t found = 0;
        for (float rate : rest_rates) {
            uint32_t bits;
            std::memcpy(&bits, &rate, sizeof bits);
            found |= bits;
        }
        return found;
    }
};

// Rounded inputs of which a tile's tokens lie together, in each segment one after the other.
struct TiledInputs {
    int8_t *numbers, *rests;
    TileSegment *segments;
    int64_t tokens, in, segment;

    int64_t count() const { return in / segment; }
    TileSegment *segments_of(int64_t tile) const { return segments + tile * count(); }
    int64_t tokens_of(int64_t tile) const {
        int64_t left = tokens - tile * TILE_ROWS;
        return left < TILE_ROWS ? left : TILE_ROWS;
    }
};

// Where a token is rounded before it is put beside the others of its tile.
class TileRounder {
  public:
    TileRounder(const TiledInputs &to, float coarseness)
        : to(to), room(2 * to.in + to.count() * int64_t(sizeof(Segment))),
          made{(int8_t *)room.at, (int8_t *)room.at + to.in, (Segment *)(room.at + 2 * to.in), 1, to.in, to.segment, coarseness} {}

    template <class T> void run(const T *x, int64_t token) const {
        round_token(x, made, 0);
        int64_t tile = token / TILE_ROWS, t = token % TILE_ROWS, size = to.segment, all = size * to.tokens_of(tile);
        int8_t *numbers = to.numbers + tile * TILE_ROWS * to.in + t * size, *rests = to.rests + tile * TILE_ROWS * to.in + t * size;
        for (int64_t s = 0; s < to.count(); ++s) {
            std::memcpy(numbers + s * all, made.numbers + s * size, size);
            std::memcpy(rests + s * all, made.rests + s * size, size);
            put(made.segments[s], to.segments_of(tile)[s], t);
            if (token + 1 == to.tokens)
                for (int64_t none = t + 1; none < TILE_ROWS; ++none) put({}, to.segments_of(tile)[s], none);
        }
    }

  private:
    static void put(const Segment &given, TileSegment &to, int64_t t) {
        to.rates[t] = given.whole.rate;
        to.sums[t] = given.whole.sum;
        to.rest_rates[t] = given.rest.rate;
        to.rest_sums[t] = given.rest.sum;
    }

    const TiledInputs &to;
    Buffer room;
    Inputs made;
};

}  // namespace SGCORE_LEVEL

#endif
