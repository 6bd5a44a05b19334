// The processor's tiles (AMX): matrices of up to 16 rows of 64 bytes in registers, and products of them.
//
// a has a token in each row. b is as it lies in a panel: each row has 4 bytes, or 2 bfloat16, of 16 rows of the weight, so that
//   c[token][row] += sum over i of a[token][i] * b[i][row].
// Tests compile the plain C++ below, with SGCORE_EMULATED_TILES, for processors without tiles.
#pragma once

#include <cstdlib>
#include <type_traits>

#include "vector.h"

#if defined(SGCORE_EMULATED_TILES) || (defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__))
#define SGCORE_TILES

namespace SGCORE_LEVEL {

constexpr int TILE_ROWS = 16;
constexpr int TILE_BYTES = 64;  // Of a row.
constexpr int TILES = 8;

// As the processor reads it.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

#if defined(SGCORE_EMULATED_TILES)

struct Emulated {
    TileShapes shapes;
    uint8_t tiles[TILES][TILE_ROWS][TILE_BYTES];

    template <class T> T &number(int tile, int row, int i) { return reinterpret_cast<T *>(tiles[tile][row])[i]; }
};
inline thread_local Emulated emulated;

SGCORE_INLINE void load_shapes(const TileShapes &shapes) { emulated = {shapes, {}}; }
SGCORE_INLINE void release_tiles() { emulated = {}; }

template <int TILE> SGCORE_INLINE void tile_zero() { std::memset(emulated.tiles[TILE], 0, sizeof emulated.tiles[TILE]); }

template <int TILE> SGCORE_INLINE void tile_load(const void *from, int64_t row_bytes) {
    tile_zero<TILE>();
    for (int row = 0; row < emulated.shapes.rows[TILE]; ++row)
        std::memcpy(emulated.tiles[TILE][row], (const uint8_t *)from + row * row_bytes, emulated.shapes.bytes[TILE]);
}

template <int TILE> SGCORE_INLINE void tile_store(void *to, int64_t row_bytes) {
    for (int row = 0; row < emulated.shapes.rows[TILE]; ++row)
        std::memcpy((uint8_t *)to + row * row_bytes, emulated.tiles[TILE][row], emulated.shapes.bytes[TILE]);
}

// `Number` of 4 / EACH bytes, whose products are summed in a `Sum`.
template <class Number, int EACH, class Sum, int C, int A, int B> void emulate_dot() {
    for (int token = 0; token < emulated.shapes.rows[C]; ++token)
        for (int i = 0; i < emulated.shapes.rows[B] * EACH; ++i)
            for (int row = 0; row < emulated.shapes.bytes[C] / 4; ++row)
                emulated.number<Sum>(C, token, row) +=
                    Sum(widen(emulated.number<Number>(A, token, i))) *
                    Sum(widen(emulated.number<Number>(B, i / EACH, row * EACH + i % EACH)));
}
template <int C, int A, int B> void tile_dot_bytes() { emulate_dot<int8_t, 4, int32_t, C, A, B>(); }
template <int C, int A, int B> void tile_dot_bfloats() { emulate_dot<BFloat16, 2, float, C, A, B>(); }

#else

// The compiler's own functions take the number of a tile as a literal only, which a template's parameter is not.
SGCORE_INLINE void load_shapes(const TileShapes &shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes)); }
SGCORE_INLINE void release_tiles() { asm volatile("tilerelease"); }

template <int TILE> SGCORE_INLINE void tile_zero() { asm volatile("tilezero %%tmm%c0" ::"i"(TILE)); }

template <int TILE> SGCORE_INLINE void tile_load(const void *from, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(TILE) : "memory");
}

template <int TILE> SGCORE_INLINE void tile_store(void *to, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(TILE) : "memory");
}

template <int C, int A, int B> SGCORE_INLINE void tile_dot_bytes() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

template <int C, int A, int B> SGCORE_INLINE void tile_dot_bfloats() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#endif

// This thread's tiles, while it lives: sums of two tiles of tokens and two panels, token tile by token tile, in 0 to 3; the tokens
// in 4 and 5, the panels in 6 and 7.
class Tiles {
  public:
    ~Tiles() {
        if (shaped[0]) release_tiles();
    }

    // For so many tokens, with `depth` bytes of each; what was in the tiles is lost.
    void shape(int first, int second, int depth) {
        int wanted[] = {first, second, depth};
        if (std::memcmp(shaped, wanted, sizeof shaped) == 0) return;
        std::memcpy(shaped, wanted, sizeof shaped);
        TileShapes shapes;
        for (int tile = 0; tile < TILES; ++tile) {
            bool is_second = tile == 2 || tile == 3 || tile == 5;
            shapes.rows[tile] = uint8_t(tile >= 6 ? depth / 4 : is_second ? second : first);
            shapes.bytes[tile] = uint16_t(tile == 4 || tile == 5 ? depth : TILE_BYTES);
        }
        load_shapes(shapes);
    }

  private:
    int shaped[3] = {0, 0, 0};
};

