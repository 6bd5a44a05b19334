// Attention over pages: a few queries against a run of keys, with the softmax kept up to date (arXiv 2205.14135).
//
// A query's result does not depend on the queries beside it, nor on who computes which of its keys: keys are taken in steps and
// splits that begin at multiples of KEYS and SPLIT, sums over a head's dimension and over keys have one order, and the results of
// splits are folded in the order of keys.
#pragma once

#include "cache.h"
#include "products.h"

namespace SGCORE_LEVEL {

constexpr int64_t MOST_QUERIES = 64;  // Queries of a piece times the query heads of a kv head.
constexpr int64_t FEW_QUERIES = 4;    // Up to so many read keys where they are; more share a transposed copy of them.
constexpr int64_t KEYS = 64;          // Keys of one step.
constexpr int64_t SPLIT = 256;        // Keys of one softmax.
constexpr int64_t PIECES_A_THREAD = 4;  // With so many each is a unit, whose kv heads lie near each other; else a kv head is.

// Queries [first, first + count) see keys of the row `table_row`, of which this piece has [begin, end), in splits.
struct Piece {
    int64_t table_row, first, count, begin, end;
    int64_t slot;  // Of the first query's result of the first split, before those of the others; -1: it is the whole result.
};

template <class T, class C> struct Attention {
    const T *q;
    int64_t q_row;
    const C *keys, *values;
    const int32_t *pages;
    int64_t pages_row, page_tokens;
    const Piece *pieces;
    int64_t piece_count;
    const int64_t *tokens, *limits;  // Of each query: its place in q, and the keys of its row that it may see.
    T *out;
    float *partial, *weights;  // (slots, heads, head_dim) and (slots, heads): results, and the log-sum-exp of scores.
    float *scratch;
    int64_t scratch_row;  // Of each thread.
    int64_t heads, kv_heads, head_dim;
    float scale;
    int64_t window;  // 0: none.
};

// Results of splits that follow one another, relative to the largest log-sum-exp.
struct Folded {
    float peak = -__builtin_inff(), total = 0;

    // Adds a split's to `sums`, zeros at first. Never inlined: wherever it is called, it rounds alike.
    __attribute__((noinline)) void add(float *sums, const float *split, float weight, int64_t size) {
        if (weight == -__builtin_inff()) return;
        float now = weight > peak ? weight : peak, before = exponential(peak - now), here = exponential(weight - now);
        total = total * before + here;
        peak = now;
        for (int64_t i = 0; i < size; i += WIDTH) store(sums + i, load(sums + i) * before + load(split + i) * here);
    }

