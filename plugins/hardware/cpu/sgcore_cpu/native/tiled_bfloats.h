// Products in bfloat16 for many tokens, by tiles: 32 tokens and 32 rows at once, whose sums over all features stay in tiles.
#pragma once

#include "bfloats.h"
#include "tiles.h"

#if defined(SGCORE_TILES)

namespace SGCORE_LEVEL {

constexpr int64_t TILE_FEATURES = TILE_BYTES / 2;

// TOKENS tiles of tokens from `token` on, and PANELS panels.
template <int TOKENS, int PANELS> struct BFloatBlock {
    const BFloatLinear &l;
    int64_t token, panel;

    void run(const int (&counts)[2]) const {
        zero();
        int64_t x_bytes = l.x_row * 2, panel_bytes = l.in / 2 * UNIT;
        const BFloat16 *x = l.x + token * l.x_row, *second = x + TILE_ROWS * l.x_row;
        const uint8_t *w = l.panels + panel * panel_bytes;
        for (int64_t i = 0; i < l.in; i += TILE_FEATURES, w += TILE_FEATURES / 2 * UNIT) {
            tile_load<4>(x + i, x_bytes);
            tile_load<6>(w, UNIT);
            tile_dot_bfloats<0, 4, 6>();
            if constexpr (PANELS == 2) tile_load<7>(w + panel_bytes, UNIT);
            if constexpr (PANELS == 2) tile_dot_bfloats<1, 4, 7>();
            if constexpr (TOKENS == 2) tile_load<5>(second + i, x_bytes);
            if constexpr (TOKENS == 2) tile_dot_bfloats<2, 5, 6>();
            if constexpr (TOKENS == 2 && PANELS == 2) tile_dot_bfloats<3, 5, 7>();
        }
        put<0>(counts[0]);
        if constexpr (PANELS == 2) put<1>(counts[0]);
        if constexpr (TOKENS == 2) put<2>(counts[1]);
        if constexpr (TOKENS == 2 && PANELS == 2) put<3>(counts[1]);
    }

  private:
    static void zero() {
        tile_zero<0>();
        tile_zero<1>();
        tile_zero<2>();
        tile_zero<3>();
    }

    template <int TILE> void put(int count) const {
        Floats sums[TILE_ROWS];
        tile_store<TILE>(sums, VECTOR_BYTES);
        for (int t = 0; t < count; ++t) l.to.put(token + TILE / 2 * TILE_ROWS + t, (panel + TILE % 2) * ROWS, sums[t]);
    }
};

inline void multiply_bfloat_tiles(const BFloatLinear &l, int64_t token, int64_t panel, Tiles &tiles) {
    int64_t left = l.tokens - token;
    bool has_two = left > TILE_ROWS, has_next = (panel + 1) * ROWS < l.to.rows;
    int first = int(has_two ? TILE_ROWS : left), second = int(left < 2 * TILE_ROWS ? left - first : TILE_ROWS);
    int counts[] = {first, second};
    tiles.shape(first, has_two ? second : first, TILE_BYTES);
    if (has_two) has_next ? BFloatBlock<2, 2>{l, token, panel}.run(counts) : BFloatBlock<2, 1>{l, token, panel}.run(counts);
    else has_next ? BFloatBlock<1, 2>{l, token, panel}.run(counts) : BFloatBlock<1, 1>{l, token, panel}.run(counts);
}

// `l.in` is a multiple of TILE_FEATURES.
inline void linear_bfloats_tiles(const BFloatLinear &l, int64_t threads) {
    int64_t panels = (l.to.rows / ROWS + 1) / 2, tokens = (l.tokens + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS);
    in_parallel(threads_for(l.to.rows * l.in, threads), [&](int thread, int team) {
        Share mine = share(panels * tokens, thread, team);
        Tiles tiles;
        for (int64_t at = mine.begin; at < mine.end; ++at)
            multiply_bfloat_tiles(l, at % tokens * 2 * TILE_ROWS, at / tokens * 2, tiles);
    });
}

}  // namespace SGCORE_LEVEL

#endif
