/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tries codecs; tests read a line a codec, page or word.
 *
 *   zc_codec spec PAGE_SIZE SPEC…                    "ok CANONICAL" or "err NAME WHY"
 *   zc_codec trip FILE PAGE_SIZE DICTIONARY SPEC…    every page there and back: "CANONICAL ZPAGES ZBYTES LARGEST"
 *   zc_codec damage FILE PAGE_SIZE DICTIONARY SPEC…  damaged zpages: "CANONICAL TRIES REFUSED"
 *   zc_codec threads FILE PAGE_SIZE DICTIONARY SPEC… as trip, by four threads at one time
 *   zc_codec dictionary FILE                         "ok SIZE HASH MEMORY" or "err NAME"
 *   zc_codec train FILE PAGE_SIZE BYTES              a dictionary of zstd's format, to standard output
 *   zc_codec entropy FILE PAGE_SIZE                  millibits
 *   zc_codec hash FILE                               zc_hash() and zc_checksum() in hex
 *
 * FILE is pages; PAGE_SIZE, where codecs are tried, may be PAGE_SIZExPAGES: runs of so many, and the beginnings
 * of runs; DICTIONARY is a file that has id 7, or "-". Ends with 1, saying why, where a codec breaks its
 * word. Every buffer is of the size that the contract asks for: a sanitizer sees what goes beyond.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zdict.h>

#include "base/base.h"
#include "base/hash.h"
#include "base/node.h"
#include "codec/codec.h"

#define DICTIONARY_ID 7
#define DAMAGES 24 /* of each zpage */
#define THREADS 4

struct bytes {
    char *at;
    size_t size;
};

/* What a codec is tried with. */
struct trial {
    const struct zc_codec *codec;
    struct bytes pages;
    void *compressor, *decompressor;
    char *zpage; /* room for the bound */
    char *page;
    uint64_t zpages, zbytes, largest;
};

static _Noreturn void die(const char *what, const char *value)
{
    fprintf(stderr, "zc_codec: %s: %s\n", value, what);
    exit(1);
}

static void *get_memory(size_t size)
{
    void *memory = aligned_alloc(ZC_STATE_ALIGN, zc_div_up(size, ZC_STATE_ALIGN) * ZC_STATE_ALIGN);

    if (!memory)
        die("out of memory", "zc_codec");
    return memory;
}

/* Exactly so many bytes, so that the one behind is seen. */
static void *get_bytes(size_t size)
{
    void *memory = malloc(size);

    if (!memory)
        die("out of memory", "zc_codec");
    return memory;
}

static struct bytes read_file(const char *path)
{
    struct bytes bytes = {0};
    FILE *file = fopen(path, "rbe");

    if (!file || fseek(file, 0, SEEK_END) != 0)
        die(strerror(errno), path);
    bytes.size = (size_t)ftell(file);
    rewind(file);
    bytes.at = get_bytes(zc_max(bytes.size, 1));
    if (fread(bytes.at, 1, bytes.size, file) != bytes.size)
        die("cannot be read", path);
    fclose(file);
    return bytes;
}

static size_t page_size_of(const char *word)
{
    size_t page_size = strtoul(word, NULL, 10); /* up to the x */

    if (!zc_is_pow2(page_size))
        die("not a page size", word);
    return page_size;
}

static unsigned pages_of(const char *word)
{
    const char *x = strchr(word, 'x');

    return x ? (unsigned)strtoul(x + 1, NULL, 10) : 1;
}

/* ---- dictionaries ---- */

static struct zc_dictionary *find_dictionary(void *arg, uint32_t id)
{
    struct zc_dictionary *dictionary = arg;

    return dictionary && id == DICTIONARY_ID ? zc_dictionary_ref(dictionary) : NULL;
}

static struct zc_dictionary *open_dictionary(const char *path)
{
    struct zc_dictionary *dictionary;

