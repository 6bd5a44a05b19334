// Calls of this level's functions from an array of 64-bit words, one for each argument: what a recorded step is made of.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace SGCORE_LEVEL {

// float and double arguments come as the bits of a double.
template <class T> T argument(uint64_t word) {
    if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(word);
    else if constexpr (std::is_floating_point_v<T>) {
        double wide;
        std::memcpy(&wide, &word, sizeof wide);
        return T(wide);
    } else return T(int64_t(word));
}

template <auto Function> struct FromWords;
template <class... Arguments, void (*Function)(Arguments...)> struct FromWords<Function> {
    template <size_t... I> static void call(const uint64_t *words, std::index_sequence<I...>) {
        Function(argument<Arguments>(words[I])...);
    }
    static void run(const uint64_t *words) { call(words, std::index_sequence_for<Arguments...>()); }
};

}  // namespace SGCORE_LEVEL