// What is multiplied at once: tokens of one or two tiles, and one or two panels.
struct TileBlock {
    int64_t token, panel;
    int first, second;     // Tokens of each tile.
    bool has_pair;         // Of panels.
    int64_t index, count;  // Its place among the blocks that have these panels one after the other.
};

// A block's part of the weights that come next, which are read from memory meanwhile.
class Ahead {
  public:
    Ahead(const uint8_t *next, int64_t bytes, const TileBlock &block, int64_t steps)
        : at(next + bytes / block.count * block.index), step(bytes / block.count / steps) {}

    // `steps` times.
    SGCORE_INLINE void fetch() {
        for (int64_t i = 0; i < step; i += 64) __builtin_prefetch(at + i, 0, 2);
        at += step;
    }

  private:
    const uint8_t *at;
    int64_t step;
};

// The blocks of a product in the order in which threads take their shares: as many tokens as the second cache keeps, with all
// panels, then the next ones.
class TileGrid {
  public:
    TileGrid(int64_t tokens, int64_t token_bytes, int64_t panels, int64_t threads)
        : tokens(tokens), panels(panels), pairs((tokens + PAIR - 1) / PAIR) {
        int64_t kept = KEPT_BYTES / (PAIR * token_bytes);
        chunk = kept < 1 ? 1 : kept < pairs ? kept : pairs;
        if ((panels + 1) / 2 * pairs < 2 * threads) width = 1;
    }

    int64_t count() const { return (panels + width - 1) / width * pairs; }

    TileBlock at(int64_t i) const {
        int64_t columns = (panels + width - 1) / width, before = i / (chunk * columns) * chunk;
        int64_t here = pairs - before < chunk ? pairs - before : chunk, rest = i - before * columns;
        int64_t token = (before + rest % here) * PAIR, panel = rest / here * width, left = tokens - token;
        int first = int(left < TILE_ROWS ? left : TILE_ROWS), second = int(left < PAIR ? left - first : TILE_ROWS);
        return {token, panel, first, second, width == 2 && panel + 1 < panels, rest % here, here};
    }

  private:
    static constexpr int64_t PAIR = 2 * TILE_ROWS, KEPT_BYTES = 1 << 20;

    int64_t tokens, panels, pairs, chunk;
    int64_t width = 2;  // Panels; one where there would be too few blocks for the threads.
};

// Calls work(integral_constant tiles, integral_constant panels).
template <class Work> SGCORE_INLINE void with_sizes(const TileBlock &block, const Work &work) {
    std::integral_constant<int, 1> one;
    std::integral_constant<int, 2> two;
    if (block.second) block.has_pair ? work(two, two) : work(two, one);
    else block.has_pair ? work(one, two) : work(one, one);
}

struct DotBytes {
    template <int C, int A, int B> SGCORE_INLINE static void add() { tile_dot_bytes<C, A, B>(); }
};

struct DotBFloats {
    template <int C, int A, int B> SGCORE_INLINE static void add() { tile_dot_bfloats<C, A, B>(); }
};

// The sums of TOKENS tiles of tokens and PANELS panels.
template <class Dot, int TOKENS, int PANELS> struct TileSums {
    SGCORE_INLINE static void zero() {
        tile_zero<0>();
        if constexpr (PANELS == 2) tile_zero<1>();
        if constexpr (TOKENS == 2) tile_zero<2>();
        if constexpr (TOKENS == 2 && PANELS == 2) tile_zero<3>();
    }

    // Tokens lie `token_bytes` apart; `second` and `right` are not read where there is one.
    SGCORE_INLINE static void add(const void *first, int64_t token_bytes, const void *second, const void *left, const void *right) {
        tile_load<4>(first, token_bytes);
        tile_load<6>(left, VECTOR_BYTES);
        Dot::template add<0, 4, 6>();
        if constexpr (PANELS == 2) tile_load<7>(right, VECTOR_BYTES);
        if constexpr (PANELS == 2) Dot::template add<1, 4, 7>();
        if constexpr (TOKENS == 2) tile_load<5>(second, token_bytes);
        if constexpr (TOKENS == 2) Dot::template add<2, 5, 6>();
        if constexpr (TOKENS == 2 && PANELS == 2) Dot::template add<3, 5, 7>();
    }

    // Those that there are.
    template <class T> SGCORE_INLINE static void store(T (&to)[4][TILE_ROWS]) {
        tile_store<0>(to[0], VECTOR_BYTES);
        if constexpr (PANELS == 2) tile_store<1>(to[1], VECTOR_BYTES);
        if constexpr (TOKENS == 2) tile_store<2>(to[2], VECTOR_BYTES);
        if constexpr (TOKENS == 2 && PANELS == 2) tile_store<3>(to[3], VECTOR_BYTES);
    }
};

// Bytes, at the start of a cache line.
class Buffer {
  public:
    explicit Buffer(int64_t bytes) : at(static_cast<uint8_t *>(std::aligned_alloc(64, size_t(bytes + 63) / 64 * 64))) {}
    ~Buffer() { std::free(at); }
    Buffer(const Buffer &) = delete;

    uint8_t *const at;
};

}  // namespace SGCORE_LEVEL

#endif
