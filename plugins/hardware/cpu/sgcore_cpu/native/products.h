// Small matrix products whose sums stay in registers, and products with weights packed for them.
#pragma once

#include "runtime.h"
#include "vector.h"

namespace SGCORE_LEVEL {

constexpr int MOST_VECTORS = REGISTERS == 32 ? 4 : 2;
constexpr int MOST_SUMS = REGISTERS == 32 ? 24 : 12;
constexpr int MOST_ROWS = 8;        // There are no registers for the addresses of more.
constexpr int PANEL = 32;           // Rows of a weight that are packed together.
constexpr int64_t PANEL_STEP = 1024;  // Input features of a panel that stay in the second cache: 128 KiB.

// A sum of products: c (rows, columns) of a (rows, depth) and b (depth, columns), or added to c.
template <class B> struct Product {
    int64_t depth;
    const float *a;
    int64_t a_row;
    const B *b;
    int64_t b_row;
    float *c;
    int64_t c_row;
    bool adds;
};

template <int ROWS, int VECTORS, class B> void multiply_block(const Product<B> &p) {
    Floats sums[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sums[r][v] = p.adds ? load(p.c + r * p.c_row + v * WIDTH) : Floats{};
    const B *b = p.b;
    for (int64_t i = 0; i < p.depth; ++i, b += p.b_row) {
        Floats row[VECTORS];
        for (int v = 0; v < VECTORS; ++v) row[v] = load(b + v * WIDTH);
        for (int r = 0; r < ROWS; ++r) {
            Floats x = splat(p.a[r * p.a_row + i]);
            for (int v = 0; v < VECTORS; ++v) sums[r][v] += x * row[v];
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) store(p.c + r * p.c_row + v * WIDTH, sums[r][v]);
}

// The kernel for `rows` of at most ROWS.
template <int ROWS, int VECTORS, class B> SGCORE_INLINE void multiply_rows(int rows, const Product<B> &p) {
    if constexpr (ROWS > 1) {
        if (rows < ROWS) return multiply_rows<ROWS - 1, VECTORS>(rows, p);
    }
    multiply_block<ROWS, VECTORS>(p);
}

// Rows in blocks of nearly the same size.
template <int VECTORS, class B> void multiply_columns(int64_t rows, Product<B> p) {
    constexpr int most = MOST_SUMS / VECTORS > MOST_ROWS ? MOST_ROWS : MOST_SUMS / VECTORS;
    int64_t blocks = (rows + most - 1) / most;
    for (int64_t block = 0; block < blocks; ++block) {
        Share here = share(rows, block, blocks);
        Product<B> part = p;
        part.a += here.begin * p.a_row;
        part.c += here.begin * p.c_row;
        multiply_rows<most, VECTORS>(int(here.end - here.begin), part);
    }
}

// `columns` is a multiple of WIDTH.
template <class B> void multiply(int64_t rows, int64_t columns, Product<B> p) {
    for (int64_t left = columns / WIDTH; left > 0;) {
        int vectors = left >= MOST_VECTORS ? MOST_VECTORS : int(left);
        if (vectors == 4) multiply_columns<4>(rows, p);
        if (vectors == 3) multiply_columns<3>(rows, p);
        if (vectors == 2) multiply_columns<2>(rows, p);
        if (vectors == 1) multiply_columns<1>(rows, p);
        left -= vectors;
        p.b += vectors * WIDTH;
        p.c += vectors * WIDTH;
    }
}

// A weight (out, in) as panels (in, PANEL); `out` is a multiple of PANEL.
inline void pack_panels(const float *weight, int64_t out, int64_t in, float *packed, int64_t threads) {
    in_parallel(threads, [&](int thread, int team) {
        Share mine = share(out / PANEL, thread, team);
        for (int64_t panel = mine.begin; panel < mine.end; ++panel)
            for (int64_t i = 0; i < in; ++i)
                for (int64_t n = 0; n < PANEL; ++n)
                    packed[(panel * in + i) * PANEL + n] = weight[(panel * PANEL + n) * in + i];
    });
}

struct PackedLinear {
    const float *x;
    int64_t x_row, tokens, in;
    const float *panels, *bias;
    float *out;
    int64_t rows;
};

// out (tokens, rows) of x (tokens, in): a panel is read from memory once for all tokens.
inline void linear_panel(const PackedLinear &p, int64_t panel) {
    float *out = p.out + panel * PANEL;
    for (int64_t step = 0; step < p.in; step += PANEL_STEP) {
        int64_t depth = p.in - step < PANEL_STEP ? p.in - step : PANEL_STEP;
        const float *b = p.panels + (panel * p.in + step) * PANEL;
        multiply<float>(p.tokens, PANEL, {depth, p.x + step, p.x_row, b, PANEL, out, p.rows, step > 0});
    }
    if (p.bias == nullptr) return;
    for (int64_t token = 0; token < p.tokens; ++token)
        for (int64_t n = 0; n < PANEL; ++n) out[token * p.rows + n] += p.bias[panel * PANEL + n];
}

inline void linear_panels(const PackedLinear &p, int64_t threads) {
    in_panels(p.rows / PANEL, p.tokens, threads, [&](Share mine) {
        for (int64_t panel = mine.begin; panel < mine.end; ++panel) linear_panel(p, panel);
    });
}

}  // namespace SGCORE_LEVEL