    if (strcmp(path, "-") == 0)
        return NULL;
    struct bytes bytes = read_file(path);
    if (zc_dictionary_create(DICTIONARY_ID, bytes.at, bytes.size, &dictionary) != 0)
        die("not a dictionary", path);
    free(bytes.at); /* it has its own */
    return dictionary;
}

static void close_dictionary(struct zc_dictionary *dictionary)
{
    if (dictionary && zc_dictionary_is_shared(dictionary))
        die("a codec that is gone has kept it", "dictionary");
    zc_dictionary_unref(dictionary);
}

static void show_dictionary(const char *path)
{
    struct bytes bytes = read_file(path);
    struct zc_dictionary *dictionary;
    char buf[16];

    int error = zc_dictionary_create(DICTIONARY_ID, bytes.at, bytes.size, &dictionary);
    free(bytes.at);
    if (error) {
        printf("err %s\n", zc_errno_name(error, buf));
        return;
    }
    printf("ok %zu %016" PRIx64 " %zu\n", zc_dictionary_size(dictionary),
           zc_dictionary_hash(dictionary), zc_dictionary_memory(dictionary));
    close_dictionary(dictionary);
}

static void train(const char *path, size_t page_size, size_t size)
{
    struct bytes pages = read_file(path);
    size_t count = pages.size / page_size;
    size_t *sizes = get_bytes(zc_max(count, 1) * sizeof(*sizes));
    char *dictionary = get_bytes(size);

    for (size_t i = 0; i < count; i++)
        sizes[i] = page_size;
    size_t len = ZDICT_trainFromBuffer(dictionary, size, pages.at, sizes, (unsigned)count);
    if (ZDICT_isError(len))
        die(ZDICT_getErrorName(len), path);
    fwrite(dictionary, 1, len, stdout);
    free(dictionary);
    free(sizes);
    free(pages.at);
}

/* ---- specs ---- */

static void show_spec(const char *spec, size_t page_size, struct zc_dictionary *dictionary)
{
    struct zc_text why = {0}, shown = {0};
    struct zc_codec *codec, *again;
    char buf[16];

    int error = zc_codec_create(spec, page_size, 1, find_dictionary, dictionary, &codec, &why);
    if (error) {
        printf("err %s %s\n", zc_errno_name(error, buf), why.data);
        zc_text_free(&why);
        return;
    }
    zc_codec_spec(codec, &shown);
    if (zc_codec_create(shown.data, page_size, 1, find_dictionary, dictionary, &again, NULL) != 0 ||
        !zc_codec_is_same(codec, again))
        die("its canonical spec names another codec", spec);
    printf("ok %s\n", shown.data);
    zc_codec_destroy(again);
    zc_codec_destroy(codec);
    zc_text_free(&shown);
}

static void show_specs(char **specs, size_t page_size)
{
    static const char bytes[] = "bytes to compress against";
    struct zc_dictionary *dictionary;

    if (zc_dictionary_create(DICTIONARY_ID, bytes, sizeof(bytes), &dictionary) != 0)
        die("refused", "dictionary");
    for (; *specs; specs++)
        show_spec(*specs, page_size, dictionary);
    close_dictionary(dictionary);
}

/* ---- there and back ---- */

static void open_trial(struct trial *trial, const struct zc_codec *codec, struct bytes pages)
{
    *trial = (struct trial){
        .codec = codec,
        .pages = pages,
        .compressor = get_memory(codec->compressor_size),
        .decompressor = get_memory(codec->decompressor_size),
        .zpage = get_bytes(codec->bound),
        .page = get_bytes(codec->page_size),
    };
    /* A state's bytes may be anything before. */
    memset(trial->compressor, 0xa5, codec->compressor_size);
    memset(trial->decompressor, 0xa5, codec->decompressor_size);
    zc_compressor_init(codec, trial->compressor);
    zc_decompressor_init(codec, trial->decompressor);
}

