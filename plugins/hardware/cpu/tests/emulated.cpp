// Makes the calls that come on standard input, in a process of its own: under an emulator, those of another processor's library.
//
// A request is a name, words as native/replay.h takes them (and which of them are addresses), and the blocks of memory that they
// point into; the reply is the blocks as the call has left them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <omp.h>

namespace {

struct Block {
    uint64_t address, size, has_addresses;
    uint8_t *here;

    bool has(uint64_t other) const { return address <= other && other < address + size; }
};

[[noreturn]] void fail(const std::string &why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::exit(1);
}

void read(void *to, size_t size) {
    if (size > 0 && std::fread(to, size, 1, stdin) != 1) std::exit(0);
}

template <class T> T read() {
    T value;
    read(&value, sizeof value);
    return value;
}

// With the alignment that it had.
Block read_block() {
    constexpr uint64_t line = 64;
    Block block{read<uint64_t>(), read<uint64_t>(), read<uint64_t>(), nullptr};
    uint64_t offset = block.address % line;
    block.here = static_cast<uint8_t *>(std::aligned_alloc(line, (offset + block.size + line) / line * line)) + offset;
    read(block.here, block.size);
    return block;
}

struct Call {
    void (*run)(const uint64_t *words);
    const uint64_t *words;
};

class Request {
  public:
    Request() : name(read<uint64_t>(), ' ') {
        read(name.data(), name.size());
        words.resize(read<uint64_t>());
        std::vector<uint64_t> is_address(words.size());
        read(words.data(), words.size() * 8);
        read(is_address.data(), is_address.size() * 8);
        blocks.resize(read<uint64_t>());
        for (Block &block : blocks) block = read_block();
        for (size_t i = 0; i < words.size(); ++i)
            if (is_address[i]) words[i] = moved(words[i]);
        for (Block &block : blocks)
            for (uint64_t i = 0; block.has_addresses && i < block.size / 8; ++i) {
                uint64_t &inner = reinterpret_cast<uint64_t *>(block.here)[i];
                inner = moved(inner);
            }
    }

    void reply() {
        for (const Block &block : blocks) {
            if (!block.has_addresses) std::fwrite(block.here, 1, block.size, stdout);
            std::free(block.here - block.address % 64);
        }
        std::fflush(stdout);
    }

    std::string name;
    std::vector<uint64_t> words;

  private:
    uint64_t moved(uint64_t address) const {
        if (address == 0) return 0;
        for (const Block &block : blocks)
            if (block.has(address)) return reinterpret_cast<uint64_t>(block.here + (address - block.address));
        fail(name + ": an address is in no block");
    }

    std::vector<Block> blocks;
};

}  // namespace

int main(int, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) fail(dlerror());
    auto find = [&](const std::string &name) {
        void *found = dlsym(library, name.c_str());
        if (found == nullptr) fail("there is no " + name);
        return found;
    };
    auto replay = reinterpret_cast<void (*)(const Call *, int64_t, int64_t)>(find("sgcore_cpu_replay"));
    auto find_openmp = reinterpret_cast<int (*)()>(find("sgcore_cpu_find_openmp"));
    auto best_level = reinterpret_cast<int (*)()>(find("sgcore_cpu_best_level"));
    if (find_openmp() == 0 || omp_get_max_threads() < 2) fail("there are no threads");
    int32_t best = best_level();
    std::fwrite(&best, sizeof best, 1, stdout);
    std::fflush(stdout);
    for (bool is_replayed = false;; is_replayed = !is_replayed) {
        Request request;
        Call call{reinterpret_cast<void (*)(const uint64_t *)>(find(request.name)), request.words.data()};
        is_replayed ? replay(&call, 1, int64_t(request.words.back())) : call.run(call.words);
        request.reply();
    }
}