    template <class T> void write(const float *sums, T *to, int64_t size) const {
        for (int64_t i = 0; i < size; i += WIDTH) store(to + i, load(sums + i) / (total > 0 ? total : 1.0f));
    }
};

template <class T, class C> struct Worker {
    const Attention<T, C> &a;
    int64_t group, head_dim, key_size, stride;  // Query heads of a kv head; elements of a key, and of those of a token.
    float *queries, *result, *sums, *keys, *values, *scores, *peaks, *totals;
    const int32_t *pages;
    int64_t kv_head;
    Folded folded[MOST_QUERIES];

    Worker(const Attention<T, C> &attention, int thread)
        : a(attention), group(a.heads / a.kv_heads), head_dim(a.head_dim), key_size(row_size<C>(head_dim)),
          stride(a.kv_heads * key_size) {
        queries = a.scratch + thread * a.scratch_row;
        result = queries + MOST_QUERIES * head_dim;
        sums = result + MOST_QUERIES * head_dim;
        keys = sums + MOST_QUERIES * head_dim;
        values = keys + KEYS * head_dim;
        scores = values + KEYS * head_dim;
        peaks = scores + MOST_QUERIES * KEYS;
        totals = peaks + MOST_QUERIES;
    }

    // Scores of a step in whole vectors.
    static int64_t whole(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

    // Of the row's page `page`.
    const C *row_at(const C *pool, int64_t page, int64_t offset) const {
        return pool + (pages[page] * a.page_tokens + offset) * stride + kv_head * key_size;
    }

    // A vector of the rows [begin, begin + WIDTH) of a step; behind the last of `count` that one again.
    struct Rows {
        const C *at[WIDTH];
        Floats scales;
    };

    SGCORE_INLINE Rows rows_at(const C *pool, int64_t key, int64_t begin, int64_t count) const {
        Rows found;
        float scales[WIDTH];
        int64_t page = (key + begin) / a.page_tokens, offset = (key + begin) % a.page_tokens;
        for (int64_t i = 0; i < WIDTH; ++i) {
            found.at[i] = row_at(pool, page, offset);
            scales[i] = scale_of(found.at[i], head_dim);
            if (begin + i + 1 < count && ++offset == a.page_tokens) {
                offset = 0;
                ++page;
            }
        }
        found.scales = load(scales);
        return found;
    }

    void run(const Piece &piece, int64_t head) {
        kv_head = head;
        pages = a.pages + piece.table_row * a.pages_row;
        int64_t rows = piece.count * group, first = piece.begin / SPLIT;
        load_queries(piece, rows);
        for (int64_t split = first; split * SPLIT < piece.end; ++split) {
            int64_t end = (split + 1) * SPLIT < piece.end ? (split + 1) * SPLIT : piece.end;
            begin_split(rows);
            for (int64_t key = split == first ? piece.begin / KEYS * KEYS : split * SPLIT; key < end; key += KEYS)
                step(piece, rows, key, end - key < KEYS ? end - key : KEYS);
            piece.slot < 0 ? fold_split(rows) : store_split(rows, piece.slot + (split - first) * piece.count);
        }
        if (piece.slot < 0) end(piece, rows);
    }

    void step(const Piece &piece, int64_t rows, int64_t key, int64_t count) {
        if (rows <= FEW_QUERIES) {
            score_in_place(rows, key, count);
            weigh(piece, rows, key, count);
            if constexpr (HAS_SCALES<C>) scale_scores(a.values, rows, key, count);
            add_in_place(rows, key, count);
        } else {
            copy(key, count);
            multiply<float>(rows, whole(count), {head_dim, queries, head_dim, keys, KEYS, scores, KEYS, false});
            if constexpr (HAS_SCALES<C>) scale_scores(a.keys, rows, key, count);
            weigh(piece, rows, key, count);
            if constexpr (HAS_SCALES<C>) scale_scores(a.values, rows, key, count);
            multiply<float>(rows, head_dim, {count, scores, KEYS, values, head_dim, result, head_dim, true});
        }
    }

    void load_queries(const Piece &piece, int64_t rows) {
        for (int64_t row = 0; row < rows; ++row) {
            const T *q = a.q + a.tokens[piece.first + row / group] * a.q_row + (kv_head * group + row % group) * head_dim;
            for (int64_t i = 0; i < head_dim; i += WIDTH) {
                store(queries + row * head_dim + i, load(q + i) * a.scale);
                store(sums + row * head_dim + i, Floats{});
            }
            folded[row] = {};
        }
    }

    void begin_split(int64_t rows) {
        std::memset(result, 0, rows * head_dim * sizeof *result);
        for (int64_t row = 0; row < rows; ++row) {
            peaks[row] = -__builtin_inff();
            totals[row] = 0;
        }
    }

    // As a product with a transposed copy would: a score's sum goes from the first dimension to the last.
    void score_in_place(int64_t rows, int64_t key, int64_t count) {
        for (int64_t begin = 0; begin < count; begin += WIDTH) {
            Rows k = rows_at(a.keys, key, begin, count);
            Floats made[FEW_QUERIES] = {};
            for (int64_t d = 0; d < head_dim; d += WIDTH) {
                Floats block[WIDTH];
                for (int i = 0; i < WIDTH; ++i) block[i] = load(k.at[i] + d);
                transpose_from<1>(block);
                for (int64_t row = 0; row < rows; ++row)
                    for (int i = 0; i < WIDTH; ++i) made[row] += splat(queries[row * head_dim + d + i]) * block[i];
            }
            for (int64_t row = 0; row < rows; ++row) store(scores + row * KEYS + begin, made[row] * k.scales);
        }
    }

    void add_in_place(int64_t rows, int64_t key, int64_t count) {
        for (int64_t done = 0; done < count;) {
            int64_t page = (key + done) / a.page_tokens, offset = (key + done) % a.page_tokens;
            int64_t left = a.page_tokens - offset, run = left < count - done ? left : count - done;
            const C *v = row_at(a.values, page, offset);
            multiply<C>(rows, head_dim, {run, scores + done, KEYS, v, stride, result, head_dim, true});
            done += run;
        }
    }

    // So that keys are multiplied, and values weighed, as they stand in the pool.
    void scale_scores(const C *pool, int64_t rows, int64_t key, int64_t count) {
        for (int64_t begin = 0; begin < count; begin += WIDTH) {
            Floats scales = rows_at(pool, key, begin, count).scales;
            for (int64_t row = 0; row < rows; ++row) {
                float *s = scores + row * KEYS + begin;
                store(s, load(s) * scales);
            }
        }
    }

    // Keys (head_dim, KEYS) and values (KEYS, head_dim) of a step; keys that there aren't are 0.
    void copy(int64_t key, int64_t count) {
        for (int64_t begin = 0; begin < count; begin += WIDTH) {
            Rows k = rows_at(a.keys, key, begin, count), v = rows_at(a.values, key, begin, count);
            int64_t here = count - begin < WIDTH ? count - begin : WIDTH;
            for (int64_t d = 0; d < head_dim; d += WIDTH) {
                Floats block[WIDTH] = {};
                for (int i = 0; i < here; ++i) block[i] = load(k.at[i] + d);
                transpose_from<1>(block);
                for (int i = 0; i < WIDTH; ++i) store(keys + (d + i) * KEYS + begin, block[i]);
                for (int i = 0; i < here; ++i) store(values + (begin + i) * head_dim + d, load(v.at[i] + d));
            }
        }
    }

    // Scores become weights relative to the largest so far; what was summed before is brought to the same measure.
    void weigh(const Piece &piece, int64_t rows, int64_t key, int64_t count) {
        int64_t size = whole(count);
        for (int64_t row = 0; row < rows; ++row) {
            int64_t limit = a.limits[piece.first + row / group];
            int64_t begin = a.window && limit - a.window > key ? limit - a.window - key : 0;
            int64_t end = limit - key < count ? limit - key : count;
            float *s = scores + row * KEYS;
            if (end <= begin) {
                for (int64_t i = 0; i < size; ++i) s[i] = 0;
                continue;
            }
            const float nothing = -__builtin_inff();
            for (int64_t i = 0; i < begin; ++i) s[i] = nothing;
            for (int64_t i = end; i < size; ++i) s[i] = nothing;
            weigh_row(row, s, size);
        }
    }

    void weigh_row(int64_t row, float *s, int64_t size) {
        Floats peak = load(s);
        for (int64_t i = WIDTH; i < size; i += WIDTH) peak = larger(load(s + i), peak);
        float before = peaks[row], now = most(peak) > before ? most(peak) : before;
        Floats total{};
        for (int64_t i = 0; i < size; i += WIDTH) {
            Floats weight = exponential(load(s + i) - now);
            store(s + i, weight);
            total += weight;
        }
        peaks[row] = now;
        if (now == before) {
            totals[row] += sum(total);
            return;
        }
        float factor = exponential(before - now);
        totals[row] = totals[row] * factor + sum(total);
        for (int64_t i = 0; i < head_dim; i += WIDTH) {
            float *at = result + row * head_dim + i;
            store(at, load(at) * factor);
        }
    }

    // The log-sum-exp of a row's scores in the split; its result is divided by their sum.
    float end_split(int64_t row) {
        if (!(totals[row] > 0)) return -__builtin_inff();
        float factor = 1.0f / totals[row], *at = result + row * head_dim;
        for (int64_t i = 0; i < head_dim; i += WIDTH) store(at + i, load(at + i) * factor);
        return peaks[row] + __builtin_logf(totals[row]);
    }

    void fold_split(int64_t rows) {
        for (int64_t row = 0; row < rows; ++row) {
            float weight = end_split(row);
            folded[row].add(sums + row * head_dim, result + row * head_dim, weight, head_dim);
        }
    }

    void store_split(int64_t rows, int64_t slot) {
        for (int64_t row = 0; row < rows; ++row) {
            int64_t place = (slot + row / group) * a.heads + kv_head * group + row % group;
            a.weights[place] = end_split(row);
            std::memcpy(a.partial + place * head_dim, result + row * head_dim, head_dim * sizeof *result);
        }
    }

    void end(const Piece &piece, int64_t rows) {
        for (int64_t row = 0; row < rows; ++row) {
            int64_t token = a.tokens[piece.first + row / group], head = kv_head * group + row % group;
            folded[row].write(sums + row * head_dim, a.out + (token * a.heads + head) * head_dim, head_dim);
        }
    }
};

// Each thread takes the next piece and kv head; the first ones should be the longest.
template <class T, class C> void attend(const Attention<T, C> &a, int64_t threads) {
    int64_t heads = a.piece_count >= PIECES_A_THREAD * threads ? a.kv_heads : 1, parts = a.kv_heads / heads;
    in_turns(a.piece_count * parts, threads, [&](int64_t unit, int thread) {
        Worker<T, C> worker(a, thread);
        for (int64_t head = 0; head < heads; ++head) worker.run(a.pieces[unit / parts], unit % parts * heads + head);
    });
}

// Rows whose keys were in several pieces: `slots` [begins[i], begins[i + 1]) are those of the token `merged[i]`, in the order of keys.
template <class T, class C>
void merge(const Attention<T, C> &a, const int64_t *merged, const int64_t *begins, const int64_t *slots, int64_t count,
           int64_t threads) {
    in_parallel(threads, [&](int thread, int team) {
        Share mine = share(count * a.heads, thread, team);
        float *sums = a.scratch + thread * a.scratch_row;
        for (int64_t unit = mine.begin; unit < mine.end; ++unit) {
            int64_t row = unit / a.heads, head = unit % a.heads;
            Folded folded;
            std::memset(sums, 0, a.head_dim * sizeof *sums);
            for (int64_t i = begins[row]; i < begins[row + 1]; ++i) {
                int64_t place = slots[i] * a.heads + head;
                folded.add(sums, a.partial + place * a.head_dim, a.weights[place], a.head_dim);
            }
            folded.write(sums, a.out + (merged[row] * a.heads + head) * a.head_dim, a.head_dim);
        }
    });
}

}  // namespace SGCORE_LEVEL