static void close_trial(struct trial *trial)
{
    free(trial->compressor);
    free(trial->decompressor);
    free(trial->zpage);
    free(trial->page);
}

static void try_beginnings(struct trial *trial, const char *zpage, size_t size, const char *page)
{
    const struct zc_codec *codec = trial->codec;

    for (size_t upto = codec->block; upto <= codec->page_size; upto += codec->block) {
        memset(trial->page, 0x5a, codec->page_size);
        if (zc_decompress_some(codec, trial->decompressor, zpage, size, trial->page, upto) != 0 ||
            memcmp(trial->page, page, upto) != 0)
            die("another beginning comes back", "zpage");
    }
}

/* Compresses, and decompresses a copy that ends where its memory does. The bytes of the zpage. */
static size_t there_and_back(struct trial *trial, const char *page)
{
    const struct zc_codec *codec = trial->codec;
    size_t size = zc_compress(codec, trial->compressor, page, trial->zpage);

    if (size == 0 || size > codec->bound)
        die("larger than its bound", "zpage");
    char *zpage = get_bytes(size);
    memcpy(zpage, trial->zpage, size);
    memset(trial->page, 0x5a, codec->page_size);
    if (zc_decompress(codec, trial->decompressor, zpage, size, trial->page) != 0)
        die("it does not decompress", "zpage");
    if (memcmp(trial->page, page, codec->page_size) != 0)
        die("another page comes back", "zpage");
    try_beginnings(trial, zpage, size, page);
    free(zpage);
    return size;
}

static void trip_all(struct trial *trial)
{
    const struct zc_codec *codec = trial->codec;

    for (size_t at = 0; at + codec->page_size <= trial->pages.size; at += codec->page_size) {
        size_t size = there_and_back(trial, trial->pages.at + at);
        trial->zpages++;
        trial->zbytes += size;
        trial->largest = zc_max(trial->largest, size);
    }
}

static void say_trip(const struct trial *trial, const char *spec)
{
    printf("%s %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", spec, trial->zpages, trial->zbytes,
           trial->largest);
}

static void trip(const struct zc_codec *codec, struct bytes pages, const char *spec)
{
    struct trial trial;

    open_trial(&trial, codec, pages);
    trip_all(&trial);
    say_trip(&trial, spec);
    close_trial(&trial);
}

static void *trip_thread(void *arg)
{
    trip_all(arg);
    return NULL;
}

/* Each has its states; they share the codec. */
static void trip_threads(const struct zc_codec *codec, struct bytes pages, const char *spec)
{
    struct trial trials[THREADS];
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        open_trial(&trials[i], codec, pages);
        if (pthread_create(&threads[i], NULL, trip_thread, &trials[i]) != 0)
            die("cannot be started", "thread");
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (trials[i].zbytes != trials[0].zbytes)
            die("zpages differ from thread to thread", spec);
    }
    say_trip(&trials[0], spec);
    for (int i = 0; i < THREADS; i++)
        close_trial(&trials[i]);
}

/* ---- damage ---- */

static uint64_t next_random(uint64_t *state)
{
    return zc_mix64(*state += 0x9e3779b97f4a7c15u);
}

/* A damaged copy of a zpage, of the size that is left: bits flipped, cut short, other bytes from some
 * place on, or made longer. */
static struct bytes damaged(const char *zpage, size_t size, uint64_t *random)
{
    size_t longer = 1 + next_random(random) % 64;
    struct bytes copy = {.at = get_bytes(size + longer), .size = size};

    memcpy(copy.at, zpage, size);
    uint64_t kind = next_random(random) % 4, at = next_random(random) % size;
    if (kind == 0) {
        for (uint64_t flips = 1 + next_random(random) % 4; flips; flips--)
            copy.at[next_random(random) % size] ^= (char)(1u << next_random(random) % 8);
    } else if (kind == 1) {
        copy.size = at;
    } else {
        copy.size += kind == 3 ? longer : 0;
        for (; at < copy.size; at++)
            copy.at[at] = (char)next_random(random);
    }
    copy.at = realloc(copy.at, zc_max(copy.size, 1)); /* ends where its memory does */
    return copy;
}

