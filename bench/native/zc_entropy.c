/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How well the entropy estimate tells pages that a codec compresses to at most 7/8, the default
 * zv_max_zsize, from those that it does not. One JSON object on standard output.
 *
 *   zc_entropy PAGE_SIZE SPEC FILE…   FILE is raw pages; same-filled ones are left out
 *
 * For each file: how many pages, how many of them poor (more than 7/8), nanoseconds of an estimate and of
 * compressing a page, and for each gate which pages it gets wrong: `refused` would have been kept, `passed`
 * are poor and compressed for nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "base/node.h"
#include "codec/codec.h"

#define GATES 15
#define FIRST_GATE 5000u
#define GATE_STEP 200u

struct gate {
    uint64_t refused, passed;
};

struct count {
    uint64_t pages, poor, estimate_ns, compress_ns;
    struct gate gates[GATES];
};

struct bench {
    struct zc_codec *codec;
    void *state;
    char *page, *zpage;
};

static _Noreturn void die(const char *what, const char *value)
{
    fprintf(stderr, "zc_entropy: %s: %s\n", value, what);
    exit(1);
}

static void count_page(struct bench *bench, struct count *count)
{
    uint64_t start = zc_now_ns();
    unsigned entropy = zc_entropy(bench->page, bench->codec->page_size);
    uint64_t estimated = zc_now_ns();
    size_t size = zc_compress(bench->codec, bench->state, bench->page, bench->zpage);
    bool poor = size > bench->codec->page_size / 8 * 7;

    count->estimate_ns += estimated - start;
    count->compress_ns += zc_now_ns() - estimated;
    count->pages++;
    count->poor += poor;
    for (unsigned i = 0; i < GATES; i++) {
        bool refused = entropy > FIRST_GATE + i * GATE_STEP;
        count->gates[i].refused += refused && !poor;
        count->gates[i].passed += !refused && poor;
    }
}

static struct count count_file(struct bench *bench, const char *path)
{
    struct count count = {0};
    size_t size = bench->codec->page_size;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        die(strerror(errno), path);
    while (read(fd, bench->page, size) == (ssize_t)size) {
        if (memcmp(bench->page, bench->page + 8, size - 8) != 0)
            count_page(bench, &count);
    }
    close(fd);
    if (!count.pages)
        die("it has no page", path);
    return count;
}

static void print_count(const char *path, const struct count *count)
{
    const char *slash = strrchr(path, '/');

    printf("\"%s\": {\"pages\": %" PRIu64 ", \"poor\": %" PRIu64
           ", \"estimate_ns\": %.1f, \"compress_ns\": %.1f, \"gates\": {",
           slash ? slash + 1 : path, count->pages, count->poor,
           (double)count->estimate_ns / (double)count->pages,
           (double)count->compress_ns / (double)count->pages);
    for (unsigned i = 0; i < GATES; i++)
        printf("%s\"%u\": {\"refused\": %" PRIu64 ", \"passed\": %" PRIu64 "}", i ? ", " : "",
               FIRST_GATE + i * GATE_STEP, count->gates[i].refused, count->gates[i].passed);
    printf("}}");
}

int main(int argc, char **argv)
{
    struct zc_text why = {0};
    struct bench bench;

    if (argc < 4)
        die("zc_entropy PAGE_SIZE SPEC FILE...", "usage");
    size_t page_size = strtoul(argv[1], NULL, 10);
    if (page_size < 4096 || !zc_is_pow2(page_size))
        die("not a page size", argv[1]);
    if (zc_codec_create(argv[2], page_size, NULL, NULL, &bench.codec, &why) != 0)
        die(why.data ? why.data : "out of memory", argv[2]);
    bench.state = aligned_alloc(
        ZC_STATE_ALIGN, zc_div_up(bench.codec->compressor_size, ZC_STATE_ALIGN) * ZC_STATE_ALIGN);
    bench.page = aligned_alloc(page_size, page_size);
    bench.zpage = malloc(bench.codec->bound);
    zc_compressor_init(bench.codec, bench.state);

    printf("{\"page_size\": %zu, \"codec\": \"%s\", \"recommended\": %u, \"files\": {", page_size,
           argv[2], ZC_ENTROPY_GATE);
    for (int i = 3; i < argc; i++) {
        struct count count = count_file(&bench, argv[i]);
        print_count(argv[i], &count);
        printf("%s", i + 1 < argc ? ", " : "");
    }
    printf("}}\n");
    return 0;
}
