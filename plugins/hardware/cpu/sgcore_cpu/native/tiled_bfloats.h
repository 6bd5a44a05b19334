// Products in bfloat16 by tiles: 32 tokens and 32 rows at once, whose sums over all features stay in tiles. One token alone has them
// too, and takes no longer than without: tiles add in an order of their own.
#pragma once

#include "bfloats.h"
#include "tiles.h"

#if defined(SGCORE_TILES)

namespace SGCORE_LEVEL {

constexpr int64_t TILE_FEATURES = TILE_BYTES / 2;

// TOKENS tiles of tokens, and PANELS panels.
template <int TOKENS, int PANELS> struct BFloatBlock {
    const BFloatLinear &l;
    const TileBlock &block;

    void run() const {
        using Sums = TileSums<DotBFloats, TOKENS, PANELS>;
        Sums::zero();
        int64_t x_bytes = l.x_row * 2, panel_bytes = l.in / 2 * UNIT;
        const BFloat16 *x = l.x + block.token * l.x_row, *second = x + TILE_ROWS * l.x_row;
        const uint8_t *w = l.panels + block.panel * panel_bytes;
        Ahead ahead(w + PANELS * panel_bytes, PANELS * panel_bytes, block, l.in / TILE_FEATURES);
        for (int64_t i = 0; i < l.in; i += TILE_FEATURES, w += TILE_FEATURES / 2 * UNIT) {
            ahead.fetch();
            Sums::add(x + i, x_bytes, second + i, w, w + panel_bytes);
        }
        Floats sums[4][TILE_ROWS];
        Sums::store(sums);
        for (int p = 0; p < PANELS; ++p)
            for (int t = 0; t < block.first + block.second; ++t)
                l.to.put(block.token + t, (block.panel + p) * ROWS, sums[t / TILE_ROWS * 2 + p][t % TILE_ROWS]);
    }
};

// `l.in` is a multiple of TILE_FEATURES.
inline void linear_bfloats_tiles(const BFloatLinear &l, int64_t threads) {
    TileGrid grid(l.tokens, l.in * 2, l.to.rows / ROWS, threads);
    in_parallel(threads_for(l.to.rows * l.in, threads), [&](int thread, int team) {
        Share mine = share(grid.count(), thread, team);
        Tiles tiles;
        for (int64_t i = mine.begin; i < mine.end; ++i) {
            TileBlock block = grid.at(i);
            tiles.shape(block.first, block.second ? block.second : block.first, TILE_BYTES);
            with_sizes(block, [&](auto t, auto p) { BFloatBlock<t, p>{l, block}.run(); });
        }
    });
}

}  // namespace SGCORE_LEVEL

#endif