static void damage(const struct zc_codec *codec, struct bytes pages, const char *spec)
{
    uint64_t random = 1, tries = 0, refused = 0;
    struct trial trial;

    open_trial(&trial, codec, pages);
    for (size_t at = 0; at + codec->page_size <= pages.size; at += codec->page_size) {
        size_t size = there_and_back(&trial, pages.at + at);
        for (int i = 0; i < DAMAGES; i++) {
            struct bytes bad = damaged(trial.zpage, size, &random);
            int error = zc_decompress(codec, trial.decompressor, bad.at, bad.size, trial.page);
            error |= zc_decompress_some(codec, trial.decompressor, bad.at, bad.size, trial.page,
                                        codec->block);
            if (error && error != -EIO)
                die("neither a page nor EIO", "damaged zpage");
            tries++;
            refused += error != 0;
            free(bad.at);
        }
        there_and_back(&trial, pages.at + at); /* the states have taken no harm */
    }
    printf("%s %" PRIu64 " %" PRIu64 "\n", spec, tries, refused);
    close_trial(&trial);
}

/* ---- the rest ---- */

typedef void try_codec(const struct zc_codec *codec, struct bytes pages, const char *spec);

static void with_codecs(char **words, try_codec *try)
{
    struct bytes pages = read_file(words[0]);
    size_t page_size = page_size_of(words[1]);
    struct zc_dictionary *dictionary = open_dictionary(words[2]);

    for (char **spec = words + 3; *spec; spec++) {
        struct zc_text why = {0}, shown = {0};
        struct zc_codec *codec;
        if (zc_codec_create(*spec, page_size, pages_of(words[1]), find_dictionary, dictionary,
                            &codec, &why) != 0)
            die(why.data, *spec);
        zc_codec_spec(codec, &shown);
        try(codec, pages, shown.data);
        zc_text_free(&shown);
        zc_codec_destroy(codec);
    }
    close_dictionary(dictionary);
    free(pages.at);
}

static void show_entropy(const char *path, size_t page_size)
{
    struct bytes pages = read_file(path);
    char *page = get_bytes(page_size);

    for (size_t at = 0; at + page_size <= pages.size; at += page_size) {
        memcpy(page, pages.at + at, page_size);
        printf("%u\n", zc_entropy(page, page_size));
    }
    free(page);
    free(pages.at);
}

static void show_hash(const char *path)
{
    struct bytes bytes = read_file(path);

    printf("%016" PRIx64 " %08" PRIx32 "\n", zc_hash(bytes.at, bytes.size),
           zc_checksum(bytes.at, bytes.size));
    free(bytes.at);
}

int main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";

    if (strcmp(command, "spec") == 0)
        show_specs(argv + 3, page_size_of(argv[2]));
    else if (strcmp(command, "trip") == 0 && argc > 5)
        with_codecs(argv + 2, trip);
    else if (strcmp(command, "threads") == 0 && argc > 5)
        with_codecs(argv + 2, trip_threads);
    else if (strcmp(command, "damage") == 0 && argc > 5)
        with_codecs(argv + 2, damage);
    else if (strcmp(command, "dictionary") == 0)
        show_dictionary(argv[2]);
    else if (strcmp(command, "train") == 0 && argc == 5)
        train(argv[2], page_size_of(argv[3]), strtoul(argv[4], NULL, 10));
    else if (strcmp(command, "entropy") == 0 && argc == 4)
        show_entropy(argv[2], page_size_of(argv[3]));
    else if (strcmp(command, "hash") == 0)
        show_hash(argv[2]);
    else
        die("see the head of the source", "usage");
    return 0;
}
